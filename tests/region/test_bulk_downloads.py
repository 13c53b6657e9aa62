"""Bulk downloads: a list that is frozen, and the ZIP that follows from it. Contract §2, "Bulk"."""

from __future__ import annotations

import asyncio
import csv
import dataclasses
import hashlib
import io
import json
import random
import zipfile
from types import SimpleNamespace

import pytest
from link_world import visitor
from region_world import BASE, CALL, OBJECTS, fault, opened

from soundkeep.foundation.claims import Access, Reach
from soundkeep.foundation.errors import StorageFull, Unavailable
from soundkeep.region import archive as archives
from soundkeep.region import bulk, catalog, freezing, retention

BULK = f"{BASE}/bulk"
START = f"{BULK}/download/start"
STATUS = f"{BULK}/download/status"
CLEAR = f"{BULK}/download/clear"
DAY_SECONDS = 24 * 3600
UNKNOWN = "019b76da-a800-733b-babf-ad033a46a565"


async def started(client, ids=None, **params) -> dict:
    answer = await client.post(START, json=ids, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def status_of(client, job, **params) -> dict:
    answer = await client.get(f"{STATUS}/{job['zipName']}", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def path_of(job) -> str:
    return f"{BULK}/download/{job['zipName']}"


async def fetched(client, job) -> bytes:
    answer = await client.get(path_of(job))
    assert answer.status_code == 200, answer.text
    assert len(answer.content) == int(answer.headers["content-length"])
    return answer.content


def members(archive: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archive)) as read:
        assert read.testzip() is None
        return {name: read.read(name) for name in read.namelist()}


async def three(world) -> list[str]:
    """The ids of three objects with bytes, `call 0.mp3` to `call 2.mp3`."""
    ids = []
    for n in range(3):
        world.clock.advance(seconds=1)
        made = await world.uploaded(f"sound {n}".encode(), name=f"call {n}.mp3")
        ids.append(made["id"])
    return ids


THREE = {f"call {n}.mp3": f"sound {n}".encode() for n in range(3)}


# ---- the whole way --------------------------------------------------------------------------


async def test_an_archive_holds_what_was_asked_for(world):
    ids, client = await three(world), world.client(access=Access.DOWNLOAD)

    job = await started(client, ids)
    answer = await client.get(path_of(job))

    assert job == {"zipName": job["zipName"], "status": "DONE"}
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zip")
    assert members(answer.content) == THREE
    assert answer.headers["content-length"] == str(len(answer.content))
    assert answer.headers["content-disposition"].startswith(
        f'attachment; filename="{job["zipName"]}"'
    )
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["etag"].startswith('"')


async def test_its_status_tells_of_every_object(world):
    ids, client = await three(world), world.client()

    job = await started(client, ids)

    expected = {**job, "content": [f"{each} DONE" for each in ids]}
    assert await status_of(client, job) == expected
    assert (await client.get(STATUS)).json() == [expected]


@pytest.mark.parametrize("ending", ["", ".zip", ".zip.zip"])
async def test_an_archive_is_found_with_one_zip_with_two_and_with_none(world, ending):
    ids, client = await three(world), world.client()
    job = await started(client, ids)
    name = job["zipName"].removesuffix(".zip") + ending

    answers = [
        await client.get(f"{BULK}/download/{name}"),
        await client.get(f"{STATUS}/{name}"),
        await client.post(f"{BULK}/download/cancel/{name}"),
    ]

    assert [each.status_code for each in answers] == [200, 200, 200]


async def test_what_cannot_be_read_is_left_out_and_told(world):
    ids, client = await three(world), world.client()
    await world.put_in_state(ids[1], "ARCHIVED")
    foreign = await world.uploaded(b"theirs", client=world.client(customer="globex"))

    job = await started(client, [*ids, UNKNOWN, foreign["id"], "not an id at all"])

    assert job["status"] == "PARTIAL_DONE"
    assert members(await fetched(client, job)).keys() == {"call 0.mp3", "call 2.mp3"}
    told = (await status_of(client, job))["content"]
    assert sorted(told) == sorted(
        [
            f"{ids[0]} DONE",
            f"{ids[1]} ARCHIVED",
            f"{ids[2]} DONE",
            f"{UNKNOWN} NOT_FOUND",
            f"{foreign['id']} NOT_FOUND",
            "not an id at all NOT_FOUND",
        ]
    )


async def test_a_job_of_nothing_has_failed_and_says_why(world):
    client = world.client()

    job = await started(client, [UNKNOWN])
    refused = await client.get(path_of(job))

    assert job["status"] == "FAILED"
    assert (await status_of(client, job))["content"] == [f"{UNKNOWN} NOT_FOUND"]
    assert fault(refused)[:2] == (409, "illegal_state")


async def test_what_is_asked_for_twice_is_there_once(world):
    ids, client = await three(world), world.client()

    job = await started(client, [ids[0], ids[1], ids[0], ids[0]])

    assert list(members(await fetched(client, job))) == ["call 0.mp3", "call 1.mp3"]
    assert len((await status_of(client, job))["content"]) == 2


async def test_names_are_safe_and_different(world):
    metadata = {"type": "callrecording", "objectName": "../../etc/call.mp3"}
    made = [await world.uploaded(f"{n}".encode(), metadata=metadata) for n in range(3)]
    client = world.client()

    job = await started(client, [each["id"] for each in made])

    assert members(await fetched(client, job)) == {
        "etc/call.mp3": b"0",
        "etc/call (2).mp3": b"1",
        "etc/call (3).mp3": b"2",
    }


async def test_the_order_is_that_of_the_ids(world):
    ids, client = await three(world), world.client()

    job = await started(client, [ids[2], ids[0], ids[1]])

    assert list(members(await fetched(client, job))) == ["call 2.mp3", "call 0.mp3", "call 1.mp3"]


async def test_many_members_come_in_many_parts(world, monkeypatch):
    monkeypatch.setattr(freezing, "_PART_SIZE", 7)
    monkeypatch.setattr(freezing, "_PARTS_AT_ONCE", 2)
    monkeypatch.setattr(bulk, "_ASKED_AT_ONCE", 5)
    made = [await world.uploaded(b"%d" % n, name=f"{n:03}.mp3") for n in range(40)]
    ids, client = [each["id"] for each in made], world.client()
    asked = ids[:20] + [f"{UNKNOWN[:-2]}{n:02}" for n in range(20)] + ids[20:]

    job = await started(client, asked)
    archive = await fetched(client, job)

    assert members(archive) == {f"{n:03}.mp3": b"%d" % n for n in range(40)}
    told = (await status_of(client, job))["content"]
    assert {each.partition(" ")[0] for each in told} == set(asked)
    assert await world.count("bulk_parts") > 6
    for start in range(0, len(archive), 97):
        part = await client.get(path_of(job), headers={"range": f"bytes={start}-{start + 150}"})
        assert part.content == archive[start : start + 151]


# ---- ranges ---------------------------------------------------------------------------------


@pytest.fixture
async def archived(local):
    """A client, an archive's path, and its bytes: empty, small and large members."""
    sizes = [0, 1, 300_000, 28_000, 700_000, 5]
    sound = random.Random(5).randbytes
    made = [await local.uploaded(sound(size), name=f"{size}.mp3") for size in sizes]
    client = local.client()
    job = await started(client, [each["id"] for each in made])
    return client, path_of(job), await fetched(client, job)


async def test_any_range_is_a_slice_of_the_whole(archived):
    client, path, archive = archived
    places = random.Random(7)
    for _ in range(60):
        start = places.randrange(len(archive))
        end = min(start + places.choice([1, 40, 70_000, 10**7]), len(archive))
        answer = await client.get(path, headers={"range": f"bytes={start}-{end - 1}"})

        assert answer.status_code == 206
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(archive)}"
        assert answer.content == archive[start:end]


async def test_several_ranges_come_as_parts(archived):
    client, path, archive = archived

    answer = await client.get(path, headers={"range": "bytes=0-29,500000-500009,-22"})

    assert answer.status_code == 206
    assert answer.headers["content-type"].startswith("multipart/byteranges")
    for part in (archive[:30], archive[500_000:500_010], archive[-22:]):
        assert part in answer.content


async def test_head_tells_the_length_and_a_tag_that_stays(archived):
    client, path, archive = archived

    head = await client.head(path)
    again = await client.get(path, headers={"if-none-match": head.headers["etag"]})
    resumed = {"range": "bytes=9-", "if-range": head.headers["etag"]}
    changed = {"range": "bytes=9-", "if-range": '"another"'}

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(archive))
    assert again.status_code == 304
    assert (await client.get(path, headers=resumed)).content == archive[9:]
    assert (await client.get(path, headers=changed)).content == archive
    beyond = await client.get(path, headers={"range": f"bytes={len(archive)}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (
        416,
        f"bytes */{len(archive)}",
    )


async def test_bytes_that_are_not_in_memory_are_read_ahead_and_come_in_order(
    archived, local, monkeypatch
):
    client, path, archive = archived
    monkeypatch.setattr(type(local.region.blobs), "at_hand", lambda *_: None)

    assert (await client.get(path)).content == archive


# ---- frozen ---------------------------------------------------------------------------------


async def test_an_archive_stays_what_it_is_though_its_objects_are_purged(world):
    ids, client = await three(world), world.client()
    job = await started(client, ids)
    before = await fetched(client, job)

    assert await retention.purge(world.region, world.claims(), ids) == 3
    assert await retention.remove_discarded(world.region) == 0

    assert await fetched(client, job) == before
    assert (await status_of(client, job))["status"] == "DONE"


async def test_its_bytes_go_when_its_time_is_over(world):
    ids, client = await three(world), world.client()
    job = await started(client, ids)
    await retention.purge(world.region, world.claims(), ids)
    await retention.tidy(world.region)
    held = len(world.files("kept"))

    world.clock.advance(seconds=7 * DAY_SECONDS + 1)
    client = world.client()
    refused = await client.get(path_of(job))
    assert (await client.get(f"{STATUS}/{job['zipName']}")).status_code == 410
    world.clock.advance(seconds=3601)
    await retention.tidy(world.region)

    assert held == 3
    assert fault(refused)[:2] == (410, "gone")
    assert world.files("kept") == []
    assert await world.count("bulk_parts") == 0
    assert await world.count("discarded") == 0
    assert (await world.client().get(STATUS)).json() == []


async def test_cancelling_lets_go_of_what_it_held_after_a_while(world):
    ids, client = await three(world), world.client()
    job = await started(client, ids)
    await retention.purge(world.region, world.claims(), ids)
    await retention.tidy(world.region)

    cancelled = await client.post(f"{BULK}/download/cancel/{job['zipName']}")
    await retention.tidy(world.region)
    held = len(world.files("kept"))
    world.clock.advance(seconds=3601)
    await retention.tidy(world.region)

    assert cancelled.json() == {**job, "status": "CANCELLED"}
    assert (held, world.files("kept")) == (3, [])


async def test_bytes_are_held_while_a_list_is_being_frozen(world, monkeypatch):
    ids = await three(world)
    freeze = bulk.freeze

    async def purging(region, claims, job, batches, **more):
        await retention.purge(region, claims, ids[:1])
        assert await retention.remove_discarded(region) == 0
        await freeze(region, claims, job, batches, **more)

    monkeypatch.setattr(bulk, "freeze", purging)
    client = world.client()
    job = await started(client, ids)

    assert job["status"] == "PARTIAL_DONE"
    assert f"{ids[0]} DELETED" in (await status_of(client, job))["content"]
    world.clock.advance(seconds=121)
    assert await retention.remove_discarded(world.region) == 1


async def test_bytes_are_looked_for_in_every_archive_that_is_alive(world, monkeypatch):
    monkeypatch.setattr(bulk, "_LISTED_AT_ONCE", 2)
    ids, client = await three(world), world.client()
    jobs = [await started(client, ids[:2]) for _ in range(4)] + [await started(client, ids[2:])]
    await retention.purge(world.region, world.claims(), ids)

    held = await retention.remove_discarded(world.region)
    for job in jobs[:4]:
        await client.post(f"{BULK}/download/cancel/{job['zipName']}")
    world.clock.advance(seconds=3601)
    await retention.tidy(world.region)

    assert held == 0
    assert [ids[2] in each for each in world.files("kept")] == [True]
    assert members(await fetched(world.client(), jobs[4])) == {"call 2.mp3": b"sound 2"}


async def test_an_archive_that_lets_go_while_it_is_asked_puts_nothing_off(world):
    """Otherwise the bytes of what was deleted would stay until it would have expired."""
    ids, client = await three(world), world.client()
    job = await started(client, ids)
    await client.post(f"{BULK}/download/cancel/{job['zipName']}")
    await retention.purge(world.region, world.claims(), ids)
    later = dataclasses.replace(world.region, clock=lambda: world.clock() + 3_601_000)
    discard = world.region.blobs.discard

    async def let_go(keys) -> None:
        await bulk.expire(later)
        await discard(keys)

    meanwhile = SimpleNamespace(discard=let_go)
    removed = await retention.remove_discarded(dataclasses.replace(world.region, blobs=meanwhile))

    assert removed == 3
    assert world.files("kept") == []
    assert await world.rows("SELECT key FROM discarded") == []


async def test_another_process_serves_the_same_bytes(world):
    ids, client = await three(world), world.client()
    job = await started(client, ids)
    before = await fetched(client, job)

    async with opened(world.url, world.folder) as other:
        other.signer = world.signer
        other.clock.now_ms = world.clock.now_ms
        assert await fetched(other.client(), job) == before


# ---- what is lost ---------------------------------------------------------------------------


async def test_a_lost_member_cuts_the_sending_before_a_wrong_byte_and_is_told(world):
    before = await world.uploaded(b"y" * 600_000, name="before.mp3")
    large = await world.uploaded(b"x" * 600_000, name="large.mp3")
    client = world.client()
    job = await started(client, [before["id"], large["id"]])
    archive = await fetched(client, job)
    [lost] = [each for each in world.files("kept") if large["id"] in each]
    content = (world.folder / lost).read_bytes()
    (world.folder / lost).unlink()

    cut = await client.get(path_of(job))

    assert cut.headers["content-length"] == str(len(archive))
    assert 500_000 < len(cut.content) < len(archive)
    assert archive.startswith(cut.content)
    status = await status_of(client, job)
    assert status["status"] == "PARTIAL_DONE"
    assert f"{large['id']} LOST" in status["content"]
    refused = await client.get(path_of(job))
    assert fault(refused)[:2] == (409, "illegal_state")

    (world.folder / lost).write_bytes(content)
    assert await fetched(client, job) == archive
    assert (await status_of(client, job))["status"] == "DONE"


async def test_a_first_member_that_is_lost_is_told_before_anything_is_sent(world):
    made = await world.uploaded(b"x" * 600_000)
    client = world.client()
    job = await started(client, [made["id"]])
    [lost] = world.files("kept")
    (world.folder / lost).unlink()

    answers = [await client.get(path_of(job)), await client.get(path_of(job))]

    assert [each.status_code for each in answers] == [503, 409]
    assert await status_of(client, job) == {
        "zipName": job["zipName"],
        "status": "FAILED",
        "content": [f"{made['id']} LOST"],
    }


async def test_a_member_that_grew_is_lost_too(world):
    made = await world.uploaded(b"x" * 600_000)
    client = world.client()
    job = await started(client, [made["id"]])
    await world.region.blobs.rest()
    [file] = world.files("kept")
    with (world.folder / file).open("ab") as grown:
        grown.write(b"more")

    assert (await client.get(path_of(job))).status_code == 503
    assert (await status_of(client, job))["content"] == [f"{made['id']} LOST"]


async def test_a_store_that_does_not_answer_loses_nothing(world, monkeypatch):
    large = await world.uploaded(b"x" * 600_000)
    client = world.client()
    job = await started(client, [large["id"]])

    async def read(*_):
        raise Unavailable("The store of recordings does not answer.")

    monkeypatch.setattr(type(world.region.blobs), "read", read)
    answer = await client.get(path_of(job))

    assert answer.status_code == 503
    assert (await status_of(client, job))["status"] == "DONE"


# ---- cancelling and clearing ----------------------------------------------------------------


async def test_what_is_cancelled_is_gone_and_stays_cancelled(world):
    ids, client = await three(world), world.client()
    job = await started(client, ids)
    cancel = f"{BULK}/download/cancel/{job['zipName']}"

    answers = [await client.post(cancel), await client.post(cancel)]
    refused = await client.get(path_of(job))

    assert [each.json()["status"] for each in answers] == ["CANCELLED"] * 2
    assert (await status_of(client, job))["status"] == "CANCELLED"
    assert fault(refused)[:2] == (410, "gone")
    [(cancelled,)] = await world.rows("SELECT count(*) FROM audit WHERE event = 'delete'")
    assert cancelled == 1


async def test_clearing_empties_the_list_of_this_key_alone(world):
    ids = await three(world)
    client, other = world.client(), world.client(client="sk_other")
    jobs = [await started(client, ids) for _ in range(3)]
    await client.post(f"{BULK}/download/cancel/{jobs[0]['zipName']}")
    theirs = await started(other, ids)

    cleared = await client.put(CLEAR)

    assert (cleared.status_code, cleared.json()) == (200, {"cleared": 3})
    assert (await client.put(CLEAR)).json() == {"cleared": 0}
    assert (await client.get(STATUS)).json() == []
    assert [each["zipName"] for each in (await other.get(STATUS)).json()] == [theirs["zipName"]]
    assert (await client.get(path_of(jobs[1]))).status_code == 410


async def test_clearing_does_not_cut_what_is_being_sent(world):
    large = await world.uploaded(b"x" * 600_000)
    client = world.client()
    job = await started(client, [large["id"]])
    whole = await fetched(client, job)
    found = await bulk.ready(world.region, world.claims(), job["zipName"])
    pieces = await archives.body_of(world.region, found).read(0, len(whole))
    body = await anext(pieces)
    await client.put(CLEAR)
    await retention.tidy(world.region)
    body += b"".join([piece async for piece in pieces])

    assert body == whole


# ---- who may --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", START),
        ("GET", STATUS),
        ("GET", f"{STATUS}/{UNKNOWN}.zip"),
        ("GET", f"{BULK}/download/{UNKNOWN}.zip"),
        ("POST", f"{BULK}/download/cancel/{UNKNOWN}.zip"),
        ("PUT", CLEAR),
    ],
)
async def test_a_key_that_only_reads_may_not(local, method, path):
    answer = await local.client(access=Access.READ).request(method, path, json=[UNKNOWN])

    assert fault(answer)[:2] == (403, "insufficient_scope")


async def test_another_customers_archive_looks_like_none(world):
    ids, client = await three(world), world.client()
    job = await started(client, ids)
    stranger = world.client(customer="globex")

    for path in (path_of(job), f"{STATUS}/{job['zipName']}"):
        theirs = await stranger.get(path)
        none = await stranger.get(path.replace(job["zipName"], f"{UNKNOWN}.zip"))
        assert theirs.status_code == none.status_code == 404
        assert theirs.json()["detail"] == none.json()["detail"]
    assert (await stranger.post(f"{BULK}/download/cancel/{job['zipName']}")).status_code == 404
    assert (await stranger.get(STATUS)).json() == []


async def test_another_key_reads_it_only_if_it_reaches_every_member(world):
    for site in ("london", "york"):
        tags = [{"key": "branchId", "value": site}]
        await world.uploaded(site.encode(), metadata={"type": "callrecording", "tags": tags})
    both = Reach(sites=frozenset({"london", "york"}))
    one = Reach(sites=frozenset({"london"}))
    job = await started(world.client(), filter="type==callrecording")

    reached = {
        name: (await world.client(client=name, reach=reach).get(path_of(job))).status_code
        for name, reach in (("sk_both", both), ("sk_one", one), ("sk_test", one))
    }

    assert reached == {"sk_both": 200, "sk_one": 404, "sk_test": 404}
    cancel = f"{BULK}/download/cancel/{job['zipName']}"
    refused = await world.client(client="sk_both", reach=both).post(cancel)
    assert fault(refused)[:2] == (403, "insufficient_scope")
    assert (await world.client(reach=one).get(STATUS)).json() == []


async def test_an_archive_of_very_many_owners_is_judged_by_their_sites(world, monkeypatch):
    monkeypatch.setattr(freezing, "_MOST_OWNERS", 3)
    tags = [{"key": "branchId", "value": "london"}]
    for number in range(5):
        metadata = {"type": "callrecording", "tags": tags, "userId": f"user-{number}"}
        await world.uploaded(b"%d" % number, metadata=metadata)
    london = Reach(sites=frozenset({"london"}))
    some = Reach(users=frozenset({f"user-{number}" for number in range(5)}))

    job = await started(world.client(reach=london), filter="type==callrecording")
    for number in range(5):
        await world.uploaded(b"%d!" % number, metadata=CALL | {"userId": f"user-{number}"})
    everyone = await started(world.client(), filter="type==callrecording")

    async def seen(job, reach):
        return (await world.client(reach=reach).get(path_of(job))).status_code

    assert [await seen(job, reach) for reach in (london, some)] == [200, 404]
    assert [await seen(everyone, reach) for reach in (Reach(company=True), london, some)] == [
        200,
        404,
        404,
    ]


async def test_a_job_of_nothing_is_for_its_own_key_alone(world):
    job = await started(world.client(), [UNKNOWN])

    other = await world.client(client="sk_other").get(f"{STATUS}/{job['zipName']}")

    assert other.status_code == 404


async def test_a_key_gets_what_lies_in_its_scope_and_no_more(world):
    tags = [{"key": "branchId", "value": "london"}]
    inside = await world.uploaded(b"in", metadata={"type": "callrecording", "tags": tags})
    outside = await world.uploaded(b"out")
    client = world.client(reach=Reach(sites=frozenset({"london"})))

    by_id = await started(client, [inside["id"], outside["id"]])
    by_filter = await started(client, filter="type==callrecording")

    assert (await status_of(client, by_id))["content"] == [
        f"{inside['id']} DONE",
        f"{outside['id']} NOT_FOUND",
    ]
    assert (await status_of(client, by_filter))["content"] == [f"{inside['id']} DONE"]


# ---- a filter in place of ids ---------------------------------------------------------------


async def test_a_filter_takes_all_that_it_finds(world, monkeypatch):
    monkeypatch.setattr(catalog, "_WALK_SIZE", 2)
    ids, client = await three(world), world.client()
    await world.uploaded(b"no", metadata={"type": "meeting"})

    job = await started(client, filter="type==callrecording")

    assert members(await fetched(client, job)) == THREE
    assert (await status_of(client, job))["content"] == [f"{each} DONE" for each in ids]


async def test_a_key_has_few_searches_for_archives_at_a_time(world, monkeypatch):
    """Each of them takes a search after the other, which others have to wait for."""
    ids, may_end = await three(world), asyncio.Event()
    freeze = bulk.freeze

    async def slow(*args, **more):
        await may_end.wait()
        await freeze(*args, **more)

    monkeypatch.setattr(bulk, "freeze", slow)
    monkeypatch.setattr(bulk, "_PATIENCE_SECONDS", 0.01)
    client, other, params = world.client(), world.client(client="sk_other"), {"filter": "type!=x"}
    made = [await started(client, **params) for _ in range(4)]
    refused = await client.post(START, params=params)
    by_ids, anothers = await started(client, ids), await started(other, **params)
    may_end.set()
    await world.idle()
    again = await client.post(START, params=params)

    assert {each["status"] for each in (*made, by_ids, anothers)} == {"NOT_STARTED"}
    assert fault(refused) == (429, "too_many_requests", None)
    assert refused.headers["retry-after"] == "2"
    assert again.status_code == 200
    for job in made:
        assert (await status_of(client, job))["status"] == "DONE"


async def test_a_download_that_was_cancelled_asks_for_no_more(world, monkeypatch):
    monkeypatch.setattr(bulk, "_PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr(bulk, "_ASKED_AT_ONCE", 1)
    ids, client, asked, go_on = await three(world), world.client(), [], asyncio.Event()
    take = freezing._Freezing.take

    async def noted(self, part) -> None:
        await take(self, part)
        asked.append(part)
        await go_on.wait()

    monkeypatch.setattr(freezing._Freezing, "take", noted)
    job = await started(client, ids)
    await client.post(f"{BULK}/download/cancel/{job['zipName']}")
    go_on.set()
    await world.idle()

    assert asked == [[ids[0]]]


async def test_archives_that_ended_meanwhile_do_not_keep_a_sweep_busy(world, monkeypatch):
    """One that is over but not yet let go of: what it holds is looked at again later."""
    ids, client = await three(world), world.client()
    await started(client, ids)
    await retention.purge(world.region, world.claims(), ids)
    world.clock.advance(seconds=7 * DAY_SECONDS + 3600)
    async with asyncio.timeout(5):
        removed = await retention.remove_discarded(world.region)
    world.clock.advance(seconds=1)
    await retention.tidy(world.region)

    assert removed == 0
    assert world.files("kept") == []


async def test_a_filter_that_finds_nothing_makes_a_job_of_nothing(world):
    job = await started(world.client(), filter="type==meeting")

    assert job["status"] == "FAILED"


@pytest.mark.parametrize(
    ("params", "body", "field"),
    [
        ({"filter": "type=~x"}, b"", "filter"),
        ({"filter": "type==x"}, b'["id"]', "filter"),
        ({"manifest": "yes"}, b'["id"]', "manifest"),
    ],
)
async def test_a_filter_that_cannot_be_read_is_refused(local, params, body, field):
    answer = await local.client().post(START, params=params, content=body)

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["field"] == field
    assert await local.count("bulk_jobs") == 0


# ---- the manifest ---------------------------------------------------------------------------


async def test_a_manifest_tells_what_is_in_the_archive(world):
    tags = [{"key": "direction", "value": "INBOUND"}]
    metadata = {"type": "callrecording", "objectName": "a,b.mp3", "tags": tags}
    first = await world.uploaded(b"one", metadata=metadata)
    second = await world.uploaded(b"two", metadata={"type": "callrecording", "objectName": "=1+1"})
    named = {"type": "callrecording", "objectName": "SHA256SUMS"}
    third = await world.uploaded(b"three", metadata=named)
    client = world.client()

    job = await started(client, [each["id"] for each in (first, second, third)], manifest="true")
    found = members(await fetched(client, job))

    assert list(found) == [
        "a,b.mp3",
        "=1+1",
        "SHA256SUMS (2)",
        "manifest.jsonl",
        "manifest.csv",
        "SHA256SUMS",
    ]
    lines = [json.loads(each) for each in found["manifest.jsonl"].splitlines()]
    assert [each["object"] for each in lines] == [first, second, third]
    assert [each["file"] for each in lines] == ["a,b.mp3", "=1+1", "SHA256SUMS (2)"]
    rows = list(csv.DictReader(io.StringIO(found["manifest.csv"].decode())))
    assert [each["id"] for each in rows] == [each["id"] for each in (first, second, third)]
    assert [each["file"] for each in rows] == ["a,b.mp3", "'=1+1", "SHA256SUMS (2)"]
    assert json.loads(rows[0]["tags"]) == {"direction": "INBOUND"}
    sums = dict(reversed(line.split("  ", 1)) for line in found["SHA256SUMS"].decode().splitlines())
    assert sums == {
        name: hashlib.sha256(content).hexdigest()
        for name, content in found.items()
        if name != "SHA256SUMS"
    }
    assert len((await status_of(client, job))["content"]) == 3


async def test_a_manifest_stays_with_its_archive_and_goes_with_it(world):
    ids, client = await three(world), world.client()
    job = await started(client, ids, manifest="true")
    before, kept = await fetched(client, job), len(world.files("kept"))

    await retention.sweep(world.region)
    await retention.tidy(world.region)
    after = await fetched(client, job)
    world.clock.advance(seconds=7 * DAY_SECONDS + 3601)
    await retention.tidy(world.region)

    assert (kept, after) == (6, before)
    assert world.files("incoming") == []
    assert len(world.files("kept")) == 3


async def test_a_manifest_of_nothing_leaves_nothing(world):
    job = await started(world.client(), [UNKNOWN], manifest="true")

    assert job["status"] == "FAILED"
    assert world.files() == []


# ---- links ----------------------------------------------------------------------------------


async def test_a_link_gives_the_archive_without_a_token(world):
    ids, client = await three(world), world.client()
    job = await started(client, ids)

    linked = await status_of(client, job, presignUrl="true", expiresIn="60")
    by_path = (await client.get(path_of(job), params={"presignUrl": "true"})).json()
    answer = await visitor(world).get(linked["url"])
    part = await visitor(world).get(by_path["url"], headers={"range": "bytes=0-3"})

    assert members(answer.content) == THREE
    assert linked["expiresIn"] == 60
    assert (part.status_code, part.content) == (206, b"PK\3\4")
    listed = (await client.get(f"{BASE}/presigned")).json()["content"]
    assert [each["zipName"] for each in listed] == [job["zipName"]] * 2
    assert [each["uses"] for each in listed] == [1, 1]


async def test_a_link_to_an_archive_opens_nothing_else(world):
    ids, client = await three(world), world.client()
    jobs = [await started(client, ids) for _ in range(2)]
    url = (await status_of(client, jobs[0], presignUrl="true"))["url"]
    query = url.partition("?")[2]

    others = [path_of(jobs[1]), f"{OBJECTS}/{ids[0]}/content", f"{BULK}/download/nonsense"]
    answers = [await visitor(world).get(f"{path}?{query}") for path in others]

    assert [each.status_code for each in answers] == [403] * 3


async def test_a_link_ends_with_its_archive(world):
    ids, client = await three(world), world.client()
    job = await started(client, ids)
    url = (await status_of(client, job, presignUrl="true"))["url"]

    await client.post(f"{BULK}/download/cancel/{job['zipName']}")

    assert (await visitor(world).get(url)).status_code == 410
    assert "url" not in await status_of(client, job, presignUrl="true")


async def test_an_empty_presign_url_asks_for_no_link(local):
    ids, client = await three(local), local.client()
    job = await started(client, ids)

    assert "url" not in await status_of(client, job, presignUrl="")
    assert members((await client.get(path_of(job), params={"presignUrl": ""})).content) == THREE


async def test_an_archive_has_no_direct_link(local):
    ids, client = await three(local), local.client()
    job = await started(client, ids)

    answer = await client.get(path_of(job), params={"presignUrl": "true", "direct": "true"})

    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "direct")


# ---- slow lists -----------------------------------------------------------------------------


async def test_a_list_that_takes_long_is_frozen_while_the_client_is_answered(world, monkeypatch):
    ids, client, go_on = await three(world), world.client(), asyncio.Event()
    freeze = bulk.freeze

    async def slowly(*given, **more):
        await go_on.wait()
        await freeze(*given, **more)

    monkeypatch.setattr(bulk, "freeze", slowly)
    monkeypatch.setattr(bulk, "_PATIENCE_SECONDS", 0.01)
    job = await started(client, ids)
    under_way = await status_of(client, job)
    cleared = await client.put(CLEAR)
    other = await world.client(client="sk_other").get(f"{STATUS}/{job['zipName']}")
    fetching = asyncio.create_task(client.get(path_of(job)))
    await asyncio.sleep(0.1)
    go_on.set()

    assert job["status"] == under_way["status"] == "NOT_STARTED"
    assert under_way["content"] == []
    assert cleared.json() == {"cleared": 0}
    assert other.status_code == 404
    assert members((await fetching).content) == THREE
    assert (await status_of(client, job))["status"] == "DONE"


async def test_a_job_that_nobody_goes_on_with_has_failed(world, monkeypatch):
    ids, client = await three(world), world.client()

    async def never(*_, **__):
        return

    monkeypatch.setattr(bulk, "freeze", never)
    job = await started(client, ids)
    world.clock.advance(seconds=121)

    assert (await status_of(client, job))["status"] == "FAILED"
    assert (await client.get(path_of(job))).status_code == 409
    assert (await client.put(CLEAR)).json() == {"cleared": 1}


async def test_a_disk_that_is_full_fails_a_manifest_and_leaves_nothing(world, monkeypatch):
    ids, client = await three(world), world.client()
    before = world.files()

    def full(*_, **__):
        raise StorageFull("There is no room.")

    monkeypatch.setattr(type(world.region.blobs), "incoming", full)
    answer = await client.post(START, json=ids, params={"manifest": "true"})

    assert answer.status_code == 507
    assert [each["status"] for each in (await client.get(STATUS)).json()] == ["FAILED"]
    assert world.files() == before


async def test_a_manifest_whose_commit_fails_leaves_nothing(world, monkeypatch):
    ids, client = await three(world), world.client()
    before = world.files()

    async def refused(*_, **__):
        raise Unavailable("The database does not answer.")

    monkeypatch.setattr(freezing.audit, "append", refused)
    answer = await client.post(START, json=ids, params={"manifest": "true"})

    assert answer.status_code == 503
    assert world.files() == before
    assert await world.count("bulk_parts") == 0


async def test_a_list_that_was_given_up_is_not_finished_later(world, monkeypatch):
    """Its bytes were not held any more."""
    ids, client = await three(world), world.client()
    freeze = bulk.freeze

    async def late(*given, **more):
        world.clock.advance(seconds=121)
        await freeze(*given, **more)

    monkeypatch.setattr(bulk, "freeze", late)
    answer = await client.post(START, json=ids)
    [job] = (await client.get(STATUS)).json()

    assert (answer.status_code, job["status"]) == (410, "FAILED")
    assert await world.count("bulk_parts") == 0


async def test_a_job_that_is_cancelled_while_it_is_frozen_stays_cancelled(world, monkeypatch):
    ids, client = await three(world), world.client()
    freeze = bulk.freeze

    async def cancelled(region, claims, job, batches, **more):
        await bulk.cancel(region, claims, job.zip_name)
        await freeze(region, claims, job, batches, **more)

    monkeypatch.setattr(bulk, "freeze", cancelled)
    answer = await client.post(START, json=ids, params={"manifest": "true"})
    [job] = (await client.get(STATUS)).json()

    assert (answer.status_code, job["status"]) == (410, "CANCELLED")
    assert len(world.files("kept")) == 3
    assert await world.count("bulk_parts") == 0


# ---- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"ids": ["a"]}',
        b"null",
        b"[1]",
        b'["a", null]',
        b'[["a"]]',
        b'"a"',
        b"[",
        b"\xff\xfe",
        b'["\\u0000"]',
        b'[""]',
        b'["' + b"a" * 65 + b'"]',
    ],
)
async def test_a_list_that_is_none_is_refused(local, body):
    answer = await local.client().post(START, content=body)

    assert fault(answer)[:2] == (400, "bad_input")
    assert len(answer.content) < 2000
    assert await local.count("bulk_jobs") == 0


async def test_more_ids_than_the_limit_are_refused(local):
    client = local.client(local.limited(bulk_ids=3))
    one = UNKNOWN

    within = await client.post(START, json=[one] * 3)
    beyond = await client.post(START, json=[one] * 4)

    assert within.status_code == 200
    assert fault(beyond)[:2] == (400, "bad_input")
    assert "3 ids at most" in beyond.json()["detail"]


async def test_a_body_of_fifty_megabytes_is_refused_before_it_is_read_whole(local):
    sent = 0

    async def endless():
        nonlocal sent
        for _ in range(800):
            sent += 65_536
            yield b" " * 65_536

    answer = await local.client().post(START, content=endless())

    assert fault(answer)[:2] == (413, "too_large")
    assert sent < 10_000_000


@pytest.mark.parametrize("name", ["x", "..zip", f"{UNKNOWN}.zip.zip.zip", UNKNOWN.upper(), "%00"])
async def test_a_name_that_is_none_is_not_found(local, name):
    client = local.client()

    for path in (f"{BULK}/download/{name}", f"{STATUS}/{name}"):
        assert (await client.get(path)).status_code == 404


# ---- the record -----------------------------------------------------------------------------


async def test_the_audit_tells_who_took_how_much(world):
    ids, client = await three(world), world.client()
    job = await started(client, [*ids, UNKNOWN])

    [row] = await world.rows(
        "SELECT event, entity_type, display_name, user_id, details FROM audit "
        "WHERE entity_type = 'bulk'"
    )

    assert tuple(row[:4]) == ("export", "bulk", job["zipName"], "olga")
    told = json.loads(row[4])["new"]
    assert (told["objects"], told["missing"], told["client"]) == (3, 1, "sk_test")
    assert told["storedBytes"] == len(await fetched(client, job))
    assert await world.broken() is None
