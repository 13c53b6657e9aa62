"""Resumable uploads by the tus protocol."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import json
import os
import random
import zlib

import httpx2
import pytest
from region_world import BASE, CALL, MIB, NOTHING, OBJECTS, fault, in_pieces, opened

from soundkeep.foundation.claims import Access, Reach
from soundkeep.region import resumable, retention, uploadstore
from soundkeep.region.model import Quota, Quotas

UPLOADS = f"{BASE}/uploads"
TUS = {"tus-resumable": "1.0.0"}
OFFSET = {"content-type": "application/offset+octet-stream"}
LONG = random.Random(7).randbytes(3 * MIB + 17)


def pairs(**values: str | bytes) -> str:
    """An Upload-Metadata header; `tags__KEY` is a tag."""
    coded = {
        key.replace("__", "."): base64.b64encode(
            value if isinstance(value, bytes) else value.encode()
        ).decode()
        for key, value in values.items()
    }
    return ",".join(f"{key} {value}" for key, value in coded.items())


async def begin(
    world,
    size: int = len(LONG),
    *,
    client=None,
    metadata: str | None = None,
    content=b"",
    **headers,
) -> httpx2.Response:
    sent = {"upload-length": str(size), "upload-metadata": metadata or pairs(type="callrecording")}
    extra = OFFSET if content else {}
    return await (client or world.client()).post(
        UPLOADS, headers={**TUS, **sent, **extra, **headers}, content=content
    )


async def begun(world, size: int = len(LONG), **more) -> str:
    answer = await begin(world, size, **more)
    assert answer.status_code == 201, answer.text
    return answer.headers["location"]


async def send(world, where: str, content, at: int, *, client=None, **headers) -> httpx2.Response:
    sent = {**TUS, **OFFSET, "upload-offset": str(at), **headers}
    return await (client or world.client()).patch(where, headers=sent, content=content)


async def offset(world, where: str, client=None) -> int:
    answer = await (client or world.client()).head(where, headers=TUS)
    assert answer.status_code == 200, answer.headers
    assert answer.headers["cache-control"] == "no-store"
    return int(answer.headers["upload-offset"])


async def content_of(world, answer: httpx2.Response) -> bytes:
    where = answer.headers["content-location"]
    return (await world.client().get(f"{where}/content")).content


def checksum(content: bytes, name: str = "sha1") -> dict[str, str]:
    raw = (
        zlib.crc32(content).to_bytes(4) if name == "crc32" else hashlib.new(name, content).digest()
    )
    return {"upload-checksum": f"{name} {base64.b64encode(raw).decode()}"}


# ---- the way of it


async def test_an_upload_in_two_parts_becomes_an_object(world):
    metadata = pairs(
        type="callrecording", filename="Grüße.mp3", filetype="audio/mpeg", bucketId="call-1",
        tags__branchId="site-1", tags__callerId="",
    )  # fmt: skip
    created = await begin(world, metadata=metadata)
    where = created.headers["location"]
    first = await send(world, where, LONG[:MIB], 0)
    middle = await world.client().head(where, headers=TUS)
    last = await send(world, where, in_pieces(LONG[MIB:], 100_000), MIB)
    after = await world.client().head(where, headers=TUS)
    made = (await world.client().get(last.headers["content-location"])).json()

    assert created.status_code == 201
    assert [each.status_code for each in (first, middle, last, after)] == [204, 200, 204, 200]
    assert {each.headers["tus-resumable"] for each in (created, first, middle, last)} == {"1.0.0"}
    assert middle.headers["upload-offset"] == first.headers["upload-offset"] == str(MIB)
    assert middle.headers["upload-length"] == str(len(LONG))
    assert middle.headers["upload-metadata"] == metadata
    assert "content-location" not in first.headers
    assert after.headers["upload-offset"] == str(len(LONG))
    assert after.headers["content-location"] == last.headers["content-location"]
    assert await content_of(world, last) == LONG
    assert made["checksum"] == hashlib.md5(LONG).hexdigest()
    assert (made["objectName"], made["mimeType"]) == ("Grüße.mp3", "audio/mpeg")
    assert made["bucketId"] == "call-1"
    assert made["tags"] == [
        {"key": "branchId", "value": "site-1"},
        {"key": "callerId", "value": ""},
    ]
    assert await world.everything() == {"files": 1, "objects": 1, "buckets": 1, "audit": 1}
    assert await world.count("upload_pieces") == 0


async def test_the_metadata_may_come_as_json(local):
    said = {**CALL, "objectName": "a.mp3", "tags": [{"key": "queue", "value": "Claims"}]}
    created = await begin(local, 5, metadata=pairs(metadata=json.dumps(said)), content=b"sound")
    made = (await local.client().get(created.headers["content-location"])).json()

    assert (created.status_code, created.headers["upload-offset"]) == (201, "5")
    assert (made["objectName"], made["tags"]) == ("a.mp3", said["tags"])


async def test_what_can_be_done_is_told_to_anybody(local):
    answer = await local.bearing(None).options(UPLOADS)

    assert answer.status_code == 204
    assert answer.headers["tus-version"] == answer.headers["tus-resumable"] == "1.0.0"
    assert answer.headers["tus-max-size"] == str(64 * MIB)
    assert set(answer.headers["tus-extension"].split(",")) == {
        "creation", "creation-with-upload", "expiration", "checksum", "termination",
    }  # fmt: skip
    assert "sha1" in answer.headers["tus-checksum-algorithm"].split(",")


async def test_an_empty_upload_is_an_object_at_once(world):
    answer = await begin(world, 0)

    assert (answer.status_code, answer.headers["upload-offset"]) == (201, "0")
    assert await content_of(world, answer) == b""


async def test_ten_thousand_tiny_chunks_arrive_whole(local):
    content = LONG[:30_000]
    where = await begun(local, len(content))
    answer = await send(local, where, in_pieces(content, 3), 0)

    assert await content_of(local, answer) == content


async def test_hundreds_of_tiny_requests_arrive_whole(local):
    content, client = LONG[:1000], local.client()
    where = await begun(local, len(content))
    for at in range(0, 1000, 5):
        answer = await send(local, where, content[at : at + 5], at, client=client)
        assert answer.status_code == 204, answer.text

    assert await content_of(local, answer) == content


async def test_a_client_that_can_only_post_names_the_method(local):
    where = await begun(local, 5)
    override = {**TUS, "x-http-method-override": "PATCH", "upload-offset": "0", **OFFSET}
    added = await local.client().post(where, headers=override, content=b"sound")
    headers = {**TUS, "x-http-method-override": "TRACE"}
    refused = await local.client().post(where, headers=headers)

    assert added.status_code == 204
    assert await content_of(local, added) == b"sound"
    assert fault(refused) == (400, "bad_input", "X-HTTP-Method-Override")


async def test_an_idempotency_key_holds_for_resumable_uploads_too(local):
    answers = [
        await begin(local, 5, content=b"sound", **{"idempotency-key": "a1"}) for _ in range(2)
    ]

    assert {each.status_code for each in answers} == {201}
    assert len({each.headers["content-location"] for each in answers}) == 1
    assert (await local.everything())["objects"] == 1


# ---- breaks


async def test_what_came_before_a_client_left_is_kept(world):
    where = await begun(world)
    body = [
        {"type": "http.request", "body": LONG[:MIB], "more_body": True},
        {"type": "http.request", "body": LONG[MIB : MIB + 5], "more_body": True},
    ]
    headers = {**TUS, **OFFSET, "upload-offset": "0"}
    await world.exchange("PATCH", where, body, headers=headers)
    left = await offset(world, where)
    answer = await send(world, where, LONG[left:], left)

    assert left == MIB + 5
    assert await content_of(world, answer) == LONG


async def test_an_upload_goes_on_after_the_service_was_killed(world):
    """All that is in memory is gone: a new process has the database and the folder."""
    where = await begun(world)
    await send(world, where, LONG[:MIB], 0)
    await world.run("UPDATE uploads SET holder = 'dead', held_until_ms = :until", until=2**60)
    async with opened(world.url, world.folder) as other:
        other.signer.key = world.signer.key
        await retention.at_start(other.region)
        client = other.bearing(f"Bearer {world.token()}")
        left = await offset(other, where, client)
        answer = await send(other, where, LONG[left:], left, client=client)

    assert left == MIB
    assert await content_of(world, answer) == LONG


async def test_a_dead_holder_is_waited_for_no_longer_than_its_time(world):
    where = await begun(world)
    until = world.clock() + 4000
    await world.run("UPDATE uploads SET holder = 'dead', held_until_ms = :until", until=until)
    sending = asyncio.create_task(send(world, where, LONG, 0))
    await asyncio.sleep(0.3)
    waited = not sending.done()
    world.clock.advance(seconds=5)
    answer = await sending

    assert waited
    assert await content_of(world, answer) == LONG


async def test_bytes_behind_the_known_offset_are_written_anew(world):
    """A crash after the bytes were written and before that was noted."""
    where = await begun(world)
    await send(world, where, LONG[:MIB], 0)
    staged = world.folder / "staged" / where.rpartition("/")[2]
    with staged.open("ab") as file:
        file.write(b"never acknowledged" * 1000)
    answer = await send(world, where, LONG[MIB:], MIB)

    assert await content_of(world, answer) == LONG


async def test_a_crash_between_the_object_and_the_note_of_it_makes_no_second_object(
    world, monkeypatch
):
    async def dies(*_, **__):
        raise RuntimeError

    where = await begun(world)
    with monkeypatch.context() as patch:
        patch.setattr(uploadstore, "close", dies)
        broken = await send(world, where, LONG, 0)
    made = f"{OBJECTS}/{where.rpartition('/')[2]}/content"
    left = await offset(world, where)
    other = await send(world, where, b"other bytes than before", left)
    again = await send(world, where, b"", len(LONG))

    assert broken.status_code == 500
    assert (other.status_code, other.headers["upload-offset"]) == (204, str(len(LONG)))
    assert again.status_code == 204
    assert await content_of(world, other) == (await world.client().get(made)).content == LONG
    assert (await world.everything())["objects"] == 1
    assert world.files("staged") == []


async def test_two_clients_appending_to_one_upload_never_mix_their_bytes(world):
    """The later one takes over; the earlier is told so, and what it sent so far is kept."""
    where = await begun(world)
    going, released = asyncio.Event(), asyncio.Event()

    async def stalling():
        yield LONG[:MIB]
        going.set()
        await released.wait()
        yield b"never" * 1000

    first = asyncio.create_task(send(world, where, stalling(), 0))
    await going.wait()
    async with opened(world.url, world.folder) as other:
        other.signer.key = world.signer.key
        client = other.bearing(f"Bearer {world.token()}")
        second = await send(other, where, LONG, 0, client=client)
    broken = await first
    released.set()
    left = await offset(world, where)
    third = await send(world, where, LONG[left:], left)

    assert fault(broken)[:2] == (423, "busy")
    assert fault(second) == (409, "conflict", "Upload-Offset")
    assert left == MIB
    assert await content_of(world, third) == LONG


async def test_many_that_append_at_once_append_once(local):
    where = await begun(local, MIB)
    answers = await asyncio.gather(*(send(local, where, LONG[:MIB], 0) for _ in range(6)))
    statuses = sorted(each.status_code for each in answers)
    done = next(each for each in answers if each.status_code == 204)

    assert statuses[0] == 204
    assert set(statuses[1:]) <= {204, 409, 413, 423}
    assert await content_of(local, done) == LONG[:MIB]
    assert (await local.everything())["objects"] == 1


@pytest.mark.parametrize("seed", range(5))
async def test_any_sequence_of_breaks_ends_in_the_right_bytes(local, seed):
    chance, where = random.Random(seed), await begun(local)
    client = local.client()
    answer = None
    for _ in itertools.count():
        at = await offset(local, where, client)
        if at == len(LONG):
            break
        size = chance.choice((1, 1000, 64 * 1024, MIB))
        piece = LONG[at : at + size]
        match chance.randrange(5):
            case 0:
                body = {"type": "http.request", "body": piece, "more_body": True}
                await local.exchange(
                    "PATCH", where, [body], headers={**TUS, **OFFSET, "upload-offset": str(at)}
                )
            case 1:
                await send(local, where, piece, max(0, at - 1), client=client)
            case 2:
                await send(local, where, piece, at, client=client, **checksum(piece + b"x"))
            case 3:
                answer = await send(local, where, piece, at, client=client, **checksum(piece))
            case _:
                answer = await send(local, where, piece, at, client=client)
    answer = await client.head(where, headers=TUS)

    assert await content_of(local, answer) == LONG


# ---- checksums


@pytest.mark.parametrize("name", ["sha1", "sha256", "md5", "crc32"])
async def test_a_wrong_checksum_takes_nothing_of_its_request(world, name):
    where = await begun(world)
    await send(world, where, LONG[:MIB], 0)
    wrong = await send(world, where, LONG[MIB:], MIB, **checksum(LONG[MIB:] + b"x", name))
    left = await offset(world, where)
    right = await send(world, where, LONG[MIB:], MIB, **checksum(LONG[MIB:], name))

    assert fault(wrong) == (460, "checksum_mismatch", "Upload-Checksum")
    assert left == MIB
    assert await content_of(world, right) == LONG


@pytest.mark.parametrize(
    "header", ["", "sha1", "sha1 !", "sha3 AAAA", "AAAA", "sha512 AAAA", "sha1 "]
)
async def test_a_checksum_that_cannot_be_checked_is_refused(local, header):
    where = await begun(local)
    answer = await send(local, where, LONG, 0, **{"upload-checksum": header})

    assert fault(answer) == (400, "bad_input", "Upload-Checksum")
    assert await offset(local, where) == 0


async def test_a_declared_checksum_of_the_whole_is_held_to(world):
    wrong = await begun(world, metadata=pairs(type="callrecording", checksum="0" * 32))
    right = await begun(
        world, metadata=pairs(type="callrecording", checksum=hashlib.md5(LONG).hexdigest())
    )
    refused = await send(world, wrong, LONG, 0)
    kept = await send(world, right, LONG, 0)

    assert fault(refused)[:2] == (460, "checksum_mismatch")
    assert (await world.client().head(wrong, headers=TUS)).status_code == 410
    assert await content_of(world, kept) == LONG
    assert await world.everything() == {"files": 1, "objects": 1, "buckets": 1, "audit": 1}


# ---- ends


async def test_an_upload_can_be_ended(world):
    where = await begun(world)
    await send(world, where, LONG[:MIB], 0)
    ended = await world.client().delete(where, headers=TUS)
    answers = [
        await world.client().head(where, headers=TUS),
        await send(world, where, LONG[MIB:], MIB),
        await world.client().delete(where, headers=TUS),
    ]

    assert ended.status_code == 204
    assert [each.status_code for each in answers] == [410, 410, 410]
    assert fault(answers[1])[1] == "gone"
    assert await world.everything() == NOTHING


async def test_what_became_an_object_cannot_be_ended(local):
    where = await begun(local, 5)
    await send(local, where, b"sound", 0)
    answer = await local.client().delete(where, headers=TUS)
    again = await send(local, where, b"", 5)

    assert fault(answer)[:2] == (409, "conflict")
    assert again.status_code == 204
    assert (await local.everything())["objects"] == 1


async def test_an_expired_upload_says_what_to_do_and_its_bytes_go(world):
    where, other = await begun(world), await begun(world)
    await send(world, where, LONG[:MIB], 0)
    world.clock.advance(seconds=23 * 3600)
    await send(world, other, LONG[:MIB], 0)
    world.clock.advance(seconds=2 * 3600)
    answer = await send(world, where, LONG[MIB:], MIB)
    expired = await resumable.expire(world.region)
    later = await world.client().head(where, headers=TUS)

    assert fault(answer)[:2] == (410, "gone")
    assert "POST" in answer.json()["detail"]
    assert (expired, later.status_code) == (1, 410)
    assert [each.rpartition("/")[2] for each in world.files("staged")] == [other.rpartition("/")[2]]
    assert await offset(world, other) == MIB
    world.clock.advance(seconds=40 * 24 * 3600)
    assert await resumable.expire(world.region) == 1
    world.clock.advance(seconds=10 * 24 * 3600)
    await resumable.expire(world.region)
    assert await world.count("uploads") == 0


async def test_an_upload_that_goes_on_while_it_should_expire_keeps_its_bytes(world, monkeypatch):
    """Somebody adds to it after it was listed as expired."""
    where = await begun(world)
    await send(world, where, LONG[:MIB], 0)
    listed = [[where.rpartition("/")[2]], []]

    async def expired(*_, **__):
        return listed.pop(0)

    monkeypatch.setattr(uploadstore, "expired", expired)
    count = await resumable.expire(world.region)
    done = await send(world, where, LONG[MIB:], MIB)

    assert count == 0
    assert await content_of(world, done) == LONG


async def test_what_a_crash_left_of_an_ended_upload_goes_with_its_row(world, monkeypatch):
    where = await begun(world)
    await send(world, where, LONG[:MIB], 0)

    async def dies(*_):
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(world.region.blobs, "unstage", dies)
        broken = await world.client().delete(where, headers=TUS)
    left = world.files("staged")
    world.clock.advance(seconds=9 * 24 * 3600)
    await resumable.expire(world.region)

    assert broken.status_code == 500
    assert len(left) == 1
    assert world.files("staged") == []
    assert await world.count("uploads") == 0


async def test_ending_an_upload_ends_who_adds_to_it(world):
    where = await begun(world)
    going, never = asyncio.Event(), asyncio.Event()

    async def stalling():
        yield LONG[:MIB]
        going.set()
        await never.wait()

    adding = asyncio.create_task(send(world, where, stalling(), 0))
    await going.wait()
    ended = await world.client().delete(where, headers=TUS)
    broken = await adding

    assert ended.status_code == 204
    assert fault(broken)[:2] == (423, "busy")
    assert (await world.client().head(where, headers=TUS)).status_code == 410
    assert await world.everything() == NOTHING


# ---- refusals


async def refused(world, size="5", metadata=None, **headers) -> tuple:
    answer = await begin(world, size, metadata=metadata, **headers)
    assert answer.headers["tus-resumable"] == "1.0.0"
    assert await world.count("uploads") == 0
    return fault(answer)


@pytest.mark.parametrize("size", ["", "-1", "x", "1e9", "9" * 30, "0x10", "1,2"])
async def test_a_length_that_is_none_is_refused(local, size):
    assert await refused(local, size) == (400, "bad_input", "Upload-Length")


async def test_more_than_may_be_kept_is_refused_before_a_byte_is_sent(local):
    assert await refused(local, 64 * MIB + 1) == (413, "too_large", "Upload-Length")


async def test_more_than_the_quota_is_refused_before_a_byte_is_sent(local):
    region = local.limited(quotas=Quotas(Quota(bytes=100)))
    fits = await begin(local, 100, client=local.client(region))
    answer = await begin(local, 101, client=local.client(region))

    assert (fits.status_code, fault(answer)[:2]) == (201, (507, "storage_full"))


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        (" ", "metadata"),
        (pairs(type=""), "metadata.type"),
        (pairs(type="call recording"), "metadata.type"),
        (pairs(type="a", unknown="b"), "Upload-Metadata"),
        ("type", "metadata.type"),
        ("type !", "Upload-Metadata"),
        ("type YQ==,type YQ==", "Upload-Metadata"),
        (",", "Upload-Metadata"),
        ("type YQ==,", "Upload-Metadata"),
        ("type /w==", "Upload-Metadata"),
        (pairs(metadata="no json"), "Upload-Metadata"),
        (pairs(metadata="[]"), "Upload-Metadata"),
        (pairs(metadata='{"type":"a","tags":5}'), "metadata.tags"),
        (pairs(type="a", tags__1x="b"), "metadata.tags"),
        (pairs(type="a", checksum="0"), "metadata.checksum"),
        (pairs(type="a", filename="a\nb"), "metadata.objectName"),
    ],
)
async def test_metadata_that_cannot_be_kept_is_refused_before_a_byte_is_sent(
    local, metadata, field
):
    status, code, named = await refused(local, metadata=metadata)

    assert (status, code) == (400, "bad_input")
    assert named == field


async def test_an_upload_out_of_scope_is_refused_before_a_byte_is_sent(local):
    narrow = local.client(reach=Reach(sites=frozenset({"site-1"})))
    answers = [
        await begin(local, client=narrow),
        await begin(
            local, client=narrow, metadata=pairs(type="callrecording", tags__branchId="site-1")
        ),
    ]

    assert [each.status_code for each in answers] == [403, 201]


async def test_scope_that_was_lost_meanwhile_keeps_nothing(local):
    where = await begun(local, 5)
    narrow = local.client(reach=Reach(sites=frozenset({"site-1"})))
    answer = await send(local, where, b"sound", 0, client=narrow)

    assert fault(answer)[:2] == (403, "insufficient_scope")
    assert (await local.everything())["objects"] == 0


@pytest.mark.parametrize("version", [None, "0.2.2", "1.0.1"])
async def test_another_version_is_refused_with_ours(local, version):
    headers = {} if version is None else {"tus-resumable": version}
    answer = await local.client().post(UPLOADS, headers={**headers, "upload-length": "5"})

    assert fault(answer)[:2] == (412, "precondition_failed")
    assert answer.headers["tus-version"] == "1.0.0"


async def test_offsets_media_types_and_lengths_that_do_not_fit_change_nothing(local):
    where = await begun(local, 5)
    answers = [
        await send(local, where, b"sound", 1),
        await send(local, where, b"sound", 0, **{"upload-offset": "x"}),
        await send(local, where, b"sound", 0, **{"content-type": "audio/mpeg"}),
        await send(local, where, b"sounds", 0),
    ]

    assert [fault(each) for each in answers] == [
        (409, "conflict", "Upload-Offset"),
        (400, "bad_input", "Upload-Offset"),
        (415, "wrong_media_type", "Content-Type"),
        (413, "too_large", "Upload-Length"),
    ]
    assert await offset(local, where) == 0


@pytest.mark.parametrize("access", [Access.READ, Access.DOWNLOAD])
async def test_only_edit_keys_upload(local, access):
    where = await begun(local, 5)
    client = local.client(access=access)
    answers = [
        await begin(local, client=client),
        await send(local, where, b"sound", 0, client=client),
        await client.delete(where, headers=TUS),
    ]

    assert [each.status_code for each in answers] == [403, 403, 403]
    assert await offset(local, where) == 0


async def test_an_upload_is_its_own_keys_affair(world):
    where = await begun(world, 5)
    strangers = [
        world.client(client="sk_other"),
        world.client(customer="globex"),
        world.client(customer="globex", client="sk_other"),
    ]
    answers = [
        answer
        for client in strangers
        for answer in (
            await send(world, where, b"sound", 0, client=client),
            await client.delete(where, headers=TUS),
            await client.head(where, headers=TUS),
            await client.head(f"{UPLOADS}/unknown", headers=TUS),
        )
    ]

    assert {each.status_code for each in answers} == {404}
    assert await offset(world, where) == 0


@pytest.mark.parametrize("upload_id", ["%00", "..", "%2e%2e%2fkept", "a" * 5000])
async def test_odd_ids_are_unknown_uploads(local, upload_id):
    answer = await local.client().patch(
        f"{UPLOADS}/{upload_id}", headers={**TUS, **OFFSET, "upload-offset": "0"}
    )

    assert answer.status_code == 404


async def test_a_full_disk_keeps_what_was_acknowledged(local, monkeypatch):
    where = await begun(local)
    await send(local, where, LONG[:MIB], 0)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        answer = await send(local, where, LONG[MIB : 2 * MIB], MIB)
    left = await offset(local, where)
    done = await send(local, where, LONG[left:], left)

    assert fault(answer)[:2] == (507, "storage_full")
    assert left == MIB
    assert await content_of(local, done) == LONG
