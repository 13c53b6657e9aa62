"""`/storage/{region}/v3/objects`: search, metadata, content, one-shot upload. Contract §2."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from soundkeep.foundation.claims import Access, Claims
from soundkeep.region import catalog, content
from soundkeep.region.http import download, paging, presigned, uploads
from soundkeep.region.http.guard import BASE, Door, by_method
from soundkeep.region.model import Opens
from soundkeep.region.plane import Region


def routes(door: Door) -> list[Route]:
    """URL, handler, and the access class that a key needs."""
    objects, by_link = f"{BASE}/objects", presigned.opens(door, Opens.OBJECT)
    return [
        Route(f"{objects}/{{id}}/content", door.opens_content(bytes_of, by_link)),
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


async def bytes_of(request: Request, region: Region, claims: Claims) -> Response:
    """The object's bytes, as far as the request asks for them; or with `presignUrl` a link."""
    if presigned.is_wanted(request):
        object_id = request.path_params["id"]
        link = await presigned.make(request, region, claims, Opens.OBJECT, object_id)
        return paging.json(msgspec.json.encode({"url": link.url, "expiresIn": link.seconds}))
    found = await content.readable(region, claims, request.path_params["id"])
    return download.answer(request, region, content.body_of(region, found))
