"""One small surface over SQLite (apsw) and PostgreSQL (asyncpg). SQL itself lives in the stores.

Statements are written once, in the dialect both engines share, with `:name` parameters. A row is
a tuple-like in the order of the SELECT.

On SQLite a read of `all` or `one` runs in the event loop (microseconds, so only for statements
that walk an index); `scan` runs in a thread. A transaction waits for other processes and for the
disk in a thread, and runs its short statements in between in the loop.
"""

from __future__ import annotations

import asyncio
import errno
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

import apsw
import asyncpg

from soundkeep.foundation.errors import BadInput, BadSettings, StorageFull, TooSlow, Unavailable
from soundkeep.foundation.waiting import to_the_end

Params = Mapping[str, Any]
"""Values by name: text, integers, floats, None."""

Row = Any
"""A tuple-like in the order of the SELECT; each engine's own class."""

T = TypeVar("T")

_NOTHING: Params = {}
_BUSY_SECONDS = 10
_BUSY_STEP = 0.0005
_SCAN_THREADS = 2
_FEW_ROWS = 16
_BRIEF = 64 * 1024
"""Characters of a few rows that are written in the event loop."""

_LONGEST_SCAN = 60.0
_POOL_SIZE = 8
_POOL_SCANS = 4
"""Connections that scans may take at a time, so that slow ones do not hold up everything else."""

_TOO_SLOW = "The statement took too long and was stopped."
_STEPS = 10_000
"""Of SQLite's virtual machine, between looks at the clock: a fraction of a millisecond."""

_CHANNEL = "soundkeep_changed"

DIALECT: Mapping[str, Mapping[str, str]] = {
    "sqlite": {
        "{serial}": "INTEGER PRIMARY KEY AUTOINCREMENT",
        "{json}": "TEXT",
        "{text}": "TEXT",
    },
    "postgresql": {
        "{text}": 'TEXT COLLATE "C"',
        "{serial}": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        "{json}": "JSONB",
    },
}
"""What the engines spell differently in a schema file."""


class Connection(Protocol):
    """One open transaction."""

    engine: str

    async def all(self, sql: str, params: Params = _NOTHING) -> list[Row]:
        """Every row."""

    async def one(self, sql: str, params: Params = _NOTHING) -> Row | None:
        """The first row, or None."""

    async def run(self, sql: str, params: Params = _NOTHING) -> int:
        """Change something; how many rows changed."""

    async def many(self, sql: str, rows: Iterable[Params]) -> None:
        """The same statement for every row."""

    async def script(self, sql: str) -> None:
        """Several statements without parameters: schema files."""

    async def announce(self) -> None:
        """Tell every process that watches `version` that this transaction matters to it."""


class Database(Protocol):
    """A database that many tasks share."""

    engine: str

    async def all(self, sql: str, params: Params = _NOTHING) -> list[Row]:
        """Every row of a statement that walks an index."""

    async def one(self, sql: str, params: Params = _NOTHING) -> Row | None:
        """The first row of a statement that walks an index, or None."""

    async def scan(
        self, sql: str, params: Params = _NOTHING, *, seconds: float = _LONGEST_SCAN
    ) -> list[Row]:
        """Every row of a statement that may read the whole table; never blocks the loop.

        TooSlow past `seconds`, waiting for its turn included: the statement is stopped.
        """

    def transaction(self) -> Any:  # noqa: ANN401  an async context manager of Connection
        """`async with db.transaction() as tx`: everything inside happens, or nothing does."""

    def version(self) -> int:
        """A number that changes when another task or process may have committed something."""

    async def moment(self) -> object:
        """What stays equal as long as nobody commits anything."""

    async def close(self) -> None:
        """Let go of files, threads and sockets."""


async def connect(url: str) -> Database:
    """Open `postgresql://...`, or a SQLite file by its path."""
    if url.startswith(("postgresql://", "postgres://")):
        return await PostgresDatabase.connect(url)
    return SqliteDatabase(Path(url))


async def open_scratch(path: Path, schema: str) -> SqliteDatabase:
    """A SQLite file that is never synced, made anew where a power cut broke it."""
    try:
        return await _scratch(path, schema)
    except (apsw.CorruptError, apsw.NotADBError):
        _remove(path)
        return await _scratch(path, schema)


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


async def _scratch(path: Path, schema: str) -> SqliteDatabase:
    database = SqliteDatabase(path, durable=False)
    try:
        async with database.transaction() as tx:
            await tx.script(schema)
        found = await database.scan("PRAGMA quick_check(1)")
        if found[0][0] != "ok":
            raise apsw.CorruptError(found[0][0])
    except BaseException:
        await database.close()
        raise
    return database


class SqliteDatabase:
    """One file: WAL, every commit synced if it is durable, one writer, readers that never wait."""

    engine = "sqlite"

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = str(path)
        with _translated():
            self._writer = _open(self._path, durable=durable)
            self._reader = _open(self._path)
            self._scanners = [_open(self._path) for _ in range(_SCAN_THREADS)]
        self._write_thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite-write")
        self._scan_threads = ThreadPoolExecutor(_SCAN_THREADS, thread_name_prefix="sqlite-scan")
        self._turn = asyncio.Lock()

    async def all(self, sql: str, params: Params = _NOTHING) -> list[Row]:
        with _translated():
            return self._reader.execute(sql, params).fetchall()

    async def one(self, sql: str, params: Params = _NOTHING) -> Row | None:
        with _translated():
            return self._reader.execute(sql, params).fetchone()

    async def scan(
        self, sql: str, params: Params = _NOTHING, *, seconds: float = _LONGEST_SCAN
    ) -> list[Row]:
        until = time.monotonic() + seconds

        def work() -> list[Row]:
            if time.monotonic() > until:
                raise TooSlow(_TOO_SLOW)
            scanner = self._scanners.pop()
            scanner.set_progress_handler(lambda: time.monotonic() > until, _STEPS)
            try:
                with _translated():
                    return scanner.execute(sql, params).fetchall()
            finally:
                self._scanners.append(scanner)

        return await asyncio.get_running_loop().run_in_executor(self._scan_threads, work)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        async with self._turn:
            try:
                await self._begin()
                yield _SqliteConnection(self)
                await self._write(lambda: self._writer.execute("COMMIT"))
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    async def _begin(self) -> None:
        """At once if nobody else writes, which is sooner known than asked in a thread."""
        begin = "BEGIN IMMEDIATE"
        with _translated():
            self._writer.set_busy_handler(None)
            try:
                self._writer.execute(begin)
            except apsw.BusyError:
                pass
            else:
                return
            finally:
                self._writer.set_busy_handler(_Patience())
        await self._write(lambda: self._writer.execute(begin))

    def version(self) -> int:
        # Not Connection.data_version(): that one notices nothing before the next read.
        found: int = self._reader.execute("PRAGMA data_version").get
        return found

    async def moment(self) -> object:
        return self.version()

    async def close(self) -> None:
        self._write_thread.shutdown()
        self._scan_threads.shutdown()
        for connection in (*self._scanners, self._reader, self._writer):
            connection.close()

    async def _write(self, work: Callable[[], T]) -> T:
        """Run in the writer's thread; finish even when the caller is cancelled."""

        def guarded() -> T:
            with _translated():
                return work()

        loop = asyncio.get_running_loop()
        return await to_the_end(loop.run_in_executor(self._write_thread, guarded))


class _SqliteConnection:
    """The writer between BEGIN and COMMIT."""

    engine = "sqlite"

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._raw = database._writer  # noqa: SLF001  the two classes are one thing

    async def all(self, sql: str, params: Params = _NOTHING) -> list[Row]:
        with _translated():
            return self._raw.execute(sql, params).fetchall()

    async def one(self, sql: str, params: Params = _NOTHING) -> Row | None:
        rows = await self.all(sql, params)
        return rows[0] if rows else None

    async def run(self, sql: str, params: Params = _NOTHING) -> int:
        with _translated():
            before = self._raw.total_changes()
            self._raw.execute(sql, params).fetchall()
            return self._raw.total_changes() - before

    async def many(self, sql: str, rows: Iterable[Params]) -> None:
        given = list(rows)
        if _is_brief(given):
            with _translated():
                self._raw.executemany(sql, given)
        else:
            await self._database._write(lambda: self._raw.executemany(sql, given))  # noqa: SLF001

    async def script(self, sql: str) -> None:
        await self._database._write(lambda: self._raw.execute(sql).fetchall())  # noqa: SLF001

    async def announce(self) -> None:
        """Nothing to do: `data_version` tells every process of every commit."""


class PostgresDatabase:
    """A pool of connections; `version` follows NOTIFY, and the clock where that is lost."""

    engine = "postgresql"

    def __init__(self, pool: asyncpg.Pool, listener: asyncpg.Connection) -> None:
        self._pool = pool
        self._listener = listener
        self._scan_turns = asyncio.Semaphore(_POOL_SCANS)
        self._heard = 0

    @classmethod
    async def connect(cls, url: str) -> PostgresDatabase:
        with _translated():
            try:
                listener = await asyncpg.connect(url, timeout=_CONNECT_SECONDS)
            except _REFUSED as error:
                raise BadSettings(f"PostgreSQL refuses the connection: {error}.") from None
            try:
                pool = await asyncpg.create_pool(
                    url, min_size=1, max_size=_POOL_SIZE, command_timeout=60
                )
                database = cls(pool, listener)
                await listener.add_listener(_CHANNEL, database._hear)
            except BaseException:
                listener.terminate()
                raise
        return database

    async def all(self, sql: str, params: Params = _NOTHING) -> list[Row]:
        text, names = _numbered(sql)
        with _translated():
            return await self._pool.fetch(text, *(params[name] for name in names))

    async def one(self, sql: str, params: Params = _NOTHING) -> Row | None:
        text, names = _numbered(sql)
        with _translated():
            return await self._pool.fetchrow(text, *(params[name] for name in names))

    async def scan(
        self, sql: str, params: Params = _NOTHING, *, seconds: float = _LONGEST_SCAN
    ) -> list[Row]:
        try:
            async with asyncio.timeout(seconds), self._scan_turns:
                return await self.all(sql, params)
        except TimeoutError:  # asyncpg has told the server to stop
            raise TooSlow(_TOO_SLOW) from None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        with _translated():
            raw = await self._pool.acquire()
        try:
            connection, transaction = _PostgresConnection(raw), raw.transaction()
            with _translated():
                await transaction.start()
            try:
                yield connection
            except BaseException:
                with suppress(asyncpg.InterfaceError, asyncpg.PostgresError, OSError):
                    await transaction.rollback()
                raise
            with _translated():
                await transaction.commit()
            self._heard += connection.announced
        finally:
            await self._pool.release(raw)

    def version(self) -> int:
        seconds = int(asyncio.get_running_loop().time())
        return self._heard * 1_000_000_000 + seconds // _POLL_SECONDS

    async def moment(self) -> object:
        found = await self.one("SELECT CAST(pg_current_snapshot() AS TEXT)")
        assert found is not None
        return found[0]

    async def close(self) -> None:
        await self._listener.close()
        await self._pool.close()

    def _hear(self, *_: object) -> None:
        self._heard += 1


_POLL_SECONDS = 2
_CONNECT_SECONDS = 10


class _PostgresConnection:
    """One pooled connection inside a transaction."""

    engine = "postgresql"

    def __init__(self, raw: asyncpg.pool.PoolConnectionProxy) -> None:
        self._raw = raw
        self.announced = False

    async def all(self, sql: str, params: Params = _NOTHING) -> list[Row]:
        text, names = _numbered(sql)
        with _translated():
            return await self._raw.fetch(text, *(params[name] for name in names))

    async def one(self, sql: str, params: Params = _NOTHING) -> Row | None:
        text, names = _numbered(sql)
        with _translated():
            return await self._raw.fetchrow(text, *(params[name] for name in names))

    async def run(self, sql: str, params: Params = _NOTHING) -> int:
        text, names = _numbered(sql)
        with _translated():
            status = await self._raw.execute(text, *(params[name] for name in names))
        return int(status.rpartition(" ")[2]) if status[-1].isdigit() else 0

    async def many(self, sql: str, rows: Iterable[Params]) -> None:
        text, names = _numbered(sql)
        values = [[row[name] for name in names] for row in rows]
        with _translated():
            await self._raw.executemany(text, values)

    async def script(self, sql: str) -> None:
        with _translated():
            await self._raw.execute(sql)

    async def announce(self) -> None:
        self.announced = True
        with _translated():
            await self._raw.execute(f"NOTIFY {_CHANNEL}")


class _Patience:
    """Waiting for another process to commit: asked again and again, so in short steps.

    SQLite's own busy timeout sleeps for up to 100 ms at a time, far longer than a commit takes.
    """

    def __init__(self) -> None:
        self._until = 0.0

    def __call__(self, asked: int) -> bool:
        if not asked:
            self._until = time.monotonic() + _BUSY_SECONDS
        time.sleep(_BUSY_STEP)
        return time.monotonic() < self._until


def _is_brief(rows: Sequence[Params]) -> bool:
    """Whether rows are written sooner than handed to a thread."""
    return (
        len(rows) <= _FEW_ROWS
        and sum(len(value) for row in rows for value in row.values() if isinstance(value, str))
        < _BRIEF
    )


def _open(path: str, *, durable: bool = True) -> apsw.Connection:
    connection = apsw.Connection(path)
    connection.set_busy_handler(_Patience())
    # One by one: a statement that answers a row would keep those after it from running.
    synced = "FULL" if durable else "OFF"
    for pragma in ("journal_mode = WAL", f"synchronous = {synced}", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    return connection


_LONG = 10_000
"""Characters of statements that are not worth remembering."""

_NAMED = re.compile(r"'[^']*'|(?<![:\w]):([a-z_][a-z0-9_]*)")


def _numbered(sql: str) -> tuple[str, tuple[str, ...]]:
    """`:name` parameters as `$1, $2, ...` and the order of their names."""
    return _remembered(sql) if len(sql) < _LONG else _number(sql)


def _number(sql: str) -> tuple[str, tuple[str, ...]]:
    numbers: dict[str, int] = {}

    def number(found: re.Match[str]) -> str:
        name = found.group(1)
        if name is None:  # a string, not ours to touch
            return found.group()
        return f"${numbers.setdefault(name, len(numbers) + 1)}"

    return _NAMED.sub(number, sql), tuple(numbers)


_remembered = lru_cache(maxsize=2048)(_number)


class _translated:  # noqa: N801  read as a verb at its uses
    """Turn a full disk and a lost or busy database into our errors; a class, since it is hot."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None:
            return
        if isinstance(error, apsw.FullError | asyncpg.DiskFullError) or (
            isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        ):
            raise StorageFull("The database's disk is full: free some space.") from error
        if isinstance(error, apsw.InterruptError):
            raise TooSlow(_TOO_SLOW) from error
        if isinstance(error, _BUSY):
            raise Unavailable("The database is busy: try again.", retry_after=1) from error
        if isinstance(error, _SILENT) or (
            isinstance(error, asyncpg.InterfaceError) and _LOST.search(str(error))
        ):
            raise Unavailable("The database does not answer: try again.") from error
        if isinstance(error, asyncpg.CharacterNotInRepertoireError):
            raise BadInput("Text cannot hold the character NUL.") from error


_REFUSED = (
    ValueError,
    asyncpg.InterfaceError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)
"""What a URL that cannot be used comes to."""

_BUSY = (
    apsw.BusyError,
    asyncpg.exceptions.TransactionRollbackError,
    asyncpg.exceptions.InsufficientResourcesError,
)
_SILENT = (
    apsw.CantOpenError,
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.exceptions.OperatorInterventionError,
)
_LOST = re.compile("is closed|has been released")
"""What asyncpg says of a connection that went away under a transaction."""
