"""Customers, users, sites and user groups; signing in and out; the first set-up."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from argon2.exceptions import InvalidHashError, VerificationError

from soundkeep.foundation import audit
from soundkeep.foundation.audit import Event
from soundkeep.foundation.clock import HOUR, MINUTE
from soundkeep.foundation.database import Connection
from soundkeep.foundation.errors import BadInput, Conflict, NotAllowed, NotFound, NotSignedIn
from soundkeep.identity import backoff, store
from soundkeep.identity.model import (
    SUPER_ADMIN,
    Actor,
    Assignment,
    Customer,
    Group,
    Permission,
    ScopeItem,
    ScopeKind,
    Site,
    User,
)
from soundkeep.identity.plane import Identity, digest, new_id, new_secret, record

MIN_PASSWORD = 12
MAX_PASSWORD = 1024
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_CUSTOMER_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,38}")
_EMAIL = re.compile(r"[^@\s\x00-\x1f\x7f]{1,64}@[^@\s\x00-\x1f\x7f]{1,190}")
_MAX_NAME = 120


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A browser's session: who, what they may do, and the token that forms must carry."""

    actor: Actor
    customer: Customer
    csrf: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUser:
    """A user to be; an empty id is made up."""

    email: str
    name: str
    password: str
    id: str = ""


# ---- set-up ---------------------------------------------------------------------------------


async def needs_setup(identity: Identity) -> bool:
    """Whether nobody was ever made: the first Super Admin is still to come."""
    return not await store.has_users(identity.db)


async def new_setup_code(identity: Identity) -> str:
    """A code that lets whoever runs the machine, and nobody else, make the first Super Admin."""
    code = new_secret(identity)[:20]
    async with identity.db.transaction() as tx:
        await store.set_setup_code(tx, digest(code), now_ms=identity.clock())
    return code


async def set_up(
    identity: Identity, *, code: str, company: str, customer_id: str, user: NewUser, address: str
) -> User:
    """The first customer and its Super Admin, for the holder of the set-up code."""
    await backoff.check(identity, name="setup", address=address)
    if not await needs_setup(identity):
        raise NotAllowed("This installation is set up already: sign in.")
    founding = await _founding(identity, company, customer_id, user)
    async with identity.db.transaction() as tx:
        right = await store.take_setup_code(tx, digest(code.strip()))
        if right:
            await _found(identity, tx, founding)
    if not right:
        await backoff.failed(identity, name="setup", address=address)
        raise BadInput("This is not the set-up code that `soundkeep init` printed.", field="code")
    return founding.admin


async def add_customer(
    identity: Identity,
    *,
    company: str,
    customer_id: str,
    admin: NewUser,
    regions: Sequence[str] = (),
) -> User:
    """A customer, provisioned in `regions` (all, unless given), with a first Super Admin."""
    founding = await _founding(identity, company, customer_id, admin, regions)
    async with identity.db.transaction() as tx:
        await _found(identity, tx, founding)
    return founding.admin


@dataclass(frozen=True, slots=True)
class _Founding:
    """A customer to be with a first Super Admin, all of it checked."""

    customer: Customer
    admin: User
    password_hash: str


async def _founding(
    identity: Identity, company: str, customer_id: str, admin: NewUser, regions: Sequence[str] = ()
) -> _Founding:
    if not _CUSTOMER_ID.fullmatch(customer_id):
        raise BadInput(
            "A customer id has 1 to 39 of a-z, 0-9 and hyphens, a letter or digit first.",
            field="customer_id",
        )
    customer = Customer(customer_id, _named(company, "company"), tuple(regions) or identity.regions)
    return _Founding(customer, *await _prepared(identity, customer_id, admin))


async def _found(identity: Identity, tx: Connection, founding: _Founding) -> None:
    customer, user, now_ms = founding.customer, founding.admin, identity.clock()
    if not await store.add_customer(tx, customer=customer, now_ms=now_ms):
        raise Conflict(f"There is a customer {customer.id} already.", field="customer_id")
    await _add_user(tx, user, founding.password_hash)
    assignment = Assignment(
        new_id(identity), user.id, (SUPER_ADMIN.id,), (ScopeItem(ScopeKind.COMPANY),)
    )
    await store.add_assignment(
        tx, customer=customer.id, assignment=assignment, granted_by=user.id, now_ms=now_ms
    )
    entity = ("customer", customer.id, customer.name)
    new: dict[str, object] = {"superAdmin": user.email, "regions": list(customer.regions)}
    await record(identity, tx, Actor(user), Event.CREATE, entity, new=new)


# ---- signing in -----------------------------------------------------------------------------


async def sign_in(
    identity: Identity, *, email: str, password: str, address: str, old_cookie: str = ""
) -> str:
    """The cookie of a new session; NotSignedIn for whatever is wrong, without saying which."""
    email = email.strip().lower()
    await backoff.check(identity, name=email, address=address)
    found = await store.user_by_email(identity.db, email)
    right = await _fits(identity, found[1] if found else None, password)
    if found is None or not right or found[0].disabled:
        await backoff.failed(identity, name=email, address=address)
        raise NotSignedIn("The e-mail address or the password is wrong.")
    user = found[0]
    cookie, now_ms = new_secret(identity), identity.clock()
    session = store.Session(user.customer, user.id, new_secret(identity), now_ms, now_ms)
    async with identity.db.transaction() as tx:
        await store.forget_sessions(tx, before_ms=now_ms - identity.policy.session_hours * HOUR)
        if old_cookie:
            await store.remove_session(tx, digest(old_cookie))
        await store.add_session(tx, customer=user.customer, digest=digest(cookie), session=session)
        entity = ("session", user.id, user.email)
        await record(identity, tx, Actor(user), Event.CREATE, entity)
    return cookie


async def signed_in(identity: Identity, cookie: str) -> SignedIn | None:
    """Whose session a cookie is; None when it is unknown, idle too long, or too old."""
    hashed, now_ms, policy = digest(cookie), identity.clock(), identity.policy
    session = await store.session_by_hash(identity.db, hashed)
    if (
        session is None
        or now_ms - session.seen_ms > policy.session_idle_minutes * MINUTE
        or now_ms - session.created_ms > policy.session_hours * HOUR
    ):
        return None
    key = {"customer": session.customer, "user_id": session.user_id}
    user = await store.user_by_id(identity.db, **key)
    customer = await store.customer_by_id(identity.db, customer=session.customer)
    if user is None or user.disabled or customer is None:
        return None
    if now_ms - session.seen_ms > MINUTE:
        async with identity.db.transaction() as tx:
            await store.see_session(tx, hashed, now_ms=now_ms)
    rights = await store.rights_of(identity.db, **key, now_ms=now_ms)
    return SignedIn(Actor(user, rights), customer, session.csrf)


async def sign_out(identity: Identity, cookie: str) -> None:
    """End a session."""
    async with identity.db.transaction() as tx:
        await store.remove_session(tx, digest(cookie))


async def change_password(
    identity: Identity, actor: Actor, *, old: str, new: str, address: str
) -> None:
    """Change one's own password; every session of the user ends."""
    await backoff.check(identity, name=actor.user.email, address=address)
    found = await store.user_by_email(identity.db, actor.user.email)
    if not await _fits(identity, found[1] if found else None, old):
        await backoff.failed(identity, name=actor.user.email, address=address)
        raise BadInput("The current password is wrong.", field="old")
    _check_password(new)
    hashed = await asyncio.to_thread(identity.passwords.hash, new)
    key = {"customer": actor.customer, "user_id": actor.user.id}
    async with identity.db.transaction() as tx:
        await store.set_password(tx, **key, password_hash=hashed)
        await store.remove_sessions(tx, **key)
        changed: dict[str, object] = {"password": "changed"}
        await record(identity, tx, actor, Event.UPDATE, _user_entity(actor.user), new=changed)


# ---- users ----------------------------------------------------------------------------------


async def users(identity: Identity, actor: Actor) -> list[User]:
    """Everybody, by name."""
    _may_see_people(actor)
    return await store.users(identity.db, customer=actor.customer)


async def create_user(identity: Identity, actor: Actor, wanted: NewUser) -> User:
    """A new user, who may sign in and holds no role yet."""
    _may_administer(actor)
    _check_user(wanted)
    user, password_hash = await _prepared(identity, actor.customer, wanted)
    async with identity.db.transaction() as tx:
        await _add_user(tx, user, password_hash)
        await record(identity, tx, actor, Event.CREATE, _user_entity(user), new={"name": user.name})
    return user


async def set_disabled(identity: Identity, actor: Actor, user_id: str, *, disabled: bool) -> None:
    """Disable (sessions and tokens end at once) or enable a user."""
    _may_administer(actor)
    if user_id == actor.user.id:
        raise NotAllowed("You cannot disable or enable yourself.")
    key = {"customer": actor.customer, "user_id": user_id}
    async with identity.db.transaction() as tx:
        await store.hold(tx, customer=actor.customer)
        user = await _user(tx, actor, user_id)
        await _may_touch(identity, tx, actor, user)
        await store.set_disabled(tx, **key, disabled=disabled)
        if not await store.lasting_holders(tx, customer=actor.customer, role_id=SUPER_ADMIN.id):
            raise Conflict("This is the last Super Admin: make another one first.", field="user")
        if disabled:
            await store.remove_sessions(tx, **key)
            await store.revoke_users(
                tx, customer=actor.customer, user_ids=[user_id], now_ms=identity.clock()
            )
        changes: dict[str, dict[str, object]] = {
            "new": {"disabled": disabled},
            "old": {"disabled": user.disabled},
        }
        await record(identity, tx, actor, Event.UPDATE, _user_entity(user), **changes)


async def reset_password(identity: Identity, actor: Actor, user_id: str, password: str) -> None:
    """Give a user another password; their sessions end."""
    _may_administer(actor)
    _check_password(password)
    hashed = await asyncio.to_thread(identity.passwords.hash, password)
    key = {"customer": actor.customer, "user_id": user_id}
    async with identity.db.transaction() as tx:
        await store.hold(tx, customer=actor.customer)
        user = await _user(tx, actor, user_id)
        await _may_touch(identity, tx, actor, user)
        await store.set_password(tx, **key, password_hash=hashed)
        await store.remove_sessions(tx, **key)
        changed: dict[str, object] = {"password": "reset"}
        await record(identity, tx, actor, Event.UPDATE, _user_entity(user), new=changed)


# ---- sites and groups -----------------------------------------------------------------------


async def sites(identity: Identity, actor: Actor) -> list[Site]:
    """All sites, by name."""
    _may_see_people(actor)
    return await store.sites(identity.db, customer=actor.customer)


async def create_site(identity: Identity, actor: Actor, *, site_id: str, name: str) -> Site:
    """A new site; its id is what recordings carry as `branchId`."""
    _may_administer(actor)
    site = Site(_identified(site_id or new_id(identity), "id"), _named(name, "name"))
    async with identity.db.transaction() as tx:
        if not await store.add_site(
            tx, customer=actor.customer, site=site, now_ms=identity.clock()
        ):
            raise Conflict(f"There is a site {site.id} already.", field="id")
        entity = ("site", site.id, site.name)
        await record(identity, tx, actor, Event.CREATE, entity, new={"name": site.name})
    return site


async def rename_site(identity: Identity, actor: Actor, *, site_id: str, name: str) -> None:
    """Another name for a site."""
    _may_administer(actor)
    site = Site(site_id, _named(name, "name"))
    async with identity.db.transaction() as tx:
        if not await store.rename_site(tx, customer=actor.customer, site=site):
            raise NotFound("There is no such site.")
        entity = ("site", site.id, site.name)
        await record(identity, tx, actor, Event.UPDATE, entity, new={"name": site.name})


async def delete_site(identity: Identity, actor: Actor, site_id: str) -> None:
    """Delete a site that no assignment is limited to; its recordings stay."""
    _may_administer(actor)
    async with identity.db.transaction() as tx:
        await store.hold(tx, customer=actor.customer)
        await _must_be_unused(tx, actor, ScopeItem(ScopeKind.SITE, site_id))
        if not await store.remove_site(tx, customer=actor.customer, site_id=site_id):
            raise NotFound("There is no such site.")
        await record(identity, tx, actor, Event.DELETE, ("site", site_id, site_id))


async def groups(identity: Identity, actor: Actor) -> list[Group]:
    """All user groups with their members' ids."""
    _may_see_people(actor)
    return await store.groups(identity.db, customer=actor.customer)


async def create_group(
    identity: Identity, actor: Actor, *, name: str, members: Iterable[str]
) -> Group:
    """A new user group."""
    _may_administer(actor)
    group = Group(new_id(identity), _named(name, "name"), tuple(sorted(set(members))))
    async with identity.db.transaction() as tx:
        await store.hold(tx, customer=actor.customer)
        await store.add_group(tx, customer=actor.customer, group=group, now_ms=identity.clock())
        await _set_members(tx, actor, group)
        entity = ("group", group.id, group.name)
        await record(
            identity, tx, actor, Event.CREATE, entity, new={"members": list(group.members)}
        )
    return group


async def set_members(
    identity: Identity, actor: Actor, group_id: str, members: Iterable[str]
) -> None:
    """Who is in a group; tokens that reach through it end at once."""
    _may_administer(actor)
    async with identity.db.transaction() as tx:
        await store.hold(tx, customer=actor.customer)
        old = await _group(tx, actor, group_id)
        new = Group(old.id, old.name, tuple(sorted(set(members))))
        holders = await _holders(tx, actor, ScopeItem(ScopeKind.GROUP, group_id))
        if actor.user.id in holders and set(new.members) - set(old.members):
            raise NotAllowed("Your own roles reach as far as this group: ask somebody else.")
        await _set_members(tx, actor, new)
        await store.revoke_users(
            tx, customer=actor.customer, user_ids=holders, now_ms=identity.clock()
        )
        changes: dict[str, dict[str, object]] = {
            "new": {"members": list(new.members)},
            "old": {"members": list(old.members)},
        }
        await record(identity, tx, actor, Event.UPDATE, ("group", old.id, old.name), **changes)


async def delete_group(identity: Identity, actor: Actor, group_id: str) -> None:
    """Delete a group that no assignment is limited to."""
    _may_administer(actor)
    async with identity.db.transaction() as tx:
        await store.hold(tx, customer=actor.customer)
        group = await _group(tx, actor, group_id)
        await _must_be_unused(tx, actor, ScopeItem(ScopeKind.GROUP, group_id))
        await store.remove_group(tx, customer=actor.customer, group_id=group_id)
        await record(identity, tx, actor, Event.DELETE, ("group", group.id, group.name))


async def audits(
    identity: Identity, actor: Actor, wanted: audit.Wanted
) -> tuple[int, list[audit.Record]]:
    """How many administration records match, and a page of them, newest first."""
    if not actor.rights.allow_company(Permission.AUDIT_EVENTS):
        raise NotAllowed("The audit events need the Audit events permission for the company.")
    return await audit.query(identity.db, customer=actor.customer, wanted=wanted)


# ---- rules ----------------------------------------------------------------------------------


def _may_administer(actor: Actor) -> None:
    if not actor.rights.allow_company(Permission.USERS):
        raise NotAllowed("Users and sites need the Users permission for the company.")


def _may_see_people(actor: Actor) -> None:
    """Whoever assigns roles must be able to choose users and sites."""
    if not actor.rights.allow_company(Permission.ROLES):
        _may_administer(actor)


async def _may_touch(identity: Identity, tx: Connection, actor: Actor, user: User) -> None:
    """Taking over an account must not give more than one holds."""
    rights = await store.rights_of(
        tx, customer=actor.customer, user_id=user.id, now_ms=identity.clock()
    )
    if actor.rights.super_admin:
        return
    held = frozenset[Permission]().union(*(grant.role.permissions for grant in rights.grants))
    if rights.super_admin or held - actor.rights.company_permissions:
        raise NotAllowed("This user holds more than you do: ask a Super Admin.")


async def _user(tx: Connection, actor: Actor, user_id: str) -> User:
    user = await store.user_by_id(tx, customer=actor.customer, user_id=user_id)
    if user is None:
        raise NotFound("There is no such user.")
    return user


async def _group(tx: Connection, actor: Actor, group_id: str) -> Group:
    for group in await store.groups(tx, customer=actor.customer):
        if group.id == group_id:
            return group
    raise NotFound("There is no such user group.")


async def _set_members(tx: Connection, actor: Actor, group: Group) -> None:
    known = {user.id for user in await store.users(tx, customer=actor.customer)}
    if set(group.members) - known:
        raise BadInput("There is no such user.", field="members")
    await store.set_members(tx, customer=actor.customer, group_id=group.id, members=group.members)


async def _holders(tx: Connection, actor: Actor, scope: ScopeItem) -> set[str]:
    found = await store.assignments(tx, customer=actor.customer)
    return {each.user_id for each in found if scope in each.scopes}


async def _must_be_unused(tx: Connection, actor: Actor, scope: ScopeItem) -> None:
    if await _holders(tx, actor, scope):
        raise Conflict("An assignment is limited to it: remove that one first.", field="scope")


async def _prepared(identity: Identity, customer: str, wanted: NewUser) -> tuple[User, str]:
    _check_user(wanted)
    user_id = _identified(wanted.id or new_id(identity).replace("-", "a").replace("_", "b"), "id")
    email = wanted.email.strip().lower()
    user = User(
        customer, user_id, email, _named(wanted.name, "name"), disabled=False,
        created_ms=identity.clock(),
    )  # fmt: skip
    return user, await asyncio.to_thread(identity.passwords.hash, wanted.password)


async def _add_user(tx: Connection, user: User, password_hash: str) -> None:
    if not await store.add_user(tx, customer=user.customer, user=user, password_hash=password_hash):
        raise Conflict("There is a user with this e-mail address or id already.", field="email")


async def _fits(identity: Identity, password_hash: str | None, password: str) -> bool:
    """Whether a password fits; an absent hash takes as long to say no."""

    def verify() -> bool:
        try:
            return identity.passwords.verify(password_hash or _decoy(identity), password)
        except (VerificationError, InvalidHashError):
            return False

    if len(password) > MAX_PASSWORD:
        return False
    return await asyncio.to_thread(verify) and password_hash is not None


_DECOYS: dict[str, str] = {}


def _decoy(identity: Identity) -> str:
    """A hash that no password fits, made once with the plane's own cost."""
    if not _DECOYS:
        _DECOYS["any"] = identity.passwords.hash(new_secret(identity))
    return _DECOYS["any"]


def _user_entity(user: User) -> tuple[str, str, str]:
    return "user", user.id, user.email


def _check_user(wanted: NewUser) -> None:
    if not _EMAIL.fullmatch(wanted.email.strip()):
        raise BadInput("Write an e-mail address like name@example.com.", field="email")
    _named(wanted.name, "name")
    _check_password(wanted.password)


def _check_password(password: str) -> None:
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise BadInput(
            f"A password has {MIN_PASSWORD} to {MAX_PASSWORD} characters.", field="password"
        )


def _named(text: str, field: str) -> str:
    text = " ".join(text.split())
    if not text or len(text) > _MAX_NAME or not text.isprintable():
        raise BadInput(f"Write a {field} of 1 to {_MAX_NAME} characters.", field=field)
    return text


def _identified(text: str, field: str) -> str:
    if not _ID.fullmatch(text):
        raise BadInput(
            "An id has 1 to 64 letters, digits, dots, hyphens, underscores or @.", field=field
        )
    return text
