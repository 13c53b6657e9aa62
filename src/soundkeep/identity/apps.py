"""API keys: an app with a key and up to two live secrets (contract §3, "API key").

A key looks like `sk_` + 22 random characters + 6 of checksum, a secret like `sks_` + 43 + 6: the
checksum is CRC-32 in base 62 of what is before it, so that secret scanners can tell a real one
from a look-alike without asking us.
"""

from __future__ import annotations

import ipaddress
import re
import string
import uuid
import zlib
from dataclasses import dataclass

from soundkeep.foundation.audit import Event
from soundkeep.foundation.claims import Access
from soundkeep.foundation.database import Connection
from soundkeep.foundation.errors import BadInput, Conflict, NotAllowed, NotFound
from soundkeep.identity import store
from soundkeep.identity.model import PRODUCTS, Actor, App, Secret
from soundkeep.identity.plane import Identity, digest, new_id, new_secret, record

KEY_PREFIX = "sk_"
SECRET_PREFIX = "sks_"  # noqa: S105  a prefix, not a secret
MAX_SECRETS = 2
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_BASE62 = string.digits + string.ascii_letters
_CHECKSUM_LENGTH = 6
_KEY_LENGTH = 22
_MAX_NETWORKS = 32


@dataclass(frozen=True, slots=True)
class Shown:
    """An app with a secret in the clear: the one time it is seen."""

    app: App
    secret: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the user asks for."""

    name: str
    products: tuple[str, ...]
    access: Access = Access.READ
    expires_ms: int | None = None
    networks: tuple[str, ...] = ()


async def create(identity: Identity, actor: Actor, wanted: Wanted) -> Shown:
    """A new app of the actor's with its first secret; needs both permissions (contract §3)."""
    _may_make_keys(actor)
    _check(wanted, identity.clock())
    app = App(
        customer=actor.customer,
        id=str(uuid.UUID(bytes=identity.entropy(16), version=4)),
        key=with_checksum(KEY_PREFIX + new_secret(identity)[:_KEY_LENGTH]),
        name=wanted.name,
        owner=actor.user.id,
        products=wanted.products,
        access=wanted.access,
        networks=wanted.networks,
        expires_ms=wanted.expires_ms,
        created_ms=identity.clock(),
    )
    async with identity.db.transaction() as tx:
        await store.hold(tx, customer=actor.customer)
        if not await store.add_app(tx, customer=actor.customer, app=app):
            raise Conflict(f"There is an app named {app.name} already.", field="name")
        secret = await _new_secret(identity, tx, app)
        new: dict[str, object] = {
            "key": app.key,
            "access": app.access,
            "products": list(app.products),
            "networks": list(app.networks),
            "expires": app.expires_ms,
        }
        await record(identity, tx, actor, Event.CREATE, _entity(app), new=new)
    return Shown(app, secret)


async def mine(identity: Identity, actor: Actor) -> list[App]:
    """The actor's apps, newest first."""
    _may_make_keys(actor)
    return await store.apps(identity.db, customer=actor.customer, owner=actor.user.id)


async def one(identity: Identity, actor: Actor, app_id: str) -> App:
    """One of the actor's apps; NotFound for anybody else's."""
    return await _one(identity.db, actor, app_id)


async def rotate(identity: Identity, actor: Actor, app_id: str) -> Shown:
    """A second live secret beside the first, so that clients can change over without a gap."""
    async with identity.db.transaction() as tx:
        await store.hold(tx, customer=actor.customer)
        app = await _one(tx, actor, app_id)
        if len(app.secrets) >= MAX_SECRETS:
            raise Conflict(
                "Two secrets are live already: remove the old one first.", field="secret"
            )
        secret = await _new_secret(identity, tx, app)
        await record(identity, tx, actor, Event.UPDATE, _entity(app), new={"secret": "added"})
    return Shown(app, secret)


async def remove_secret(identity: Identity, actor: Actor, app_id: str, secret_id: str) -> None:
    """End one secret and every token made so far; the last one goes with the app only."""
    async with identity.db.transaction() as tx:
        await store.hold(tx, customer=actor.customer)
        app = await _one(tx, actor, app_id)
        if len(app.secrets) < MAX_SECRETS:
            raise Conflict("This is the only secret: delete the app instead.", field="secret")
        key = {"customer": actor.customer, "app_id": app_id}
        if not await store.remove_secret(tx, **key, secret_id=secret_id):
            raise NotFound("There is no such secret.")
        await store.revoke(tx, [app.id], now_ms=identity.clock())
        await record(identity, tx, actor, Event.UPDATE, _entity(app), old={"secret": "removed"})


async def delete(identity: Identity, actor: Actor, app_id: str) -> None:
    """End an app, its secrets and, at once, its tokens."""
    async with identity.db.transaction() as tx:
        await store.hold(tx, customer=actor.customer)
        app = await _one(tx, actor, app_id)
        await store.remove_app(tx, customer=actor.customer, app_id=app.id)
        await store.revoke(tx, [app.id], now_ms=identity.clock())
        await record(identity, tx, actor, Event.DELETE, _entity(app), old={"key": app.key})


def with_checksum(text: str) -> str:
    """The text with its checksum at the end."""
    rest, tail = zlib.crc32(text.encode()), ""
    for _ in range(_CHECKSUM_LENGTH):
        rest, digit = divmod(rest, len(_BASE62))
        tail = _BASE62[digit] + tail
    return text + tail


def is_well_formed(text: str) -> bool:
    """Whether a text is a key or secret of ours by prefix and checksum: for secret scanners."""
    head = text[:-_CHECKSUM_LENGTH]
    return head.startswith((KEY_PREFIX, SECRET_PREFIX)) and with_checksum(head) == text


async def _one(reader: store.Reader, actor: Actor, app_id: str) -> App:
    _may_make_keys(actor)
    for app in await store.apps(reader, customer=actor.customer, owner=actor.user.id):
        if app.id == app_id:
            return app
    raise NotFound("There is no such app.")


async def _new_secret(identity: Identity, tx: Connection, app: App) -> str:
    clear = with_checksum(SECRET_PREFIX + new_secret(identity))
    secret = Secret(new_id(identity), identity.clock(), None)
    await store.add_secret(
        tx, customer=app.customer, app_id=app.id, secret=secret, digest=digest(clear)
    )
    return clear


def _may_make_keys(actor: Actor) -> None:
    if not actor.rights.may_make_keys:
        raise NotAllowed(
            "API keys need both Application Credentials and Storage API: ask a Super Admin."
        )


def _check(wanted: Wanted, now_ms: int) -> None:
    if not _NAME.fullmatch(wanted.name):
        raise BadInput(
            "A name has 1 to 64 letters, digits, dots, hyphens or underscores, and no spaces.",
            field="name",
        )
    if not wanted.products:
        raise BadInput("Choose at least one API product.", field="products")
    for product in wanted.products:
        if product not in PRODUCTS:
            raise BadInput(f"There is no API product {product!r}.", field="products")
    if wanted.expires_ms is not None and wanted.expires_ms <= now_ms:
        raise BadInput("The expiry lies in the past.", field="expires")
    if len(wanted.networks) > _MAX_NETWORKS:
        raise BadInput(f"{_MAX_NETWORKS} IP ranges at most.", field="networks")
    for network in wanted.networks:
        try:
            ipaddress.ip_network(network)
        except ValueError:
            raise BadInput(
                f"{network!r} is not an IP range: write 203.0.113.0/24 or 2001:db8::/32.",
                field="networks",
            ) from None


def _entity(app: App) -> tuple[str, str, str]:
    return "app", app.id, app.name
