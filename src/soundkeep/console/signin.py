"""`/console/signin` and `/console/signout`."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from soundkeep.console import pages, session
from soundkeep.console.forms import Form
from soundkeep.console.menu import HOME
from soundkeep.console.pages import ROOT, Console
from soundkeep.console.session import Visit
from soundkeep.foundation import web
from soundkeep.foundation.errors import NotSignedIn, TooMany
from soundkeep.identity import accounts


def routes(console: Console) -> list[Route]:
    """The pages of this segment."""
    return [
        session.open_page(console, "/signin", ask),
        session.open_action(console, "/signin", sign_in),
        session.action(console, "/signout", sign_out, HOME),
    ]


async def ask(console: Console, request: Request, _form: Form) -> Response:
    """The sign-in form, for whoever is not signed in."""
    if await accounts.needs_setup(console.identity):
        return pages.redirect(console, "/setup")
    wanted = session.local_path(request.query_params.get("next", ""))
    if await session.known(console, request):
        return pages.redirect(console, wanted)
    return session.show_open(console, request, "signin.html", next=ROOT + wanted)


async def sign_in(console: Console, request: Request, form: Form) -> Response:
    """Begin a session, always a new one, and go on to the page that was asked for."""
    wanted = session.local_path(form.one("next"))
    try:
        cookie = await accounts.sign_in(
            console.identity,
            email=form.one("email"),
            password=form.one("password"),
            address=web.caller(request).address,
            old_cookie=session.cookie(console, request),
        )
    except (NotSignedIn, TooMany) as refused:
        return session.show_open(
            console, request, "signin.html", typed=form, refused=refused, next=ROOT + wanted
        )
    response = pages.redirect(console, wanted)
    session.begin(console, response, cookie)
    return response


async def sign_out(console: Console, visit: Visit) -> Response:
    """End the session."""
    await accounts.sign_out(console.identity, session.cookie(console, visit.request))
    response = pages.redirect(console, "/signin", done="signed-out")
    session.end(console, response)
    return response
