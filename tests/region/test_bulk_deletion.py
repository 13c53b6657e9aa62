"""Deleting many objects, and taking it back. Contract §2, "Bulk"."""

from __future__ import annotations

import asyncio
import json
import random

import pytest
from region_world import BASE, OBJECTS, fault

from soundkeep.foundation.claims import Access, Reach
from soundkeep.region import retention

BULK = f"{BASE}/bulk"
UNDELETE = f"{BULK}/undelete"
UNKNOWN = "019b76da-a800-733b-babf-ad033a46a565"
DAY_SECONDS = 24 * 3600
COPY = {"type": "callrecording", "tags": [{"key": "sourceId", "value": "call-7"}]}


async def deleted(client, ids=None, **params) -> dict:
    answer = await client.request("DELETE", BULK, json=ids, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def undeleted(client, ids) -> dict:
    answer = await client.post(UNDELETE, json=ids)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def some(world, count: int) -> list[str]:
    ids = []
    for n in range(count):
        world.clock.advance(seconds=1)  # so that they sort by age
        ids.append((await world.uploaded(b"%d" % n))["id"])
    return ids


async def state_of(world, object_id: str) -> str:
    answer = await world.client().get(f"{OBJECTS}/{object_id}")
    state = await state_of_row(world, object_id)
    assert answer.json()["objectState"] == state
    return state


async def state_of_row(world, object_id: str) -> str:
    [(state,)] = await world.rows("SELECT state FROM objects WHERE id = :id", id=object_id)
    return state


# ---- deleting -------------------------------------------------------------------------------


async def test_what_is_deleted_is_told_and_cannot_be_read_any_more(world):
    ids, client = await some(world, 3), world.client()

    outcome = await deleted(client, [*ids[:2], UNKNOWN])

    assert outcome == {"deleted": ids[:2], "notFound": [UNKNOWN], "held": []}
    assert [await state_of(world, each) for each in ids] == ["REVOKED", "REVOKED", "AVAILABLE"]
    contents = [await client.get(f"{OBJECTS}/{each}/content") for each in ids]
    assert [each.status_code for each in contents] == [410, 410, 200]
    listed = (await client.get(OBJECTS)).json()
    assert [each["id"] for each in listed["content"]] == ids[2:]
    revoked = (await client.get(OBJECTS, params={"filter": "objectState==REVOKED"})).json()
    assert sorted(each["id"] for each in revoked["content"]) == ids[:2]
    assert len(world.files("kept")) == 3


async def test_what_is_deleted_already_is_not_found(world):
    ids, client = await some(world, 1), world.client()

    first, second = await deleted(client, ids), await deleted(client, ids)

    assert first["deleted"] == second["notFound"] == ids
    [(records,)] = await world.rows("SELECT count(*) FROM audit WHERE event = 'delete'")
    assert records == 1


@pytest.mark.parametrize(
    ("state", "moves"),
    [
        ("AVAILABLE", True),
        ("ARCHIVED", True),
        ("FAILED", True),
        ("PENDING", False),
        ("REVOKED", False),
        ("DELETED", False),
    ],
)
async def test_every_state_has_its_answer(world, state, moves):
    [object_id] = await some(world, 1)
    await world.put_in_state(object_id, state)

    outcome = await deleted(world.client(), [object_id])

    assert (outcome["deleted"] == [object_id]) is moves
    assert (outcome["notFound"] == [object_id]) is not moves


async def test_each_is_on_record_with_what_it_was(world):
    ids = await some(world, 2)

    await deleted(world.client(), ids)

    rows = await world.rows(
        "SELECT entity_key, user_id, details FROM audit WHERE event = 'delete' ORDER BY seq"
    )
    assert sorted(row[0] for row in rows) == sorted(ids)
    for _, user, details in rows:
        told = json.loads(details)
        assert user == "olga"
        assert (told["old"]["objectState"], told["new"]["objectState"]) == ("AVAILABLE", "REVOKED")
        assert told["new"]["client"] == "sk_test"
    assert await world.broken() is None


async def test_more_than_a_thousand_go_in_several_transactions(world):
    stored = await world.keep_many(1203)
    ids = [each.id for each in stored]

    outcome = await deleted(world.client(), ids)

    assert outcome["deleted"] == ids
    [(left,)] = await world.rows("SELECT count(*) FROM objects WHERE state = 'AVAILABLE'")
    assert left == 0
    assert await world.count("revocations") == 1203
    assert await world.broken() is None


async def test_others_objects_are_not_found_and_stay(world):
    foreign = await world.uploaded(b"theirs", client=world.client(customer="globex"))
    tags = [{"key": "branchId", "value": "york"}]
    outside = await world.uploaded(b"out", metadata={"type": "callrecording", "tags": tags})
    client = world.client(reach=Reach(sites=frozenset({"london"})))

    ids = [foreign["id"], outside["id"], UNKNOWN]
    by_id = await deleted(client, ids)
    by_filter = await deleted(client, filter="type==callrecording")

    assert by_id == {"deleted": [], "notFound": ids, "held": []}
    assert by_filter == {"deleted": [], "notFound": [], "held": []}
    [(left,)] = await world.rows("SELECT count(*) FROM objects WHERE state = 'AVAILABLE'")
    assert left == 2


@pytest.mark.parametrize("access", [Access.READ, Access.DOWNLOAD])
@pytest.mark.parametrize(("method", "path"), [("DELETE", BULK), ("POST", UNDELETE)])
async def test_only_keys_that_edit_may(local, access, method, path):
    answer = await local.client(access=access).request(method, path, json=[UNKNOWN])

    assert fault(answer)[:2] == (403, "insufficient_scope")


@pytest.mark.parametrize("body", [b"", b"[]", b"[1]", b"{}", b"not json", b'["a\\nb"]'])
@pytest.mark.parametrize(("method", "path"), [("DELETE", BULK), ("POST", UNDELETE)])
async def test_a_list_that_is_none_is_refused(local, method, path, body):
    answer = await local.client().request(method, path, content=body)

    assert fault(answer)[:2] == (400, "bad_input")


async def test_the_same_upload_after_a_deletion_makes_a_new_object(world):
    client = world.client()
    first = await world.uploaded(b"sound", metadata=COPY)
    assert (await world.upload(b"sound", metadata=COPY)).json()["id"] == first["id"]

    await deleted(client, [first["id"]])
    second = await world.uploaded(b"sound", metadata=COPY)

    assert second["id"] != first["id"]
    assert (await client.get(f"{OBJECTS}/{second['id']}/content")).content == b"sound"


# ---- by a filter ----------------------------------------------------------------------------


async def test_a_filter_deletes_all_that_it_finds(world):
    ids, client = await some(world, 2), world.client()
    other = await world.uploaded(b"meeting", metadata={"type": "meeting"})

    outcome = await deleted(client, filter="type==callrecording")

    assert sorted(outcome["deleted"]) == sorted(ids)
    assert await state_of(world, other["id"]) == "AVAILABLE"


async def test_a_dry_run_tells_and_changes_nothing(world):
    ids, client = await some(world, 2), world.client()

    by_id = await deleted(client, [*ids, UNKNOWN], dryRun="true")
    by_filter = await deleted(client, filter="type==callrecording", dryRun="true")

    assert by_id == {"dryRun": True, "deleted": ids, "notFound": [UNKNOWN], "held": []}
    assert sorted(by_filter["deleted"]) == sorted(ids)
    assert [await state_of(world, each) for each in ids] == ["AVAILABLE"] * 2
    [(records,)] = await world.rows("SELECT count(*) FROM audit WHERE event = 'delete'")
    assert records == 0


@pytest.mark.parametrize("text", ["", " ", "type=~x"])
async def test_an_empty_or_wrong_filter_deletes_nothing(local, text):
    await some(local, 1)

    answer = await local.client().request("DELETE", BULK, params={"filter": text})

    assert (fault(answer)[0], fault(answer)[2]) == (400, "filter")
    [(left,)] = await local.rows("SELECT count(*) FROM objects WHERE state = 'AVAILABLE'")
    assert left == 1


async def test_a_filter_that_finds_too_much_deletes_nothing(local):
    await some(local, 3)
    client = local.client(local.limited(bulk_ids=2))

    answer = await client.request("DELETE", BULK, params={"filter": "type==callrecording"})

    assert fault(answer)[:2] == (400, "bad_input")
    [(left,)] = await local.rows("SELECT count(*) FROM objects WHERE state = 'AVAILABLE'")
    assert left == 3


# ---- taking it back -------------------------------------------------------------------------


async def test_a_deletion_can_be_taken_back(world):
    ids, client = await some(world, 3), world.client()
    await world.put_in_state(ids[1], "ARCHIVED")
    await deleted(client, ids)

    outcome = await undeleted(client, [ids[0], ids[1], UNKNOWN])

    assert outcome == {"restored": ids[:2], "notFound": [UNKNOWN]}
    assert [await state_of(world, each) for each in ids] == ["AVAILABLE", "ARCHIVED", "REVOKED"]
    assert (await client.get(f"{OBJECTS}/{ids[0]}/content")).content == b"0"
    assert (await undeleted(client, ids[:2]))["notFound"] == ids[:2]
    assert (await deleted(client, ids))["deleted"] == ids[:2]
    assert await world.broken() is None


async def test_it_cannot_when_the_window_is_over_and_then_the_bytes_go(world):
    ids = await some(world, 2)
    await deleted(world.client(), ids[:1])

    world.clock.advance(seconds=7 * DAY_SECONDS)
    late = await undeleted(world.client(), ids[:1])
    await retention.tidy(world.region)

    assert late["notFound"] == ids[:1]
    assert [await state_of(world, each) for each in ids] == ["DELETED", "AVAILABLE"]
    assert len(world.files("kept")) == 1
    assert await world.count("revocations") == 0
    [(objects, size)] = await world.rows("SELECT objects, bytes FROM usage")
    assert (objects, size) == (1, 1)
    [details] = await world.rows(
        "SELECT details FROM audit WHERE entity_key = :id AND user_id = ''", id=ids[0]
    )
    assert json.loads(details[0])["new"]["objectState"] == "DELETED"


async def test_a_deletion_that_fits_no_object_holds_up_no_sweep(world):
    [object_id] = await some(world, 1)
    await deleted(world.client(), [object_id])
    await world.put_in_state(object_id, "AVAILABLE")

    world.clock.advance(seconds=8 * DAY_SECONDS)

    assert await retention.purge_revoked(world.region) == 0
    assert await state_of_row(world, object_id) == "AVAILABLE"


async def test_the_bytes_stay_until_then(world):
    ids = await some(world, 1)
    await deleted(world.client(), ids)

    world.clock.advance(seconds=7 * DAY_SECONDS - 1)
    await retention.tidy(world.region)

    assert await state_of(world, ids[0]) == "REVOKED"
    assert (await undeleted(world.client(), ids))["restored"] == ids


async def test_what_was_taken_back_is_not_purged(world):
    ids, client = await some(world, 1), world.client()
    await deleted(client, ids)
    await undeleted(client, ids)

    world.clock.advance(seconds=8 * DAY_SECONDS)
    await retention.tidy(world.region)

    assert await state_of(world, ids[0]) == "AVAILABLE"


async def test_without_a_window_the_next_sweep_purges(world):
    ids = await some(world, 1)
    region = world.limited(undelete_days=0)

    await deleted(world.client(region), ids)
    late = await undeleted(world.client(region), ids)
    await retention.tidy(region)

    assert late["notFound"] == ids
    assert await state_of(world, ids[0]) == "DELETED"
    assert world.files("kept") == []


async def test_others_deletions_cannot_be_taken_back(world):
    ids = await some(world, 1)
    await deleted(world.client(), ids)

    for client in (
        world.client(customer="globex"),
        world.client(reach=Reach(sites=frozenset({"london"}))),
    ):
        assert await undeleted(client, ids) == {"restored": [], "notFound": ids}
    assert await state_of(world, ids[0]) == "REVOKED"


# ---- what it takes --------------------------------------------------------------------------


async def test_a_few_of_many_are_found_by_their_ids(local):
    """SQLite, left to itself, reads all of the customer's rows to find five."""
    stored = await local.keep_many(5000)
    ids, client = [each.id for each in stored[::500]], local.client()
    steps = 0

    def count() -> bool:
        nonlocal steps
        steps += 1
        return False

    for connection in (local.region.db._writer, local.region.db._reader):
        connection.set_progress_handler(count, 100)
    await deleted(client, ids, dryRun="true")
    await deleted(client, ids)
    await undeleted(client, ids)
    await deleted(client, ids)
    local.clock.advance(seconds=8 * DAY_SECONDS)
    await retention.tidy(local.region)

    assert await state_of(local, ids[0]) == "DELETED"
    assert steps < 1000


# ---- at once --------------------------------------------------------------------------------


async def test_many_at_once_delete_and_take_back_the_same_objects(world):
    stored = await world.keep_many(400)
    ids, client, chance = [each.id for each in stored], world.client(), random.Random(3)

    async def one(number: int) -> list[str]:
        mine = chance.sample(ids, 300)
        if number % 3 == 2:
            return (await undeleted(client, mine))["restored"]
        if number % 3 == 1:
            await world.upload(b"%d" % number, client=client)
        return (await deleted(client, mine))["deleted"]

    await asyncio.gather(*(one(number) for number in range(12)))

    states = dict(await world.rows("SELECT id, state FROM objects WHERE name LIKE 'call %'"))
    revoked = {each for each, state in states.items() if state == "REVOKED"}
    rows = await world.rows("SELECT object_id FROM revocations")
    assert revoked == {row[0] for row in rows}
    moves = await world.rows(
        "SELECT entity_key, event FROM audit WHERE event IN ('delete', 'update') ORDER BY seq"
    )
    last = dict(moves)
    assert {each for each, event in last.items() if event == "delete"} == revoked
    assert await world.broken() is None
