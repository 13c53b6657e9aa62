"""Where a region keeps the bytes of its recordings: what every store of bytes can do.

Bytes come in under a key of their own (`incoming`), which is never used again. Once they are closed
a row may name them, and then they are settled. So whatever a crash leaves is told by `leftovers`:
keys that no row names, to be discarded.

An upload that is resumed over hours is staged piece by piece (`stage`), and gathered under a key
when it is whole.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from soundkeep.foundation.errors import Unavailable
from soundkeep.region.model import Digests

_KEY = re.compile(r"[0-9a-f-]{8,64}")


class Incoming(Protocol):
    """One object's bytes on their way in: hashed while they arrive."""

    size: int

    async def write(self, chunk: bytes) -> None:
        """Take the next bytes."""

    async def close(self) -> Digests:
        """Everything is here: give it its place, durably."""

    async def abandon(self) -> None:
        """Keep nothing of it."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Staged bytes from `start` up to and without `end`, under a name of the store's choice."""

    name: str
    start: int
    end: int


class Staging(Protocol):
    """Bytes of a resumable upload on their way in, from the offset it had."""

    async def write(self, chunk: bytes) -> None:
        """Take the next bytes."""

    async def sync(self) -> Sequence[Piece]:
        """Make durable what came so far: the pieces that must be remembered for it, if any."""

    async def close(self) -> None:
        """Let go; what was not synced may be lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Where an S3 store is, and who we are there; without keys, AWS tells the machine's role."""

    name: str
    prefix: str = ""
    endpoint: str = ""
    region: str = "us-east-1"
    access_key_id: str = ""
    secret_access_key: str = field(default="", repr=False)
    virtual: bool = False
    checksums: bool = True


class Blobs(Protocol):
    """A store of bytes. StorageFull and Unavailable tell of its troubles."""

    shared: bool
    """Whether others may be bringing bytes while we hold it alone: what is young is not ours."""

    async def check(self) -> None:
        """Unavailable, with what to change, where bytes could not be kept and read here."""

    def incoming(self, key: str, *, expected: int = 0) -> Incoming:
        """A place for bytes to come; StorageFull where `expected` more would not fit."""

    async def settle(self, keys: Sequence[str]) -> None:
        """Forget that these were on their way: their rows are committed."""

    async def discard(self, keys: Iterable[str]) -> None:
        """Remove bytes that no row names, wherever they are by now."""

    async def rest(self) -> None:
        """Let bytes be in their own places and nowhere else: to be called now and then."""

    async def leftovers(self, *, after_ms: int, before_ms: int) -> list[str]:
        """Keys of bytes that came between these moments and may have no row."""

    async def abandoned(self, *, before_ms: int) -> list[str]:
        """Those of them that no upload is at any more, though others are under way."""

    async def size(self, key: str) -> int | None:
        """How many bytes there are; None where there is no such blob."""

    def look(self, key: str, size: int) -> None:
        """Unavailable where a blob is missing or cut short, as far as that takes no waiting."""

    def at_hand(self, key: str, size: int, start: int, end: int) -> bytes | None:
        """A few of a blob's bytes, if all are in memory; else None, without waiting."""

    async def read(self, key: str, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` up to and without `end`; Unavailable before the first, if ever."""

    async def link(self, key: str, *, seconds: int) -> str | None:
        """A URL of the store's own that gives the bytes for so long; None where it has none."""

    async def stage(self, key: str, *, at: int) -> Staging:
        """Go on with a resumable upload at this offset; Conflict where somebody else does."""

    async def gather(self, key: str, size: int, pieces: Sequence[Piece]) -> Digests:
        """Turn `size` staged bytes into closed incoming ones of the same key; again is fine."""

    async def unstage(self, key: str) -> None:
        """Forget what was staged."""

    def lock(self, *, alone: bool) -> bool:
        """Hold this store: alone (to sweep it), or with others; False where they hold it so."""

    async def close(self) -> None:
        """Let go of it."""


class Sums:
    """Digests of bytes as they pass."""

    def __init__(self) -> None:
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._sha256 = hashlib.sha256()
        self._crc32 = 0
        self._size = 0

    def add(self, piece: bytes | memoryview) -> None:
        """Take the next bytes: to be called beside the event loop."""
        self._md5.update(piece)
        self._sha256.update(piece)
        self._crc32 = zlib.crc32(piece, self._crc32)
        self._size += len(piece)

    def digests(self) -> Digests:
        """Of all that came."""
        return Digests(self._size, self._md5.hexdigest(), self._sha256.hexdigest(), self._crc32)


def lost(key: str) -> Unavailable:
    """What to raise where a blob is missing or cut short."""
    return Unavailable(
        "The bytes of this recording cannot be read: tell the operator to run `soundkeep doctor`.",
        lost=key,
    )


def checked(key: str) -> str:
    """Keys are ours, never a user's; even so, nothing but hex digits becomes a path."""
    if not _KEY.fullmatch(key):
        raise ValueError(key)
    return key


def is_key(name: str) -> bool:
    """Whether a name found in the store is a key."""
    return _KEY.fullmatch(name) is not None
