"""SQL for the control plane. Functions over an open connection: facts in, frozen values out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from soundkeep.foundation.claims import Access, user_subject
from soundkeep.foundation.database import Connection, Params, Row
from soundkeep.identity.model import (
    BUILT_IN,
    App,
    Assignment,
    Customer,
    Grant,
    Group,
    Permission,
    Rights,
    Role,
    ScopeItem,
    ScopeKind,
    Secret,
    Site,
    User,
)


class Reader(Protocol):
    """A database or an open transaction: both answer reads."""

    async def all(self, sql: str, params: Params = ...) -> list[Row]:
        """Every row."""

    async def one(self, sql: str, params: Params = ...) -> Row | None:
        """The first row, or None."""


# ---- customers ------------------------------------------------------------------------------


async def add_customer(tx: Connection, *, customer: Customer, now_ms: int) -> bool:
    """False when the id is taken."""
    sql = """
        INSERT INTO customers (id, name, regions, changes, created_ms)
        VALUES (:customer, :name, :regions, 0, :now_ms)
        ON CONFLICT (id) DO NOTHING
    """
    facts = {"customer": customer.id, "name": customer.name, "now_ms": now_ms}
    return await tx.run(sql, {**facts, "regions": " ".join(customer.regions)}) == 1


async def customer_by_id(db: Reader, *, customer: str) -> Customer | None:
    """One tenant."""
    row = await db.one(
        "SELECT id, name, regions FROM customers WHERE id = :customer", {"customer": customer}
    )
    return None if row is None else Customer(row[0], row[1], tuple(row[2].split()))


async def hold(tx: Connection, *, customer: str) -> None:
    """Let no other administration of this customer pass until the end, and announce this one."""
    sql = "UPDATE customers SET changes = changes + 1 WHERE id = :customer"
    await tx.run(sql, {"customer": customer})
    await tx.announce()


# ---- users ----------------------------------------------------------------------------------

_USER = "customer, id, email, name, disabled, created_ms"


async def has_users(db: Reader) -> bool:  # every customer: asked before there is any
    """Whether anybody was ever made."""
    return await db.one("SELECT 1 FROM users LIMIT 1") is not None


async def add_user(tx: Connection, *, customer: str, user: User, password_hash: str) -> bool:
    """False when the id or the e-mail address is taken."""
    sql = """
        INSERT INTO users (customer, id, email, name, password_hash, disabled, created_ms)
        VALUES (:customer, :id, :email, :name, :password_hash, 0, :created_ms)
        ON CONFLICT DO NOTHING
    """
    facts: Params = {
        "customer": customer,
        "id": user.id,
        "email": user.email,
        "name": user.name,
        "password_hash": password_hash,
        "created_ms": user.created_ms,
    }
    return await tx.run(sql, facts) == 1


async def users(db: Reader, *, customer: str) -> list[User]:
    """Everybody, by name."""
    sql = f"SELECT {_USER} FROM users WHERE customer = :customer ORDER BY name, id"
    return [_user(row) for row in await db.all(sql, {"customer": customer})]


async def user_by_id(db: Reader, *, customer: str, user_id: str) -> User | None:
    """One user."""
    sql = f"SELECT {_USER} FROM users WHERE customer = :customer AND id = :user_id"
    row = await db.one(sql, {"customer": customer, "user_id": user_id})
    return None if row is None else _user(row)


async def user_by_email(
    db: Reader, email: str
) -> tuple[User, str] | None:  # every customer: sign-in names none
    """Who signs in with this address, and the hash of the password."""
    sql = f"SELECT {_USER}, password_hash FROM users WHERE email = :email"
    row = await db.one(sql, {"email": email})
    return None if row is None else (_user(row[:6]), row[6])


async def set_disabled(tx: Connection, *, customer: str, user_id: str, disabled: bool) -> bool:
    """False when there is no such user."""
    sql = "UPDATE users SET disabled = :disabled WHERE customer = :customer AND id = :user_id"
    facts = {"customer": customer, "user_id": user_id, "disabled": int(disabled)}
    return await tx.run(sql, facts) == 1


async def set_password(tx: Connection, *, customer: str, user_id: str, password_hash: str) -> bool:
    """False when there is no such user."""
    sql = """
        UPDATE users SET password_hash = :password_hash
        WHERE customer = :customer AND id = :user_id
    """
    facts = {"customer": customer, "user_id": user_id, "password_hash": password_hash}
    return await tx.run(sql, facts) == 1


def _user(row: Row) -> User:
    customer, user_id, email, name, disabled, created_ms = row
    return User(customer, user_id, email, name, bool(disabled), created_ms)


# ---- sites and groups -----------------------------------------------------------------------


async def add_site(tx: Connection, *, customer: str, site: Site, now_ms: int) -> bool:
    """False when the id is taken."""
    sql = """
        INSERT INTO sites (customer, id, name, created_ms) VALUES (:customer, :id, :name, :now_ms)
        ON CONFLICT DO NOTHING
    """
    facts = {"customer": customer, "id": site.id, "name": site.name, "now_ms": now_ms}
    return await tx.run(sql, facts) == 1


async def rename_site(tx: Connection, *, customer: str, site: Site) -> bool:
    """False when there is no such site."""
    sql = "UPDATE sites SET name = :name WHERE customer = :customer AND id = :id"
    return await tx.run(sql, {"customer": customer, "id": site.id, "name": site.name}) == 1


async def remove_site(tx: Connection, *, customer: str, site_id: str) -> bool:
    """False when there is no such site."""
    sql = "DELETE FROM sites WHERE customer = :customer AND id = :site_id"
    return await tx.run(sql, {"customer": customer, "site_id": site_id}) == 1


async def sites(db: Reader, *, customer: str) -> list[Site]:
    """All sites, by name."""
    sql = "SELECT id, name FROM sites WHERE customer = :customer ORDER BY name, id"
    return [Site(*row) for row in await db.all(sql, {"customer": customer})]


async def add_group(tx: Connection, *, customer: str, group: Group, now_ms: int) -> None:
    """A new user group, without members."""
    sql = """
        INSERT INTO user_groups (customer, id, name, created_ms)
        VALUES (:customer, :id, :name, :now_ms)
    """
    facts = {"customer": customer, "id": group.id, "name": group.name, "now_ms": now_ms}
    await tx.run(sql, facts)


async def set_members(
    tx: Connection, *, customer: str, group_id: str, members: Iterable[str]
) -> None:
    """Who is in a group, replacing who was."""
    facts = {"customer": customer, "group_id": group_id}
    await tx.run(
        "DELETE FROM group_members WHERE customer = :customer AND group_id = :group_id", facts
    )
    await tx.many(
        """
        INSERT INTO group_members (customer, group_id, user_id)
        VALUES (:customer, :group_id, :user_id)
        """,
        [{**facts, "user_id": member} for member in sorted(set(members))],
    )


async def remove_group(tx: Connection, *, customer: str, group_id: str) -> bool:
    """False when there is no such group."""
    await set_members(tx, customer=customer, group_id=group_id, members=())
    sql = "DELETE FROM user_groups WHERE customer = :customer AND id = :group_id"
    return await tx.run(sql, {"customer": customer, "group_id": group_id}) == 1


async def groups(db: Reader, *, customer: str) -> list[Group]:
    """All user groups with their members' ids, by name."""
    members = await members_of_groups(db, customer=customer)
    sql = "SELECT id, name FROM user_groups WHERE customer = :customer ORDER BY name, id"
    rows = await db.all(sql, {"customer": customer})
    return [Group(row[0], row[1], tuple(members.get(row[0], ()))) for row in rows]


async def members_of_groups(db: Reader, *, customer: str) -> Mapping[str, list[str]]:
    """The members' ids by group."""
    sql = """
        SELECT group_id, user_id FROM group_members WHERE customer = :customer
        ORDER BY group_id, user_id
    """
    found: dict[str, list[str]] = defaultdict(list)
    for group_id, user_id in await db.all(sql, {"customer": customer}):
        found[group_id].append(user_id)
    return found


# ---- roles ----------------------------------------------------------------------------------


async def add_role(tx: Connection, *, customer: str, role: Role, now_ms: int) -> bool:
    """False when the name is taken."""
    sql = """
        INSERT INTO roles (customer, id, name, permissions, created_ms)
        VALUES (:customer, :id, :name, :permissions, :now_ms)
        ON CONFLICT DO NOTHING
    """
    return await tx.run(sql, {**_role_facts(customer, role), "now_ms": now_ms}) == 1


async def change_role(tx: Connection, *, customer: str, role: Role) -> None:
    """Give a role another name and other permissions."""
    sql = """
        UPDATE roles SET name = :name, permissions = :permissions
        WHERE customer = :customer AND id = :id
    """
    await tx.run(sql, _role_facts(customer, role))


async def remove_role(tx: Connection, *, customer: str, role_id: str) -> None:
    """Forget a role."""
    sql = "DELETE FROM roles WHERE customer = :customer AND id = :role_id"
    await tx.run(sql, {"customer": customer, "role_id": role_id})


async def roles(db: Reader, *, customer: str) -> dict[str, Role]:
    """Every role by id: the built-in ones, then the customer's own by name."""
    sql = "SELECT id, name, permissions FROM roles WHERE customer = :customer ORDER BY name, id"
    rows = await db.all(sql, {"customer": customer})
    return {**BUILT_IN, **{row[0]: _role(*row) for row in rows}}


def _role_facts(customer: str, role: Role) -> dict[str, str]:
    return {
        "customer": customer,
        "id": role.id,
        "name": role.name,
        "permissions": " ".join(sorted(role.permissions)),
    }


def _role(role_id: str, name: str, permissions: str) -> Role:
    return Role(role_id, name, frozenset(map(Permission, permissions.split())))


# ---- assignments ----------------------------------------------------------------------------


async def add_assignment(
    tx: Connection, *, customer: str, assignment: Assignment, granted_by: str, now_ms: int
) -> None:
    """A new assignment with its roles and scopes."""
    key = {"customer": customer, "assignment_id": assignment.id}
    await tx.run(
        """
        INSERT INTO assignments (customer, id, user_id, granted_by, expires_ms, created_ms)
        VALUES (:customer, :assignment_id, :user_id, :granted_by, :expires_ms, :now_ms)
        """,
        {
            **key,
            "user_id": assignment.user_id,
            "granted_by": granted_by,
            "expires_ms": assignment.expires_ms,
            "now_ms": now_ms,
        },
    )
    await tx.many(
        """
        INSERT INTO assignment_roles (customer, assignment_id, role_id)
        VALUES (:customer, :assignment_id, :role_id)
        """,
        [{**key, "role_id": role_id} for role_id in assignment.roles],
    )
    await tx.many(
        """
        INSERT INTO assignment_scopes (customer, assignment_id, kind, target)
        VALUES (:customer, :assignment_id, :kind, :target)
        """,
        [{**key, "kind": scope.kind, "target": scope.target} for scope in assignment.scopes],
    )


async def remove_assignment(tx: Connection, *, customer: str, assignment_id: str) -> None:
    """Forget an assignment, its roles and scopes."""
    key = {"customer": customer, "assignment_id": assignment_id}
    for table in ("assignment_roles", "assignment_scopes"):
        await tx.run(
            f"DELETE FROM {table} WHERE customer = :customer AND assignment_id = :assignment_id",
            key,
        )
    sql = "DELETE FROM assignments WHERE customer = :customer AND id = :assignment_id"
    await tx.run(sql, key)


async def assignments(db: Reader, *, customer: str) -> list[Assignment]:
    """All assignments, oldest first, the expired ones too."""
    key = {"customer": customer}
    roles_of: dict[str, list[str]] = defaultdict(list)
    scopes_of: dict[str, list[ScopeItem]] = defaultdict(list)
    sql = "SELECT assignment_id, role_id FROM assignment_roles WHERE customer = :customer"
    for assignment_id, role_id in await db.all(sql, key):
        roles_of[assignment_id].append(role_id)
    sql = "SELECT assignment_id, kind, target FROM assignment_scopes WHERE customer = :customer"
    for assignment_id, kind, target in await db.all(sql, key):
        scopes_of[assignment_id].append(ScopeItem(ScopeKind(kind), target))
    sql = """
        SELECT id, user_id, expires_ms FROM assignments WHERE customer = :customer
        ORDER BY created_ms, id
    """
    return [
        Assignment(
            row[0],
            row[1],
            tuple(sorted(roles_of[row[0]])),
            tuple(sorted(scopes_of[row[0]])),
            row[2],
        )
        for row in await db.all(sql, key)
    ]


async def rights_of(db: Reader, *, customer: str, user_id: str, now_ms: int) -> Rights:
    """What a user's live assignments add up to."""
    sql = """
        SELECT r.role_id, o.name, o.permissions, s.kind, s.target, a.expires_ms
        FROM assignments a
        JOIN assignment_roles r ON r.customer = a.customer AND r.assignment_id = a.id
        JOIN assignment_scopes s ON s.customer = a.customer AND s.assignment_id = a.id
        LEFT JOIN roles o ON o.customer = a.customer AND o.id = r.role_id
        WHERE a.customer = :customer AND a.user_id = :user_id
          AND (a.expires_ms IS NULL OR a.expires_ms > :now_ms)
    """
    facts = {"customer": customer, "user_id": user_id, "now_ms": now_ms}
    grants = []
    for role_id, name, permissions, kind, target, expires_ms in await db.all(sql, facts):
        role = BUILT_IN.get(role_id) or _role(role_id, name, permissions)
        grants.append(Grant(role, ScopeItem(ScopeKind(kind), target), expires_ms))
    return Rights(tuple(grants))


async def lasting_holders(db: Reader, *, customer: str, role_id: str) -> set[str]:
    """Enabled users who hold a role for the whole company and without an end."""
    sql = """
        SELECT DISTINCT u.id
        FROM assignment_roles r
        JOIN assignments a ON a.customer = r.customer AND a.id = r.assignment_id
        JOIN assignment_scopes s ON s.customer = a.customer AND s.assignment_id = a.id
        JOIN users u ON u.customer = a.customer AND u.id = a.user_id
        WHERE r.customer = :customer AND r.role_id = :role_id
          AND s.kind = 'company' AND a.expires_ms IS NULL AND u.disabled = 0
    """
    rows = await db.all(sql, {"customer": customer, "role_id": role_id})
    return {row[0] for row in rows}


# ---- apps -----------------------------------------------------------------------------------

_APP = """
    customer, id, client_key, name, owner, products, access, networks, expires_ms, created_ms
"""


@dataclass(frozen=True, slots=True)
class Presented:
    """An app as a client presents itself: with the hash of each live secret, and its owner."""

    app: App
    hashes: tuple[tuple[str, str], ...]
    owner_disabled: bool
    regions: tuple[str, ...]


async def add_app(tx: Connection, *, customer: str, app: App) -> bool:
    """False when the owner's customer has an app of that name already."""
    sql = f"""
        INSERT INTO apps ({_APP})
        VALUES (:customer, :id, :key, :name, :owner, :products, :access, :networks,
                :expires_ms, :created_ms)
        ON CONFLICT DO NOTHING
    """
    facts: Params = {
        "customer": customer,
        "id": app.id,
        "key": app.key,
        "name": app.name,
        "owner": app.owner,
        "products": " ".join(app.products),
        "access": app.access,
        "networks": " ".join(app.networks),
        "expires_ms": app.expires_ms,
        "created_ms": app.created_ms,
    }
    return await tx.run(sql, facts) == 1


async def add_secret(
    tx: Connection, *, customer: str, app_id: str, secret: Secret, digest: str
) -> None:
    """One more live secret, as its hash."""
    sql = """
        INSERT INTO app_secrets (customer, id, app_id, hash, created_ms)
        VALUES (:customer, :id, :app_id, :digest, :created_ms)
    """
    facts: Params = {
        "customer": customer,
        "id": secret.id,
        "app_id": app_id,
        "digest": digest,
        "created_ms": secret.created_ms,
    }
    await tx.run(sql, facts)


async def remove_secret(tx: Connection, *, customer: str, app_id: str, secret_id: str) -> bool:
    """False when the app has no such secret."""
    sql = """
        DELETE FROM app_secrets
        WHERE customer = :customer AND app_id = :app_id AND id = :secret_id
    """
    facts = {"customer": customer, "app_id": app_id, "secret_id": secret_id}
    return await tx.run(sql, facts) == 1


async def remove_app(tx: Connection, *, customer: str, app_id: str) -> None:
    """Forget an app and its secrets."""
    key = {"customer": customer, "app_id": app_id}
    await tx.run("DELETE FROM app_secrets WHERE customer = :customer AND app_id = :app_id", key)
    await tx.run("DELETE FROM apps WHERE customer = :customer AND id = :app_id", key)


async def apps(db: Reader, *, customer: str, owner: str) -> list[App]:
    """A user's apps with their secrets' dates, newest first."""
    key = {"customer": customer, "owner": owner}
    sql = """
        SELECT s.app_id, s.id, s.created_ms, s.last_used_ms
        FROM app_secrets s JOIN apps a ON a.id = s.app_id
        WHERE a.customer = :customer AND a.owner = :owner ORDER BY s.created_ms, s.id
    """
    secrets_of: dict[str, list[Secret]] = defaultdict(list)
    for app_id, *secret in await db.all(sql, key):
        secrets_of[app_id].append(Secret(*secret))
    sql = f"""
        SELECT {_APP} FROM apps WHERE customer = :customer AND owner = :owner
        ORDER BY created_ms DESC, id
    """
    return [_app(row, tuple(secrets_of[row[1]])) for row in await db.all(sql, key)]


async def presented(
    db: Reader, key: str
) -> Presented | None:  # every customer: a client names none
    """What a client's key stands for; None for an unknown key."""
    sql = f"""
        SELECT {", ".join("a." + name.strip() for name in _APP.split(","))},
               u.disabled, c.regions, s.id, s.hash
        FROM apps a
        JOIN users u ON u.customer = a.customer AND u.id = a.owner
        JOIN customers c ON c.id = a.customer
        LEFT JOIN app_secrets s ON s.app_id = a.id
        WHERE a.client_key = :key
    """
    rows = await db.all(sql, {"key": key})
    if not rows:
        return None
    first = rows[0]
    hashes = tuple((row[12], row[13]) for row in rows if row[12] is not None)
    return Presented(_app(first[:10], ()), hashes, bool(first[10]), tuple(first[11].split()))


async def mark_used(
    tx: Connection, used: Mapping[str, int]
) -> None:  # every customer: by the id of a secret just checked
    """When secrets were used last."""
    await tx.many(
        "UPDATE app_secrets SET last_used_ms = :at_ms WHERE id = :id",
        [{"id": secret_id, "at_ms": at_ms} for secret_id, at_ms in used.items()],
    )


def _app(row: Row, secrets: tuple[Secret, ...]) -> App:
    customer, app_id, key, name, owner, products, access, networks, expires_ms, created_ms = row
    return App(
        customer=customer,
        id=app_id,
        key=key,
        name=name,
        owner=owner,
        products=tuple(products.split()),
        access=Access(access),
        networks=tuple(networks.split()),
        expires_ms=expires_ms,
        created_ms=created_ms,
        secrets=secrets,
    )


# ---- keys, revocations ----------------------------------------------------------------------


async def take_signing_turn(tx: Connection) -> None:  # every customer: the installation's own
    """Let no other worker make a signing key until the transaction ends."""
    await tx.run("UPDATE epochs SET epoch = epoch WHERE id = 1")


async def add_signing_key(
    tx: Connection, *, kid: str, sealed: str, now_ms: int
) -> None:  # every customer: the installation's own
    """A new signing key; those before it are retired from signing now."""
    await tx.run(
        "UPDATE signing_keys SET retired_ms = :now_ms WHERE retired_ms IS NULL", {"now_ms": now_ms}
    )
    await tx.run(
        "INSERT INTO signing_keys (kid, sealed, created_ms) VALUES (:kid, :sealed, :now_ms)",
        {"kid": kid, "sealed": sealed, "now_ms": now_ms},
    )


async def signing_keys(
    db: Reader, *, retired_after_ms: int
) -> list[tuple[str, str, int]]:  # every customer: the installation's own
    """(kid, sealed, created_ms), the one that signs first, then those that still verify."""
    sql = """
        SELECT kid, sealed, created_ms FROM signing_keys
        WHERE retired_ms IS NULL OR retired_ms > :retired_after_ms
        ORDER BY created_ms DESC, kid
    """
    rows = await db.all(sql, {"retired_after_ms": retired_after_ms})
    return [(row[0], row[1], row[2]) for row in rows]


async def revoke(
    tx: Connection, subjects: Iterable[str], *, now_ms: int
) -> None:  # every customer: subjects are unique ids
    """Kill every token of these apps (by id) or with these ids that exists now, everywhere."""
    row = await tx.one("UPDATE epochs SET epoch = epoch + 1 WHERE id = 1 RETURNING epoch")
    assert row is not None
    await tx.many(
        """
        INSERT INTO revocations (epoch, subject, created_ms) VALUES (:epoch, :subject, :now_ms)
        """,
        [{"epoch": row[0], "subject": each, "now_ms": now_ms} for each in sorted(set(subjects))],
    )
    await tx.announce()


async def revoke_users(
    tx: Connection, *, customer: str, user_ids: Iterable[str], now_ms: int
) -> None:
    """Kill every token of these users' apps that exists now, everywhere."""
    await revoke(tx, [user_subject(customer, each) for each in user_ids], now_ms=now_ms)


async def revocations(
    db: Reader, *, after_epoch: int
) -> list[tuple[int, str]]:  # every customer: regions need them all
    """(epoch, subject) of what was revoked after an epoch, in order."""
    sql = "SELECT epoch, subject FROM revocations WHERE epoch > :after_epoch ORDER BY epoch"
    return [(row[0], row[1]) for row in await db.all(sql, {"after_epoch": after_epoch})]


async def epoch(db: Reader) -> int:  # every customer: one clock of revocations
    """How many revocations there were: what a token made now is stamped with."""
    row = await db.one("SELECT epoch FROM epochs WHERE id = 1")
    assert row is not None
    count: int = row[0]
    return count


async def forget_revocations(tx: Connection, *, before_ms: int) -> None:  # every customer: by age
    """Drop what no living token can be older than."""
    sql = "DELETE FROM revocations WHERE created_ms < :before_ms"
    await tx.run(sql, {"before_ms": before_ms})


# ---- sessions, throttles, set-up ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Session:
    """A signed-in browser."""

    customer: str
    user_id: str
    csrf: str
    created_ms: int
    seen_ms: int


async def add_session(tx: Connection, *, customer: str, digest: str, session: Session) -> None:
    """A new session under the hash of its cookie."""
    sql = """
        INSERT INTO sessions (customer, hash, user_id, csrf, created_ms, seen_ms)
        VALUES (:customer, :digest, :user_id, :csrf, :created_ms, :seen_ms)
    """
    facts: Params = {
        "customer": customer,
        "digest": digest,
        "user_id": session.user_id,
        "csrf": session.csrf,
        "created_ms": session.created_ms,
        "seen_ms": session.seen_ms,
    }
    await tx.run(sql, facts)


async def session_by_hash(
    db: Reader, digest: str
) -> Session | None:  # every customer: the cookie names none
    """The session of a cookie."""
    sql = "SELECT customer, user_id, csrf, created_ms, seen_ms FROM sessions WHERE hash = :digest"
    row = await db.one(sql, {"digest": digest})
    return None if row is None else Session(*row)


async def see_session(
    tx: Connection, digest: str, *, now_ms: int
) -> None:  # every customer: by the cookie's hash
    """The browser was here."""
    sql = "UPDATE sessions SET seen_ms = :now_ms WHERE hash = :digest"
    await tx.run(sql, {"digest": digest, "now_ms": now_ms})


async def remove_session(
    tx: Connection, digest: str
) -> None:  # every customer: by the cookie's hash
    """Sign a browser out."""
    await tx.run("DELETE FROM sessions WHERE hash = :digest", {"digest": digest})


async def remove_sessions(tx: Connection, *, customer: str, user_id: str) -> None:
    """Sign a user out everywhere."""
    sql = "DELETE FROM sessions WHERE customer = :customer AND user_id = :user_id"
    await tx.run(sql, {"customer": customer, "user_id": user_id})


async def forget_sessions(tx: Connection, *, before_ms: int) -> None:  # every customer: by age
    """Drop sessions made before then."""
    await tx.run("DELETE FROM sessions WHERE created_ms < :before_ms", {"before_ms": before_ms})


async def throttled_until(
    db: Reader, names: Iterable[str]
) -> int:  # every customer: addresses have none
    """When the last of these may try again; 0 when they may now."""
    sql = "SELECT max(until_ms) FROM throttles WHERE name = :first OR name = :second"
    first, second = names
    row = await db.one(sql, {"first": first, "second": second})
    return (row[0] if row else 0) or 0


async def failures(
    tx: Connection, name: str, *, since_ms: int, now_ms: int
) -> int:  # every customer: addresses have none
    """Count one more failure; how many there are of late."""
    row = await tx.one(
        """
        INSERT INTO throttles (name, failures, last_ms, until_ms) VALUES (:name, 1, :now_ms, 0)
        ON CONFLICT (name) DO UPDATE SET
            failures = CASE WHEN throttles.last_ms < :since_ms THEN 1
                       ELSE throttles.failures + 1 END,
            last_ms = :now_ms
        RETURNING failures
        """,
        {"name": name, "since_ms": since_ms, "now_ms": now_ms},
    )
    assert row is not None
    count: int = row[0]
    return count


async def hold_off(
    tx: Connection, name: str, *, until_ms: int
) -> None:  # every customer: addresses have none
    """Nobody of this name may try before then."""
    sql = "UPDATE throttles SET until_ms = :until_ms WHERE name = :name"
    await tx.run(sql, {"name": name, "until_ms": until_ms})
    await tx.announce()


async def set_setup_code(
    tx: Connection, digest: str, *, now_ms: int
) -> None:  # every customer: there is none yet
    """The one code that may make the first Super Admin."""
    await tx.run("DELETE FROM setup_codes")
    await tx.run(
        "INSERT INTO setup_codes (hash, created_ms) VALUES (:digest, :now_ms)",
        {"digest": digest, "now_ms": now_ms},
    )


async def take_setup_code(tx: Connection, digest: str) -> bool:  # every customer: there is none yet
    """Use the code up; False when it is not the one."""
    return await tx.run("DELETE FROM setup_codes WHERE hash = :digest", {"digest": digest}) == 1
