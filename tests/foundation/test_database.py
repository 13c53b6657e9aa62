"""The two engines behind one surface: what is committed stays, what is not never was."""

from __future__ import annotations

import asyncio
import contextlib
import sys

import pytest

from soundkeep.foundation.database import connect
from soundkeep.foundation.errors import BadInput, BadSettings, StorageFull, TooSlow, Unavailable

ONLY_SQLITE = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
ONLY_POSTGRES = pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
BIGGEST = 2**63 - 1


@pytest.fixture
async def db(database):
    """A database with a table of counters and notes."""
    async with database.transaction() as tx:
        await tx.script("CREATE TABLE things (name TEXT NOT NULL PRIMARY KEY, n BIGINT)")
    return database


@pytest.fixture
async def neighbour(db, database_url):
    """Another process' view of the same database, as far as the database can tell."""
    other = await connect(database_url)
    yield other
    await other.close()


async def put(db, name, n=0):
    async with db.transaction() as tx:
        await tx.run("INSERT INTO things (name, n) VALUES (:name, :n)", {"name": name, "n": n})


async def names(db):
    return [row[0] for row in await db.all("SELECT name FROM things ORDER BY name")]


# ---- statements -----------------------------------------------------------------------------


async def test_all_gives_every_row_in_the_order_of_the_select(db):
    await put(db, "a", 1)
    await put(db, "b", 2)

    rows = await db.all("SELECT n, name FROM things ORDER BY name")

    assert [tuple(row) for row in rows] == [(1, "a"), (2, "b")]


async def test_one_gives_the_first_row(db):
    await put(db, "a", 1)
    await put(db, "b", 2)

    row = await db.one("SELECT name FROM things ORDER BY name")

    assert tuple(row) == ("a",)


async def test_one_gives_none_for_no_row(db):
    assert await db.one("SELECT name FROM things WHERE name = :name", {"name": "x"}) is None


async def test_one_in_a_transaction_gives_none_for_no_row(db):
    async with db.transaction() as tx:
        assert await tx.one("SELECT name FROM things") is None


async def test_scan_gives_every_row(db):
    await put(db, "a", 1)
    await put(db, "b", 2)

    rows = await db.scan("SELECT name FROM things WHERE n > :least ORDER BY name", {"least": 0})

    assert [tuple(row) for row in rows] == [("a",), ("b",)]


async def test_more_scans_at_once_than_threads_all_answer(db):
    await put(db, "a", 1)

    found = await asyncio.gather(*(db.scan("SELECT n FROM things") for _ in range(20)))

    assert [[tuple(row) for row in rows] for rows in found] == [[(1,)]] * 20


async def test_run_says_how_many_rows_changed(db):
    await put(db, "a")
    await put(db, "b")

    async with db.transaction() as tx:
        updated = await tx.run("UPDATE things SET n = 5")
        ignored = await tx.run("INSERT INTO things (name) VALUES ('a') ON CONFLICT DO NOTHING")
        deleted = await tx.run("DELETE FROM things WHERE name = 'a'")

    assert (updated, ignored, deleted) == (2, 0, 1)


async def test_many_runs_the_statement_for_every_row(db):
    async with db.transaction() as tx:
        rows = ({"name": f"t{n}", "n": n} for n in range(5))
        await tx.many("INSERT INTO things (name, n) VALUES (:name, :n)", rows)

    assert await names(db) == ["t0", "t1", "t2", "t3", "t4"]


async def test_many_of_nothing_changes_nothing(db):
    async with db.transaction() as tx:
        await tx.many("INSERT INTO things (name, n) VALUES (:name, :n)", [])

    assert await names(db) == []


async def test_script_runs_every_statement_even_after_one_that_answers(db):
    async with db.transaction() as tx:
        await tx.script("""
            INSERT INTO things (name) VALUES ('a'), ('b');
            SELECT name FROM things;
            INSERT INTO things (name) VALUES ('c')
        """)

    assert await names(db) == ["a", "b", "c"]


async def test_a_transaction_reads_what_it_wrote(db):
    async with db.transaction() as tx:
        await tx.run("INSERT INTO things (name) VALUES ('a')")

        assert [tuple(row) for row in await tx.all("SELECT name FROM things")] == [("a",)]


# ---- values and parameters ------------------------------------------------------------------


@pytest.mark.parametrize("n", [None, 0, -1, 2**31, BIGGEST, -BIGGEST - 1], ids=lambda n: f"n={n}")
async def test_null_and_every_64_bit_integer_come_back(db, n):
    await put(db, "a", n)

    assert tuple(await db.one("SELECT n FROM things")) == (n,)


@pytest.mark.parametrize("text", ["", "Ünïcödé", "录音", "🎙️", "a'b\"c", "%_\\", ":name", "a\nb"])
async def test_text_comes_back_as_it_was(db, text):
    await put(db, text)

    assert await names(db) == [text]


@ONLY_POSTGRES
async def test_a_nul_that_the_engine_cannot_keep_is_the_callers_fault(db):
    with pytest.raises(BadInput):
        await put(db, "a\x00b")


async def test_a_name_may_be_used_twice(db):
    await put(db, "a", 3)

    row = await db.one("SELECT name FROM things WHERE n >= :n AND n <= :n", {"n": 3})

    assert tuple(row) == ("a",)


async def test_a_name_that_begins_like_another_is_its_own(db):
    row = await db.one(
        "SELECT CAST(:a AS TEXT), CAST(:ab AS TEXT), CAST(:a_b AS TEXT)",
        {"a": "1", "ab": "2", "a_b": "3"},
    )

    assert tuple(row) == ("1", "2", "3")


@pytest.mark.parametrize("text", ["urn:a:b", " :name", "12:30", "a::b", "it''s :so"])
async def test_a_string_with_colons_is_left_alone(db, text):
    row = await db.one(f"SELECT '{text}', CAST(:value AS TEXT)", {"value": "v"})

    assert tuple(row) == (text.replace("''", "'"), "v")


@ONLY_POSTGRES
async def test_a_cast_by_two_colons_is_left_alone(db):
    row = await db.one("SELECT :n::bigint + 1, '7'::text", {"n": 41})

    assert tuple(row) == (42, "7")


async def test_a_parameter_that_is_not_given_is_an_error(db):
    with pytest.raises(KeyError):
        await db.one("SELECT name FROM things WHERE name = :name", {"other": "a"})


# ---- transactions ---------------------------------------------------------------------------


async def test_what_is_not_committed_is_not_seen(db, neighbour):
    async with db.transaction() as tx:
        await tx.run("INSERT INTO things (name) VALUES ('a')")

        assert await names(neighbour) == []
        assert await names(db) == []


async def test_what_is_committed_is_seen_by_all(db, neighbour):
    await put(db, "a")

    assert await names(db) == ["a"]
    assert await names(neighbour) == ["a"]


async def test_an_error_in_the_body_rolls_back_and_comes_out(db):
    with pytest.raises(ZeroDivisionError):
        async with db.transaction() as tx:
            await tx.run("INSERT INTO things (name) VALUES ('a')")
            raise ZeroDivisionError

    assert await names(db) == []


async def test_a_failing_statement_rolls_back_what_was_before_it(db):
    await put(db, "a")

    with pytest.raises(Exception, match=r"(?i)unique"):
        async with db.transaction() as tx:
            await tx.run("INSERT INTO things (name) VALUES ('b')")
            await tx.run("INSERT INTO things (name) VALUES ('a')")

    assert await names(db) == ["a"]


async def test_an_os_error_of_the_body_is_not_taken_for_the_databases(db):
    with pytest.raises(FileNotFoundError):
        async with db.transaction():
            raise FileNotFoundError


async def test_after_a_failure_the_next_transaction_works(db):
    with contextlib.suppress(ZeroDivisionError):
        async with db.transaction():
            raise ZeroDivisionError

    await put(db, "a")

    assert await names(db) == ["a"]


async def test_two_tasks_lose_no_update(db):
    await put(db, "counter", 0)

    await asyncio.gather(*(count_up(db, 25) for _ in range(2)))

    assert tuple(await db.one("SELECT n FROM things")) == (50,)


async def test_two_processes_lose_no_update(db, neighbour):
    await put(db, "counter", 0)

    await asyncio.gather(count_up(db, 25), count_up(neighbour, 25))

    assert tuple(await db.one("SELECT n FROM things")) == (50,)


async def count_up(db, times):
    """Lock the row by a write, as `store.hold` does; then read, think, and write."""
    for _ in range(times):
        async with db.transaction() as tx:
            await tx.run("UPDATE things SET n = n WHERE name = 'counter'")
            n = (await tx.one("SELECT n FROM things WHERE name = 'counter'"))[0]
            await asyncio.sleep(0)
            await tx.run("UPDATE things SET n = :n WHERE name = 'counter'", {"n": n + 1})


async def test_a_task_cancelled_in_its_transaction_rolls_back_and_lets_the_next_one_in(db):
    inside = asyncio.Event()

    async def dawdle():
        async with db.transaction() as tx:
            await tx.run("INSERT INTO things (name) VALUES ('cancelled')")
            inside.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(dawdle())
    await inside.wait()
    await cancelled(task)
    async with asyncio.timeout(5):
        await put(db, "next")

    assert await names(db) == ["next"]


async def test_a_task_cancelled_while_it_waits_for_its_turn_leaves_the_turn_to_others(
    db, neighbour
):
    """The neighbour holds the lock; ours is cancelled while its BEGIN waits for it."""
    await put(db, "a", 0)
    async with neighbour.transaction() as tx:
        await tx.run("UPDATE things SET n = 1")
        task = asyncio.create_task(count_up_by_name(db, "a"))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.sleep(0.05)
    await asyncio.wait([task])
    async with asyncio.timeout(5):
        await put(db, "next")

    assert task.cancelled()
    assert await names(neighbour) == ["a", "next"]


async def count_up_by_name(db, name):
    async with db.transaction() as tx:
        await tx.run("UPDATE things SET n = n + 1 WHERE name = :name", {"name": name})
        await asyncio.sleep(60)


async def test_a_task_cancelled_twice_still_rolls_back(db, neighbour):
    """The second cancellation strikes while the first is waiting for the database."""
    await put(db, "a", 0)
    async with neighbour.transaction() as tx:
        await tx.run("UPDATE things SET n = 1")
        task = asyncio.create_task(count_up_by_name(db, "a"))
        for _ in range(3):
            await asyncio.sleep(0.05)
            task.cancel()
    await asyncio.wait([task])
    async with asyncio.timeout(5):
        await put(db, "next")

    assert [tuple(row) for row in await db.all("SELECT name, n FROM things ORDER BY name")] == [
        ("a", 1),
        ("next", 0),
    ]


async def cancelled(task):
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


CRASHES = """
import asyncio, sys
from soundkeep.foundation.database import connect

async def main():
    db = await connect(sys.argv[1])
    async with db.transaction() as tx:
        await tx.run("INSERT INTO things (name) VALUES ('committed')")
    async with db.transaction() as tx:
        await tx.run("INSERT INTO things (name) VALUES ('not committed')")
        print("in the middle", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_a_process_killed_in_mid_transaction_leaves_only_what_it_committed(db, database_url):
    command = [sys.executable, "-c", CRASHES, database_url]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    await process.stdout.readline()
    process.kill()
    await process.communicate()
    await put(db, "after")

    assert await names(db) == ["after", "committed"]


# ---- version --------------------------------------------------------------------------------


async def test_version_changes_when_a_neighbour_announces_a_commit(db, neighbour):
    before = heard(db)

    async with neighbour.transaction() as tx:
        await tx.run("INSERT INTO things (name) VALUES ('a')")
        await tx.announce()

    async with asyncio.timeout(5):
        while heard(db) == before:  # noqa: ASYNC110  there is no event to wait for
            await asyncio.sleep(0.005)
    assert await names(db) == ["a"]


def heard(db):
    """The version without the part of PostgreSQL's that follows the clock."""
    return db.version() if db.engine == "sqlite" else db.version() // 1_000_000_000


async def test_version_changes_at_once_for_ones_own_announcement_even_unheard(db):
    if db.engine == "postgresql":
        await without_listener(db)
    before = heard(db)

    async with db.transaction() as tx:
        await tx.run("INSERT INTO things (name) VALUES ('a')")
        await tx.announce()

    assert heard(db) != before


async def test_an_announcement_that_is_rolled_back_is_not_heard(db, neighbour):
    before = heard(db)

    with contextlib.suppress(ZeroDivisionError):
        async with neighbour.transaction() as tx:
            await tx.run("INSERT INTO things (name) VALUES ('a')")
            await tx.announce()
            raise ZeroDivisionError
    await asyncio.sleep(0.1)

    assert heard(db) == before


@ONLY_POSTGRES
async def test_version_moves_with_the_clock_where_announcements_are_lost(db):
    await without_listener(db)
    before = db.version()

    async with asyncio.timeout(5):
        while db.version() == before:  # noqa: ASYNC110  a clock has no event
            await asyncio.sleep(0.05)

    assert heard(db) == 0


async def without_listener(db):
    async with db.transaction() as tx:
        await tx.run("SELECT pg_terminate_backend(:pid)", {"pid": db._listener.get_server_pid()})


# ---- failures -------------------------------------------------------------------------------


@ONLY_SQLITE
async def test_a_full_disk_is_storage_full_and_nothing_half_written(db):
    async with db.transaction() as tx:
        pages = (await tx.one("PRAGMA page_count"))[0]
        await tx.all(f"PRAGMA max_page_count = {pages + 1}")

    with pytest.raises(StorageFull):
        async with db.transaction() as tx:
            await tx.run("INSERT INTO things (name) VALUES ('small')")
            for n in range(100):
                await tx.run(
                    "INSERT INTO things (name) VALUES (:name)", {"name": "x" * 999 + str(n)}
                )

    assert await names(db) == []


@ONLY_SQLITE
async def test_after_the_disk_has_room_again_writing_goes_on(db):
    async with db.transaction() as tx:
        await tx.all("PRAGMA max_page_count = 4")
    with contextlib.suppress(StorageFull):
        await put(db, "x" * 100_000)
    async with db.transaction() as tx:
        await tx.all("PRAGMA max_page_count = 100000")

    await put(db, "x" * 100_000)

    assert await names(db) == ["x" * 100_000]


@ONLY_POSTGRES
async def test_a_full_disk_of_the_server_is_storage_full(db):
    with pytest.raises(StorageFull):
        async with db.transaction() as tx:
            await tx.script("INSERT INTO things (name) VALUES ('a')")
            await tx.script("DO $$ BEGIN RAISE EXCEPTION 'full' USING ERRCODE = '53100'; END $$")

    assert await names(db) == []


@ONLY_SQLITE
async def test_a_write_lock_that_is_never_let_go_is_unavailable(db, neighbour):
    neighbour._writer.set_busy_timeout(20)
    async with db.transaction():
        with pytest.raises(Unavailable) as refused:
            await put(neighbour, "a")

    assert refused.value.facts == {"retry_after": 1}


@ONLY_POSTGRES
async def test_a_deadlock_is_unavailable_for_one_and_the_other_goes_on(db):
    await put(db, "a", 0)
    await put(db, "b", 0)
    both_hold_one = asyncio.Barrier(2)

    async def lock(first, second):
        async with db.transaction() as tx:
            await tx.run("SET LOCAL deadlock_timeout = '20ms'")
            await tx.run("UPDATE things SET n = n + 1 WHERE name = :name", {"name": first})
            await both_hold_one.wait()
            await tx.run("UPDATE things SET n = n + 1 WHERE name = :name", {"name": second})

    outcomes = await asyncio.gather(lock("a", "b"), lock("b", "a"), return_exceptions=True)

    assert sorted(map(type, outcomes), key=str) == [type(None), Unavailable]
    assert [row[0] for row in await db.all("SELECT n FROM things")] == [1, 1]


@ONLY_POSTGRES
async def test_a_connection_lost_in_mid_transaction_is_unavailable(db, neighbour):
    with pytest.raises(Unavailable):
        async with db.transaction() as tx:
            await tx.run("INSERT INTO things (name) VALUES ('a')")
            await end_all_others(neighbour)
            await tx.run("INSERT INTO things (name) VALUES ('b')")

    assert await names(db) == []


@ONLY_POSTGRES
async def test_a_connection_lost_before_the_commit_is_unavailable(db, neighbour):
    with pytest.raises(Unavailable):
        async with db.transaction() as tx:
            await tx.run("INSERT INTO things (name) VALUES ('a')")
            await end_all_others(neighbour)

    assert await names(db) == []


@ONLY_POSTGRES
async def test_after_a_lost_connection_the_next_statement_finds_another(db, neighbour):
    await end_all_others(neighbour)

    await put(db, "a")

    assert await names(db) == ["a"]


async def end_all_others(db):
    async with db.transaction() as tx:
        await tx.all("""
            SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()
        """)
    await asyncio.sleep(0.1)  # the news has to arrive


async def test_a_server_that_does_not_listen_is_unavailable(tmp_path):
    with pytest.raises(Unavailable):
        await connect(f"postgresql://nobody@/nothing?host={tmp_path}")


async def test_a_file_that_cannot_be_opened_is_unavailable(tmp_path):
    (tmp_path / "folder").mkdir()

    with pytest.raises(Unavailable):
        await connect(str(tmp_path / "folder"))


# ---- how SQLite is set up -------------------------------------------------------------------


@ONLY_SQLITE
@pytest.mark.parametrize(
    ("pragma", "value"),
    [("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1)],
)
async def test_the_writer_is_durable_and_strict(db, pragma, value):
    async with db.transaction() as tx:
        found = await tx.one(f"PRAGMA {pragma}")

    assert tuple(found) == (value,)


async def test_connect_makes_the_folder(tmp_path):
    made = await connect(str(tmp_path / "new" / "deep" / "file.sqlite"))
    await made.close()

    assert (tmp_path / "new" / "deep" / "file.sqlite").is_file()


@ONLY_SQLITE
async def test_reads_go_on_while_a_transaction_is_open(db, neighbour):
    async with neighbour.transaction() as tx:
        await tx.run("INSERT INTO things (name) VALUES ('a')")
        async with asyncio.timeout(1):
            found = await db.scan("SELECT name FROM things")

    assert found == []


# ---- slow statements ------------------------------------------------------------------------

SLOW = """
    WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 200000000)
    SELECT count(*) FROM numbers
"""


async def test_a_scan_past_its_time_is_stopped_and_leaves_the_database_usable(database):
    with pytest.raises(TooSlow):
        await database.scan(SLOW, seconds=0.1)

    assert [tuple(row) for row in await database.scan("SELECT 1", seconds=5)] == [(1,)]


async def test_waiting_for_a_turn_counts_and_slow_scans_do_not_hold_up_other_reads(database):
    slow = [asyncio.create_task(database.scan(SLOW, seconds=0.3)) for _ in range(20)]
    await asyncio.sleep(0.05)
    beside = [tuple(row) for row in await asyncio.wait_for(database.all("SELECT 1"), 5)]
    running = [not task.done() for task in slow]
    ended = await asyncio.gather(*slow, return_exceptions=True)

    assert beside == [(1,)]
    assert any(running)
    assert {type(each) for each in ended} == {TooSlow}


@pytest.mark.parametrize(
    ("old", "new"), [("postgres:", "nobody:"), ("/postgres?", "/nowhere?"), ("://", "://[")]
)
async def test_a_url_that_postgresql_refuses_is_told_in_one_sentence(postgres, old, new):
    url = postgres.server.get_uri(database="postgres")
    wrong = url.replace(old, new, 1)
    with pytest.raises(BadSettings, match="refuses the connection"):
        await connect(wrong)

    assert wrong != url
