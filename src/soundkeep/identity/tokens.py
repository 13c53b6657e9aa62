"""Client credentials in, signed access tokens out; what is known of them afterwards.

OAuth 2.0 client credentials (RFC 6749 §4.4) with JWT access tokens (RFC 9068), revocation
(RFC 7009) and introspection (RFC 7662). Contract §1.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote_plus

import msgspec
from cachetools import LRUCache
from cryptography.fernet import InvalidToken
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc.jwk import OKPKey

from soundkeep.foundation.claims import LONGEST_LINK_SECONDS, Claims, Reach
from soundkeep.foundation.clock import DAY, SECOND
from soundkeep.foundation.errors import (
    BadToken,
    InvalidClient,
    InvalidRequest,
    InvalidScope,
    NotAllowed,
    Tampered,
    UnauthorizedClient,
    UnsupportedGrantType,
)
from soundkeep.foundation.verify import (
    ALGORITHM,
    CLOCK_SKEW_SECONDS,
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
_REMEMBERED_CLIENTS = 10_000
_MAX_TOKEN = 48 * 1024
"""Characters; a request has 64 KiB for all of its headers."""


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


@dataclass(frozen=True, slots=True)
class Standing:
    """What the database says of a client: true until it changes, or `until_ms` comes."""

    version: int
    epoch: int
    app: App
    hashes: tuple[tuple[str, str], ...]
    regions: tuple[str, ...]
    entitled: bool
    reach: Reach
    until_ms: int | None

    def holds(self, version: int, now_ms: int) -> bool:
        """Whether it still can be believed, when the database is at this version."""
        return self.version == version and (self.until_ms is None or now_ms < self.until_ms)


@dataclass(frozen=True, slots=True)
class Signer:
    """The key that signs now; `head` is the part of every token before the claims."""

    kid: str
    head: bytes
    sign: Callable[[bytes], bytes]

    def token(self, claims: Claims) -> str:
        """A signed JWT in compact form (RFC 7515 §3.1)."""
        signing_input = self.head + b"." + _base64url(msgspec.json.encode(claims))
        return (signing_input + b"." + _base64url(self.sign(signing_input))).decode()


class Issuer:
    """Issues and knows tokens: the signing keys in memory, and the trust that regions verify by."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self._version = -1
        self._trust = Trust()
        self._epoch = 0
        self._signer: Signer | None = None
        self._keys: dict[str, tuple[OKPKey, int]] = {}
        self._turn = asyncio.Lock()
        self._marked: dict[str, int] = {}
        self._standings: LRUCache[str, Standing] = LRUCache(_REMEMBERED_CLIENTS)
        self._admitted: LRUCache[tuple[str, str], int] = LRUCache(_REMEMBERED_CLIENTS)

    async def trust(self) -> Trust:
        """Keys and revocations as of now (`verify.Feed`): reloads only what a commit changed."""
        version = self.identity.db.version()
        if version != self._version:
            async with self._turn:
                await self._reload()
                self._version = version
        return self._trust

    async def signer(self) -> Signer:
        """What signs now; with a new key when the last is too old (RFC 9068 §4)."""
        await self.trust()
        policy, now_ms = self.identity.policy, self.identity.clock()
        if self._signer is None or self._age_ms(now_ms) > policy.signing_key_days * DAY:
            await self._rotate()
        assert self._signer is not None
        return self._signer

    async def public_keys(self) -> dict[str, object]:
        """The JWK set (RFC 7517) of every key that still verifies."""
        await self.signer()
        return {
            "keys": [
                {**key.as_dict(private=False), "kid": kid, "use": "sig", "alg": ALGORITHM}
                for kid, (key, _) in self._keys.items()
            ]
        }

    async def admit(self, key: str, address: str, *, version: int) -> None:
        """TooMany while either has to wait; asks only what a commit changed."""
        if self._admitted.get((key, address)) != version:
            await backoff.check(self.identity, name=key, address=address)
            self._admitted[key, address] = version

    async def standing(self, key: str, *, version: int) -> Standing | None:
        """Where the client with this key stands, or None; asks only what a commit changed."""
        now_ms = self.identity.clock()
        known = self._standings.get(key)
        if known is not None and known.holds(version, now_ms):
            return known
        found = await _standing(self.identity, key, version=version, now_ms=now_ms)
        if found is not None:
            self._standings[key] = found
        return found

    async def forget(self) -> None:
        """Drop the revocations that are older than every living token and every link may be."""
        identity = self.identity
        lifetime_ms = (identity.policy.token_seconds + CLOCK_SKEW_SECONDS) * SECOND
        lifetime_ms = max(lifetime_ms, DAY)  # the setting may have been longer before
        lifetime_ms += LONGEST_LINK_SECONDS * SECOND
        async with self._turn, identity.db.transaction() as tx:
            await store.forget_revocations(tx, before_ms=identity.clock() - lifetime_ms)
            self._epoch, self._version = 0, -1
            self._trust = Trust(self._trust.keys)

    def mark(self, secret_id: str, now_ms: int) -> Mapping[str, int]:
        """Note a use of a secret; what is to be written now, at most once a minute a secret."""
        if now_ms - self._marked.get(secret_id, 0) < _MARK_EVERY_MS:
            return {}
        self._marked[secret_id] = now_ms
        return {secret_id: now_ms}

    def _age_ms(self, now_ms: int) -> int:
        assert self._signer is not None
        return now_ms - self._keys[self._signer.kid][1]

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
        self._signer = _signer(rows[0][0], keys[rows[0][0]][0]) if rows else None
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
    standing, secret_id = await _authenticated(issuer, credentials, address=address)
    if grant_type is None:
        raise InvalidRequest("grant_type is missing: send grant_type=client_credentials.")
    if grant_type != "client_credentials":
        raise UnsupportedGrantType("Only grant_type=client_credentials is supported.")
    if scope:
        raise InvalidScope("This service knows no scopes: leave the parameter out.")
    claims = _claims(identity, standing, address=address)
    token = (await issuer.signer()).token(claims)
    if len(token) > _MAX_TOKEN:
        raise UnauthorizedClient(
            "The user groups behind this API key have more members than a token can name: "
            "let its owner's Storage API reach sites or the company instead."
        )
    used = issuer.mark(secret_id, identity.clock())
    if used:
        async with identity.db.transaction() as tx:
            await store.mark_used(tx, used)
    return Issued(token, standing.app, claims.issued * SECOND, claims.expires - claims.issued)


async def revoke(issuer: Issuer, credentials: Credentials, token: str, *, address: str) -> None:
    """Kill a token of the client's own; an unknown or dead one is no error (RFC 7009 §2.2)."""
    identity = issuer.identity
    app = await client(issuer, credentials, address=address)
    try:
        claims = await _verifier(issuer).claims_anywhere(token)
    except BadToken:
        return
    if claims.subject == app.id:
        async with identity.db.transaction() as tx:
            await store.revoke(tx, [claims.token_id], now_ms=identity.clock())


async def introspect(
    issuer: Issuer, credentials: Credentials, token: str, *, address: str
) -> Claims | None:
    """What a token of the client's own customer says; None where it is not active (RFC 7662)."""
    app = await client(issuer, credentials, address=address)
    try:
        claims = await _verifier(issuer).claims_anywhere(token)
    except BadToken:
        return None
    return claims if claims.customer == app.customer else None


async def client(issuer: Issuer, credentials: Credentials, *, address: str) -> App:
    """The app that these credentials are of, or InvalidClient; failures are counted."""
    standing, _ = await _authenticated(issuer, credentials, address=address)
    return standing.app


def basic(header: str) -> Credentials:
    """Key and secret from `Authorization: Basic` (RFC 7617, form-encoded as RFC 6749 §2.3.1)."""
    kind, _, encoded = header.partition(" ")
    if kind.lower() != "basic":
        raise InvalidClient(
            "Authenticate with HTTP Basic: the key as user, the secret as password."
        )
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode()
    except ValueError:
        raise InvalidClient("The Authorization header is not valid Basic credentials.") from None
    key, colon, secret = text.partition(":")
    if not colon:
        raise InvalidClient("The Basic credentials hold no colon between key and secret.")
    return Credentials(unquote_plus(key), unquote_plus(secret))


async def _authenticated(
    issuer: Issuer, credentials: Credentials, *, address: str
) -> tuple[Standing, str]:
    """The client and the id of the secret that fits; every failure looks the same."""
    version = issuer.identity.db.version()
    await issuer.admit(credentials.key, address, version=version)
    printable = credentials.key.isprintable()  # PostgreSQL refuses to hear of a NUL
    found = await issuer.standing(credentials.key, version=version) if printable else None
    presented = digest(credentials.secret)
    fitting = ""
    for secret_id, expected in found.hashes if found else (("", _ABSENT),):
        if hmac.compare_digest(expected, presented):
            fitting = secret_id
    if found is None or not fitting:
        await backoff.failed(issuer.identity, name=credentials.key, address=address)
        raise InvalidClient("The key is unknown or the secret is wrong.")
    return found, fitting


async def _standing(identity: Identity, key: str, *, version: int, now_ms: int) -> Standing | None:
    """The epoch is read before all else: what is revoked since kills a token made of the rest."""
    epoch = await store.epoch(identity.db)
    found = await store.presented(identity.db, key)
    if found is None:
        return None
    app = found.app
    rights = await store.rights_of(
        identity.db, customer=app.customer, user_id=app.owner, now_ms=now_ms
    )
    scopes = rights.scopes(Permission.STORAGE_API)
    members: Mapping[str, list[str]] = {}
    if any(scope.kind is model.ScopeKind.GROUP for scope in scopes):
        members = await store.members_of_groups(identity.db, customer=app.customer)
    return Standing(
        version=version,
        epoch=epoch,
        app=app,
        hashes=found.hashes,
        regions=found.regions,
        entitled=rights.may_make_keys and not found.owner_disabled,
        reach=model.reach(scopes, user_id=app.owner, members=members),
        until_ms=rights.until_ms(),
    )


def _claims(identity: Identity, standing: Standing, *, address: str) -> Claims:
    """What the app may do now, or UnauthorizedClient."""
    app, now_ms = standing.app, identity.clock()
    if not standing.entitled:
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
    issued = now_ms // SECOND
    ends = [end // SECOND for end in (app.expires_ms, standing.until_ms) if end is not None]
    return Claims(
        issuer=identity.issuer,
        subject=app.id,
        client=app.key,
        owner=app.owner,
        customer=app.customer,
        regions=standing.regions,
        access=app.access,
        reach=standing.reach,
        issued=issued,
        expires=max(min([issued + identity.policy.token_seconds, *ends]), issued),
        epoch=standing.epoch,
        token_id=new_secret(identity)[:22],
        networks=app.networks,
        until=min(ends, default=None),
    )


def _verifier(issuer: Issuer) -> Verifier:
    return Verifier(issuer.identity.issuer, issuer, issuer.identity.clock)


def _opened(identity: Identity, kid: str, sealed: str) -> OKPKey:
    try:
        opened = identity.vault.decrypt(sealed.encode())
    except InvalidToken:
        raise Tampered(
            "The secret key (identity.secret_key_file) does not open the signing keys in the "
            "database: put back the key that this installation was made with."
        ) from None
    key = OKPKey.import_key(msgspec.json.decode(opened))
    key.ensure_kid()
    assert key.kid == kid
    return key


def _signer(kid: str, key: OKPKey) -> Signer:
    """By hand, not by joserfc: its checks of our own key take as long again as signing."""
    private = key.private_key
    assert isinstance(private, Ed25519PrivateKey)
    header = msgspec.json.encode({"alg": ALGORITHM, "typ": TOKEN_TYPE, "kid": kid})
    return Signer(kid, _base64url(header), private.sign)


def _base64url(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")
