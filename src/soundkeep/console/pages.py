"""How a page is made: templates, the headers that every answer carries, and pages for errors.

Content Security Policy: nothing but our own files runs, styles or is sent to; no inline code.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from soundkeep.console import menu
from soundkeep.console.assets import Assets
from soundkeep.console.forms import Form
from soundkeep.foundation import web
from soundkeep.foundation.clock import iso_seconds
from soundkeep.foundation.errors import NotAllowed, SoundkeepError
from soundkeep.identity.accounts import SignedIn
from soundkeep.identity.plane import Identity

ROOT = "/console"
WHO = "soundkeep.console.who"
"""Where a request's scope holds the signed-in user, so that error pages have the menu too."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "media-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; "
    "base-uri 'none'"
)
HEADERS: Mapping[str, str] = {
    "content-security-policy": POLICY,
    # Not no-referrer: with it, browsers send `Origin: null` with our own forms.
    "referrer-policy": "same-origin",
    "x-frame-options": "DENY",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_HSTS = "max-age=31536000"

DONE: Mapping[str, str] = {
    "set-up": "All set. Sign in with the e-mail address and the password you just chose.",
    "expired": "Your session has ended, to keep the account safe. Sign in to go on.",
    "signed-out": "You are signed out.",
    "password-changed": "Your password is changed. Sign in with the new one.",
    "user-created": "The user can sign in now. Give them a role under Roles & Permissions.",
    "user-disabled": "The user is disabled: sessions and API keys stopped working.",
    "user-enabled": "The user is enabled again.",
    "password-reset": "The user has a new password; their sessions ended.",
    "site-created": "The site is created.",
    "site-renamed": "The site has its new name.",
    "site-deleted": "The site is deleted; its recordings stay.",
    "group-created": "The user group is created.",
    "group-changed": "The members of the user group are changed.",
    "group-deleted": "The user group is deleted.",
    "role-created": "The role is created. Assign it under Assignments.",
    "role-changed": "The role is changed.",
    "role-copied": "This is your copy: give it a name and choose what it allows.",
    "role-deleted": "The role is deleted.",
    "assigned": "The assignment is saved. It holds from now on.",
    "unassigned": "The assignment is removed. What stood on it stopped working.",
    "secret-removed": "The secret is removed. Tokens made so far stopped working.",
    "app-deleted": "The app is deleted. Its secrets and tokens stopped working.",
}
"""What a page says after a redirect; an address carries the code only, never words."""

_WHAT_TO_DO = {
    400: "Go back, check what you entered, and try again.",
    401: "Sign in and try again.",
    403: "If you think you should be able to do this, ask an administrator.",
    404: "Check the address, or start from Home.",
    405: "Start again from Home.",
    409: "Go back and try again.",
    413: "Send less at once.",
    429: "Wait a little, then try again.",
    500: "The operator finds the cause in the log by the request id.",
    503: "Try again in a moment.",
}

ErrorPage = Callable[[Request, Exception], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Console:
    """What every page is made with."""

    identity: Identity
    secure: bool
    base_url: str
    regions: tuple[str, ...]
    assets: Assets
    templates: Environment


def render(
    console: Console,
    template: str,
    *,
    who: SignedIn | None,
    here: str = "",
    done: str = "",
    typed: Form | None = None,
    refused: SoundkeepError | None = None,
    status: int = 200,
    facts: Mapping[str, object],
) -> HTMLResponse:
    """A page; `here` is its menu segment, `refused` what to say beside the form as `typed`."""
    shown: dict[str, object] = {
        "who": who,
        "csrf": who.csrf if who else "",
        "menu": menu.items(who.actor.rights) if who else [],
        "here": here,
        "notice": DONE.get(done, ""),
        "typed": typed or Form(),
        "refused": refused,
        "assets": console.assets,
        "root": ROOT,
        **facts,
    }
    content = console.templates.get_template(template).render(shown)
    headers = headers_of(console)
    if refused is not None:
        status = web.STATUS[type(refused)]
        headers |= _error_headers(refused)
    return HTMLResponse(content, status, headers)


def redirect(console: Console, path: str, *, done: str = "") -> Response:
    """303 to another page of the console, which then says what was done."""
    query = ("&" if "?" in path else "?") + f"done={done}" if done else ""
    return RedirectResponse(f"{ROOT}{path}{query}", 303, headers_of(console))


def headers_of(console: Console) -> dict[str, str]:
    """What every answer carries but the static files."""
    return {**HEADERS, **({"strict-transport-security": _HSTS} if console.secure else {})}


def refusals(console: Console) -> ErrorPage:
    """The page for an error that is the user's to know about."""

    async def page(request: Request, error: Exception) -> Response:
        assert isinstance(error, SoundkeepError)
        status = web.STATUS[type(error)]
        response = _error_page(console, request, status, error.message)
        response.headers.update(_error_headers(error))
        return response

    return page


def http_errors(console: Console) -> ErrorPage:
    """The page for the framework's own refusals: no such page, wrong method."""

    async def page(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        words = {404: "There is no such page.", 405: "This address does not take that method."}
        message = words.get(error.status_code, f"{HTTPStatus(error.status_code).phrase}.")
        response = _error_page(console, request, error.status_code, message)
        response.headers.update(error.headers or {})
        return response

    return page


def faults(console: Console) -> ErrorPage:
    """The page for a fault of ours: logged, and told by its request id only."""

    async def page(request: Request, error: Exception) -> Response:
        web.internal_problem(request, error)
        return _error_page(console, request, 500, "Something went wrong on our side.")

    return page


def _error_page(console: Console, request: Request, status: int, message: str) -> Response:
    return render(
        console,
        "error.html",
        who=request.scope.get(WHO),
        status=status,
        facts={
            "code": status,
            "phrase": "Not allowed" if status == 403 else HTTPStatus(status).phrase,
            "message": message,
            "advice": _WHAT_TO_DO.get(status, ""),
            "request_id": web.caller(request).request_id if status >= 500 else "",
        },
    )


def _error_headers(error: SoundkeepError) -> dict[str, str]:
    """Retry-After and the like; a bearer challenge with our words means nothing to a browser."""
    return {} if isinstance(error, NotAllowed) else web.error_headers(error)


def templates() -> Environment:
    """The templates: autoescaped, and an error where a name is missing."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["moment"] = _moment
    environment.filters["segment"] = lambda text: quote(text, safe="")
    return environment


def _moment(at_ms: int) -> Markup:
    iso = iso_seconds(at_ms)
    return Markup('<time datetime="{}Z">{} UTC</time>').format(iso, iso.replace("T", " "))
