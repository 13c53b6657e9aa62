"""`/storage/{region}/v3/bulk`: ZIPs of many objects, deletion of many. Contract §2, "Bulk"."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from soundkeep.foundation import web
from soundkeep.foundation.claims import Access, Claims
from soundkeep.foundation.errors import BadInput
from soundkeep.region import archive, bulk, retention
from soundkeep.region.http import download, paging, presigned
from soundkeep.region.http.download import Streamed
from soundkeep.region.http.guard import BASE, Door, by_method, flag, parameter
from soundkeep.region.model import Job, Opens
from soundkeep.region.plane import Region

_ID_BYTES = 72
"""Of one id in a body: an id, its quotes, a comma and some space."""

_SLACK = 4096
_ids = msgspec.json.Decoder(list[str])


def routes(door: Door) -> list[Route]:
    """URL, handler, and the access class that a key needs."""
    base = f"{BASE}/bulk"
    by_link = presigned.opens(door, Opens.ARCHIVE)
    return [
        by_method(f"{base}/download/start", POST=door.opens(start, Access.DOWNLOAD)),
        by_method(f"{base}/download/clear", PUT=door.opens(clear, Access.DOWNLOAD)),
        Route(f"{base}/download/status", door.opens(statuses, Access.DOWNLOAD)),
        Route(f"{base}/download/status/{{id}}", door.opens(status, Access.DOWNLOAD)),
        by_method(f"{base}/download/cancel/{{id}}", POST=door.opens(cancel, Access.DOWNLOAD)),
        Route(f"{base}/download/{{id}}", door.opens_content(bytes_of, by_link)),
        by_method(f"{base}/undelete", POST=door.opens(undelete, Access.EDIT)),
        by_method(base, DELETE=door.opens(delete, Access.EDIT)),
    ]


# ---- downloads ------------------------------------------------------------------------------


async def start(request: Request, region: Region, claims: Claims) -> Response:
    """A new job: the archive of the ids in the body, or of all that `filter` finds."""
    ids, text = await _chosen(request, region)
    wanted = bulk.Wanted(ids=ids, filter=text, manifest=flag(request, "manifest"))
    job = await bulk.start(region, claims, wanted)
    return paging.json(msgspec.json.encode(_told(job)))


async def statuses(_: Request, region: Region, claims: Claims) -> Response:
    """Every job of this key, newest first."""

    async def pieces() -> AsyncGenerator[bytes, None]:
        lead = b"["
        async for job in bulk.jobs(region, claims):
            async for piece in _status(region, job, {}):
                yield lead + piece
                lead = b""
            lead = b","
        yield b"[]" if lead == b"[" else b"]"

    return _json(region, pieces())


async def status(request: Request, region: Region, claims: Claims) -> Response:
    """A job, with what became of each object; with `presignUrl` also a link to its archive."""
    job = await bulk.find(region, claims, request.path_params["id"])
    more: dict[str, object] = {}
    if presigned.is_wanted(request) and bulk.is_ready(job):
        link = await presigned.make(request, region, claims, Opens.ARCHIVE, job.id)
        more = {"url": link.url, "expiresIn": link.seconds}
    return _json(region, _status(region, job, more))


async def bytes_of(request: Request, region: Region, claims: Claims) -> Response:
    """The archive, as far as the request asks for it; or with `presignUrl` a link to it."""
    name = request.path_params["id"]
    if presigned.is_wanted(request):
        link = await presigned.make(request, region, claims, Opens.ARCHIVE, name)
        return paging.json(msgspec.json.encode({"url": link.url, "expiresIn": link.seconds}))
    job = await bulk.ready(region, claims, name)
    return download.answer(request, region, archive.body_of(region, job))


async def cancel(request: Request, region: Region, claims: Claims) -> Response:
    """The job, CANCELLED."""
    job = await bulk.cancel(region, claims, request.path_params["id"])
    return paging.json(msgspec.json.encode(_told(job)))


async def clear(_: Request, region: Region, claims: Claims) -> Response:
    """How many finished and cancelled jobs left this key's list."""
    return paging.json(msgspec.json.encode({"cleared": await bulk.clear(region, claims)}))


def _told(job: Job) -> dict[str, object]:
    return {"zipName": job.zip_name, "status": job.state}


async def _status(region: Region, job: Job, more: dict[str, object]) -> AsyncGenerator[bytes, None]:
    """A job's JSON, its `content` a part at a time."""
    yield msgspec.json.encode(_told(job))[:-1] + b',"content":['
    lead = b""
    async for part in bulk.outcome(region, job):
        if part:
            lines = [f"{object_id} {said}" for object_id, said in part]
            yield lead + msgspec.json.encode(lines)[1:-1]
            lead = b","
    yield b"]" + (b"," + msgspec.json.encode(more)[1:] if more else b"}")


def _json(region: Region, pieces: AsyncGenerator[bytes, None]) -> Response:
    headers = {"content-type": "application/json", "cache-control": "no-store"}
    return Streamed(region, pieces, 200, headers)


# ---- deletion -------------------------------------------------------------------------------


async def delete(request: Request, region: Region, claims: Claims) -> Response:
    """Delete the objects of the body, or all that `filter` finds: what became of each."""
    dry_run = flag(request, "dryRun")
    ids, text = await _chosen(request, region)
    outcome = await retention.revoke(region, claims, ids, text, dry_run=dry_run)
    body: dict[str, object] = {
        "deleted": outcome.moved,
        "notFound": outcome.not_found,
        "held": outcome.held,
    }
    return paging.json(msgspec.json.encode({"dryRun": True, **body} if dry_run else body))


async def undelete(request: Request, region: Region, claims: Claims) -> Response:
    """Take back the deletion of the objects of the body: what became of each."""
    ids, _ = await _chosen(request, region)
    outcome = await retention.undelete(region, claims, ids)
    body = {"restored": outcome.moved, "notFound": outcome.not_found}
    return paging.json(msgspec.json.encode(body))


async def _chosen(request: Request, region: Region) -> tuple[Sequence[str], str | None]:
    """The ids of the body, or the filter that stands in their place."""
    text = parameter(request, "filter") if "filter" in request.query_params else None
    body = await web.body(request, limit=region.limits.bulk_ids * _ID_BYTES + _SLACK)
    if text is not None:
        if body.strip() not in (b"", b"[]"):
            raise BadInput("Give a filter or a list of ids, not both.", field="filter")
        return (), text
    try:
        return _ids.decode(body), None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"Send a JSON array of object ids: {error}.") from None
