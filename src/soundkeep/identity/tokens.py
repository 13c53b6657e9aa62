"""Client credentials in, signed access tokens out; what is known of them afterwards.

OAuth 2.0 client credentials (RFC 6749 §4.4) with JWT access tokens (RFC 9068), revocation
(RFC 7009) and introspection (RFC 7662). Contract §1.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote_plus

import msgspec
from joserfc import jws
from joserfc.jwk import OKPKey

from soundkeep.foundation.claims import Claims
from soundkeep.foundation.clock import DAY, SECOND
from soundkeep.foundation.errors import (
    BadToken,
    InvalidClient,
    InvalidRequest,
    InvalidScope,
    NotAllowed,
    UnauthorizedClient,
    UnsupportedGrantType,
)
from soundkeep.foundation.verify import (
    ALGORITHM,
    CLOCK_SKEW_SECONDS,
    REGISTRY,
    TOKEN_TYPE,
    Trust,
    Verifier,
    must_be_inside,
)
from soundkeep.identity import backoff, model, store
from soundkeep.identity.model import App, Permission
from soundkeep.identity.plane import Identity, digest, new_secret

_ABSENT = digest("no secret has this hash")
_MARK_EVERY_MS = 60 * SECOND


@dataclass(frozen=True, slots=True)
class Credentials:
    """A client's key and secret, as presented."""

    key: str
    secret: str


@dataclass(frozen=True, slots=True)
class Issued:
    """A new access token and what the answer tells about it."""

    token: str
    app: App
    issued_ms: int
    lifetime_seconds: int


class Issuer:
    """Issues and knows tokens: the signing keys in memory, and the trust that regions verify by."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self._version = -1
        self._trust = Trust()
        self._epoch = 0
        self._signing: tuple[str, OKPKey] | None = None
        self._keys: dict[str, tuple[OKPKey, int]] = {}
        self._turn = asyncio.Lock()
        self._marked: dict[str, int] = {}

    async def trust(self) -> Trust:
        """Keys and revocations as of now (`verify.Feed`): reloads only what a commit changed."""
        version = self.identity.db.version()
        if version != self._version:
            async with self._turn:
                await self._reload()
                self._version = version
        return self._trust

    async def signing_key(self) -> tuple[str, OKPKey]:
        """The key that signs now; a new one when the last is too old (RFC 9068 §4)."""
        await self.trust()
        policy, now_ms = self.identity.policy, self.identity.clock()
        if self._signing is None or self._age_ms(now_ms) > policy.signing_key_days * DAY:
            await self._rotate()
        assert self._signing is not None
        return self._signing

    async def public_keys(self) -> dict[str, object]:
        """The JWK set (RFC 7517) of every key that still verifies."""
        await self.signing_key()
        return {
            "keys": [
                {**key.as_dict(private=False), "kid": kid, "use": "sig", "alg": ALGORITHM}
                for kid, (key, _) in self._keys.items()
            ]
        }

    def mark(self, secret_id: str, now_ms: int) -> Mapping[str, int]:
        """Note a use of a secret; what is to be written now, at most once a minute a secret."""
        if now_ms - self._marked.get(secret_id, 0) < _MARK_EVERY_MS:
            return {}
        self._marked[secret_id] = now_ms
        return {secret_id: now_ms}

    def _age_ms(self, now_ms: int) -> int:
        assert self._signing is not None
        return now_ms - self._keys[self._signing[0]][1]

    async def _rotate(self) -> None:
        """Make a key, unless another worker just did."""
        identity = self.identity
        async with self._turn, identity.db.transaction() as tx:
            now_ms = identity.clock()
            await store.take_signing_turn(tx)
            rows = await store.signing_keys(tx, retired_after_ms=now_ms)
            if not rows or now_ms - rows[0][2] > identity.policy.signing_key_days * DAY:
                key = OKPKey.generate_key("Ed25519")
                sealed = identity.vault.encrypt(msgspec.json.encode(key.as_dict(private=True)))
                kid = key.thumbprint()
                await store.add_signing_key(tx, kid=kid, sealed=sealed.decode(), now_ms=now_ms)
                await tx.announce()
        async with self._turn:
            await self._reload()

    async def _reload(self) -> None:
        """Read what changed: revocations after the last epoch seen, keys not opened before."""
        identity = self.identity
        lifetime_ms = (identity.policy.token_seconds + CLOCK_SKEW_SECONDS) * SECOND
        oldest_ms = identity.clock() - lifetime_ms
        rows = await store.signing_keys(identity.db, retired_after_ms=oldest_ms)
        keys = {}
        for kid, sealed, created_ms in rows:
            known = self._keys.get(kid)
            key = known[0] if known else _opened(identity, kid, sealed)
            keys[kid] = (key, created_ms)
        revoked = dict(self._trust.revoked)
        for epoch, subject in await store.revocations(identity.db, after_epoch=self._epoch):
            revoked[subject] = self._epoch = epoch
        self._keys = keys
        self._signing = (rows[0][0], keys[rows[0][0]][0]) if rows else None
        self._trust = Trust({kid: key for kid, (key, _) in keys.items()}, revoked)


async def issue(
    issuer: Issuer,
    credentials: Credentials,
    *,
    grant_type: str | None,
    scope: str | None,
    address: str,
) -> Issued:
    """A token for a client whose owner still holds what an API key needs (contract §1, §3)."""
    identity = issuer.identity
    await backoff.check(identity, name=credentials.key, address=address)
    found, secret_id = await _authenticated(identity, credentials, address=address)
    if grant_type is None:
        raise InvalidRequest("grant_type is missing: send grant_type=client_credentials.")
    if grant_type != "client_credentials":
        raise UnsupportedGrantType("Only grant_type=client_credentials is supported.")
    if scope:
        raise InvalidScope("This service knows no scopes: leave the parameter out.")
    kid, key = await issuer.signing_key()
    claims = await _claims(identity, found, address=address)
    header = {"alg": ALGORITHM, "typ": TOKEN_TYPE, "kid": kid}
    token = jws.serialize_compact(header, msgspec.json.encode(claims), key, registry=REGISTRY)
    used = issuer.mark(secret_id, identity.clock())
    if used:
        async with identity.db.transaction() as tx:
            await store.mark_used(tx, used)
    return Issued(token, found.app, claims.issued * SECOND, claims.expires - claims.issued)


async def revoke(issuer: Issuer, credentials: Credentials, token: str, *, address: str) -> None:
    """Kill a token of the client's own; an unknown or dead one is no error (RFC 7009 §2.2)."""
    identity = issuer.identity
    app = (await client(issuer, credentials, address=address)).app
    try:
        claims = await _verifier(issuer).claims(token, address=address)
    except (BadToken, NotAllowed):
        return
    if claims.subject == app.id:
        async with identity.db.transaction() as tx:
            await store.revoke(tx, [claims.token_id], now_ms=identity.clock())


async def introspect(
    issuer: Issuer, credentials: Credentials, token: str, *, address: str
) -> Claims | None:
    """What a token of the client's own customer says; None where it is not active (RFC 7662)."""
    app = (await client(issuer, credentials, address=address)).app
    try:
        claims = await _verifier(issuer).claims(token, address=address)
    except (BadToken, NotAllowed):
        return None
    return claims if claims.customer == app.customer else None


async def client(issuer: Issuer, credentials: Credentials, *, address: str) -> store.Presented:
    """The app that these credentials are of, or InvalidClient; failures are counted."""
    identity = issuer.identity
    await backoff.check(identity, name=credentials.key, address=address)
    found, _ = await _authenticated(identity, credentials, address=address)
    return found


def basic(header: str) -> Credentials:
    """Key and secret from `Authorization: Basic` (RFC 7617, form-encoded as RFC 6749 §2.3.1)."""
    kind, _, encoded = header.partition(" ")
    if kind.lower() != "basic":
        raise InvalidClient(
            "Authenticate with HTTP Basic: the key as user, the secret as password."
        )
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise InvalidClient("The Authorization header is not valid Basic credentials.") from None
    key, colon, secret = text.partition(":")
    if not colon:
        raise InvalidClient("The Basic credentials hold no colon between key and secret.")
    return Credentials(unquote_plus(key), unquote_plus(secret))


async def _authenticated(
    identity: Identity, credentials: Credentials, *, address: str
) -> tuple[store.Presented, str]:
    """The app and the id of the secret that fits; every failure looks and costs the same."""
    found = await store.presented(identity.db, credentials.key)
    presented = digest(credentials.secret)
    fitting = ""
    for secret_id, expected in found.hashes if found else (("", _ABSENT),):
        if hmac.compare_digest(expected, presented):
            fitting = secret_id
    if found is None or not fitting:
        await backoff.failed(identity, name=credentials.key, address=address)
        raise InvalidClient("The key is unknown or the secret is wrong.")
    return found, fitting


async def _claims(identity: Identity, found: store.Presented, *, address: str) -> Claims:
    """What the app may do now. The epoch is read first: what is revoked meanwhile kills this."""
    app, now_ms = found.app, identity.clock()
    epoch = await store.epoch(identity.db)
    rights = await store.rights_of(
        identity.db, customer=app.customer, user_id=app.owner, now_ms=now_ms
    )
    if found.owner_disabled or not rights.may_make_keys:
        raise UnauthorizedClient(
            "The owner of this API key no longer holds Application Credentials and Storage API."
        )
    if app.expires_ms is not None and app.expires_ms <= now_ms:
        raise UnauthorizedClient("This API key expired: make a new one in the console.")
    if app.networks:
        try:
            must_be_inside(app.networks, address)
        except NotAllowed as refused:
            raise UnauthorizedClient(refused.message) from None
    scopes = rights.scopes(Permission.STORAGE_API)
    members: Mapping[str, list[str]] = {}
    if any(scope.kind is model.ScopeKind.GROUP for scope in scopes):
        members = await store.members_of_groups(identity.db, customer=app.customer)
    issued = now_ms // SECOND
    ends = [end // SECOND for end in (app.expires_ms, rights.until_ms()) if end is not None]
    return Claims(
        issuer=identity.issuer,
        subject=app.id,
        client=app.key,
        owner=app.owner,
        customer=app.customer,
        regions=found.regions,
        access=app.access,
        reach=model.reach(scopes, user_id=app.owner, members=members),
        issued=issued,
        expires=max(min([issued + identity.policy.token_seconds, *ends]), issued),
        epoch=epoch,
        token_id=new_secret(identity)[:22],
        networks=app.networks,
    )


def _verifier(issuer: Issuer) -> Verifier:
    return Verifier(issuer.identity.issuer, issuer, issuer.identity.clock)


def _opened(identity: Identity, kid: str, sealed: str) -> OKPKey:
    key = OKPKey.import_key(msgspec.json.decode(identity.vault.decrypt(sealed.encode())))
    key.ensure_kid()
    assert key.kid == kid
    return key
