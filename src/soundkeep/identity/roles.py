"""Roles and assignments: who may do what, within which scope (contract §3).

The rules: administering needs the Roles permission for the whole company; nobody grants to
themselves; only a Super Admin grants Super Admin or anything that holds Storage API; others grant
only what they hold; the last Super Admin stays.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from soundkeep.foundation.audit import Event
from soundkeep.foundation.database import Connection
from soundkeep.foundation.errors import BadInput, Conflict, NotAllowed, NotFound
from soundkeep.identity import store
from soundkeep.identity.model import (
    BUILT_IN,
    SUPER_ADMIN,
    Actor,
    Assignment,
    Permission,
    Role,
    ScopeItem,
    ScopeKind,
    User,
)
from soundkeep.identity.plane import Identity, new_id, record

_MAX_NAME = 64


async def all_roles(identity: Identity, actor: Actor) -> list[Role]:
    """Every role, the built-in ones first."""
    _may_administer(actor)
    return list((await store.roles(identity.db, customer=actor.customer)).values())


async def all_assignments(identity: Identity, actor: Actor) -> list[Assignment]:
    """Every assignment, oldest first."""
    _may_administer(actor)
    return await store.assignments(identity.db, customer=actor.customer)


async def create_role(
    identity: Identity, actor: Actor, *, name: str, permissions: Iterable[Permission]
) -> Role:
    """A role of the customer's own."""
    _may_administer(actor)
    role = Role(new_id(identity), _named(name), frozenset(permissions))
    _may_hand_out(actor, role.permissions)
    async with identity.db.transaction() as tx:
        await store.hold(tx, customer=actor.customer)
        await _must_be_free(tx, actor, role)
        added = await store.add_role(
            tx, customer=actor.customer, role=role, now_ms=identity.clock()
        )
        assert added
        await record(identity, tx, actor, Event.CREATE, _entity(role), new=_facts(role))
    return role


async def copy_role(identity: Identity, actor: Actor, role_id: str) -> Role:
    """A role of the customer's own with the permissions of another, named `Copy of ...`."""
    found = await role_by_id(identity, actor, role_id)
    taken = {role.name for role in await all_roles(identity, actor)}
    name = base = f"Copy of {found.name}"[:_MAX_NAME]
    number = 2
    while name in taken:
        suffix = f" ({number})"
        name, number = base[: _MAX_NAME - len(suffix)] + suffix, number + 1
    return await create_role(identity, actor, name=name, permissions=found.permissions)


async def change_role(
    identity: Identity,
    actor: Actor,
    role_id: str,
    *,
    name: str,
    permissions: Iterable[Permission],
) -> Role:
    """Rename a custom role or change what it allows; its holders' tokens end at once."""
    _may_administer(actor)
    async with identity.db.transaction() as tx:
        await store.hold(tx, customer=actor.customer)
        old = await _custom_role(tx, actor, role_id)
        new = replace(old, name=_named(name), permissions=frozenset(permissions))
        changed = old.permissions ^ new.permissions
        _may_hand_out(actor, changed | old.permissions & {Permission.STORAGE_API})
        await _must_be_free(tx, actor, new)
        holders = await _holders(tx, actor, role_id)
        if actor.user.id in holders and new.permissions - old.permissions:
            raise NotAllowed("You hold this role: somebody else has to add permissions to it.")
        await store.change_role(tx, customer=actor.customer, role=new)
        if new.permissions != old.permissions:
            await store.revoke_users(
                tx, customer=actor.customer, user_ids=holders, now_ms=identity.clock()
            )
        facts = {"new": _facts(new), "old": _facts(old)}
        await record(identity, tx, actor, Event.UPDATE, _entity(new), **facts)
    return new


async def delete_role(identity: Identity, actor: Actor, role_id: str) -> None:
    """Delete a custom role that no assignment uses."""
    _may_administer(actor)
    async with identity.db.transaction() as tx:
        await store.hold(tx, customer=actor.customer)
        role = await _custom_role(tx, actor, role_id)
        _may_hand_out(actor, role.permissions)
        if await _holders(tx, actor, role_id):
            raise Conflict(f"{role.name} is assigned: remove its assignments first.", field="role")
        await store.remove_role(tx, customer=actor.customer, role_id=role_id)
        await record(identity, tx, actor, Event.DELETE, _entity(role), old=_facts(role))


async def role_by_id(identity: Identity, actor: Actor, role_id: str) -> Role:
    """One role, or NotFound."""
    _may_administer(actor)
    found = (await store.roles(identity.db, customer=actor.customer)).get(role_id)
    if found is None:
        raise NotFound("There is no such role.")
    return found


async def assign(
    identity: Identity,
    actor: Actor,
    *,
    user_id: str,
    role_ids: Iterable[str],
    scopes: Iterable[ScopeItem],
    expires_ms: int | None = None,
) -> Assignment:
    """Give a user roles within scopes."""
    _may_administer(actor)
    if user_id == actor.user.id:
        raise NotAllowed("Nobody grants roles to themselves: ask another administrator.")
    assignment = Assignment(
        new_id(identity),
        user_id,
        tuple(sorted(set(role_ids))),
        tuple(sorted(set(scopes))),
        expires_ms,
    )
    async with identity.db.transaction() as tx:
        await store.hold(tx, customer=actor.customer)
        user = await _check_assignment(tx, actor, assignment, identity.clock())
        await store.add_assignment(
            tx,
            customer=actor.customer,
            assignment=assignment,
            granted_by=actor.user.id,
            now_ms=identity.clock(),
        )
        await record(
            identity,
            tx,
            actor,
            Event.CREATE,
            ("assignment", assignment.id, user.email),
            new=_assignment_facts(assignment),
        )
    return assignment


async def unassign(identity: Identity, actor: Actor, assignment_id: str) -> None:
    """Take an assignment away; the tokens that stood on it end at once."""
    _may_administer(actor)
    async with identity.db.transaction() as tx:
        await store.hold(tx, customer=actor.customer)
        found = await store.assignments(tx, customer=actor.customer)
        assignment = next((each for each in found if each.id == assignment_id), None)
        if assignment is None:
            raise NotFound("There is no such assignment.")
        known = await store.roles(tx, customer=actor.customer)
        for role_id in assignment.roles:
            _may_grant(actor, known[role_id])
        await store.remove_assignment(tx, customer=actor.customer, assignment_id=assignment_id)
        if not await store.lasting_holders(tx, customer=actor.customer, role_id=SUPER_ADMIN.id):
            raise Conflict("This is the last Super Admin: make another one first.", field="role")
        await store.revoke_users(
            tx, customer=actor.customer, user_ids=[assignment.user_id], now_ms=identity.clock()
        )
        user = await store.user_by_id(tx, customer=actor.customer, user_id=assignment.user_id)
        await record(
            identity,
            tx,
            actor,
            Event.DELETE,
            ("assignment", assignment.id, user.email if user else ""),
            old=_assignment_facts(assignment),
        )


def grantable(actor: Actor, roles: Iterable[Role]) -> list[Role]:
    """Those of the roles that the actor may give to somebody else."""
    return [role for role in roles if _refusal(actor, role) is None]


async def _check_assignment(
    tx: Connection, actor: Actor, assignment: Assignment, now_ms: int
) -> User:
    user = await store.user_by_id(tx, customer=actor.customer, user_id=assignment.user_id)
    if user is None:
        raise BadInput("Choose the user to assign to.", field="user")
    if not assignment.roles:
        raise BadInput("Choose at least one role.", field="role")
    if not assignment.scopes:
        raise BadInput("Choose a scope: the company, or one or more sites.", field="scope")
    if assignment.expires_ms is not None and assignment.expires_ms <= now_ms:
        raise BadInput("The expiry lies in the past.", field="expires")
    known = await store.roles(tx, customer=actor.customer)
    for role_id in assignment.roles:
        if role_id not in known:
            raise BadInput("There is no such role.", field="role")
        _may_grant(actor, known[role_id])
        company_only = role_id == SUPER_ADMIN.id
        if company_only and ScopeItem(ScopeKind.COMPANY) not in assignment.scopes:
            raise BadInput("Super Admin is for the whole company.", field="scope")
    sites = {site.id for site in await store.sites(tx, customer=actor.customer)}
    groups = {group.id for group in await store.groups(tx, customer=actor.customer)}
    for scope in assignment.scopes:
        targets = {ScopeKind.SITE: sites, ScopeKind.GROUP: groups}.get(scope.kind, {""})
        if scope.target not in targets:
            raise BadInput(f"There is no such {scope.kind}.", field="scope")
    return user


def _may_administer(actor: Actor) -> None:
    if not actor.rights.allow_company(Permission.ROLES):
        raise NotAllowed("Roles and assignments need the Roles permission for the company.")


def _may_grant(actor: Actor, role: Role) -> None:
    refusal = _refusal(actor, role)
    if refusal is not None:
        raise NotAllowed(refusal)


def _refusal(actor: Actor, role: Role) -> str | None:
    if actor.rights.super_admin:
        return None
    if role.id == SUPER_ADMIN.id or Permission.STORAGE_API in role.permissions:
        return f"Only a Super Admin may grant {role.name}."
    if role.permissions - actor.rights.company_permissions:
        return f"{role.name} allows more than you hold yourself."
    return None


def _may_hand_out(actor: Actor, permissions: frozenset[Permission]) -> None:
    """Whether the actor may decide over these permissions at all."""
    if actor.rights.super_admin:
        return
    if Permission.STORAGE_API in permissions:
        raise NotAllowed("Only a Super Admin decides over roles with Storage API.")
    if permissions - actor.rights.company_permissions:
        raise NotAllowed("A role cannot allow more than you hold yourself.")


def _named(name: str) -> str:
    name = " ".join(name.split())
    if not name or len(name) > _MAX_NAME or not name.isprintable():
        raise BadInput(f"A role's name has 1 to {_MAX_NAME} characters.", field="name")
    return name


async def _must_be_free(tx: Connection, actor: Actor, role: Role) -> None:
    for other in (await store.roles(tx, customer=actor.customer)).values():
        if other.id != role.id and other.name.casefold() == role.name.casefold():
            raise Conflict(f"There is a role named {other.name} already.", field="name")


async def _custom_role(tx: Connection, actor: Actor, role_id: str) -> Role:
    if role_id in BUILT_IN:
        raise NotAllowed("A built-in role cannot be changed: copy it and change the copy.")
    found = (await store.roles(tx, customer=actor.customer)).get(role_id)
    if found is None:
        raise NotFound("There is no such role.")
    return found


async def _holders(tx: Connection, actor: Actor, role_id: str) -> set[str]:
    found = await store.assignments(tx, customer=actor.customer)
    return {each.user_id for each in found if role_id in each.roles}


def _entity(role: Role) -> tuple[str, str, str]:
    return "role", role.id, role.name


def _facts(role: Role) -> dict[str, object]:
    return {"name": role.name, "permissions": sorted(role.permissions)}


def _assignment_facts(assignment: Assignment) -> dict[str, object]:
    return {
        "user": assignment.user_id,
        "roles": list(assignment.roles),
        "scopes": [f"{scope.kind}:{scope.target}".rstrip(":") for scope in assignment.scopes],
        "expires": assignment.expires_ms,
    }
