"""What a crash can leave of an upload, and what the next start makes of it."""

from __future__ import annotations

import asyncio

import pytest
from region_world import OBJECTS, an_object, fault

from soundkeep.foundation.database import connect
from soundkeep.region import catalog, ledger, retention, store
from soundkeep.region.model import State
from soundkeep.region.plane import new_object_id

SOUND = b"sound"


async def crashed(world, *, kept: bool, row: bool, incoming: bool = True) -> str:
    """An upload that came as far as this; its id."""
    object_id = new_object_id(world.region)
    coming = world.region.blobs.incoming(object_id)
    await coming.write(SOUND)
    await coming.close()
    if not kept:
        file_of(world, object_id).unlink()
    if row:
        await catalog.load(world.region, [an_object(object_id, SOUND)])
    if not incoming:
        await world.region.blobs.settle([object_id])
    return object_id


def file_of(world, object_id: str):
    return world.folder / "kept" / object_id[:7] / object_id


async def outcome(world, object_id: str) -> str:
    answer = await world.client().get(f"{OBJECTS}/{object_id}/content")
    if answer.status_code == 200:
        assert answer.content == SOUND
        return "whole"
    assert fault(answer)[0] == 404
    assert not [name for name in world.files() if object_id in name]
    return "nothing"


CRASHES = {
    "while bytes came in": ({"kept": False, "row": False}, (0, 1), "nothing"),
    "between the link and the row": ({"kept": True, "row": False}, (0, 1), "nothing"),
    "before it was settled": ({"kept": True, "row": True}, (1, 0), "whole"),
    "after it was settled": ({"kept": True, "row": True, "incoming": False}, (0, 0), "whole"),
}


@pytest.mark.parametrize("crash", CRASHES)
async def test_a_crash_at_any_point_leaves_an_object_whole_or_not_at_all(world, crash):
    state, counts, expected = CRASHES[crash]
    object_id = await crashed(world, **state)
    first, second = await retention.sweep(world.region), await retention.sweep(world.region)

    assert (first, second) == (counts, (0, 0))
    assert await outcome(world, object_id) == expected
    assert world.files("incoming") == []


async def test_a_sweep_sorts_many_at_once(world):
    made = [await crashed(world, kept=True, row=number % 3 == 0) for number in range(9)]
    made += [await crashed(world, kept=False, row=False) for _ in range(4)]
    settled = await crashed(world, kept=True, row=True, incoming=False)
    counts = await retention.sweep(world.region)
    outcomes = [await outcome(world, object_id) for object_id in made]

    assert counts == (3, 10)
    assert outcomes == (["whole", "nothing", "nothing"] * 3) + ["nothing"] * 4
    assert await outcome(world, settled) == "whole"


async def test_a_start_waits_for_the_last_commit_of_a_killed_process(world):
    object_id = await crashed(world, kept=True, row=False)
    killed, rows = await connect(world.url), [an_object(object_id, SOUND)]
    async with killed.transaction() as tx:
        await ledger.share_blobs(tx, rows)
        await store.add_objects(tx, rows)
        start = asyncio.create_task(retention.at_start(world.region))
        await asyncio.sleep(0.3)
    counts = await start
    await killed.close()

    assert counts == (1, 0)
    assert await outcome(world, object_id) == "whole"


async def test_a_sweep_works_through_more_than_it_takes_at_once(local):
    """Eleven hundred unfinished uploads, of which some were committed."""
    ids = [new_object_id(local.region) for _ in range(1100)]
    for object_id in ids:
        (local.folder / "incoming" / object_id).touch()
    committed = ids[::100]
    await catalog.load(local.region, [an_object(object_id) for object_id in committed])

    assert await retention.sweep(local.region) == (11, 1089)
    assert local.files("incoming") == []


async def test_a_sweep_leaves_alien_files_alone(local):
    (local.folder / "incoming" / "lost+found").mkdir()
    (local.folder / "incoming" / "README").write_text("mine")

    assert await retention.sweep(local.region) == (0, 0)
    assert local.files("incoming") == ["incoming/README"]


async def test_an_empty_region_has_nothing_to_sweep(world):
    assert await retention.sweep(world.region) == (0, 0)


async def test_a_survey_finds_the_bytes_that_are_lost(world):
    made = [await world.uploaded(bytes([number] * 10)) for number in range(6)]
    files = [world.folder / "kept" / each["id"][:7] / each["id"] for each in made]
    files[1].unlink()
    files[3].write_bytes(b"short")
    files[4].write_bytes(b"far too long by now")

    assert await retention.survey(world.region) == (6, [made[each]["id"] for each in (1, 3, 4)])


async def test_a_survey_asks_only_for_bytes_that_should_be_there(world):
    for state in State:
        await world.keep(state=state)
    total, lost = await retention.survey(world.region)
    rows = await world.rows("SELECT id FROM objects WHERE state IN ('AVAILABLE', 'REVOKED')")

    assert total == 2
    assert sorted(lost) == sorted(row[0] for row in rows)


async def test_a_survey_works_through_more_than_it_takes_at_once(local):
    await local.keep_many(1203)
    total, lost = await retention.survey(local.region)

    assert (total, len(set(lost))) == (1203, 1203)
