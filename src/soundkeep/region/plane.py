"""A region's resources, handed to every use case in place of globals."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from cryptography.fernet import Fernet

from soundkeep.foundation.batches import Batches
from soundkeep.foundation.claims import Claims
from soundkeep.foundation.clock import Clock, Entropy
from soundkeep.foundation.database import Database, connect
from soundkeep.foundation.errors import NotProvisioned
from soundkeep.region import walks
from soundkeep.region.blobs import Blobs, Bucket
from soundkeep.region.linkkeys import LinkKeys
from soundkeep.region.localblobs import LocalBlobs
from soundkeep.region.model import Arrival, Quotas, Use
from soundkeep.region.pace import Pace
from soundkeep.region.walks import Walks

_NO_QUOTAS = Quotas()
_CHORE_SECONDS = 5

log = structlog.get_logger("region")

PACKAGES = ("foundation", "region")
"""Whose schema files a region's database holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a region takes, and for how long it works at something."""

    max_upload_bytes: int = 5 * 1024**3
    min_free_bytes: int = 64 * 1024**2
    search_seconds: float = 5.0
    count_seconds: float = 0.5
    upload_hours: int = 24
    verify_days: int = 30
    verify_bytes_per_second: int = 4 * 1024**2
    bulk_ids: int = 100_000
    bulk_days: int = 7
    undelete_days: int = 7
    quotas: Quotas = _NO_QUOTAS


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """One region: its database, its bytes, its limits, and where clients reach it."""

    name: str
    db: Database
    blobs: Blobs
    clock: Clock
    entropy: Entropy
    walks: Walks
    limits: Limits
    link_keys: LinkKeys
    base_url: str
    pace: Pace = field(default_factory=Pace)
    arrivals: Batches[Arrival] = field(default_factory=Batches)
    uses: Batches[Use] = field(default_factory=Batches)
    chores: set[asyncio.Task[None]] = field(default_factory=set)

    def background(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Begin what goes on though its caller leaves; it ends before the region closes."""
        chore = asyncio.create_task(work)
        self.chores.add(chore)
        chore.add_done_callback(self._ended)
        return chore

    def _ended(self, chore: asyncio.Task[None]) -> None:
        self.chores.discard(chore)
        error = None if chore.cancelled() else chore.exception()
        if error is not None:
            log.warning("chore", region=self.name, error=str(error))

    async def close(self) -> None:
        """Let go of the database and the bytes."""
        if self.chores:
            await asyncio.wait(self.chores, timeout=_CHORE_SECONDS)
        for chore in self.chores:
            chore.cancel()
        await asyncio.gather(*self.chores, return_exceptions=True)
        if self.walks.db is not self.db:
            await self.walks.db.close()
        await self.db.close()
        await self.blobs.close()


async def open_region(
    name: str,
    *,
    database: str,
    blobs: Path | Bucket,
    clock: Clock,
    entropy: Entropy,
    limits: Limits,
    vault: Fernet,
    base_url: str,
) -> Region:
    """A region on its database (a file or a PostgreSQL URL) and its bytes: a folder or a bucket.

    `vault` seals the keys in the database; `base_url` is what clients call the service.
    """
    db = await connect(database)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(db.close)
        places = await walks.open_walks(db, database)
        if places.db is not db:
            stack.push_async_callback(places.db.close)
        pace = Pace()
        kept = _open_blobs(blobs, entropy=entropy, min_free_bytes=limits.min_free_bytes, pace=pace)
        stack.pop_all()
    return Region(
        name=name,
        db=db,
        blobs=kept,
        clock=clock,
        entropy=entropy,
        walks=places,
        limits=limits,
        link_keys=LinkKeys(db, vault, clock=clock, entropy=entropy),
        base_url=base_url,
        pace=pace,
    )


def _open_blobs(
    place: Path | Bucket, *, entropy: Entropy, min_free_bytes: int, pace: Pace
) -> Blobs:
    if isinstance(place, Bucket):
        from soundkeep.region.s3blobs import S3Blobs  # noqa: PLC0415  only who uses it loads it

        return S3Blobs(place, entropy=entropy)
    return LocalBlobs(place, min_free_bytes=min_free_bytes, pace=pace)


def must_live_here(region: Region, claims: Claims) -> None:
    """NotProvisioned unless the caller's customer keeps something in this region."""
    if region.name not in claims.regions:
        raise NotProvisioned(f"Your company keeps nothing in {region.name}.")


def new_object_id(region: Region) -> str:
    """A fresh id that sorts by time of creation: UUIDv7 (RFC 9562 §5.7)."""
    random = int.from_bytes(region.entropy(10)) & ~(0xF << 76 | 0x3 << 62)
    return str(uuid.UUID(int=region.clock() << 80 | 0x7 << 76 | 0x2 << 62 | random))
