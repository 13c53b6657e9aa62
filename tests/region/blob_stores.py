"""The stores of bytes that the contract holds for, each with a view from outside."""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from s3_servers import S3Server
from soundkeep.region.blobs import Blobs, Bucket
from soundkeep.region.model import Digests
from soundkeep.region.plane import new_object_id

HOUR = 3_600_000
NO_KEYS = [
    "",
    "a",
    "../../etc/passwd",
    "..",
    "/etc/passwd",
    "0123456/",
    "01234567/../../x",
    "0123456\0",
    "01234567\n",
    "0123456G",
    "ABCDEF01",
    "é" * 8,
    "0" * 65,
]


@dataclass
class LocalStore:
    blobs: Blobs
    folder: Path

    def names(self) -> list[str]:
        """Everything that is there, but for the lock and the journal that doubles small blobs."""
        found = (each for each in self.folder.rglob("*") if each.is_file())
        names = (str(each.relative_to(self.folder)) for each in found)
        return sorted(name for name in names if not name.startswith(("lock", "intake/")))

    def cut(self, key: str, size: int) -> None:
        """Shorten a blob behind the store's back."""
        os.truncate(self.folder / "kept" / key[:7] / key, size)


@dataclass
class BucketStore:
    blobs: Blobs
    server: S3Server
    bucket: Bucket

    def names(self) -> list[str]:
        """Everything that is there, uploads in parts included."""
        pending = [f"pending {key}" for key in self.server.pending(self.bucket.prefix)]
        return sorted([*self.server.objects(self.bucket.prefix), *pending])

    def cut(self, key: str, size: int) -> None:
        """Put a shorter object in a blob's place."""
        self.server.replace(f"{self.bucket.prefix}/kept/{key}", bytes(size))


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def new_key(at_ms: int | None = None) -> str:
    """A fresh key, as objects have them."""
    made_ms = now_ms() if at_ms is None else at_ms
    return new_object_id(SimpleNamespace(clock=lambda: made_ms, entropy=secrets.token_bytes))


async def arrive(blobs: Blobs, content: bytes, key: str, *, chunk: int = 100_000) -> Digests:
    """Bytes that came in and were closed."""
    incoming = blobs.incoming(key)
    for start in range(0, len(content), chunk):
        await incoming.write(content[start : start + chunk])
    return await incoming.close()


async def keep(blobs: Blobs, content: bytes) -> str:
    """The key of bytes that have their place."""
    key = new_key()
    await arrive(blobs, content, key)
    await blobs.settle([key])
    return key


async def read(blobs: Blobs, key: str, start: int, end: int) -> bytes:
    return b"".join([piece async for piece in await blobs.read(key, start, end)])


async def everything_unsettled(blobs: Blobs) -> list[str]:
    return await blobs.leftovers(after_ms=0, before_ms=2**62)
