"""The edge, once: who is calling, request ids, transport, error rendering, bodies.

`Edge` wraps the whole application; the renderers turn our errors into `application/problem+json`
(RFC 9457, contract §2 "Errors") or into OAuth JSON (RFC 6749 §5.2, contract §1).
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus

import msgspec
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from soundkeep.foundation import errors, journal, metrics

Endpoint = Callable[[Request], Awaitable[Response]]

STATUS: dict[type[errors.SoundkeepError], int] = {
    errors.NotSignedIn: 401,
    errors.BadToken: 401,
    errors.NotAllowed: 403,
    errors.BadLink: 403,
    errors.NotProvisioned: 403,
    errors.InsecureTransport: 403,
    errors.NotFound: 404,
    errors.Gone: 410,
    errors.BadInput: 400,
    errors.BadFilter: 400,
    errors.Incomplete: 400,
    errors.TooLarge: 413,
    errors.Conflict: 409,
    errors.KeyReused: 422,
    errors.ChecksumMismatch: 460,
    errors.Busy: 423,
    errors.WrongMediaType: 415,
    errors.IllegalMove: 409,
    errors.PreconditionFailed: 412,
    errors.RangeNotSatisfiable: 416,
    errors.TooMany: 429,
    errors.StorageFull: 507,
    errors.Unavailable: 503,
    errors.TooSlow: 503,
    errors.BadSettings: 500,
    errors.Tampered: 500,
    errors.InvalidRequest: 400,
    errors.InvalidClient: 401,
    errors.UnauthorizedClient: 400,
    errors.UnsupportedGrantType: 400,
    errors.InvalidScope: 400,
}

REALM = "soundkeep"
_TITLES = {460: "Checksum Mismatch"}
"""Of statuses that no registry knows: 460 is the tus protocol's."""

_HEADER_FACTS = {"retry_after", "limit", "remaining", "reset", "content_range"}
_CALLER = "soundkeep.caller"
_SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PROBES = frozenset({"/healthz", "/readyz"})
_QUIET = _PROBES | {"/metrics"}
_NOT_QUOTABLE = re.compile(r"[^\x20-\x21\x23-\x5B\x5D-\x7E]")
"""What RFC 6750 §3 keeps out of an error_description."""

log = structlog.get_logger("edge")


@dataclass(frozen=True, slots=True)
class Caller:
    """Where a request comes from, after trusted proxies had their say."""

    address: str
    secure: bool
    request_id: str


def caller(request: Request) -> Caller:
    """What the edge found out about this request."""
    found: Caller = request.scope[_CALLER]
    return found


class Edge:
    """Outermost ASGI layer: request id, real client address, transport rule, log line, metrics."""

    def __init__(
        self, app: ASGIApp, *, trusted_proxies: tuple[str, ...], log_requests: bool
    ) -> None:
        self._app = app
        self._trusted = tuple(ipaddress.ip_network(each) for each in trusted_proxies)
        self._log_requests = log_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        who = scope[_CALLER] = self._caller(scope)
        started, status = time.perf_counter(), 0

        async def tagged(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", who.request_id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        try:
            if who.secure or scope["path"] in _PROBES:
                await self._app(scope, receive, tagged)
            else:
                await _refuse_plain_http(scope, receive, tagged)
        finally:
            self._account(scope, who, status, time.perf_counter() - started)

    def _caller(self, scope: Scope) -> Caller:
        peer = _plain(scope["client"][0]) if scope.get("client") else ""
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _SAFE_ID.fullmatch(given) else secrets.token_hex(8)
        secure = scope["scheme"] == "https"
        if not self._trusted or not is_within(peer, self._trusted):
            return Caller(peer, secure or is_loopback(peer), request_id)
        forwarded = b",".join(v for k, v in scope["headers"] if k == b"x-forwarded-for")
        hops = [_plain(hop.strip()) for hop in forwarded.decode("latin-1").split(",")]
        hops = [hop for hop in hops if hop]
        address = next((hop for hop in reversed(hops) if not is_within(hop, self._trusted)), peer)
        claimed = headers.get(b"x-forwarded-proto", b"").strip().lower() == b"https"
        return Caller(address, claimed or secure, request_id)

    def _account(self, scope: Scope, who: Caller, status: int, seconds: float) -> None:
        if scope["path"] in _QUIET:
            return
        route = getattr(scope.get("route"), "path", "unmatched")
        metrics.count_request(scope["method"], route, status, seconds)
        if self._log_requests:
            journal.request(
                method=scope["method"],
                path=scope["path"],
                status=status,
                ms=round(seconds * 1000, 2),
                client=who.address,
                request_id=who.request_id,
            )


@lru_cache(maxsize=4096)
def is_loopback(address: str) -> bool:
    """Whether an address is this very machine; a Unix socket (no address) is."""
    try:
        return not address or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _plain(address: str) -> str:
    """An IPv4 address as such, though a dual-stack socket shows it inside an IPv6 one."""
    mapped = address.lower().startswith("::ffff:") and "." in address
    return address[len("::ffff:") :] if mapped else address


@lru_cache(maxsize=4096)
def is_within(
    address: str, networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
) -> bool:
    """Whether an address lies in one of the networks; what is no address lies in none."""
    try:
        there = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(there in network for network in networks)


async def _refuse_plain_http(scope: Scope, receive: Receive, send: Send) -> None:
    error = errors.InsecureTransport(
        "Use https: this service answers plain HTTP on its own machine only. Behind a proxy that "
        "ends TLS, list the proxy in server.trusted_proxies and let it send X-Forwarded-Proto."
    )
    await problem(Request(scope), error)(scope, receive, send)


def handler(
    render: Callable[[Request, Exception], Response],
) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Renders errors in the event loop: Starlette would give a plain function a thread."""

    async def rendered(request: Request, error: Exception) -> Response:
        return render(request, error)

    return rendered


def json_response(body: object, status: int = 200, **headers: str) -> Response:
    """A JSON answer; header names in snake case."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(msgspec.json.encode(body), status, named, "application/json")


def problem(request: Request, error: Exception) -> Response:
    """The API's error answer (RFC 9457) with the members that real clients read."""
    assert isinstance(error, errors.SoundkeepError)
    status = STATUS[type(error)]
    facts = {name: value for name, value in error.facts.items() if name not in _HEADER_FACTS}
    field = facts.pop("field", None)
    body = {
        "type": f"urn:soundkeep:error:{error.code}",
        "title": _TITLES.get(status) or HTTPStatus(status).phrase,
        "status": status,
        "detail": error.message,
        "instance": request.url.path,
        "message": error.message,
        "errors": [{"field": field, "code": error.code, "message": error.message}],
        **facts,
    }
    headers = error_headers(error)
    return Response(msgspec.json.encode(body), status, headers, "application/problem+json")


def error_headers(error: errors.SoundkeepError) -> dict[str, str]:
    """The headers an error carries: RFC 6750 §3 challenges, Retry-After, rate limits."""
    headers = {}
    match error:
        case errors.NotSignedIn():
            headers["www-authenticate"] = f'Bearer realm="{REALM}"'
        case errors.BadToken() | errors.NotAllowed():
            said = _NOT_QUOTABLE.sub("?", error.message.replace('"', "'"))
            headers["www-authenticate"] = (
                f'Bearer realm="{REALM}", error="{error.code}", error_description="{said}"'
            )
        case errors.InvalidClient():
            headers["www-authenticate"] = f'Basic realm="{REALM}", charset="UTF-8"'
    if "retry_after" in error.facts:
        headers["retry-after"] = str(error.facts["retry_after"])
    if "content_range" in error.facts:
        headers["content-range"] = str(error.facts["content_range"])
    for name in ("limit", "remaining", "reset"):
        if name in error.facts:
            headers[f"x-ratelimit-{name}"] = str(error.facts[name])
    return headers


def http_problem(request: Request, error: Exception) -> Response:
    """The framework's own refusals (no such path, method not allowed) as problem+json."""
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    detail = f"{request.method} {request.url.path}: {phrase}."
    body = {
        "type": "about:blank",
        "title": phrase,
        "status": error.status_code,
        "detail": detail,
        "instance": request.url.path,
        "message": detail,
        "errors": [{"field": None, "code": phrase.lower().replace(" ", "_"), "message": detail}],
    }
    content = msgspec.json.encode(body)
    return Response(content, error.status_code, error.headers, "application/problem+json")


def internal_problem(request: Request, error: Exception) -> Response:
    """What a caller learns of a fault of ours: the request id to tell us, nothing else."""
    who: Caller | None = request.scope.get(_CALLER)
    request_id = who.request_id if who else ""
    log.error("fault", request_id=request_id, path=request.url.path, exc_info=error)
    detail = f"Something went wrong on our side. Tell the operator this id: {request_id}."
    body = {
        "type": "urn:soundkeep:error:internal",
        "title": "Internal Server Error",
        "status": 500,
        "detail": detail,
        "instance": request.url.path,
        "message": detail,
        "errors": [{"field": None, "code": "internal", "message": detail}],
    }
    return Response(msgspec.json.encode(body), 500, media_type="application/problem+json")


def bearer_token(request: Request) -> str:
    """The token of `Authorization: Bearer TOKEN` (RFC 6750 §2.1), the only place we take one."""
    values = request.headers.getlist("authorization")
    if not values:
        raise errors.NotSignedIn("Send an access token: Authorization: Bearer TOKEN.")
    kind, _, token = values[0].partition(" ")
    token = token.strip()
    if len(values) > 1 or kind.lower() != "bearer" or not token or " " in token:
        raise errors.BadToken("Send one access token: Authorization: Bearer TOKEN.")
    return token


async def chunks(request: Request, *, idle_seconds: float = 60) -> AsyncIterator[bytes]:
    """The body as it arrives; Incomplete when the client goes away or falls silent before its end.

    A client that loses its network says no good-bye: without a limit we would wait forever.
    """
    stream = aiter(request.stream())
    try:
        while True:
            async with asyncio.timeout(idle_seconds):
                chunk = await anext(stream)
            yield chunk
    except StopAsyncIteration:
        return
    except ClientDisconnect:
        raise errors.Incomplete("The body ended before it was whole; send it again.") from None
    except TimeoutError:
        raise errors.Incomplete(
            f"Nothing of the body came for {idle_seconds:g} s; send it again."
        ) from None


async def body(request: Request, *, limit: int) -> bytes:
    """The whole body; TooLarge past `limit` bytes."""
    gathered = bytearray()
    async for chunk in chunks(request):
        gathered += chunk
        if len(gathered) > limit:
            raise errors.TooLarge(f"The body may have {limit} bytes at most.")
    return bytes(gathered)
