"""Two companies on a real database, with a held clock: what the rules of identity are tried on."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field, replace

from argon2 import PasswordHasher
from cryptography.fernet import Fernet

from soundkeep.foundation import audit
from soundkeep.foundation.database import Database, connect
from soundkeep.foundation.migrate import migrate, written
from soundkeep.identity import accounts, roles, store
from soundkeep.identity.accounts import NewUser
from soundkeep.identity.model import Actor, Assignment, Rights, ScopeItem, ScopeKind, User
from soundkeep.identity.plane import PACKAGES, Identity, Policy

START_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
PASSWORD = "correct horse battery"
HERE = "198.51.100.7"

COMPANY = ScopeItem(ScopeKind.COMPANY)
OWN = ScopeItem(ScopeKind.OWN)


def site(site_id: str) -> ScopeItem:
    return ScopeItem(ScopeKind.SITE, site_id)


def group(group_id: str) -> ScopeItem:
    return ScopeItem(ScopeKind.GROUP, group_id)


@dataclass
class HeldClock:
    now_ms: int = START_MS

    def __call__(self) -> int:
        return self.now_ms

    def advance(self, *, seconds: float = 0, minutes: float = 0, hours: float = 0) -> None:
        self.now_ms += round(1000 * (seconds + 60 * (minutes + 60 * hours)))


async def new_identity(url: str, clock: HeldClock, **policy: int) -> Identity:
    db = await connect(url)
    await migrate(db, PACKAGES, clock=clock)
    return Identity(
        db=db,
        clock=clock,
        entropy=secrets.token_bytes,
        issuer="https://keep.example",
        vault=Fernet(Fernet.generate_key()),
        passwords=PasswordHasher(time_cost=1, memory_cost=8, parallelism=1),
        policy=Policy(**policy),
        regions=("uk", "us-west"),
    )


@dataclass
class World:
    """One installation."""

    url: str
    identity: Identity
    clock: HeldClock
    opened: list[Database] = field(default_factory=list)

    async def beside(self) -> Identity:
        """The same installation as another process has it."""
        self.opened.append(await connect(self.url))
        return replace(self.identity, db=self.opened[-1])

    async def close(self) -> None:
        for db in (*self.opened, self.identity.db):
            await db.close()

    # ---- people

    async def company(self, customer: str) -> Actor:
        """A company's first Super Admin."""
        admin = NewUser(email=f"boss@{customer}.example", name="Boss", password=PASSWORD, id="boss")
        user = await accounts.add_customer(
            self.identity, company=customer.title(), customer_id=customer, admin=admin
        )
        return await self.actor(user)

    async def user(
        self, boss: Actor, name: str, *role_ids: str, scopes=(COMPANY,), expires_ms=None
    ) -> User:
        """A user with these roles, made and granted by `boss`; `name` is the id."""
        wanted = NewUser(
            email=f"{name}@{boss.customer}.example",
            name=name.title(), password=PASSWORD, id=name,
        )  # fmt: skip
        user = await accounts.create_user(self.identity, boss, wanted)
        if role_ids:
            await self.assign(boss, user, *role_ids, scopes=scopes, expires_ms=expires_ms)
        return user

    async def assign(
        self, boss: Actor, user: User, *role_ids: str, scopes=(COMPANY,), expires_ms=None
    ) -> Assignment:
        return await roles.assign(
            self.identity,
            boss,
            user_id=user.id,
            role_ids=role_ids,
            scopes=scopes,
            expires_ms=expires_ms,
        )

    async def actor(self, user: User) -> Actor:
        """The user with what they may do now."""
        return Actor(user, await self.rights(user))

    async def rights(self, user: User) -> Rights:
        return await store.rights_of(
            self.identity.db, customer=user.customer, user_id=user.id, now_ms=self.clock()
        )

    async def admin(self, boss: Actor, name: str, *role_ids: str) -> Actor:
        """A user with these roles for the company, ready to act."""
        return await self.actor(await self.user(boss, name, *role_ids))

    async def sign_in(self, user: User, password: str = PASSWORD, **more) -> str:
        """The cookie of a new session."""
        return await accounts.sign_in(
            self.identity, email=user.email, password=password, address=HERE, **more
        )

    async def is_signed_in(self, cookie: str) -> bool:
        return await accounts.signed_in(self.identity, cookie) is not None

    # ---- what is kept

    async def everything(self) -> dict[str, list[tuple]]:
        """All rows of all tables: two of these are equal when nothing changed."""
        kept = {}
        for migration in (
            each for package in PACKAGES for each in written(package, self.identity.db.engine)
        ):
            for table in re.findall(r"CREATE TABLE (\w+)", migration.sql):
                rows = await self.identity.db.scan(f"SELECT * FROM {table}")
                kept[table] = sorted((tuple(row) for row in rows), key=str)
        return kept

    async def revoked(self, customer: str) -> set[str]:
        """Which users' tokens were ended."""
        found = await store.revocations(self.identity.db, after_epoch=0)
        prefix = f"{customer}/"
        return {subject.removeprefix(prefix) for _, subject in found if subject.startswith(prefix)}

    async def records(self, customer: str) -> list[audit.Record]:
        """The audit chain, newest first."""
        wanted = audit.Wanted(limit=1000)
        return (await audit.query(self.identity.db, customer=customer, wanted=wanted))[1]

    async def broken(self, customer: str) -> int | None:
        return await audit.first_broken(self.identity.db, customer=customer)
