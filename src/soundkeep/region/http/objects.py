"""`/storage/{region}/v3/objects`: search, metadata, content, one-shot upload. Contract §2."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from urllib.parse import quote

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from soundkeep.foundation.claims import Access, Claims
from soundkeep.region import catalog, content
from soundkeep.region.http import conditional, paging, presigned, uploads
from soundkeep.region.http.conditional import Validators
from soundkeep.region.http.guard import BASE, Door, by_method, flag
from soundkeep.region.model import Readable
from soundkeep.region.plane import Region

_NOT_PLAIN = re.compile(r'[^\x20-\x7e]|["\\]')


def routes(door: Door) -> list[Route]:
    """URL, handler, and the access class that a key needs."""
    objects, by_link = f"{BASE}/objects", presigned.opens(door, sent)
    return [
        Route(f"{objects}/{{id}}/content", door.opens_content(download, by_link)),
        Route(f"{objects}/{{id}}", door.opens(one, Access.READ)),
        Route(f"{objects}/{{id}}/metadata", door.opens(one, Access.READ)),
        by_method(
            objects,
            GET=door.opens(search, Access.READ),
            POST=door.opens(upload, Access.EDIT),
        ),
    ]


async def search(request: Request, region: Region, claims: Claims) -> Response:
    """A page of objects; with `explain=true` also how it was found."""
    wanted = paging.wanted(request, claims)
    return paging.answer(wanted, await catalog.search(region, claims, wanted))


async def one(request: Request, region: Region, claims: Claims) -> Response:
    """An object's JSON."""
    return paging.json((await catalog.one(region, claims, request.path_params["id"])).encode())


async def upload(request: Request, region: Region, claims: Claims) -> Response:
    """201 with the object's JSON, once it is safe; 200 where the same upload came before."""
    kept = await uploads.receive(request, region, claims)
    where = f"/storage/{region.name}/v3/objects/{kept.id}"
    status = 201 if kept.fresh else 200
    return paging.json(kept.document.encode(), status=status, location=where)


async def download(request: Request, region: Region, claims: Claims) -> Response:
    """The bytes, or with `presignUrl=true` a link to them."""
    if flag(request, "presignUrl"):
        return await presigned.make(request, region, claims)
    found = await content.readable(region, claims, request.path_params["id"])
    return await sent(request, region, found)


async def sent(request: Request, region: Region, found: Readable) -> Response:
    """The bytes of a readable object, whole or a range of them (RFC 9110)."""
    current = Validators(f'"{found.sha256}"', found.updated_ms)
    headers = {
        "accept-ranges": "bytes",
        "cache-control": "private, no-cache",
        "etag": current.etag,
        "last-modified": current.last_modified,
    }
    if conditional.is_fresh(request.headers, current):
        return Response(status_code=304, headers=headers)
    headers |= _description(found, inline=flag(request, "inline"))
    ranges = request.headers if request.method == "GET" else {}  # RFC 9110 §14.2
    part = conditional.part(ranges, current, found.size)
    if part is None and request.method == "GET":
        whole = content.at_hand(region, found)
        if whole is not None:
            return Response(whole, 200, headers)
    file = content.file_of(region, found)
    if part is None:
        return _Whole(file, {**headers, "content-length": str(found.size)}, region, found)
    headers["content-length"] = str(part.end - part.start)
    headers["content-range"] = f"bytes {part.start}-{part.end - 1}/{found.size}"
    pieces = await content.slices(region, found, part.start, part.end)
    return StreamingResponse(pieces, 206, headers)


class _Whole(Response):
    """All bytes of an object: handed to the server as a file where it can send one by itself."""

    def __init__(
        self, file: str | None, headers: dict[str, str], region: Region, found: Readable
    ) -> None:
        self._file = file
        self._region = region
        self._found = found
        self.status_code = 200
        self.background: BackgroundTask | None = None
        self.init_headers(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sends_files = "http.response.pathsend" in scope.get("extensions", {})
        if scope["method"] != "HEAD" and (self._file is None or not sends_files):
            pieces = await content.slices(self._region, self._found, 0, self._found.size)
            await _streamed(self, pieces)(scope, receive, send)
            return
        start = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body"})
        else:
            await send({"type": "http.response.pathsend", "path": self._file})


def _streamed(answer: Response, pieces: AsyncIterator[bytes]) -> Response:
    return StreamingResponse(pieces, answer.status_code, dict(answer.headers))


def _description(found: Readable, *, inline: bool) -> dict[str, str]:
    """How to treat the bytes: what they are, under which name, and never as a page of ours."""
    name = found.name.rpartition("/")[2] or found.id
    plain = _NOT_PLAIN.sub("_", name)
    kind = "inline" if inline else "attachment"
    return {
        "content-type": found.mime_type,
        "content-disposition": f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name)}",
        "content-security-policy": "sandbox; default-src 'none'",
    }
