"""Bytes that objects share, uploads that are repeated, declared digests, and quotas."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from dataclasses import replace

import msgspec
import pytest
from region_world import (
    CALL,
    CONTENT,
    FORM,
    METADATA,
    NOTHING,
    OBJECTS,
    START_MS,
    an_object,
    fault,
    multipart,
    opened,
)

from soundkeep.foundation import migrate as migrations
from soundkeep.foundation.claims import Reach, internal
from soundkeep.foundation.database import connect
from soundkeep.region import ledger, retention, store
from soundkeep.region.model import Digests, Quota, Quotas, State
from soundkeep.region.plane import PACKAGES

SOUND = b"sound"
DIGESTS = Digests(5, hashlib.md5(SOUND).hexdigest(), hashlib.sha256(SOUND).hexdigest(), 0)
PURGER = internal("acme", by="test", owner="olga", regions=("us-east",))


def by(**changes):
    return {**CALL, **changes}


async def blobs(world) -> list[tuple]:
    return await world.rows("SELECT customer, size, refs FROM blobs ORDER BY customer, size, refs")


async def used(world, customer: str = "acme") -> tuple[int, int]:
    found = await ledger.usage(world.region.db, customer=customer)
    return found.objects, found.bytes


# ---- shared bytes


async def test_the_same_bytes_of_one_customer_are_kept_once(world):
    made = [await world.uploaded(SOUND, name=f"{number}.mp3") for number in range(3)]
    made.append(await world.uploaded(b"other"))
    read = [(await world.client().get(f"{OBJECTS}/{each['id']}/content")).content for each in made]

    assert read == [SOUND, SOUND, SOUND, b"other"]
    assert len(world.files("kept")) == 2
    assert await blobs(world) == [("acme", 5, 1), ("acme", 5, 3)]
    assert await used(world) == (4, 20)
    assert world.files("incoming") == []


async def test_two_customers_never_share_bytes(world):
    await world.uploaded(SOUND)
    await world.uploaded(SOUND, client=world.client(customer="globex"))

    assert len(world.files("kept")) == 2
    assert await blobs(world) == [("acme", 5, 1), ("globex", 5, 1)]


async def test_uploads_of_the_same_bytes_at_once_share_them(world):
    async with opened(world.url, world.folder) as other:
        other.signer.key = world.signer.key
        clients = [world.client(), other.bearing(f"Bearer {world.token()}")]
        answers = await asyncio.gather(
            *(world.upload(SOUND, client=clients[number % 2]) for number in range(20))
        )
        await other.idle()

    assert {each.status_code for each in answers} == {201}
    assert len(world.files("kept")) == 1
    assert await blobs(world) == [("acme", 5, 20)]
    assert world.files("incoming") == []


@pytest.mark.parametrize("how", ["gone", "short"])
async def test_bytes_that_are_lost_are_shared_by_nobody(world, how):
    """What was just received would be thrown away for what cannot be read."""
    made = await world.uploaded(SOUND)
    file = world.folder / "kept" / made["id"][:7] / made["id"]
    file.unlink()
    if how == "short":
        file.write_bytes(SOUND[:-1])
    again = [await world.uploaded(SOUND) for _ in range(2)]
    client = world.client()
    contents = [await client.get(f"{OBJECTS}/{each['id']}/content") for each in (made, *again)]

    assert [each.status_code for each in contents] == [503, 200, 200]
    assert [each.content for each in contents[1:]] == [SOUND, SOUND]
    assert await blobs(world) == [("acme", 5, 1), ("acme", 5, 2)]


async def test_bytes_are_freed_when_the_last_object_goes(world):
    made = [await world.uploaded(SOUND) for _ in range(3)]
    first = await retention.purge(world.region, PURGER, [each["id"] for each in made[:2]])
    await retention.remove_discarded(world.region)
    still = await world.client().get(f"{OBJECTS}/{made[2]['id']}/content")
    gone = await world.client().get(f"{OBJECTS}/{made[0]['id']}/content")
    last = await retention.purge(world.region, PURGER, [each["id"] for each in made])
    removed = await retention.remove_discarded(world.region)

    assert (first, last, removed) == (2, 1, 1)
    assert still.content == SOUND
    assert fault(gone)[:2] == (410, "gone")
    assert world.files() == []
    assert await world.count("discarded") == 0
    assert await used(world) == (0, 0)
    assert await world.broken() is None


async def test_bytes_that_come_again_while_the_old_are_freed_are_not_lost(world):
    for _ in range(10):
        old = await world.uploaded(SOUND)
        new, _, _ = await asyncio.gather(
            world.upload(SOUND),
            retention.purge(world.region, PURGER, [old["id"]]),
            retention.remove_discarded(world.region),
        )
        await retention.remove_discarded(world.region)
        made = new.json()
        content = await world.client().get(f"{OBJECTS}/{made['id']}/content")
        assert content.content == SOUND
        assert len(world.files("kept")) == 1
        await retention.purge(world.region, PURGER, [made["id"]])
        await retention.remove_discarded(world.region)
        assert world.files() == []


async def test_a_purge_reaches_no_further_than_its_customer_and_scope(world):
    made = await world.uploaded(SOUND)
    strange = internal("globex", by="test", owner="olga", regions=("us-east",))
    narrow = msgspec.structs.replace(PURGER, reach=Reach(sites=frozenset({"elsewhere"})))
    found = [
        await retention.purge(world.region, claims, [made["id"], "unknown-id"])
        for claims in (strange, narrow)
    ]

    assert found == [0, 0]
    assert (await world.client().get(f"{OBJECTS}/{made['id']}/content")).content == SOUND


async def test_what_was_kept_before_is_counted_and_shared(database_url, tmp_path, monkeypatch):
    """Two objects of the same bytes in files of their own, as the version before kept them."""
    every = migrations.written
    monkeypatch.setattr(
        migrations, "written",
        lambda package, engine: [
            each for each in every(package, engine)
            if (each.package, each.number) < ("region", 3)
        ],
    )  # fmt: skip
    db = await connect(database_url)
    await migrations.migrate(db, PACKAGES, clock=lambda: START_MS)
    old = [
        an_object(f"{number:08d}", state=state, digests=DIGESTS)
        for number, state in enumerate((State.AVAILABLE, State.REVOKED, State.DELETED))
    ]
    async with db.transaction() as tx:
        await store.add_objects(tx, old)
    await db.close()
    monkeypatch.undo()
    old_file = tmp_path / "kept/00" / old[0].blob
    old_file.parent.mkdir(parents=True)
    old_file.write_bytes(SOUND)
    async with opened(database_url, tmp_path) as world:
        before = await blobs(world), await used(world)
        made = await world.uploaded(SOUND)
        after = await blobs(world), await used(world)
        row = await world.rows("SELECT blob FROM objects WHERE id = :id", id=made["id"])

    assert before == ([("acme", 5, 1), ("acme", 5, 1)], (2, 10))
    assert after == ([("acme", 5, 1), ("acme", 5, 2)], (3, 15))
    assert row == [("00000000",)]


# ---- repeated uploads


async def again(world, key: str, content: bytes = SOUND, metadata=None, **more):
    client = more.pop("client", None) or world.client(**more)
    client.headers["idempotency-key"] = key
    return await world.upload(content, metadata, client=client)


async def test_an_upload_sent_again_gives_the_first_object(world):
    first = await again(world, "a1")
    world.clock.advance(seconds=3600)
    second, quoted = await again(world, "a1"), await again(world, '"a1"')

    assert (first.status_code, second.status_code, quoted.status_code) == (201, 200, 200)
    assert first.content == second.content == quoted.content
    assert first.headers["location"] == second.headers["location"]
    assert await world.everything() == {"files": 1, "objects": 1, "buckets": 1, "audit": 1}
    assert await used(world) == (1, 5)


@pytest.mark.parametrize(
    ("content", "metadata"), [(b"other", CALL), (SOUND, by(objectName="another"))]
)
async def test_a_key_of_another_upload_is_refused(world, content, metadata):
    await again(world, "a1")
    answer = await again(world, "a1", content, metadata)

    assert fault(answer) == (422, "idempotency_key_reused", "Idempotency-Key")
    assert (await world.everything())["objects"] == 1
    assert len(world.files()) == 1


async def test_the_same_upload_many_times_at_once_makes_one_object(world):
    async with opened(world.url, world.folder) as other:
        other.signer.key = world.signer.key
        token = f"Bearer {world.token()}"
        clients = [world.bearing(token), other.bearing(token)]
        answers = await asyncio.gather(
            *(again(world, "a1", client=clients[number % 2]) for number in range(20))
        )

    assert sorted(each.status_code for each in answers) == [200] * 19 + [201]
    assert len({each.content for each in answers}) == 1
    assert await world.everything() == {"files": 1, "objects": 1, "buckets": 1, "audit": 1}


async def test_keys_of_different_clients_and_customers_are_different(world):
    answers = [
        await again(world, "a1"),
        await again(world, "a1", client=world.client(client="sk_other")),
        await again(world, "a1", client=world.client(customer="globex")),
    ]

    assert [each.status_code for each in answers] == [201, 201, 201]
    assert len({each.json()["id"] for each in answers}) == 3


async def test_a_key_does_not_show_an_object_that_went_out_of_scope(world):
    await again(world, "a1", metadata=by(tags=[{"key": "branchId", "value": "site-1"}]))
    narrow = world.client(reach=Reach(sites=frozenset({"site-2"}), users=frozenset({"olga"})))
    await world.run("UPDATE objects SET user_id = 'other'")
    answer = await again(
        world, "a1", metadata=by(tags=[{"key": "branchId", "value": "site-1"}]), client=narrow
    )

    assert fault(answer)[:2] == (409, "conflict")


@pytest.mark.parametrize("key", ["", '""', "x" * 256, "a b"])
async def test_a_key_that_is_none_is_refused(local, key):
    client = local.client()
    client.headers["idempotency-key"] = key
    answer = await local.upload(client=client)

    assert fault(answer) == (400, "bad_input", "Idempotency-Key")
    assert await local.everything() == NOTHING


async def test_the_same_thing_of_one_source_is_no_second_object(world):
    def said(speaker: str) -> dict:
        tags = [{"key": "sourceId", "value": "call-1"}, {"key": "speaker", "value": speaker}]
        return by(type="transcription", tags=tags)

    answers = [
        await world.upload(b"words", said("owner")),
        await world.upload(b"words", said("external")),
        await world.upload(b"other words", said("owner")),
        await world.upload(b"words", said("owner")),
    ]

    assert [each.status_code for each in answers] == [201, 201, 201, 200]
    assert answers[0].content == answers[3].content
    assert (await world.everything())["objects"] == 3


async def test_the_same_thing_of_one_source_is_anothers_when_another_brings_it(world):
    said = by(tags=[{"key": "sourceId", "value": "call-1"}])
    answers = [
        await world.upload(b"words", said, client=world.client(owner=owner))
        for owner in ("olga", "nina", "olga")
    ]

    assert [each.status_code for each in answers] == [201, 201, 200]
    assert [each.json()["userId"] for each in answers] == ["olga", "nina", "olga"]


async def test_what_was_purged_may_be_sent_anew(world):
    first = (await again(world, "a1")).json()
    await retention.purge(world.region, PURGER, [first["id"]])
    second = await again(world, "a1")

    assert second.status_code == 201
    assert second.json()["id"] != first["id"]


# ---- declared digests


def content_md5(content: bytes) -> str:
    return "Content-MD5: " + base64.b64encode(hashlib.md5(content).digest()).decode()


def repr_digest(content: bytes, name: str = "Repr-Digest") -> str:
    return f"{name}: sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


def form(header: str, content: bytes = SOUND) -> bytes:
    return multipart((METADATA, json.dumps(CALL)), (f"{CONTENT}\n{header}", content))


@pytest.mark.parametrize(
    "header",
    [
        content_md5(SOUND),
        repr_digest(SOUND),
        repr_digest(SOUND, "Content-Digest"),
        repr_digest(SOUND) + ", sha-512=:AAAA:",
    ],
)
async def test_a_digest_that_is_right_lets_the_content_in(local, header):
    answer = await local.client().post(OBJECTS, content=form(header), headers=FORM)

    assert answer.status_code == 201, answer.text


@pytest.mark.parametrize("header", [content_md5(b"other"), repr_digest(b"other")])
async def test_a_digest_that_is_wrong_keeps_nothing(local, header):
    answer = await local.client().post(OBJECTS, content=form(header), headers=FORM)

    assert fault(answer)[:2] == (400, "incomplete_body")
    assert await local.everything() == NOTHING


@pytest.mark.parametrize(
    "header",
    [
        "Content-MD5: AAAA",
        "Content-MD5: !",
        "Repr-Digest: sha-256",
        "Repr-Digest: sha-256=:AAAA:",
        "Repr-Digest: sha-512=:AAAA:",
        "Repr-Digest: sha-256=(:AAAA:)",
        "Repr-Digest: " + "a" * 3000,
    ],
)
async def test_a_digest_that_cannot_be_checked_is_refused(local, header):
    answer = await local.client().post(OBJECTS, content=form(header), headers=FORM)

    assert fault(answer) == (400, "bad_input", header.partition(":")[0])
    assert await local.everything() == NOTHING


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("declare", [content_md5, repr_digest])
async def test_a_digest_of_the_request_speaks_of_its_whole_body(local, right, declare):
    body = form("X-Nothing: 1")
    name, _, value = declare(body if right else SOUND).partition(": ")
    answer = await local.client().post(OBJECTS, content=body, headers={**FORM, name: value})

    assert answer.status_code == (201 if right else 400), answer.text
    assert (await local.everything())["objects"] == (1 if right else 0)


# ---- quotas


def limited(world, **quota: int):
    return world.limited(quotas=Quotas(special={"acme": Quota(**quota)}))


@pytest.mark.parametrize("quota", [{"objects": 3}, {"bytes": 17}])
async def test_a_quota_is_never_passed_however_many_come_at_once(world, quota):
    client = world.client(limited(world, **quota))
    answers = await asyncio.gather(
        *(world.upload(bytes([number]) * 5, client=client) for number in range(8))
    )
    statuses = sorted(each.status_code for each in answers)
    refused = next(each for each in answers if each.status_code == 507)

    assert statuses == [201] * 3 + [507] * 5
    assert fault(refused)[1] == "storage_full"
    assert str(next(iter(quota.values()))) in refused.json()["detail"]
    assert refused.json()["quotaObjects"] == quota.get("objects", 0)
    assert await used(world) == (3, 15)
    assert len(world.files()) == 3


async def test_a_quota_counts_each_object_though_they_share_bytes(world):
    client = world.client(limited(world, bytes=9))
    answers = [await world.upload(SOUND, client=client) for _ in range(2)]

    assert [each.status_code for each in answers] == [201, 507]


async def test_a_quota_is_one_customers_own(world):
    region = limited(world, objects=1)
    await world.uploaded(SOUND, client=world.client(region))
    answers = [
        await world.upload(SOUND, client=world.client(region, customer=customer))
        for customer in ("acme", "globex")
    ]

    assert [each.status_code for each in answers] == [507, 201]


async def test_the_usual_quota_holds_for_all_that_have_no_other(local):
    quotas = Quotas(Quota(objects=1), {"globex": Quota(objects=2)})
    region = replace(local.region, limits=replace(local.region.limits, quotas=quotas))
    answers = [
        await local.upload(SOUND, client=local.client(region, customer=customer))
        for customer in ("acme", "acme", "globex", "globex", "globex")
    ]

    assert [each.status_code for each in answers] == [201, 507, 201, 201, 507]
