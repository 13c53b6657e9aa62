"""`/console/account`: one's own password."""

from __future__ import annotations

from starlette.responses import Response
from starlette.routing import Route

from soundkeep.console import pages, session
from soundkeep.console.menu import HOME
from soundkeep.console.pages import Console
from soundkeep.console.session import Visit
from soundkeep.foundation.errors import BadInput, TooMany
from soundkeep.identity import accounts
from soundkeep.identity.accounts import MIN_PASSWORD


def routes(console: Console) -> list[Route]:
    """The pages of this segment."""
    return [
        session.page(console, "/account", ask, HOME),
        session.action(console, "/account", change, HOME),
    ]


async def ask(console: Console, visit: Visit) -> Response:
    """Who one is, and the form for another password."""
    return session.show(console, visit, "account.html", min_password=MIN_PASSWORD)


async def change(console: Console, visit: Visit) -> Response:
    """Change the password; every session ends, this one too."""
    form = visit.form
    try:
        if form.one("password") != form.one("again"):
            raise BadInput("The two new passwords differ.", field="again")
        await accounts.change_password(
            console.identity,
            visit.actor,
            old=form.one("old"),
            new=form.one("password"),
            address=visit.address,
        )
    except (BadInput, TooMany) as refused:
        return session.show(
            console, visit, "account.html", refused=refused, min_password=MIN_PASSWORD
        )
    response = pages.redirect(console, "/signin", done="password-changed")
    session.end(console, response)
    return response
