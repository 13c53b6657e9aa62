"""Who is at the browser: the session's cookie, and the guard that every page and form goes through.

Cookies are HttpOnly, SameSite=Lax, of this host only. Lax rather than Strict: with Strict, whoever
follows a link from a mail or a ticket would look signed out. Lax is enough because nothing changes
by GET, and a POST must come from our own origin (Sec-Fetch-Site, Origin) and carry the session's
token in its `csrf` field. Before anybody is signed in, a random cookie and the field must agree
(double submit), so nobody can be signed in to somebody else's account.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from soundkeep.console import forms, menu, pages
from soundkeep.console.forms import Form
from soundkeep.console.menu import Door
from soundkeep.console.pages import ROOT, WHO, Console
from soundkeep.foundation import web
from soundkeep.foundation.errors import NotAllowed, SoundkeepError
from soundkeep.identity import accounts
from soundkeep.identity.accounts import SignedIn
from soundkeep.identity.model import Actor
from soundkeep.identity.plane import new_secret

_COOKIE = "soundkeep"
_FORM_COOKIE = "soundkeep-form"
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")
_LOCAL = re.compile(rf"{ROOT}/[A-Za-z0-9/_.~@%?=&+-]*")
_STALE = "This form is no longer valid. Load the page again and repeat what you did."
_FOREIGN = "This form was sent from another site, so nothing was changed."


@dataclass(frozen=True, slots=True)
class Visit:
    """A signed-in user's request, with its form when it carries one."""

    request: Request
    who: SignedIn
    form: Form

    @property
    def actor(self) -> Actor:
        """Whom the use cases act for."""
        return self.who.actor

    @property
    def address(self) -> str:
        """The network address that failures count against."""
        return web.caller(self.request).address

    def named(self, name: str) -> str:
        """A part of the path."""
        value: str = self.request.path_params[name]
        return value


Handler = Callable[[Console, Visit], Awaitable[Response]]
OpenHandler = Callable[[Console, Request, Form], Awaitable[Response]]


# ---- routes ---------------------------------------------------------------------------------


def page(console: Console, path: str, handler: Handler, door: Door) -> Route:
    """GET for signed-in users for whom the door opens."""

    async def endpoint(request: Request) -> Response:
        who = await known(console, request)
        if who is None:
            return await _to_sign_in(console, request)
        return await handler(console, _visit(request, who, Form(), door))

    return Route(path, endpoint, methods=["GET"])


def action(console: Console, path: str, handler: Handler, door: Door) -> Route:
    """POST of a form by signed-in users for whom the door opens."""

    async def endpoint(request: Request) -> Response:
        _must_be_ours(console, request)
        who = await known(console, request)
        if who is None:
            return await _to_sign_in(console, request)
        form = await forms.read(request)
        _must_agree(form, who.csrf)
        return await handler(console, _visit(request, who, form, door))

    return Route(path, endpoint, methods=["POST"])


def open_page(console: Console, path: str, handler: OpenHandler) -> Route:
    """GET for anybody."""

    async def endpoint(request: Request) -> Response:
        return await handler(console, request, Form())

    return Route(path, endpoint, methods=["GET"])


def open_action(console: Console, path: str, handler: OpenHandler) -> Route:
    """POST of a form by somebody who is not signed in yet."""

    async def endpoint(request: Request) -> Response:
        _must_be_ours(console, request)
        form = await forms.read(request)
        _must_agree(form, request.cookies.get(_named(console, _FORM_COOKIE), ""))
        return await handler(console, request, form)

    return Route(path, endpoint, methods=["POST"])


# ---- pages ----------------------------------------------------------------------------------


def show(
    console: Console,
    visit: Visit,
    template: str,
    *,
    typed: Form | None = None,
    refused: SoundkeepError | None = None,
    **facts: object,
) -> Response:
    """A page for a signed-in user; its menu item is the first segment of its address."""
    return pages.render(
        console,
        template,
        who=visit.who,
        here=_segment(visit.request),
        done=visit.request.query_params.get("done", ""),
        typed=typed,
        refused=refused,
        facts=facts,
    )


def show_open(
    console: Console,
    request: Request,
    template: str,
    *,
    typed: Form | None = None,
    refused: SoundkeepError | None = None,
    **facts: object,
) -> Response:
    """A page with a form for somebody who is not signed in; its token is in a cookie as well."""
    name = _named(console, _FORM_COOKIE)
    token = request.cookies.get(name, "")
    fresh = not _TOKEN.fullmatch(token)
    if fresh:
        token = new_secret(console.identity)
    response = pages.render(
        console,
        template,
        who=None,
        done=request.query_params.get("done", ""),
        typed=typed,
        refused=refused,
        facts={**facts, "csrf": token},
    )
    if fresh:
        _set(console, response, name, token)
    return response


# ---- the cookie -----------------------------------------------------------------------------


async def known(console: Console, request: Request) -> SignedIn | None:
    """Who is signed in, if anybody is."""
    value = cookie(console, request)
    return await accounts.signed_in(console.identity, value) if value else None


def cookie(console: Console, request: Request) -> str:
    """The session's cookie as it came, or nothing."""
    return request.cookies.get(_named(console, _COOKIE), "")


def begin(console: Console, response: Response, value: str) -> None:
    """Let the browser carry a session that `accounts.sign_in` began."""
    _set(console, response, _named(console, _COOKIE), value)


def end(console: Console, response: Response) -> None:
    """Let the browser forget the session."""
    name = _named(console, _COOKIE)
    response.delete_cookie(name, path="/", secure=console.secure, httponly=True, samesite="lax")


def local_path(text: str) -> str:
    """A page of the console to go on to, without the `/console`; anything else becomes Home."""
    if not _LOCAL.fullmatch(text) or "//" in text or ".." in text:
        return "/home"
    return text.removeprefix(ROOT)


def _set(console: Console, response: Response, name: str, value: str) -> None:
    response.set_cookie(name, value, path="/", secure=console.secure, httponly=True, samesite="lax")


def _named(console: Console, name: str) -> str:
    return f"__Host-{name}" if console.secure else name


# ---- the guard ------------------------------------------------------------------------------


def _visit(request: Request, who: SignedIn, form: Form, door: Door) -> Visit:
    request.scope[WHO] = who
    menu.must_open(door, who.actor.rights)
    return Visit(request, who, form)


def _must_be_ours(console: Console, request: Request) -> None:
    """Refuse a form that another site sent (Fetch Metadata, else RFC 6454 Origin)."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        if site not in {"same-origin", "none"}:
            raise NotAllowed(_FOREIGN)
        return
    origin = request.headers.get("origin")
    if origin is None:
        return
    host = urlsplit(origin).netloc
    if origin == "null" or host not in {
        request.headers.get("host", ""),
        urlsplit(console.base_url).netloc,
    }:
        raise NotAllowed(_FOREIGN)


def _must_agree(form: Form, token: str) -> None:
    sent = form.one("csrf")
    if not token or not hmac.compare_digest(sent.encode(), token.encode()):
        raise NotAllowed(_STALE)


async def _to_sign_in(console: Console, request: Request) -> Response:
    if await accounts.needs_setup(console.identity):
        return pages.redirect(console, "/setup")
    if request.method == "GET":
        query = f"?{request.url.query}" if request.url.query else ""
        wanted = request.url.path + query
    else:
        wanted = f"{ROOT}/{_segment(request)}"
    path = f"/signin?next={quote(wanted, safe='')}"
    return pages.redirect(console, path, done="expired" if cookie(console, request) else "")


def _segment(request: Request) -> str:
    return request.url.path.removeprefix(f"{ROOT}/").partition("/")[0]
