"""The door of a region's API: who calls, which region, and whether the key's class allows it.

Handlers behind it get a region and claims that are already right for each other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from soundkeep.foundation import web
from soundkeep.foundation.claims import Access, Claims
from soundkeep.foundation.errors import BadInput, NotAllowed, NotFound, NotProvisioned
from soundkeep.foundation.verify import Verifier
from soundkeep.foundation.web import Endpoint
from soundkeep.region import links
from soundkeep.region.model import NOTHING
from soundkeep.region.plane import Region, must_live_here

Handler = Callable[[Request, Region, Claims], Awaitable[Response]]
ByLink = Callable[[Request, Region], Awaitable[Response]]
"""Judges the presigned link that a request shows, and answers it."""

BASE = "/storage/{region}/v3"
LINK_MARKS = frozenset({"link", "signature"})
"""A request with one of these parameters shows a presigned link."""


@dataclass(frozen=True, slots=True)
class Door:
    """The regions that this process serves, the names that are real elsewhere, and the verifier."""

    regions: Mapping[str, Region]
    known: frozenset[str]
    verifier: Verifier

    def opens(self, handler: Handler, access: Access) -> Endpoint:
        """The endpoint that lets in whoever holds this access class, and calls the handler."""

        async def endpoint(request: Request) -> Response:
            claims = await self.caller(request)
            region = self.regions.get(request.path_params["region"])
            if region is None:
                raise NotProvisioned("Your company keeps nothing in this region.")
            must_live_here(region, claims)
            if not claims.access.includes(access):
                raise NotAllowed(f"This needs a key of access class {access} or higher.")
            if "\0" in request.path_params.get("id", ""):
                raise NotFound(NOTHING)  # no database may be asked for a NUL
            return await handler(request, region, claims)

        return endpoint

    def opens_content(self, handler: Handler, by_link: ByLink) -> Endpoint:
        """As `opens`, for class download; a link in place of a token is for `by_link` to judge."""
        by_token = self.opens(handler, Access.DOWNLOAD)

        async def endpoint(request: Request) -> Response:
            if not LINK_MARKS & request.query_params.keys():
                return await by_token(request)
            if "authorization" in request.headers:
                raise BadInput("Give an access token or a presigned link, not both.", field="link")
            region = self.regions.get(request.path_params["region"])
            if region is None:
                raise links.forged()
            return await by_link(request, region)

        return endpoint

    async def caller(self, request: Request) -> Claims:
        """The claims behind the request's token; NotFound for a region that does not exist."""
        token = web.bearer_token(request)
        claims = await self.verifier.claims(token, address=web.caller(request).address)
        if request.path_params["region"] not in self.known:
            raise NotFound("There is no such region.")
        return claims


def by_method(path: str, **endpoints: Endpoint) -> Route:
    """One route for several methods, so that 405 lists them all."""

    async def endpoint(request: Request) -> Response:
        return await (endpoints.get(request.method) or endpoints["GET"])(request)

    return Route(path, endpoint, methods=list(endpoints))


def parameter(request: Request, name: str, default: str = "") -> str:
    """A query parameter that may be given once."""
    values = request.query_params.getlist(name)
    if len(values) > 1:
        raise BadInput(f"Give {name} once.", field=name)
    return values[0] if values else default


def number(request: Request, name: str, default: int, *, least: int, most: int) -> int:
    """A query parameter that is a whole number within bounds."""
    text = parameter(request, name, str(default))
    digits = text.removeprefix("-")
    value = int(text) if digits.isascii() and digits.isdigit() and len(digits) < 19 else least - 1
    if not least <= value <= most:
        raise BadInput(f"{name} is a whole number from {least} to {most}.", field=name)
    return value


def flag(request: Request, name: str) -> bool:
    """A query parameter that is true or false, which it is if left out."""
    value = parameter(request, name, "false").lower()
    if value not in ("true", "false"):
        raise BadInput(f"{name} is true or false.", field=name)
    return value == "true"
