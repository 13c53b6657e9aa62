"""A region for tests: a real database and folder, a held clock, clients with signed tokens."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import json
import secrets
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx2
import msgspec
from cryptography.fernet import Fernet
from joserfc.jwk import OKPKey
from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from soundkeep.foundation import audit, web
from soundkeep.foundation.claims import Access, Claims, Reach
from soundkeep.foundation.database import Database, connect
from soundkeep.foundation.errors import SoundkeepError
from soundkeep.foundation.migrate import migrate
from soundkeep.foundation.verify import ALGORITHM, TOKEN_TYPE, Trust, Verifier
from soundkeep.region import catalog, http
from soundkeep.region.blobs import Bucket
from soundkeep.region.model import Digests, State, StoredObject
from soundkeep.region.plane import PACKAGES, Limits, Region, new_object_id, open_region

BASE_URL = "https://soundkeep.test"
VAULT = Fernet(Fernet.generate_key())
"""What seals keys in every region of these tests."""

ISSUER = "https://identity.test"
START_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
KNOWN = ("us-west", "us-east", "uk", "ap", "ca")
BASE = "/storage/us-east/v3"
OBJECTS = f"{BASE}/objects"
COMPANY = Reach(company=True)
MIB = 1024 * 1024
CALL = {"type": "callrecording"}


@dataclass
class HeldClock:
    now_ms: int = START_MS

    def __call__(self) -> int:
        return self.now_ms

    def advance(self, *, seconds: float) -> None:
        self.now_ms += round(seconds * 1000)


@dataclass
class Signer:
    """The authorization server as a region sees it: one key, and what was revoked."""

    key: OKPKey = field(default_factory=lambda: OKPKey.generate_key("Ed25519"))
    revoked: dict[str, int] = field(default_factory=dict)

    async def trust(self) -> Trust:
        return Trust({"key-1": self.key}, self.revoked)

    def token(self, claims: Claims) -> str:
        header = {"alg": ALGORITHM, "typ": TOKEN_TYPE, "kid": "key-1"}
        signed = b".".join(_base64url(msgspec.json.encode(each)) for each in (header, claims))
        return (signed + b"." + _base64url(self.key.private_key.sign(signed))).decode()


def _base64url(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def an_object(object_id: str, content: bytes = b"", **changes) -> StoredObject:
    """A row for the catalogue; its bytes are the test's own affair."""
    digests = Digests(len(content), hashlib.md5(content).hexdigest(), "0" * 64, 0)
    facts = {
        "id": object_id,
        "customer": "acme",
        "type": "callrecording",
        "mime_type": "audio/mpeg",
        "name": f"{object_id}.mp3",
        "user_id": "olga",
        "created_ms": START_MS,
        "updated_ms": START_MS,
        "state": State.AVAILABLE,
        "bucket_id": object_id,
        "tags": {},
        "shared": False,
        "blob": object_id,
        "digests": digests,
    }
    return StoredObject(**facts | changes)


def multipart(*parts: tuple[str, bytes | str], boundary: str = "frontier") -> bytes:
    """A body by hand: (the part's header lines, its bytes)."""
    body = b""
    for headers, content in parts:
        raw = content.encode(errors="surrogatepass") if isinstance(content, str) else content
        lines = headers.replace("\n", "\r\n").encode()
        body += b"--" + boundary.encode() + b"\r\n" + lines + b"\r\n\r\n" + raw + b"\r\n"
    return body + b"--" + boundary.encode() + b"--\r\n"


METADATA = 'Content-Disposition: form-data; name="metadata"'
CONTENT = (
    'Content-Disposition: form-data; name="content"; filename="call.mp3"\nContent-Type: audio/mpeg'
)
FORM = {"content-type": "multipart/form-data; boundary=frontier"}


async def in_pieces(body: bytes, size: int) -> AsyncIterator[bytes]:
    """A body as it comes over a slow network."""
    for start in range(0, len(body), size):
        yield body[start : start + size]


@dataclass
class World:
    """One region, `us-east`, and the clients of its API."""

    url: str
    folder: Path
    region: Region
    clock: HeldClock = field(default_factory=HeldClock)
    signer: Signer = field(default_factory=Signer)
    clients: list[httpx2.AsyncClient] = field(default_factory=list)
    counter: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    own: Database | None = None

    # ---- clients

    def app(self, *regions: Region) -> web.Edge:
        """The region's API as the whole service mounts it."""
        served = {each.name: each for each in regions or (self.region,)}
        whole = Starlette(
            routes=http.routes(served, Verifier(ISSUER, self.signer, self.clock), KNOWN),
            exception_handlers={
                SoundkeepError: web.problem,
                HTTPException: web.http_problem,
                Exception: web.internal_problem,
            },
        )
        return web.Edge(whole, trusted_proxies=(), log_requests=False)

    def claims(self, **changes) -> Claims:
        facts = {
            "issuer": ISSUER,
            "subject": "app-1",
            "client": "sk_test",
            "owner": "olga",
            "customer": "acme",
            "regions": ("us-east",),
            "access": Access.EDIT,
            "reach": COMPANY,
            "issued": self.clock() // 1000,
            "expires": self.clock() // 1000 + 3600,
            "epoch": 0,
            "token_id": "token-1",
        }
        return Claims(**facts | changes)

    def token(self, **claims) -> str:
        return self.signer.token(self.claims(**claims))

    def client(self, *regions: Region, **claims) -> httpx2.AsyncClient:
        """A client with a token of its own: an edit key that reaches everything of `acme`."""
        return self.bearing(f"Bearer {self.token(**claims)}", *regions)

    def bearing(self, authorization: str | None, *regions: Region) -> httpx2.AsyncClient:
        """A client with this Authorization header, or none."""
        client = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(self.app(*regions), raise_app_exceptions=False),
            base_url=BASE_URL,
            headers={"authorization": authorization} if authorization else {},
        )
        self.clients.append(client)
        return client

    # ---- objects

    async def keep(self, *, region: Region | None = None, **facts) -> StoredObject:
        """A row in the catalogue, without bytes."""
        region = region or self.region
        self.clock.advance(seconds=1)
        facts = {"created_ms": self.clock(), "updated_ms": self.clock(), **facts}
        stored = an_object(facts.pop("id", None) or new_object_id(region), **facts)
        await catalog.load(region, [stored])
        return stored

    async def keep_many(self, count: int) -> list[StoredObject]:
        """Rows in the catalogue, a second apart, oldest first."""
        stored = []
        for number in range(count):
            self.clock.advance(seconds=1)
            object_id = new_object_id(self.region)
            facts = {"name": f"call {number}", "created_ms": self.clock(), "bucket_id": "calls"}
            stored.append(an_object(object_id, **facts))
        await catalog.load(self.region, stored)
        return stored

    async def upload(
        self,
        content: bytes = b"sound",
        metadata: object = None,
        *,
        client: httpx2.AsyncClient | None = None,
        name: str = "call.mp3",
        mime: str = "audio/mpeg",
    ) -> httpx2.Response:
        """A one-shot upload, as an HTTP library makes it."""
        parts = {
            "metadata": (None, json.dumps(metadata or CALL)),
            "content": (name, content, mime),
        }
        answer = await (client or self.client()).post(OBJECTS, files=parts)
        await self.idle()
        return answer

    async def idle(self) -> None:
        """Wait for what the region does in the background."""
        while self.region.chores:
            await asyncio.wait(self.region.chores)

    async def uploaded(self, content: bytes = b"sound", **more) -> dict:
        """A kept object's JSON."""
        answer = await self.upload(content, **more)
        assert answer.status_code == 201, answer.text
        return answer.json()

    # ---- what is there, seen by a connection of the test's own

    async def rows(self, sql: str, **params) -> list[tuple]:
        return [tuple(row) for row in await (await self._own()).all(sql, params)]

    async def exchange(
        self,
        method: str,
        path: str,
        messages: Iterable[dict],
        *,
        headers: dict[str, str] | None = None,
        stays: bool = False,
    ) -> list[dict]:
        """Speak ASGI by hand: what the application sends, for what the server would bring it.

        After the last message the client is gone, unless it `stays` for the answer.
        """
        waiting = [*messages, {"type": "http.disconnect"}]
        sent: list[dict] = []

        async def receive() -> dict:
            if stays and len(waiting) == 1:
                await asyncio.Event().wait()
            return waiting.pop(0) if len(waiting) > 1 else waiting[0]

        async def send(message: dict) -> None:
            sent.append(message)

        given = {"authorization": f"Bearer {self.token()}", **(headers or {})}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "scheme": "https",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
            "server": ("soundkeep.test", 443),
            "client": ("198.51.100.7", 40_000),
        }
        await self.app()(scope, receive, send)
        return sent

    async def run(self, sql: str, **params) -> None:
        async with (await self._own()).transaction() as tx:
            await tx.run(sql, params)

    async def script(self, sql: str) -> None:
        async with (await self._own()).transaction() as tx:
            await tx.script(sql)

    async def put_in_state(self, object_id: str, state: str) -> None:
        await self.run(
            "UPDATE objects SET state = :state WHERE id = :id", state=state, id=object_id
        )

    async def count(self, table: str) -> int:
        return (await self.rows(f"SELECT count(*) FROM {table}"))[0][0]

    def files(self, part: str = "*") -> list[str]:
        """Every file in `incoming` or `kept` or both."""
        found = [*self.folder.glob(f"{part}/*"), *self.folder.glob(f"{part}/*/*")]
        names = sorted(str(each.relative_to(self.folder)) for each in found if each.is_file())
        return [name for name in names if not name.startswith("intake/")]

    async def everything(self) -> dict[str, object]:
        """How much of anything there is, for "nothing was kept"."""
        await self.idle()
        tables = ("objects", "buckets", "audit")
        counts = {table: await self.count(table) for table in tables}
        return {"files": len(self.files()), **counts}

    async def broken(self, customer: str = "acme") -> int | None:
        """The first audit record that does not fit the chain."""
        return await audit.first_broken(await self._own(), customer=customer)

    async def _own(self) -> Database:
        if self.own is None:
            self.own = await connect(self.url)
        return self.own

    def limited(self, **limits: object) -> Region:
        """The same region with other limits."""
        return replace(self.region, limits=replace(self.region.limits, **limits))

    async def close(self) -> None:
        for client in self.clients:
            await client.aclose()
        if self.own is not None:
            await self.own.close()
        await self.region.close()


NOTHING = {"files": 0, "objects": 0, "buckets": 0, "audit": 0}


@asynccontextmanager
async def opened(
    url: str, folder: Path, *, bucket: Bucket | None = None, name: str = "us-east", **limits: object
) -> AsyncIterator[World]:
    """A new, empty region on this database and in this folder or bucket."""
    clock = HeldClock()
    wanted = Limits(**{"max_upload_bytes": 64 * MIB, "min_free_bytes": 0, **limits})
    region = await open_region(
        name, database=url, blobs=bucket or folder, clock=clock, entropy=secrets.token_bytes, limits=wanted,
        vault=VAULT, base_url=BASE_URL,
    )  # fmt: skip
    await migrate(region.db, PACKAGES, clock=clock)
    world = World(url, folder, region, clock)
    try:
        yield world
    finally:
        await world.close()


def names(answer: httpx2.Response) -> list[str]:
    """The names of a page's objects, in order."""
    assert answer.status_code == 200, answer.text
    return [each["objectName"] for each in answer.json()["content"]]


def fault(answer: httpx2.Response) -> tuple[int, str, str | None]:
    """A refusal's status, code and field, once its form is right."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    body = answer.json()
    (error,) = body["errors"]
    assert body["status"] == answer.status_code
    assert body["message"] == body["detail"] == error["message"]
    return answer.status_code, error["code"], error["field"]


def without(keys: Iterable[str], mapping: dict) -> dict:
    return {key: value for key, value in mapping.items() if key not in keys}
