"""`/oauth/v2/token`, `/oauth2/*` and `/.well-known/oauth-authorization-server` (contract §1).

The compatible token endpoint answers as the reference service does; the one under `/oauth2` is
strict RFC 6749, for libraries that insist. Both share one way in: client credentials and a form.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from soundkeep.foundation import errors, web
from soundkeep.foundation.errors import InvalidClient, InvalidRequest, SoundkeepError
from soundkeep.identity import tokens
from soundkeep.identity.tokens import Credentials, Issued, Issuer

Handler = Callable[[Issuer, Request], Awaitable[Response]]

FORM = "application/x-www-form-urlencoded"
LIMIT = 16 * 1024
"""Bytes of a form; the longest thing in one is an access token."""

_MAX_FIELDS = 64
_AUTH_METHODS = ["client_secret_basic", "client_secret_post"]
_CODES: Mapping[type[SoundkeepError], str] = {
    errors.TooLarge: "invalid_request",
    errors.Incomplete: "invalid_request",
    errors.Unavailable: "temporarily_unavailable",
    errors.StorageFull: "temporarily_unavailable",
}
"""The `error` of what is no OAuth error of its own."""


def routes(issuer: Issuer, *, base_url: str) -> list[Route]:
    """The authorization server; `base_url` is where clients reach it."""
    return [
        _route(issuer, "POST", "/oauth/v2/token", compatible_token),
        _route(issuer, "POST", "/oauth2/token", strict_token),
        _route(issuer, "POST", "/oauth2/revoke", revoke),
        _route(issuer, "POST", "/oauth2/introspect", introspect),
        _route(issuer, "GET", "/oauth2/jwks", jwks),
        _route(issuer, "GET", "/.well-known/oauth-authorization-server", _metadata(base_url)),
    ]


async def compatible_token(issuer: Issuer, request: Request) -> Response:
    """A token in the words of the reference service: `BearerToken`, and numbers as strings."""
    issued = await _issued(issuer, request)
    app = issued.app
    return _private(
        {
            "access_token": issued.token,
            "token_type": "BearerToken",
            "expires_in": str(max(issued.lifetime_seconds - 1, 0)),
            "issued_at": str(issued.issued_ms),
            "application_name": app.id,
            "scope": "",
            "status": "approved",
            "client_id": app.key,
            "api_product_list": f"[{', '.join(app.products)}]",
            "api_product_list_json": app.products,
            "refresh_token_expires_in": "0",
            "refresh_count": "0",
        }
    )


async def strict_token(issuer: Issuer, request: Request) -> Response:
    """A token as RFC 6749 §5.1 has it."""
    issued = await _issued(issuer, request)
    return _private(
        {
            "access_token": issued.token,
            "token_type": "Bearer",
            "expires_in": issued.lifetime_seconds,
        }
    )


async def revoke(issuer: Issuer, request: Request) -> Response:
    """End a token (RFC 7009); 200 too where there is nothing to end."""
    asked = await _asked(request)
    await tokens.revoke(issuer, asked.credentials, asked.token(), address=asked.address)
    return Response(status_code=200, headers=_NO_STORE)


async def introspect(issuer: Issuer, request: Request) -> Response:
    """What a token says (RFC 7662 §2.2); of one that is not good, only that."""
    asked = await _asked(request)
    claims = await tokens.introspect(
        issuer, asked.credentials, asked.token(), address=asked.address
    )
    if claims is None:
        return _private({"active": False})
    return _private(
        {
            "active": True,
            "scope": "",
            "client_id": claims.client,
            "token_type": "Bearer",
            "exp": claims.expires,
            "iat": claims.issued,
            "sub": claims.subject,
            "aud": claims.audience,
            "iss": claims.issuer,
            "jti": claims.token_id,
        }
    )


async def jwks(issuer: Issuer, _request: Request) -> Response:
    """The public keys that verify tokens now (RFC 7517 §5)."""
    answer = web.json_response(await issuer.public_keys(), cache_control="public, max-age=60")
    answer.headers["content-type"] = "application/jwk-set+json"
    return answer


def _metadata(base_url: str) -> Handler:
    """Where everything is (RFC 8414 §2)."""
    document = {
        "issuer": base_url,
        "token_endpoint": f"{base_url}/oauth2/token",
        "revocation_endpoint": f"{base_url}/oauth2/revoke",
        "introspection_endpoint": f"{base_url}/oauth2/introspect",
        "jwks_uri": f"{base_url}/oauth2/jwks",
        "grant_types_supported": ["client_credentials"],
        "response_types_supported": [],
        "token_endpoint_auth_methods_supported": _AUTH_METHODS,
        "revocation_endpoint_auth_methods_supported": _AUTH_METHODS,
        "introspection_endpoint_auth_methods_supported": _AUTH_METHODS,
    }

    async def metadata(_issuer: Issuer, _request: Request) -> Response:
        return web.json_response(document, cache_control="public, max-age=3600")

    return metadata


# ---- what a client asks ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Asked:
    """Who asks, from where, and the form."""

    credentials: Credentials
    form: Mapping[str, str]
    address: str

    def token(self) -> str:
        """The token that the request is about (RFC 7009 §2.1, RFC 7662 §2.1)."""
        if "token" not in self.form:
            raise InvalidRequest("token is missing: send the access token as token=...")
        return self.form["token"]


async def _asked(request: Request) -> _Asked:
    form = await _form(request)
    return _Asked(_credentials(request, form), form, web.caller(request).address)


async def _issued(issuer: Issuer, request: Request) -> Issued:
    asked = await _asked(request)
    return await tokens.issue(
        issuer,
        asked.credentials,
        grant_type=asked.form.get("grant_type"),
        scope=asked.form.get("scope"),
        address=asked.address,
    )


async def _form(request: Request) -> dict[str, str]:
    """The form's parameters: each once, those without a value left out (RFC 6749 §3.2)."""
    raw = await web.body(request, limit=LIMIT)
    kind = request.headers.get("content-type", "")
    if not raw and not kind:
        return {}
    if kind.partition(";")[0].strip().lower() != FORM:
        raise InvalidRequest(f"Send the parameters as Content-Type: {FORM}.")
    try:
        pairs = parse_qsl(
            raw.decode(), keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS
        )
    except ValueError:
        raise InvalidRequest(f"The body is not {FORM} in UTF-8.") from None
    form = dict(pairs)
    if len(form) < len(pairs):
        raise InvalidRequest("A parameter is repeated: send each one once.")
    return {name: value for name, value in pairs if value}


def _credentials(request: Request, form: Mapping[str, str]) -> Credentials:
    """Key and secret from the header or from the form, never from both (RFC 6749 §2.3)."""
    headers = request.headers.getlist("authorization")
    key, secret = form.get("client_id"), form.get("client_secret")
    if len(headers) > 1:
        raise InvalidRequest("The Authorization header is repeated: send it once.")
    if headers:
        credentials = tokens.basic(headers[0])
        if secret or key not in {None, credentials.key}:
            raise InvalidRequest("Authenticate in the Authorization header or in the form: once.")
        return credentials
    if key and secret:
        return Credentials(key, secret)
    raise InvalidClient("Authenticate with HTTP Basic: the key as user, the secret as password.")


# ---- how it is answered ---------------------------------------------------------------------

_NO_STORE = {"cache-control": "no-store", "pragma": "no-cache"}


def _private(body: object) -> Response:
    return web.json_response(body, cache_control="no-store", pragma="no-cache")


def _route(issuer: Issuer, method: str, path: str, handler: Handler) -> Route:
    """A route whose errors are told as OAuth tells them."""

    async def answered(request: Request) -> Response:
        try:
            return await handler(issuer, request)
        except SoundkeepError as error:
            return _refusal(error)

    return Route(path, answered, methods=[method], name=handler.__name__)


def _refusal(error: SoundkeepError) -> Response:
    """The error answer of RFC 6749 §5.2, with the reference's two words for the same."""
    code = _CODES.get(type(error), error.code)
    body = {
        "error": code,
        "error_description": error.message,
        "ErrorCode": code,
        "Error": error.message,
    }
    answer = web.json_response(body, web.STATUS[type(error)], **_NO_STORE)
    answer.headers.update(web.error_headers(error))
    return answer
