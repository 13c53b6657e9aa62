"""`/storage/{region}/v3/buckets`: what belongs together. Contract §2, "Buckets"."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from soundkeep.foundation.claims import Access, Claims
from soundkeep.region import catalog
from soundkeep.region.http import paging
from soundkeep.region.http.guard import BASE, Door
from soundkeep.region.plane import Region


def routes(door: Door) -> list[Route]:
    """URL, handler, and the access class that a key needs."""
    return [
        Route(f"{BASE}/buckets", door.opens(search, Access.READ)),
        Route(f"{BASE}/buckets/{{id}}", door.opens(one, Access.READ)),
    ]


async def search(request: Request, region: Region, claims: Claims) -> Response:
    """A page of buckets."""
    wanted = paging.wanted(request, claims)
    return paging.answer(wanted, await catalog.buckets(region, claims, wanted))


async def one(request: Request, region: Region, claims: Claims) -> Response:
    """A bucket with its objects."""
    document = await catalog.bucket(region, claims, request.path_params["id"])
    return paging.json(document.encode())
