"""Where the pages of walks end: offset on the wire, keyset inside. Contract §2, "Objects".

A client that asks for the offset where its last page ended goes on after the last row it got, not
at what has that number by now. Places are kept for an hour in a table that every worker and node
sees: beside the region's tables on PostgreSQL, in a file of its own on SQLite, where nothing of it
is ever synced to the disk. Losing it costs a walk its place, and no data.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cachetools import LRUCache

from soundkeep.foundation.clock import SECOND
from soundkeep.foundation.database import Database, open_scratch
from soundkeep.foundation.errors import StorageFull
from soundkeep.region.selection import Key

_KEPT_MS = 3600 * SECOND
_TOTALS = 1024
_RECOUNT_SECONDS = 60
_NEAR = 1000
"""Rows that are sooner read and dropped than looked for anew."""

_SCHEMA = """
    CREATE TABLE IF NOT EXISTS walks (
        walk       TEXT NOT NULL,
        position   BIGINT NOT NULL,
        token      TEXT NOT NULL,
        after_key  TEXT NOT NULL,
        total      BIGINT NOT NULL,
        exact      BIGINT NOT NULL,
        expires_ms BIGINT NOT NULL,
        PRIMARY KEY (walk, position, token)
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS walks_by_expiry ON walks (expires_ms);
"""
_KEPT = """
    SELECT 1 FROM walks
    WHERE walk = :walk AND position = :position AND token = :token
      AND after_key = :key AND total = :total AND exact = :exact AND expires_ms > :soon
"""
_SWEEP = """
    DELETE FROM walks WHERE (walk, position, token) IN (
        SELECT walk, position, token FROM walks WHERE expires_ms <= :now LIMIT 10
    )
"""
_KEEP = """
    INSERT INTO walks (walk, position, token, after_key, total, exact, expires_ms)
    VALUES (:walk, :position, :token, :key, :total, :exact, :expires)
    ON CONFLICT (walk, position, token) DO UPDATE SET
        after_key = excluded.after_key, total = excluded.total,
        exact = excluded.exact, expires_ms = excluded.expires_ms
"""


@dataclass(frozen=True, slots=True)
class Total:
    """How many rows a walk has; at least so many where it is not exact."""

    rows: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Place:
    """After `key` comes the row at `offset`."""

    offset: int
    key: Key
    total: Total


_Counted = tuple[object, asyncio.Future[Total]]
"""A moment of the database, and what was counted then."""


def name(*facts: object) -> str:
    """What stands for a walk: a hash of who walks through what."""
    return hashlib.blake2b(msgspec.json.encode(facts), digest_size=16).hexdigest()


class Walks:
    """The places of one region's walks, and how long the walks are."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self._totals: LRUCache[str, _Counted] = LRUCache(_TOTALS)

    async def find(self, walk: str, *, offset: int, token: str, now_ms: int) -> Place | None:
        """The place of an offset, or one so close before it that the rest is soon dropped.

        Where several clients of one key take the same walk, each follows its own access token.
        """
        row = await self.db.one(
            """
            SELECT position, after_key, total, exact FROM walks
            WHERE walk = :walk AND position <= :offset AND position >= :near AND expires_ms > :now
            ORDER BY position DESC, CASE WHEN token = :token THEN 0 ELSE 1 END, expires_ms DESC
            LIMIT 1
            """,
            {"walk": walk, "offset": offset, "near": offset - _NEAR, "token": token, "now": now_ms},
        )
        if row is None:
            return None
        position, key, total, exact = row
        return Place(position, msgspec.json.decode(key, type=Key), Total(total, bool(exact)))

    async def keep(self, walk: str, places: Iterable[Place], *, token: str, now_ms: int) -> None:
        """Remember places; those that are remembered just so cost no writing."""
        rows = [_row(walk, place, token, now_ms) for place in places]
        fresh = [row for row in rows if not await self._is_kept(row)]
        if not fresh:
            return
        with suppress(StorageFull):  # what can be read is read; the place is lost
            await self._write(fresh, now_ms)

    async def _write(self, rows: Sequence[Mapping[str, object]], now_ms: int) -> None:
        async with self.db.transaction() as tx:
            for row in rows:
                await tx.run(_KEEP, row)
            await tx.run(_SWEEP, {"now": now_ms})

    async def total(
        self, db: Database, search: str, count: Callable[[], Awaitable[Total]]
    ) -> Total:
        """A search's number of rows, counted again only when something was written since.

        Who asks while somebody else's counting is under way waits for that one.
        """
        moment = await db.moment()
        known = self._totals.get(search)
        if known is None or known[0] != moment:
            known = (moment, asyncio.ensure_future(count()))
            self._totals[search] = known
        try:
            total = await asyncio.shield(known[1])
        except Exception:
            self._forget(search, known)
            raise
        if not total.exact:  # a disk that was cold may be warm by then
            loop = asyncio.get_running_loop()
            loop.call_later(_RECOUNT_SECONDS, self._forget, search, known)
        return total

    def _forget(self, search: str, known: _Counted) -> None:
        if self._totals.get(search) is known:
            del self._totals[search]

    async def _is_kept(self, row: Mapping[str, object]) -> bool:
        found = await self.db.one(_KEPT, row)
        return found is not None


def _row(walk: str, place: Place, token: str, now_ms: int) -> Mapping[str, object]:
    return {
        "walk": walk,
        "position": place.offset,
        "token": token,
        "key": msgspec.json.encode(place.key).decode(),
        "total": place.total.rows,
        "exact": int(place.total.exact),
        "expires": now_ms + _KEPT_MS,
        "soon": now_ms + _KEPT_MS // 2,
    }


async def open_walks(db: Database, url: str) -> Walks:
    """The places of the walks through a region's database."""
    if db.engine != "sqlite":
        return Walks(db)
    return Walks(await open_scratch(Path(f"{url}-walks"), _SCHEMA))
