"""Walks over pages: their places, their totals, and how a search is explained."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from pathlib import Path

import pytest
from region_world import BASE, BASE_URL, OBJECTS, START_MS, VAULT, an_object, fault, names, opened

from soundkeep.foundation import migrate as migrations
from soundkeep.foundation.claims import Access
from soundkeep.foundation.database import connect
from soundkeep.foundation.errors import StorageFull
from soundkeep.region import catalog, pages, walks
from soundkeep.region.catalog import Search
from soundkeep.region.plane import PACKAGES, Limits, open_region
from soundkeep.region.wire import document


async def step(client, page_key, **params):
    """A page's names, and its JSON."""
    answer = await client.get(OBJECTS, params={"limit": 2, "pageKey": page_key, **params})
    return names(answer), answer.json()


def write(path, content):
    Path(path).write_bytes(content)


async def remove(world, name):
    await world.run("DELETE FROM objects WHERE name = :name", name=name)


# ---- places


async def test_what_is_added_before_the_place_of_a_walk_does_not_repeat_anything(world):
    await world.keep_many(5)
    client = world.client()
    first, _ = await step(client, 0)
    await world.keep(name="newer")

    assert first == ["call 4", "call 3"]
    assert (await step(client, 2))[0] == ["call 2", "call 1"]
    assert (await step(client, 4))[0] == ["call 0"]
    assert (await step(client, 0))[0] == ["newer", "call 4"]


async def test_what_is_deleted_before_the_place_of_a_walk_does_not_skip_anything(world):
    await world.keep_many(6)
    client = world.client()
    await step(client, 0)
    await remove(world, "call 5")
    await remove(world, "call 4")  # where the page ended
    second, page = await step(client, 2)

    assert second == ["call 3", "call 2"]
    assert (page["total"], page["lastPage"]) == (6, False)
    assert (await step(client, 4))[0] == ["call 1", "call 0"]


async def test_asking_again_for_a_page_gives_it_again(world):
    await world.keep_many(5)
    client = world.client()
    await step(client, 0)
    await world.keep(name="newer")
    once, again = await step(client, 2), await step(client, 2)

    assert once == again
    assert (await step(client, 4))[0] == ["call 0"]


async def test_a_walk_goes_on_in_another_process(world):
    await world.keep_many(5)
    other = await open_region(
        "us-east", database=world.url, blobs=world.folder, clock=world.clock,
        entropy=world.region.entropy, limits=Limits(min_free_bytes=0),
        vault=VAULT, base_url=BASE_URL,
    )  # fmt: skip
    try:
        await step(world.client(), 0)
        await world.keep(name="newer")
        assert (await step(world.client(other), 2))[0] == ["call 2", "call 1"]
        await remove(world, "call 1")
        assert (await step(world.client(), 4))[0] == ["call 0"]
    finally:
        await other.close()


@pytest.mark.parametrize("size", [0, 100, 5000, 50_000])
async def test_a_file_of_places_that_a_power_cut_broke_is_made_anew(sqlite, tmp_path, size):
    url = sqlite.lend(*PACKAGES)
    write(f"{url}-walks", b"SQLite format 3\0" + secrets.token_bytes(size))
    async with opened(url, tmp_path) as world:
        await world.keep_many(5)
        await step(world.client(), 0)
        assert (await step(world.client(), 2))[0] == ["call 2", "call 1"]
    sqlite.take_back(url)


async def test_two_clients_of_a_key_follow_their_own_tokens(world):
    await world.keep_many(5)
    early, late = world.client(token_id="early"), world.client(token_id="late")
    await step(early, 0)
    await world.keep(name="newer")
    await step(late, 0)

    assert (await step(early, 2))[0] == ["call 2", "call 1"]
    assert (await step(late, 2))[0] == ["call 3", "call 2"]


async def test_a_walk_goes_on_with_a_new_token_of_the_same_key(world):
    await world.keep_many(5)
    await step(world.client(token_id="old"), 0)
    await world.keep(name="newer")

    assert (await step(world.client(token_id="new"), 2))[0] == ["call 2", "call 1"]


@pytest.mark.parametrize(
    "other", [{"client": "sk_other"}, {"customer": "umbra"}], ids=["key", "customer"]
)
async def test_walks_of_others_are_none_of_our_business(world, other):
    await world.keep_many(5)
    await step(world.client(), 0)
    await world.keep(name="newer")

    found, _ = await step(world.client(**other), 2)
    assert found == ([] if "customer" in other else ["call 3", "call 2"])


async def test_another_filter_or_order_is_another_walk(world):
    await world.keep_many(5)
    client = world.client()
    await step(client, 0)
    await world.keep(name="newer")

    assert (await step(client, 2, filter="type==callrecording"))[0] == ["call 3", "call 2"]
    assert (await step(client, 2, sortDirection="ASC"))[0] == ["call 2", "call 3"]


async def test_a_place_is_kept_for_an_hour(world):
    await world.keep_many(5)
    await step(world.client(), 0)
    await world.keep(name="newer")
    world.clock.advance(seconds=3590)
    within, _ = await step(world.client(), 2)
    world.clock.advance(seconds=3601)
    past, _ = await step(world.client(), 2)

    assert within == ["call 2", "call 1"]
    assert past == ["call 3", "call 2"]


async def test_places_that_are_too_old_are_swept(world):
    await world.keep_many(5)
    await step(world.client(), 0)
    world.clock.advance(seconds=3700)
    await step(world.client(client="sk_other"), 0)

    assert len(await world.region.walks.db.all("SELECT walk FROM walks")) == 1


async def test_a_page_that_is_asked_for_again_writes_nothing(world):
    await world.keep_many(5)
    client = world.client()
    await step(client, 0)
    before = await world.region.walks.db.moment()
    for _ in range(3):
        await step(client, 0)

    assert await world.region.walks.db.moment() == before


async def test_buckets_are_walked_like_objects(world):
    for number in range(5):
        await world.keep(bucket_id=f"bucket-{number}")
    client = world.client()
    params = {"limit": 2, "sortField": "createdTime"}
    await client.get(f"{BASE}/buckets", params=params)
    await world.keep(bucket_id="newer")
    second = (await client.get(f"{BASE}/buckets", params={**params, "pageKey": 2})).json()

    assert [each["bucketId"] for each in second["content"]] == ["bucket-2", "bucket-1"]


# ---- totals


async def test_the_total_is_that_of_the_start_of_the_walk_and_at_its_end_what_it_gave(world):
    await world.keep_many(6)
    client = world.client()
    totals = []
    for offset in (0, 2, 4):
        totals.append((await step(client, offset))[1]["total"])
        await world.keep(name=f"newer {offset}")
        await remove(world, "call 0")

    assert totals == [6, 6, 5]


async def test_a_new_walk_counts_what_was_just_written(world):
    client, totals = world.client(), []
    for _ in range(3):
        await world.keep_many(3)
        totals += [(await step(client, 0))[1]["total"] for _ in range(2)]

    assert totals == [3, 3, 6, 6, 9, 9]


async def test_a_total_that_takes_too_long_to_count_is_a_lower_bound_and_says_so(world):
    await world.keep_many(7)
    hurried = world.limited(count_seconds=0.0)
    client = world.client(hurried)
    told = []
    for offset in (0, 2, 4, 6):
        page = (await step(client, offset))[1]
        told.append((page["total"], page.get("totalIsExact", True), page["lastPage"]))

    assert told == [(3, False, False), (5, False, False), (7, False, False), (7, True, True)]


async def test_a_total_that_was_cut_short_is_counted_anew_a_little_later(world, monkeypatch):
    await world.keep_many(7)
    monkeypatch.setattr(walks, "_RECOUNT_SECONDS", 0)
    client, hurried = world.client(), world.client(world.limited(count_seconds=0.0))
    cut = (await step(hurried, 0))[1]
    await asyncio.sleep(0.01)
    again = (await step(client, 0))[1]

    assert [(page["total"], page.get("totalIsExact", True)) for page in (cut, again)] == [
        (3, False),
        (7, True),
    ]


async def test_a_count_that_failed_is_not_remembered(world, monkeypatch):
    await world.keep_many(5)
    client = world.client()

    async def broken(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(pages, "count", broken)
    failed = await client.get(OBJECTS, params={"limit": 2})
    monkeypatch.undo()

    assert failed.status_code == 500
    assert (await step(client, 0))[1]["total"] == 5


async def test_a_full_disk_costs_a_walk_its_place_and_no_page(world, monkeypatch):
    await world.keep_many(5)

    async def full(*_):
        raise StorageFull("The database's disk is full: free some space.")

    monkeypatch.setattr(walks.Walks, "_write", full)
    client = world.client()

    assert [(await step(client, offset))[0] for offset in (0, 2, 4)] == [
        ["call 4", "call 3"],
        ["call 2", "call 1"],
        ["call 0"],
    ]


async def test_an_exact_total_goes_without_saying(world):
    await world.keep_many(3)

    assert "totalIsExact" not in (await step(world.client(), 0))[1]


# ---- explain


async def test_an_edit_key_may_have_its_search_explained(world):
    await world.keep_many(5)
    await world.keep(name="one", tags={"queue": "Claims"})
    _, page = await step(world.client(), 0, filter="queue==Claims", explain="true")
    told = page["explanation"]

    assert list(told) == ["plan", "meaning", "estimatedRows", "rows", "milliseconds", "steps"]
    assert told["rows"] == 1
    assert told["steps"]
    if world.region.db.engine == "sqlite":
        assert (told["plan"], told["estimatedRows"]) == ("terms", 1)
        assert any("tagindex" in line for line in told["steps"])


@pytest.mark.parametrize("access", [Access.READ, Access.DOWNLOAD])
@pytest.mark.parametrize("path", [OBJECTS, f"{BASE}/buckets"])
async def test_other_keys_may_not(local, access, path):
    answer = await local.client(access=access).get(path, params={"explain": "true"})

    assert fault(answer)[:2] == (403, "insufficient_scope")


@pytest.mark.parametrize("value", ["", "1", "yes", "tru"])
async def test_explain_is_true_or_false(local, value):
    answer = await local.client().get(OBJECTS, params={"explain": value})

    assert fault(answer) == (400, "bad_input", "explain")


async def test_without_asking_nothing_is_explained(local):
    assert "explanation" not in (await step(local.client(), 0))[1]
    assert "explanation" not in (await step(local.client(), 0, explain="false"))[1]


# ---- installations that are older than the index


async def test_what_was_kept_before_the_tag_index_is_found_after_it(
    database_url, tmp_path, monkeypatch
):
    old = [
        an_object(f"{number:08d}", tags={"queue": "Claims", "duration": str(number)})
        for number in (2, 0, 1)
    ]
    every = migrations.written
    monkeypatch.setattr(
        migrations, "written",
        lambda package, engine: [m for m in every(package, engine) if m.number == 1],
    )  # fmt: skip
    db = await connect(database_url)
    await migrations.migrate(db, PACKAGES, clock=lambda: START_MS)
    async with db.transaction() as tx:
        for each in old:
            await tx.run(
                "INSERT INTO buckets VALUES (:customer, :id, 'olga', 'b', 0, 0, '{}')",
                {"customer": each.customer, "id": each.id},
            )
            await tx.run(
                """
                INSERT INTO objects (customer, id, type, mime_type, name, checksum, user_id, site,
                    size, created_ms, updated_ms, state, bucket_id, shared, tags, blob, sha256,
                    crc32, doc)
                VALUES ('acme', :id, 'callrecording', 'a/b', 'n', '', 'olga', '', 0, 1767225600000,
                    1767225600000, 'AVAILABLE', :id, 0, :tags, 'b', '', 0, :doc)
                """,
                {
                    "id": each.id,
                    "tags": f'{{"queue": "Claims", "duration": "{int(each.id)}"}}',
                    "doc": document(each),
                },
            )
    monkeypatch.undo()
    await migrations.migrate(db, PACKAGES, clock=lambda: START_MS)
    await db.close()
    region = await open_region(
        "us-east", database=database_url, blobs=tmp_path, clock=lambda: START_MS,
        entropy=bytes, limits=Limits(min_free_bytes=0), vault=VAULT, base_url=BASE_URL,
    )  # fmt: skip
    try:
        await catalog.load(region, [an_object("00000003", tags={"queue": "Claims"})])
        search = Search(filter="queue==Claims", limit=3)
        assert await ids(region, search) == ["00000003", "00000002", "00000001"]
        assert await ids(region, replace(search, offset=3)) == ["00000000"]
    finally:
        await region.close()


async def ids(region, search):
    from region_world import HeldClock, Signer, World

    claims = World("", None, region, HeldClock(), Signer()).claims()
    return [each[7:15] for each in (await catalog.search(region, claims, search)).documents]


def test_every_numeric_column_has_its_index():
    from soundkeep.region.selection import NUMERIC_TAGS

    assert set(pages.NUMBER_INDEXES) == set(NUMERIC_TAGS.values())
