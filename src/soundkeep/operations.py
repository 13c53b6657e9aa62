"""What operators and their machines ask: `/healthz`, `/readyz`, `/metrics`, `/openapi.json`."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from importlib.resources import files

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from soundkeep.foundation import metrics, web
from soundkeep.foundation.database import Database
from soundkeep.foundation.errors import NotFound, SoundkeepError

_ALIVE = msgspec.json.encode({"status": "ok"})


def routes(databases: Mapping[str, Database], *, metrics_networks: tuple[str, ...]) -> list[Route]:
    """The routes; `/metrics` answers these networks only, to others it does not exist."""
    networks = tuple(ipaddress.ip_network(each) for each in metrics_networks)
    document = (files("soundkeep") / "openapi.json").read_bytes()

    async def healthz(_: Request) -> Response:
        return Response(_ALIVE, media_type="application/json")

    async def readyz(_: Request) -> Response:
        answers = {name: await _answers(db) for name, db in databases.items()}
        ready = all(answers.values())
        body = {
            "status": "ok" if ready else "unavailable",
            "databases": {name: "ok" if good else "down" for name, good in answers.items()},
        }
        return web.json_response(body, 200 if ready else 503, cache_control="no-store")

    async def exposition(request: Request) -> Response:
        if not web.is_within(web.caller(request).address, networks):
            raise NotFound("Not found.")
        return Response(metrics.exposition(), headers={"content-type": metrics.CONTENT_TYPE})

    async def openapi(_: Request) -> Response:
        return Response(document, media_type="application/json")

    return [
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", exposition),
        Route("/openapi.json", openapi),
    ]


async def _answers(db: Database) -> bool:
    try:
        return await db.one("SELECT 1") is not None
    except SoundkeepError:
        return False
