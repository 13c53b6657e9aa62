"""A control plane for tests: a real database, a held clock, and clients that come over HTTP."""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass, field

import httpx2
import pytest
from argon2 import PasswordHasher
from cryptography.fernet import Fernet
from starlette.applications import Starlette

from soundkeep.foundation import web
from soundkeep.foundation.claims import Claims
from soundkeep.foundation.database import connect
from soundkeep.foundation.migrate import migrate
from soundkeep.foundation.verify import Verifier
from soundkeep.identity import accounts, apps, http, roles
from soundkeep.identity.accounts import NewUser
from soundkeep.identity.apps import Shown, Wanted
from soundkeep.identity.model import Actor, Assignment, ScopeItem, ScopeKind, User
from soundkeep.identity.plane import PACKAGES, Identity, Policy
from soundkeep.identity.tokens import Issuer

BASE = "http://127.0.0.1:8080"
PASSWORD = "correct horse battery"
START_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
REGIONS = ("us-west", "uk")
HERE = "198.51.100.7"

COMPANY = ScopeItem(ScopeKind.COMPANY)
OWN = ScopeItem(ScopeKind.OWN)
GRANT = {"grant_type": "client_credentials"}
COMPATIBLE = "/oauth/v2/token"
STRICT = "/oauth2/token"

either_engine_will_do = pytest.mark.parametrize("engine", ["sqlite"])
"""For tests of what is answered, not of what is kept: these run on one engine."""


def site(site_id: str) -> ScopeItem:
    return ScopeItem(ScopeKind.SITE, site_id)


def group(group_id: str) -> ScopeItem:
    return ScopeItem(ScopeKind.GROUP, group_id)


@dataclass
class HeldClock:
    now_ms: int = START_MS

    def __call__(self) -> int:
        return self.now_ms

    def advance(self, *, seconds: float = 0, days: float = 0) -> None:
        self.now_ms += round(seconds * 1000 + days * 86_400_000)


async def new_identity(
    url: str, clock: HeldClock, *, vault: Fernet | None = None, **policy: int
) -> Identity:
    db = await connect(url)
    await migrate(db, PACKAGES, clock=clock)
    return Identity(
        db=db,
        clock=clock,
        entropy=secrets.token_bytes,
        issuer=BASE,
        vault=vault or Fernet(Fernet.generate_key()),
        passwords=PasswordHasher(time_cost=1, memory_cost=8, parallelism=1),
        policy=Policy(**policy),
        regions=REGIONS,
    )


def served(issuer: Issuer, *, base_url: str = BASE) -> web.Edge:
    """The authorization server as the whole service mounts it."""
    whole = Starlette(routes=http.routes(issuer, base_url=base_url))
    return web.Edge(whole, trusted_proxies=(), log_requests=False)


def basic(key: str, secret: str) -> dict[str, str]:
    """The header that a client makes by hand."""
    pair = base64.b64encode(f"{key}:{secret}".encode()).decode()
    return {"authorization": f"Basic {pair}"}


def signed_by(shown: Shown) -> dict[str, str]:
    return basic(shown.app.key, shown.secret)


@dataclass
class World:
    """A company with a Super Admin, and the processes that serve it."""

    url: str
    identity: Identity
    clock: HeldClock
    issuer: Issuer = field(init=False)
    boss: Actor = field(init=False)
    clients: list[httpx2.AsyncClient] = field(default_factory=list)
    processes: list[Identity] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.issuer = Issuer(self.identity)

    # ---- people and keys

    async def company(self, customer_id: str) -> Actor:
        admin = NewUser(email=f"boss@{customer_id}.example", name="Boss", password=PASSWORD)
        user = await accounts.add_customer(
            self.identity, company=customer_id.title(), customer_id=customer_id, admin=admin
        )
        return await self.actor(user)

    async def actor(self, user: User) -> Actor:
        cookie = await accounts.sign_in(
            self.identity, email=user.email, password=PASSWORD, address="127.0.0.1"
        )
        found = await accounts.signed_in(self.identity, cookie)
        assert found is not None
        return found.actor

    async def user(self, user_id: str, boss: Actor | None = None) -> User:
        boss = boss or self.boss
        email = f"{user_id}@{boss.customer}.example"
        wanted = NewUser(email=email, name=user_id.title(), password=PASSWORD, id=user_id)
        return await accounts.create_user(self.identity, boss, wanted)

    async def assign(
        self,
        user: User,
        *scopes: ScopeItem,
        role: str = "storage-api",
        boss: Actor | None = None,
        expires_ms: int | None = None,
    ) -> Assignment:
        return await roles.assign(
            self.identity,
            boss or self.boss,
            user_id=user.id,
            role_ids=[role],
            scopes=scopes or (COMPANY,),
            expires_ms=expires_ms,
        )

    async def owner(
        self, user_id: str = "olga", *scopes: ScopeItem, boss: Actor | None = None
    ) -> Actor:
        """A user who may make keys, within these scopes."""
        user = await self.user(user_id, boss)
        await self.assign(user, *scopes, boss=boss)
        return await self.actor(user)

    async def app(self, owner: Actor, name: str = "archive", **wanted) -> Shown:
        return await apps.create(
            self.identity, owner, Wanted(name=name, products=("storage",), **wanted)
        )

    async def key(self, *scopes: ScopeItem, **wanted) -> Shown:
        """A new user's API key."""
        return await self.app(await self.owner("olga", *scopes), **wanted)

    # ---- clients

    def client(self, issuer: Issuer | None = None, *, address: str = HERE) -> httpx2.AsyncClient:
        app = served(issuer or self.issuer)
        transport = httpx2.ASGITransport(app, client=(address, 40_000))
        client = httpx2.AsyncClient(transport=transport, base_url="https://soundkeep.test")
        self.clients.append(client)
        return client

    async def ask(
        self, shown: Shown, path: str = COMPATIBLE, form: dict | None = None, **more
    ) -> httpx2.Response:
        """A request with the key's credentials."""
        client = self.client(more.pop("issuer", None), address=more.pop("address", HERE))
        return await client.post(path, data=form or GRANT, headers=signed_by(shown), **more)

    async def token(self, shown: Shown, **more) -> str:
        answer = await self.ask(shown, **more)
        assert answer.status_code == 200, answer.text
        return answer.json()["access_token"]

    def verifier(self, issuer: Issuer | None = None) -> Verifier:
        issuer = issuer or self.issuer
        return Verifier(issuer.identity.issuer, issuer, issuer.identity.clock)

    async def claims(self, token: str, issuer: Issuer | None = None) -> Claims:
        return await self.verifier(issuer).claims(token, address=HERE)

    # ---- processes

    async def process(self, clock: HeldClock | None = None) -> Issuer:
        """Another process on the same database, with its own clock if it likes."""
        identity = await new_identity(self.url, clock or self.clock, vault=self.identity.vault)
        self.processes.append(identity)
        return Issuer(identity)

    async def close(self) -> None:
        for client in self.clients:
            await client.aclose()
        for identity in (*self.processes, self.identity):
            await identity.db.close()
