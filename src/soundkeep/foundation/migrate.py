"""Numbered `.sql` files, applied once each, in order, safe when two nodes start together.

A file is `NNNN_name.sql`, or `NNNN_name.ENGINE.sql` where the engines differ by more than
spelling. What was applied is remembered with a checksum: a file that changed
after it was applied is refused, since nobody could say what the database looks like.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

from soundkeep.foundation.clock import Clock
from soundkeep.foundation.database import DIALECT, Connection, Database
from soundkeep.foundation.errors import Tampered

_LOCK = 7_305_813_246
"""The advisory lock that one migrating node holds (PostgreSQL; SQLite has its write lock)."""

_TABLE = """
    CREATE TABLE IF NOT EXISTS migrations (
        package    TEXT NOT NULL,
        number     BIGINT NOT NULL,
        name       TEXT NOT NULL,
        checksum   TEXT NOT NULL,
        applied_ms BIGINT NOT NULL,
        PRIMARY KEY (package, number)
    )
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One schema file."""

    package: str
    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the file's text, hex."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def written(package: str, engine: str) -> Iterator[Migration]:
    """The schema files of `soundkeep.PACKAGE` for an engine, in order."""
    folder = files(f"soundkeep.{package}") / "schema"
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        number, _, name = file.name.removesuffix(".sql").partition("_")
        name, _, only = name.partition(".")
        if only in ("", engine):
            yield Migration(package, int(number), name, file.read_text("utf-8"))


async def migrate(db: Database, packages: tuple[str, ...], *, clock: Clock) -> list[Migration]:
    """Bring a database up to date; what was applied now. Tampered where history disagrees."""
    wanted = [each for package in packages for each in written(package, db.engine)]
    async with db.transaction() as tx:
        applied = await _applied(tx, db.engine)
        fresh = [each for each in wanted if _is_fresh(each, applied)]
        for migration in fresh:
            await tx.script(_spelled(migration.sql, db.engine))
            await _remember(tx, migration, clock())
    return fresh


async def pending(db: Database, packages: tuple[str, ...]) -> list[Migration]:
    """What `migrate` would apply, for `doctor`."""
    async with db.transaction() as tx:
        applied = await _applied(tx, db.engine)
    return [
        migration
        for package in packages
        for migration in written(package, db.engine)
        if _is_fresh(migration, applied)
    ]


async def _applied(tx: Connection, engine: str) -> dict[tuple[str, int], str]:
    """The checksums of what was applied; no other node migrates until the transaction ends."""
    if engine == "postgresql":
        await tx.run(f"SELECT pg_advisory_xact_lock({_LOCK})")
    await tx.script(_TABLE)
    rows = await tx.all("SELECT package, number, checksum FROM migrations")
    return {(package, number): checksum for package, number, checksum in rows}


def _is_fresh(migration: Migration, applied: dict[tuple[str, int], str]) -> bool:
    checksum = applied.get((migration.package, migration.number))
    if checksum not in (None, migration.checksum):
        raise Tampered(
            f"Migration {migration.package}/{migration.number:04d} changed after it was applied: "
            "run the version of Soundkeep that wrote this database."
        )
    return checksum is None


def _spelled(sql: str, engine: str) -> str:
    for mark, text in DIALECT[engine].items():
        sql = sql.replace(mark, text)
    return sql


async def _remember(tx: Connection, migration: Migration, at_ms: int) -> None:
    await tx.run(
        """
        INSERT INTO migrations (package, number, name, checksum, applied_ms)
        VALUES (:package, :number, :name, :checksum, :at_ms)
        """,
        {
            "package": migration.package,
            "number": migration.number,
            "name": migration.name,
            "checksum": migration.checksum,
            "at_ms": at_ms,
        },
    )
