"""The Admin Console: pages rendered here, a few lines of script to please, none to depend on.

`app` is mounted at `/console`. Every rule is identity's: a page shows what a use case gives and
asks it for what the user wants. Contract §3.
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from soundkeep.console import (
    account,
    assets,
    audit,
    home,
    keys,
    pages,
    roles,
    setup,
    signin,
    sites,
    users,
)
from soundkeep.console.pages import Console
from soundkeep.foundation.errors import SoundkeepError
from soundkeep.identity.plane import Identity


def app(identity: Identity, *, secure: bool, base_url: str, regions: tuple[str, ...]) -> Starlette:
    """The console as an ASGI application, to be mounted at `/console` behind `web.Edge`.

    `secure` says that browsers reach it by https (cookies, HSTS), `base_url` is what clients put
    before `/oauth/v2/token`, `regions` are those that this installation serves.
    """
    console = Console(
        identity=identity,
        secure=secure,
        base_url=base_url.rstrip("/"),
        regions=regions,
        assets=assets.load(),
        templates=pages.templates(),
    )
    segments = (home, setup, signin, account, users, sites, roles, keys, audit, assets)
    return Starlette(
        routes=[route for segment in segments for route in segment.routes(console)],
        exception_handlers={
            SoundkeepError: pages.refusals(console),
            HTTPException: pages.http_errors(console),
            Exception: pages.faults(console),
        },
    )
