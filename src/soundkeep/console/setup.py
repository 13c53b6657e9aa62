"""`/console/setup`: the first company and its Super Admin, once, for the holder of the code."""

from __future__ import annotations

import re
import unicodedata

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from soundkeep.console import pages, session
from soundkeep.console.forms import Form
from soundkeep.console.pages import Console
from soundkeep.foundation import web
from soundkeep.foundation.errors import BadInput, Conflict, TooMany
from soundkeep.identity import accounts
from soundkeep.identity.accounts import MIN_PASSWORD, NewUser


def routes(console: Console) -> list[Route]:
    """The pages of this segment."""
    return [
        session.open_page(console, "/setup", ask),
        session.open_action(console, "/setup", set_up),
    ]


async def ask(console: Console, request: Request, _form: Form) -> Response:
    """The set-up form, while nobody was ever made."""
    if not await accounts.needs_setup(console.identity):
        return pages.redirect(console, "/signin")
    return _form_page(console, request)


async def set_up(console: Console, request: Request, form: Form) -> Response:
    """Make the company and its Super Admin, then go to sign in."""
    company = form.one("company")
    try:
        await accounts.set_up(
            console.identity,
            code=form.one("code"),
            company=company,
            customer_id=form.one("customer_id").strip() or suggested_id(company),
            user=NewUser(
                email=form.one("email"), name=form.one("name"), password=form.one("password")
            ),
            address=web.caller(request).address,
        )
    except (BadInput, Conflict, TooMany) as refused:
        return _form_page(console, request, typed=form, refused=refused)
    return pages.redirect(console, "/signin", done="set-up")


def suggested_id(company: str) -> str:
    """A customer id from a company's name: `Bäcker & Söhne` becomes `backer-sohne`."""
    plain = unicodedata.normalize("NFKD", company).encode("ascii", "ignore").decode().lower()
    return "-".join(re.findall(r"[a-z0-9]+", plain))[:39].strip("-")


def _form_page(
    console: Console,
    request: Request,
    *,
    typed: Form | None = None,
    refused: BadInput | Conflict | TooMany | None = None,
) -> Response:
    return session.show_open(
        console,
        request,
        "setup.html",
        typed=typed,
        refused=refused,
        min_password=MIN_PASSWORD,
    )
