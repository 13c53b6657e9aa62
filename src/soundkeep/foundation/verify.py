"""From bearer token to claims: the signature, the times, the audience, the revocations.

A region verifies tokens by itself. It needs `Trust`: the public keys of the authorization server
and the short list of what was revoked lately. A `Feed` brings it up to date; how depends on
where the region runs (beside the identity plane, or on another continent).
"""

from __future__ import annotations

import hashlib
import ipaddress
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
from cachetools import LRUCache
from joserfc import jws
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import OKPKey

from soundkeep.foundation.claims import PRODUCT, Claims, user_subject
from soundkeep.foundation.clock import SECOND, Clock
from soundkeep.foundation.errors import BadToken, Gone, NotAllowed

ALGORITHM = "EdDSA"
TOKEN_TYPE = "at+jwt"  # noqa: S105  the `typ` of RFC 9068, not a secret
CLOCK_SKEW_SECONDS = 60
"""How far ahead of ours the issuer's clock may be."""

REGISTRY = jws.JWSRegistry(algorithms=[ALGORITHM])
_MAX_TOKEN = 64 * 1024
_CACHED_TOKENS = 10_000

# RFC 9864 renames EdDSA to Ed25519; verifiers in the field know the old name (decision 0003).
warnings.filterwarnings("ignore", message="EdDSA is deprecated", category=SecurityWarning)


@dataclass(frozen=True, slots=True)
class Trust:
    """Public keys by `kid`, and the epoch at which each subject was last revoked."""

    keys: Mapping[str, OKPKey] = field(default_factory=dict)
    revoked: Mapping[str, int] = field(default_factory=dict)


class Feed(Protocol):
    """Where trust comes from."""

    async def trust(self) -> Trust:
        """What holds now; called for every request, so cheap when nothing changed."""


class Verifier:
    """Verifies access tokens; remembers what it has verified, by hash, in a bounded cache."""

    def __init__(self, issuer: str, feed: Feed, clock: Clock) -> None:
        self._issuer = issuer
        self._feed = feed
        self._clock = clock
        self._seen: LRUCache[bytes, tuple[str, Claims]] = LRUCache(_CACHED_TOKENS)

    async def claims(self, token: str, *, address: str) -> Claims:
        """The claims of a token that is good now, or BadToken; NotAllowed from this address."""
        claims = await self.claims_anywhere(token)
        if claims.networks:
            must_be_inside(claims.networks, address)
        return claims

    async def claims_anywhere(self, token: str) -> Claims:
        """The claims of a token that is good now, wherever it may be used from, or BadToken."""
        trust = await self._feed.trust()
        digest = hashlib.sha256(token.encode(errors="surrogateescape")).digest()
        kid, claims = self._seen.get(digest) or self._read(token, trust)
        self._check(kid, claims, trust)
        self._seen[digest] = (kid, claims)
        return claims

    async def must_stand(self, claims: Claims) -> None:
        """Gone where these claims, which were verified when a link was made, were revoked since."""
        if is_revoked(claims, (await self._feed.trust()).revoked):
            raise Gone("The API key that made this link lost its rights since: ask for a new link.")

    def _read(self, token: str, trust: Trust) -> tuple[str, Claims]:
        if len(token) > _MAX_TOKEN:
            raise BadToken("The access token is malformed.")
        try:
            parsed = jws.extract_compact(token.encode(), registry=REGISTRY)
            header = parsed.headers()
            kid = header.get("kid")
            if header.get("typ") != TOKEN_TYPE or not isinstance(kid, str):
                raise BadToken("The access token is malformed.")
            key = trust.keys.get(kid)
            if key is None or not jws.validate_compact(parsed, key, registry=REGISTRY):
                raise BadToken("The access token was not signed by this service.")
            return kid, msgspec.json.decode(parsed.payload, type=Claims)
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise BadToken("The access token is malformed.") from error

    def _check(self, kid: str, claims: Claims, trust: Trust) -> None:
        now = self._clock() // SECOND
        if claims.issuer != self._issuer or claims.audience != PRODUCT:
            raise BadToken("The access token is for another service.")
        if now >= claims.expires:
            raise BadToken("The access token expired: get a new one.")
        if claims.issued > now + CLOCK_SKEW_SECONDS:
            raise BadToken("The access token is from the future: check the clocks.")
        if kid not in trust.keys:
            raise BadToken("The access token was not signed by this service.")
        if is_revoked(claims, trust.revoked):
            raise BadToken("The access token was revoked: get a new one.")


def is_revoked(claims: Claims, revoked: Mapping[str, int]) -> bool:
    """Whether the app, its owner or the token itself was revoked after the token was made."""
    return any(
        revoked.get(subject, -1) > claims.epoch
        for subject in (
            claims.subject,
            user_subject(claims.customer, claims.owner),
            claims.token_id,
        )
    )


def must_be_inside(networks: tuple[str, ...], address: str) -> None:
    """NotAllowed unless the address lies in one of the CIDR ranges."""
    if not is_inside(networks, address):
        raise NotAllowed("This API key may not be used from this network address.")


def is_inside(networks: tuple[str, ...], address: str) -> bool:
    """Whether the address lies in one of the CIDR ranges; what is no address lies in none."""
    try:
        there = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(there in ipaddress.ip_network(network) for network in networks)
