"""Schema files: applied once each, in order, by one node only, and never changed afterwards."""

from __future__ import annotations

import asyncio
import sys

import pytest

from soundkeep.foundation import migrate
from soundkeep.foundation.database import connect
from soundkeep.foundation.errors import Tampered

PACKAGES = ("foundation", "identity")
EVERYTHING = [each for package in PACKAGES for each in migrate.written(package, "sqlite")]
NOW = 1_767_225_600_000


def clock():
    return NOW


async def applied(db):
    rows = await db.all(
        "SELECT package, number, name, applied_ms FROM migrations ORDER BY package, number"
    )
    return [tuple(row) for row in rows]


async def test_migrate_applies_every_file_in_order(database):
    done = await migrate.migrate(database, PACKAGES, clock=clock)

    assert done == EVERYTHING
    assert await database.all("SELECT * FROM audit") == []
    assert await database.all("SELECT * FROM customers") == []


async def test_migrate_remembers_what_it_applied_and_when(database):
    await migrate.migrate(database, PACKAGES, clock=clock)

    assert await applied(database) == [
        (each.package, each.number, each.name, NOW) for each in EVERYTHING
    ]


async def test_migrating_again_applies_nothing(database):
    await migrate.migrate(database, PACKAGES, clock=clock)

    assert await migrate.migrate(database, PACKAGES, clock=clock) == []


async def test_a_package_that_comes_later_is_applied_alone(database):
    await migrate.migrate(database, ("foundation",), clock=clock)

    done = await migrate.migrate(database, PACKAGES, clock=clock)

    assert done == list(migrate.written("identity", "sqlite"))


async def test_nodes_that_start_together_apply_everything_once(database, database_url):
    others = [await connect(database_url) for _ in range(3)]

    done = await asyncio.gather(
        *(migrate.migrate(db, PACKAGES, clock=clock) for db in (database, *others))
    )
    for other in others:
        await other.close()

    assert sorted(map(len, done)) == [0, 0, 0, len(EVERYTHING)]
    assert len(await applied(database)) == len(EVERYTHING)


NODE = """
import asyncio, sys
from soundkeep.foundation.database import connect
from soundkeep.foundation.migrate import migrate

async def main():
    db = await connect(sys.argv[1])
    print(len(await migrate(db, ("foundation", "identity"), clock=lambda: 1)))
    await db.close()

asyncio.run(main())
"""


async def test_processes_that_start_together_apply_everything_once(database, database_url):
    nodes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", NODE, database_url, stdout=asyncio.subprocess.PIPE
        )
        for _ in range(2)
    ]

    said = [(await node.communicate())[0].decode().strip() for node in nodes]

    assert sorted(map(int, said)) == [0, len(EVERYTHING)]
    assert len(await applied(database)) == len(EVERYTHING)


async def test_a_file_that_changed_after_it_was_applied_is_refused(database):
    await migrate.migrate(database, PACKAGES, clock=clock)
    async with database.transaction() as tx:
        await tx.run(
            "UPDATE migrations SET checksum = 'other' WHERE package = 'identity' AND number = 1"
        )

    with pytest.raises(Tampered, match="identity/0001"):
        await migrate.migrate(database, PACKAGES, clock=clock)


async def test_where_one_file_is_refused_none_is_applied(database):
    await migrate.migrate(database, ("foundation",), clock=clock)
    async with database.transaction() as tx:
        await tx.run("UPDATE migrations SET checksum = 'other'")

    with pytest.raises(Tampered):
        await migrate.migrate(database, ("identity", "foundation"), clock=clock)

    assert {row[0] for row in await applied(database)} == {"foundation"}


async def test_pending_names_what_migrate_would_apply(database):
    await migrate.migrate(database, ("foundation",), clock=clock)

    waiting = await migrate.pending(database, PACKAGES)

    assert waiting == list(migrate.written("identity", "sqlite"))


async def test_pending_of_an_empty_database_is_everything(database):
    assert await migrate.pending(database, PACKAGES) == EVERYTHING


async def test_pending_applies_nothing(database):
    await migrate.pending(database, PACKAGES)

    assert await applied(database) == []


async def test_pending_after_migrate_is_nothing(database):
    await migrate.migrate(database, PACKAGES, clock=clock)

    assert await migrate.pending(database, PACKAGES) == []


async def test_pending_refuses_a_changed_file_too(database):
    await migrate.migrate(database, PACKAGES, clock=clock)
    async with database.transaction() as tx:
        await tx.run("UPDATE migrations SET checksum = 'other'")

    with pytest.raises(Tampered):
        await migrate.pending(database, PACKAGES)


@pytest.mark.parametrize("package", ["foundation", "identity", "region"])
def test_the_files_of_a_package_are_numbered_from_one_without_gaps(package):
    numbers = [each.number for each in migrate.written(package, "sqlite")]

    assert numbers == list(range(1, len(numbers) + 1))
