"""An installation for console tests: a real identity database, a held clock, browsers by httpx2."""

from __future__ import annotations

import html
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
from argon2 import PasswordHasher
from cryptography.fernet import Fernet
from starlette.applications import Starlette
from starlette.routing import Mount

from soundkeep import console
from soundkeep.foundation import web
from soundkeep.foundation.database import connect
from soundkeep.foundation.migrate import migrate
from soundkeep.identity import accounts, roles
from soundkeep.identity.accounts import NewUser
from soundkeep.identity.model import Actor, Assignment, ScopeItem, ScopeKind, User
from soundkeep.identity.plane import PACKAGES, Identity, Policy

BASE = "http://127.0.0.1:8080"
PASSWORD = "correct horse battery"
START_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
COMPANY = ScopeItem(ScopeKind.COMPANY)
REGIONS = ("us-west", "uk")


@dataclass
class HeldClock:
    now_ms: int = START_MS

    def __call__(self) -> int:
        return self.now_ms

    def advance(self, *, minutes: float = 0, hours: float = 0) -> None:
        self.now_ms += round(minutes * 60_000 + hours * 3_600_000)


async def new_identity(folder: Path, clock: HeldClock, **policy: int) -> Identity:
    db = await connect(str(folder / "identity.sqlite"))
    await migrate(db, PACKAGES, clock=clock)
    return Identity(
        db=db,
        clock=clock,
        entropy=secrets.token_bytes,
        issuer=BASE,
        vault=Fernet(Fernet.generate_key()),
        passwords=PasswordHasher(time_cost=1, memory_cost=8, parallelism=1),
        policy=Policy(**policy),
        regions=REGIONS,
    )


def served(identity: Identity, *, secure: bool = False, base_url: str = BASE) -> web.Edge:
    """The console as the server mounts it."""
    mounted = console.app(identity, secure=secure, base_url=base_url, regions=REGIONS)
    whole = Starlette(routes=[Mount("/console", app=mounted)])
    return web.Edge(whole, trusted_proxies=(), log_requests=False)


@dataclass
class World:
    """A company with a Super Admin, beside another company."""

    identity: Identity
    clock: HeldClock
    secure: bool = False
    browsers: list[Browser] = field(default_factory=list)

    def browser(self) -> Browser:
        transport = httpx2.ASGITransport(served(self.identity, secure=self.secure))
        scheme = "https" if self.secure else "http"
        client = httpx2.AsyncClient(transport=transport, base_url=f"{scheme}://127.0.0.1:8080")
        browser = Browser(client)
        self.browsers.append(browser)
        return browser

    async def signed_in(self, email: str, password: str = PASSWORD) -> Browser:
        browser = self.browser()
        answer = await browser.sign_in(email, password)
        assert answer.status_code == 303, answer.text
        return browser

    async def company(self, customer_id: str, email: str) -> Actor:
        admin = NewUser(email=email, name=f"Boss of {customer_id}", password=PASSWORD)
        user = await accounts.add_customer(
            self.identity, company=customer_id.title(), customer_id=customer_id, admin=admin
        )
        return await self.actor(user.email)

    async def actor(self, email: str) -> Actor:
        cookie = await accounts.sign_in(
            self.identity, email=email, password=PASSWORD, address="127.0.0.1"
        )
        found = await accounts.signed_in(self.identity, cookie)
        assert found is not None
        return found.actor

    async def user(
        self, boss: Actor, email: str, *role_ids: str, scopes: tuple[ScopeItem, ...] = (COMPANY,)
    ) -> User:
        wanted = NewUser(
            email=email, name=email.partition("@")[0].title(), password=PASSWORD, id=email
        )
        user = await accounts.create_user(self.identity, boss, wanted)
        if role_ids:
            await self.assign(boss, user, *role_ids, scopes=scopes)
        return user

    async def assign(
        self, boss: Actor, user: User, *role_ids: str, scopes: tuple[ScopeItem, ...] = (COMPANY,)
    ) -> Assignment:
        return await roles.assign(
            self.identity, boss, user_id=user.id, role_ids=role_ids, scopes=scopes
        )

    async def close(self) -> None:
        for browser in self.browsers:
            await browser.client.aclose()
        await self.identity.db.close()


@dataclass
class Browser:
    """What a browser does with the pages' own forms: follows nothing unasked."""

    client: httpx2.AsyncClient

    async def get(self, path: str, **more) -> httpx2.Response:
        return await self.client.get(f"/console{path}", **more)

    async def post(
        self, path: str, fields=(), *, csrf: str | None = None, at: str | None = None, **more
    ) -> httpx2.Response:
        """Load the page that holds the form, then send the form with its token."""
        if csrf is None:
            csrf = token_in((await self.get(at or path)).text)
        pairs = list(fields.items()) if isinstance(fields, dict) else list(fields)
        headers = {"origin": str(self.client.base_url).rstrip("/"), **more.pop("headers", {})}
        body = str(httpx2.QueryParams([("csrf", csrf), *pairs])).encode()
        headers.setdefault("content-type", "application/x-www-form-urlencoded")
        return await self.client.post(f"/console{path}", content=body, headers=headers, **more)

    async def sign_in(self, email: str, password: str = PASSWORD, **more) -> httpx2.Response:
        return await self.post("/signin", {"email": email, "password": password, **more})

    async def token(self) -> str:
        return token_in((await self.get("/account")).text)


def token_in(page: str) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found, page
    return html.unescape(found[1])


def text_of(page: str) -> str:
    """What a reader sees, without tags."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())
