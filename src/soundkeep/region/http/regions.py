"""`/storage/{region}/v3/regions`: where the caller's customer keeps something."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from soundkeep.foundation import web
from soundkeep.region.http.guard import BASE, Door


def routes(door: Door) -> list[Route]:
    """The one route; any real region may be asked (contract §2, "Regions")."""

    async def provisioned(request: Request) -> Response:
        claims = await door.caller(request)
        return web.json_response(claims.regions, cache_control="no-store")

    return [Route(f"{BASE}/regions", provisioned)]
