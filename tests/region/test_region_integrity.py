"""Bytes that rot: found by reading them again, told to clients and auditors, never sent."""

from __future__ import annotations

import asyncio
import hashlib
import json

import pytest
from region_world import BASE, OBJECTS, START_MS, an_object, fault, opened

from soundkeep.foundation import metrics
from soundkeep.foundation import migrate as migrations
from soundkeep.foundation.database import connect
from soundkeep.foundation.errors import Unavailable
from soundkeep.region import integrity, ledger, retention
from soundkeep.region.integrity import Finding
from soundkeep.region.model import Digests, State
from soundkeep.region.plane import PACKAGES

SOUND = b"sound of a call" * 1000
EVER = 2**62
DAY_SECONDS = 24 * 3600


def file_of(world, made: dict):
    return world.folder / "kept" / made["id"][:7] / made["id"]


async def findings(world, before_ms: int = EVER, rotten_before_ms: int = 0) -> list[Finding]:
    """What comes of one round."""
    world.clock.advance(seconds=1)
    found = integrity.verify(
        world.region,
        before_ms=min(before_ms, world.clock()),
        rotten_before_ms=rotten_before_ms,
    )
    return [each async for each in found]


async def verified(world, before_ms: int = EVER) -> dict[str, tuple]:
    """Each blob that was read, whether it is sound, and the objects that failed."""
    return {each.blob.key: (each.sound, each.failed) for each in await findings(world, before_ms)}


async def returned(world) -> dict[str, tuple]:
    """Each blob that was read, whether it is sound, and the objects that returned."""
    return {each.blob.key: (each.sound, each.returned) for each in await findings(world)}


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


# ---- what returns ---------------------------------------------------------------------------


async def lost(world, made: dict) -> None:
    """Lose the file behind an object, and find that out; something newer is there still."""
    world.clock.advance(seconds=1)
    await world.uploaded(b"other")
    file_of(world, made).unlink()
    await verified(world)


def put_back(world, made: dict) -> None:
    file_of(world, made).write_bytes(SOUND)


async def shown(world, made: dict) -> dict:
    return (await world.client().get(f"{OBJECTS}/{made['id']}")).json()


async def state_of(world, made: dict) -> str:
    return (await shown(world, made))["objectState"]


async def content_of(world, made: dict) -> bytes:
    return (await world.client().get(f"{OBJECTS}/{made['id']}/content")).content


async def deleted(world, made: dict) -> None:
    answer = await world.client().request("DELETE", f"{BASE}/bulk", json=[made["id"]])
    assert answer.json()["deleted"] == [made["id"]]


async def undeleted(world, made: dict) -> None:
    answer = await world.client().post(f"{BASE}/bulk/undelete", json=[made["id"]])
    assert answer.json()["restored"] == [made["id"]]


def counted(name: str) -> float:
    """A counter of the region, over all tests of the process."""
    lines = metrics.exposition().decode().splitlines()
    values = [each.split()[-1] for each in lines if each.startswith(f'{name}{{region="us-east"}}')]
    return sum(map(float, values))


@pytest.mark.parametrize("how", ROTS)
async def test_an_object_returns_with_its_bytes(world, how, logged):
    made, other = await world.uploaded(SOUND), await world.uploaded(b"other")
    ROTS[how](file_of(world, made))
    await verified(world)
    failed = await shown(world, made)
    before = counted("soundkeep_returned_blobs_total")
    put_back(world, made)
    first, second = await returned(world), await returned(world)
    back = await shown(world, made)
    page = (await world.client().get(OBJECTS)).json()
    records = await world.rows(
        "SELECT entity_key, user_id, details FROM audit WHERE event = 'update' ORDER BY seq"
    )

    assert first == {made["id"]: (True, (made["id"],)), other["id"]: (True, ())}
    assert second == {made["id"]: (True, ()), other["id"]: (True, ())}
    assert back == {**made, "updatedTime": back["updatedTime"]}
    assert back["updatedTime"] > failed["updatedTime"] > made["updatedTime"]
    assert await content_of(world, made) == SOUND
    assert {each["id"] for each in page["content"]} == {made["id"], other["id"]}
    assert [row[:2] for row in records] == [(made["id"], ""), (made["id"], "")]
    assert json.loads(records[1][2]) == {
        "old": {"objectState": "FAILED"},
        "new": {"objectState": "AVAILABLE", "reason": "its bytes are back"},
    }
    assert await world.broken() is None
    assert counted("soundkeep_returned_blobs_total") == before + 1
    assert [each["objects"] for each in logged if each["event"] == "returned"] == [1]


async def test_what_is_lost_is_news_once_and_read_once_in_a_round(world, logged):
    made = await world.uploaded(SOUND)
    before = counted("soundkeep_rotten_blobs_total")
    await lost(world, made)
    rounds = [[each for each in await findings(world) if not each.sound] for _ in range(3)]

    for found in rounds:
        assert [(each.blob.key, each.blob.rotten, each.failed) for each in found] == [
            (made["id"], True, ())
        ]
    assert counted("soundkeep_rotten_blobs_total") == before + 1
    assert [each["blob"] for each in logged if each["event"] == "rotten"] == [made["id"]]
    assert await world.rows("SELECT count(*) FROM audit WHERE event = 'update'") == [(1,)]


async def test_what_was_lost_before_stays_lost_though_nothing_else_is_there(world):
    """Of what is missing already, an empty folder is no news."""
    made = await world.uploaded(SOUND)
    await lost(world, made)
    for name in world.files("kept"):
        (world.folder / name).unlink()
    with pytest.raises(Unavailable, match="mounted"):
        await verified(world)

    read = await world.rows("SELECT key FROM blobs WHERE verified_ms = :at_ms", at_ms=world.clock())

    assert read == [(made["id"],)]
    assert await state_of(world, made) == "FAILED"


async def test_what_rots_again_fails_and_returns_again(world):
    made = await world.uploaded(SOUND)
    for _ in range(2):
        await lost(world, made)
        between = await state_of(world, made)
        put_back(world, made)
        found = await returned(world)

        assert between == "FAILED"
        assert found[made["id"]] == (True, (made["id"],))


async def test_all_objects_of_a_blob_return_however_many(world):
    made = [await world.uploaded(SOUND) for _ in range(3)]
    many = [an_object(f"{number:08d}", blob=made[0]["id"]) for number in range(250)]
    async with world.region.db.transaction() as tx:
        await integrity.store.add_objects(tx, many)
    await lost(world, made[0])
    [(failed,)] = await world.rows("SELECT count(*) FROM objects WHERE state = 'FAILED'")
    put_back(world, made[0])
    _, ids = (await returned(world))[made[0]["id"]]

    assert failed == 253
    assert sorted(ids) == sorted([*(each["id"] for each in made), *(each.id for each in many)])
    assert await world.rows("SELECT count(*) FROM objects WHERE state <> 'AVAILABLE'") == [(0,)]
    assert await world.count("failures") == 0
    assert await world.broken() is None


# ---- what shares it then --------------------------------------------------------------------


async def test_bytes_that_are_back_may_be_shared_again(world):
    made = await world.uploaded(SOUND)
    await lost(world, made)
    put_back(world, made)
    await verified(world)
    fresh = await world.uploaded(SOUND)
    row = await world.rows("SELECT blob FROM objects WHERE id = :id", id=fresh["id"])

    assert row == [(made["id"],)]
    assert await content_of(world, fresh) == SOUND
    assert len(world.files("kept")) == 2


async def test_bytes_that_came_anew_meanwhile_stay_the_shared_ones(world):
    made = await world.uploaded(SOUND)
    await lost(world, made)
    anew = await world.uploaded(SOUND)
    put_back(world, made)
    found = await returned(world)
    later = await world.uploaded(SOUND)
    rows = await world.rows("SELECT id, blob FROM objects WHERE size > 5")
    held = await world.rows("SELECT key, refs FROM blobs WHERE size > 5")
    contents = [await content_of(world, each) for each in (made, anew, later)]

    assert found[made["id"]] == (True, (made["id"],))
    assert dict(rows) == {made["id"]: made["id"], anew["id"]: anew["id"], later["id"]: anew["id"]}
    assert dict(held) == {made["id"]: 1, anew["id"]: 2}
    assert contents == [SOUND] * 3


async def test_each_of_two_goes_with_its_own_objects(world):
    made = await world.uploaded(SOUND)
    await lost(world, made)
    anew = await world.uploaded(SOUND)
    put_back(world, made)
    await verified(world)
    await retention.purge(world.region, world.claims(), [anew["id"]])
    await retention.remove_discarded(world.region)
    still = await content_of(world, made)
    await retention.purge(world.region, world.claims(), [made["id"]])
    await retention.remove_discarded(world.region)

    assert still == SOUND
    assert len(world.files("kept")) == 1
    assert await world.broken() is None


async def test_uploads_while_bytes_return_are_kept(world):
    """Whichever comes first is the shared one, and there is one."""
    for _ in range(5):
        made = await world.uploaded(SOUND)
        await lost(world, made)
        put_back(world, made)
        answers = await asyncio.gather(
            *(world.upload(SOUND) for _ in range(3)), verified(world), world.upload(SOUND)
        )
        uploads = [*answers[:3], answers[4]]

        assert {each.status_code for each in uploads} == {201}
        assert await state_of(world, made) == "AVAILABLE"
        everything = [made, *(each.json() for each in uploads)]
        assert {await content_of(world, each) for each in everything} == {SOUND}
        shared = await world.rows("SELECT count(*) FROM blobs WHERE edition = '' AND size > 5")
        assert shared == [(1,)]
        await retention.purge(world.region, world.claims(), [each["id"] for each in everything])
        await retention.remove_discarded(world.region)


# ---- what does not return -------------------------------------------------------------------


async def test_what_failed_for_another_reason_stays_failed(world):
    made, broken = await world.uploaded(SOUND), await world.uploaded(SOUND)
    alone = await world.uploaded(b"alone")
    for each in (broken, alone):
        await world.put_in_state(each["id"], "FAILED")
    await lost(world, made)
    put_back(world, made)
    found = await returned(world)
    rows = await world.rows("SELECT id FROM objects WHERE state = 'FAILED'")

    assert found[made["id"]] == (True, (made["id"],))
    assert found[alone["id"]] == (True, ())
    assert sorted(rows) == sorted([(broken["id"],), (alone["id"],)])


async def test_what_was_purged_stays_deleted_and_nothing_waits_for_its_bytes(world):
    made, other = await world.uploaded(SOUND), await world.uploaded(SOUND)
    await lost(world, made)
    await retention.purge(world.region, world.claims(), [made["id"]])
    put_back(world, made)
    found = await returned(world)

    assert found[made["id"]] == (True, (other["id"],))
    assert await world.rows("SELECT id FROM objects WHERE state = 'DELETED'") == [(made["id"],)]
    assert await world.count("failures") == 0


async def test_what_was_deleted_stays_so_when_its_bytes_return(world):
    made = await world.uploaded(SOUND)
    await lost(world, made)
    await deleted(world, made)
    put_back(world, made)
    found = await returned(world)
    between = await state_of(world, made)
    await undeleted(world, made)

    assert found[made["id"]] == (True, ())
    assert between == "REVOKED"
    assert await state_of(world, made) == "AVAILABLE"
    assert await content_of(world, made) == SOUND


# ---- what is deleted, and taken back --------------------------------------------------------


async def test_what_rotted_while_it_was_deleted_comes_back_failed(world):
    made, archived = await world.uploaded(SOUND), await world.uploaded(SOUND)
    await world.put_in_state(archived["id"], "ARCHIVED")
    for each in (made, archived):
        await deleted(world, each)
    await lost(world, made)
    between = await state_of(world, made)
    for each in (made, archived):
        await undeleted(world, each)
    taken_back = await state_of(world, made)
    put_back(world, made)
    found = await returned(world)

    assert (between, taken_back) == ("REVOKED", "FAILED")
    assert found[made["id"]] == (True, (made["id"],))
    assert await content_of(world, made) == SOUND
    assert await state_of(world, archived) == "ARCHIVED"


async def test_what_rotted_and_returned_while_it_was_deleted_comes_back_as_it_was(world):
    made = await world.uploaded(SOUND)
    await deleted(world, made)
    await lost(world, made)
    put_back(world, made)
    await verified(world)
    await undeleted(world, made)

    assert await state_of(world, made) == "AVAILABLE"
    assert await content_of(world, made) == SOUND
    assert await world.count("failures") == 0


async def test_what_failed_is_deleted_and_taken_back_as_it_was(world):
    made = await world.uploaded(SOUND)
    await lost(world, made)
    await deleted(world, made)
    between = await state_of(world, made)
    await undeleted(world, made)
    taken_back = await state_of(world, made)
    put_back(world, made)
    found = await returned(world)

    assert (between, taken_back) == ("REVOKED", "FAILED")
    assert found[made["id"]] == (True, (made["id"],))


async def test_deletions_while_rot_is_marked_come_back_failed(world):
    """Whichever comes first, nothing without bytes is AVAILABLE in the end."""
    for _ in range(5):
        made = [await world.uploaded(SOUND) for _ in range(4)]
        for each in made[:2]:
            await deleted(world, each)
        await world.uploaded(b"other")
        file_of(world, made[0]).unlink()
        await asyncio.gather(
            *(undeleted(world, each) for each in made[:2]),
            verified(world),
            *(deleted(world, each) for each in made[2:]),
        )
        for each in made[2:]:
            await undeleted(world, each)

        assert {await state_of(world, each) for each in made} == {"FAILED"}


# ---- when it is looked for ------------------------------------------------------------------


async def test_what_rotted_is_looked_at_sooner_than_the_rest(world):
    made = await world.uploaded(SOUND)
    await lost(world, made)
    at_ms = world.clock()
    too_soon = await findings(world, before_ms=0, rotten_before_ms=at_ms)
    put_back(world, made)
    found = await findings(world, before_ms=0, rotten_before_ms=at_ms + 1)

    assert too_soon == []
    assert [(each.blob.key, each.returned) for each in found] == [(made["id"], (made["id"],))]


async def test_the_watch_looks_for_lost_bytes_a_day_later(world):
    made = await world.uploaded(SOUND)
    await lost(world, made)
    put_back(world, made)
    world.clock.advance(seconds=DAY_SECONDS + 1)
    watcher = asyncio.create_task(integrity.watch(world.region))
    async with asyncio.timeout(10):
        while await world.count("failures"):  # noqa: ASYNC110  no event tells of it
            await asyncio.sleep(0.01)
    watcher.cancel()
    await asyncio.gather(watcher, return_exceptions=True)
    read = await world.rows(
        "SELECT key FROM blobs WHERE verified_ms = :now_ms", now_ms=world.clock()
    )

    assert await state_of(world, made) == "AVAILABLE"
    assert read == [(made["id"],)]


async def test_what_failed_in_an_earlier_version_returns_too(database_url, tmp_path, monkeypatch):
    """And what was deleted, before that or after."""
    every = migrations.written
    monkeypatch.setattr(
        migrations, "written",
        lambda package, engine: [
            each for each in every(package, engine)
            if (each.package, each.number) < ("region", 7)
        ],
    )  # fmt: skip
    db = await connect(database_url)
    await migrations.migrate(db, PACKAGES, clock=lambda: START_MS)
    digests = Digests(len(SOUND), "", hashlib.sha256(SOUND).hexdigest(), 0)
    states = (State.FAILED, State.REVOKED, State.REVOKED)
    old = [
        an_object(f"0000000{number}", state=state, digests=digests, blob="00000000")
        for number, state in enumerate(states)
    ]
    async with db.transaction() as tx:
        await ledger.hold_blobs(tx, old)
        await ledger.retire_blob(tx, "00000000", customer="acme")
        await integrity.store.add_objects(tx, old)
        for each, state in zip(old[1:], ("FAILED", "AVAILABLE"), strict=True):
            await tx.run(
                "INSERT INTO revocations VALUES (:id, 'acme', :state, :until_ms)",
                {"id": each.id, "state": state, "until_ms": EVER},
            )
    await db.close()
    monkeypatch.undo()
    async with opened(database_url, tmp_path) as world:
        ids = [{"id": each.id} for each in old]
        await undeleted(world, ids[2])
        before = [await state_of(world, each) for each in ids]
        file = file_of(world, ids[0])
        file.parent.mkdir(parents=True)
        file.write_bytes(SOUND)
        found = await returned(world)
        await undeleted(world, ids[1])
        contents = [await content_of(world, each) for each in ids]

    assert before == ["FAILED", "REVOKED", "FAILED"]
    assert found == {"00000000": (True, ("00000000", "00000002"))}
    assert contents == [SOUND] * 3
