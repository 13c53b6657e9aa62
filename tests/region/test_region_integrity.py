"""Bytes that rot: found by reading them again, told to clients and auditors, never sent."""

from __future__ import annotations

import asyncio

import pytest
from region_world import OBJECTS, fault

from soundkeep.foundation.errors import Unavailable
from soundkeep.region import integrity, ledger

SOUND = b"sound of a call" * 1000
EVER = 2**62


def file_of(world, made: dict):
    return world.folder / "kept" / made["id"][:7] / made["id"]


async def verified(world, before_ms: int = EVER) -> dict[str, tuple]:
    """Each blob that was read, whether it is sound, and the objects that failed."""
    world.clock.advance(seconds=1)
    found = {}
    async for finding in integrity.verify(world.region, before_ms=min(before_ms, world.clock())):
        found[finding.blob.key] = (finding.sound, finding.failed)
    return found


def rot(file) -> None:
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)


ROTS = {
    "a bit that flipped": rot,
    "bytes cut short": lambda file: file.write_bytes(SOUND[:-1]),
    "bytes too many": lambda file: file.write_bytes(SOUND + b"x"),
    "a file that is gone": lambda file: file.unlink(),
}


@pytest.mark.parametrize("how", ROTS)
async def test_what_rotted_is_found_and_never_sent(world, how):
    made, other = await world.uploaded(SOUND), await world.uploaded(b"other")
    ROTS[how](file_of(world, made))
    found = await verified(world)
    refused = await world.client().get(f"{OBJECTS}/{made['id']}/content")
    shown = (await world.client().get(f"{OBJECTS}/{made['id']}")).json()
    page = (await world.client().get(f"{OBJECTS}?filter=objectState==FAILED")).json()
    (record,) = await world.rows(
        "SELECT event, entity_key, user_id, details FROM audit WHERE event = 'update'"
    )

    assert found == {made["id"]: (False, (made["id"],)), other["id"]: (True, ())}
    assert fault(refused)[:2] == (409, "illegal_state")
    assert shown == {
        **made, "objectState": "FAILED", "updatedTime": shown["updatedTime"],
    }  # fmt: skip
    assert shown["updatedTime"] > made["updatedTime"]
    assert [each["id"] for each in page["content"]] == [made["id"]]
    assert record[:3] == ("update", made["id"], "")
    assert "FAILED" in record[3]
    assert await world.broken() is None
    assert (await world.client().get(f"{OBJECTS}/{other['id']}/content")).content == b"other"


async def test_all_objects_of_a_rotten_blob_fail_and_nothing_new_shares_it(world):
    made = [await world.uploaded(SOUND) for _ in range(3)]
    rot(file_of(world, made[0]))
    ((sound, failed),) = (await verified(world)).values()
    fresh = await world.uploaded(SOUND)
    again = await world.uploaded(SOUND)
    contents = [
        (await world.client().get(f"{OBJECTS}/{each['id']}/content")).content
        for each in (fresh, again)
    ]

    assert not sound
    assert sorted(failed) == sorted(each["id"] for each in made)
    assert contents == [SOUND, SOUND]
    assert len(world.files("kept")) == 2


async def test_what_rotted_may_be_sent_again_though_its_upload_was_repeatable(world):
    client = world.client()
    client.headers["idempotency-key"] = "a1"
    made = (await world.upload(SOUND, client=client)).json()
    rot(file_of(world, made))
    await verified(world)
    again = await world.upload(SOUND, client=client)
    content = await client.get(f"{again.headers['location']}/content")

    assert again.status_code == 201
    assert again.json()["id"] != made["id"]
    assert content.content == SOUND


async def test_each_blob_is_read_once_in_a_round_longest_ago_first(world):
    made = []
    for number in range(3):
        world.clock.advance(seconds=1)
        made.append(await world.uploaded(bytes([number]) * 9))
    first = list(await verified(world))
    between = world.clock()
    world.clock.advance(seconds=60)
    second = list(await verified(world, before_ms=between))
    third = list(await verified(world))

    assert first == third == [each["id"] for each in made]
    assert second == []


async def test_a_disk_that_is_not_mounted_fails_nothing(world, tmp_path):
    """All that is seen is an empty folder."""
    made = [await world.uploaded(bytes([number])) for number in range(3)]
    kept = world.folder / "kept"
    kept.rename(tmp_path / "elsewhere")
    kept.mkdir()
    with pytest.raises(Unavailable, match="mounted"):
        await verified(world)
    kept.rmdir()
    (tmp_path / "elsewhere").rename(kept)
    found = await verified(world)

    assert sorted(found) == sorted(each["id"] for each in made)
    assert {sound for sound, _ in found.values()} == {True}


async def test_a_crash_while_rot_is_marked_is_made_up_for(world, monkeypatch):
    made = await world.uploaded(SOUND)
    rot(file_of(world, made))

    async def dies(*_, **__):
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(integrity.store, "ids_of_blob", dies)
        with pytest.raises(RuntimeError):
            await verified(world)
    again = await verified(world)

    assert again == {made["id"]: (False, (made["id"],))}


async def test_a_store_that_does_not_answer_fails_nothing(local, monkeypatch):
    made = await local.uploaded(SOUND)

    async def dead(*_):
        raise Unavailable("The store does not answer.")

    with monkeypatch.context() as patch:
        patch.setattr(local.region.blobs, "read", dead)
        with pytest.raises(Unavailable):
            await verified(local)
    answer = await local.client().get(f"{OBJECTS}/{made['id']}/content")

    assert answer.content == SOUND


async def test_one_process_of_many_watches(world, monkeypatch):
    await world.uploaded(SOUND)
    world.clock.advance(seconds=31 * 24 * 3600)
    read: list[str] = []
    original = ledger.mark_verified

    async def counting(tx, key, **more):
        read.append(key)
        await original(tx, key, **more)

    monkeypatch.setattr(ledger, "mark_verified", counting)
    watchers = [asyncio.create_task(integrity.watch(world.region)) for _ in range(3)]
    async with asyncio.timeout(10):
        while not read:  # noqa: ASYNC110  no event tells of it
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    for each in watchers:
        each.cancel()
    await asyncio.gather(*watchers, return_exceptions=True)

    assert len(read) == 1
    assert await world.count("leases") == 1


async def test_zero_days_is_never(local):
    await integrity.watch(local.limited(verify_days=0))

    assert await local.count("leases") == 0
