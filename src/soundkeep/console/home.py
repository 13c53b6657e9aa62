"""`/console/` and `/console/home`: where to begin."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from soundkeep.console import pages, session
from soundkeep.console.forms import Form
from soundkeep.console.menu import HOME
from soundkeep.console.pages import Console
from soundkeep.console.session import Visit
from soundkeep.identity import accounts


def routes(console: Console) -> list[Route]:
    """The pages of this segment."""
    return [
        session.open_page(console, "/", front),
        session.page(console, "/home", home, HOME),
    ]


async def front(console: Console, request: Request, _form: Form) -> Response:
    """To the set-up, the sign-in or Home, as the case may be."""
    if await session.known(console, request):
        return pages.redirect(console, "/home")
    needed = await accounts.needs_setup(console.identity)
    return pages.redirect(console, "/setup" if needed else "/signin")


async def home(console: Console, visit: Visit) -> Response:
    """What the user may do here, and where to begin."""
    return session.show(
        console,
        visit,
        "home.html",
        grants=sorted(visit.actor.rights.grants, key=lambda grant: (grant.role.name, grant.scope)),
        rights=visit.actor.rights,
        base_url=console.base_url,
    )
