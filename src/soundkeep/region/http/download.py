"""How bytes are answered: whole, a range, or several of them; or the news that nothing changed.

RFC 9110 §13 to §15, RFC 9530 (digests), RFC 6266 (names). Contract §2, "Objects".
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from soundkeep.region.content import Body
from soundkeep.region.http import conditional
from soundkeep.region.http.conditional import Slice, Validators
from soundkeep.region.http.guard import flag
from soundkeep.region.plane import Region

_NOT_PLAIN = re.compile(r'[^\x20-\x7e]|["\\]')
_SEND_SIZE = 64 * 1024
"""Small, since the server holds several pieces for a reader that is slower than we are."""

_BOUNDARY_BYTES = 16


def answer(request: Request, region: Region, body: Body) -> Response:
    """The bytes, as far as the request asks for them; HEAD: about the whole.

    With `inline=true` a browser may show them. Nothing is sent before all of it is checked.
    """
    inline = flag(request, "inline")
    current = Validators(body.etag, body.modified_ms)
    asked = {name: ", ".join(request.headers.getlist(name)) for name in request.headers}
    headers = {
        "accept-ranges": "bytes",
        "cache-control": "private, no-cache",
        "etag": current.etag,
        "last-modified": current.last_modified,
    }
    if conditional.is_fresh(asked, current):
        return Response(status_code=304, headers=headers)
    headers |= _description(body, inline=inline)
    if request.method == "HEAD":  # ranges are defined for GET only (RFC 9110 §14.2)
        body.file()
        return Response(None, 200, {**headers, "content-length": str(body.size)})
    parts = conditional.ranges(asked, current, body.size)
    if parts is None:
        return _whole(request, body, headers)
    body.file()
    if len(parts) == 1:
        return _range(body, headers, parts[0])
    return _ranges(region, body, headers, parts)


def _whole(request: Request, body: Body, headers: Mapping[str, str]) -> Response:
    at_hand = body.at_hand()
    if at_hand is not None:
        return Response(at_hand, 200, headers)
    headers = {**headers, "content-length": str(body.size)}
    file = body.file()
    if file is not None and "http.response.pathsend" in request.scope.get("extensions", {}):
        return _File(file, headers)
    return Streamed(_pieces(body, [(b"", Slice(0, body.size))]), 200, headers)


def _range(body: Body, headers: Mapping[str, str], part: Slice) -> Response:
    headers = {
        **headers,
        "content-length": str(part.end - part.start),
        "content-range": _content_range(part, body),
    }
    return Streamed(_pieces(body, [(b"", part)]), 206, headers)


def _ranges(
    region: Region, body: Body, headers: Mapping[str, str], parts: Sequence[Slice]
) -> Response:
    """Several ranges as `multipart/byteranges` (RFC 9110 §14.6)."""
    boundary = region.entropy(_BOUNDARY_BYTES).hex()
    headed = [(_part_head(boundary, part, body), part) for part in parts]
    tail = f"\r\n--{boundary}--\r\n".encode()
    length = sum(len(head) + part.end - part.start for head, part in headed) + len(tail)
    headers = {
        **headers,
        "content-length": str(length),
        "content-type": f"multipart/byteranges; boundary={boundary}",
    }
    return Streamed(_pieces(body, headed, tail), 206, headers)


def _part_head(boundary: str, part: Slice, body: Body) -> bytes:
    lines = (
        "",
        f"--{boundary}",
        f"Content-Type: {body.mime_type}",
        f"Content-Range: {_content_range(part, body)}",
        "\r\n",
    )
    return "\r\n".join(lines).encode()


def _content_range(part: Slice, body: Body) -> str:
    return f"bytes {part.start}-{part.end - 1}/{body.size}"


async def _pieces(
    body: Body, parts: Sequence[tuple[bytes, Slice]], tail: bytes = b""
) -> AsyncGenerator[bytes, None]:
    """Each part's head and bytes, then the tail, in pieces of 64 KiB at most."""
    for head, part in parts:
        slices = await body.read(part.start, part.end)
        async with aclosing(slices):
            if head:
                yield head
            async for piece in slices:
                for at in range(0, len(piece), _SEND_SIZE):
                    yield piece[at : at + _SEND_SIZE]
                await asyncio.sleep(0)  # reading from memory and sending may both take no waiting
    if tail:
        yield tail


class Streamed(StreamingResponse):
    """Pieces, sent no faster than the client takes them, and let go as soon as it leaves.

    The first is there before anything is sent, so that a store that fails is still told of.
    """

    def __init__(
        self, pieces: AsyncGenerator[bytes, None], status: int, headers: Mapping[str, str]
    ) -> None:
        super().__init__(pieces, status, headers)
        self._pieces = pieces

    async def stream_response(self, send: Send) -> None:
        async with aclosing(self._pieces) as pieces:
            piece = await anext(pieces, b"")
            start = {"status": self.status_code, "headers": self.raw_headers}
            await send({"type": "http.response.start", **start})
            while piece:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                piece = await anext(pieces, b"")
            await send({"type": "http.response.body", "body": b""})


class _File(Response):
    """A file that the server sends by itself (the ASGI extension `http.response.pathsend`)."""

    def __init__(self, path: str, headers: Mapping[str, str]) -> None:
        super().__init__(None, 200, headers)
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        start = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        await send({"type": "http.response.pathsend", "path": self._path})


def _description(body: Body, *, inline: bool) -> dict[str, str]:
    """How to treat the bytes: what they are, under which name, and never as a page of ours."""
    name = body.name.rpartition("/")[2] or body.id
    plain = _NOT_PLAIN.sub("_", name)
    kind = "inline" if inline else "attachment"
    headers = {
        "content-type": body.mime_type,
        "content-disposition": f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name)}",
        "content-security-policy": "sandbox; default-src 'none'",
    }
    if body.sha256:
        digest = base64.b64encode(bytes.fromhex(body.sha256)).decode()
        headers["repr-digest"] = f"sha-256=:{digest}:"
    return headers
