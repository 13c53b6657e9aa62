"""`POST /objects`: what an upload that succeeds leaves."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from region_world import CALL, CONTENT, FORM, METADATA, MIB, OBJECTS, in_pieces, multipart, names

from soundkeep.foundation.claims import Reach

SIZES = [0, 1, 28 * 1024, MIB - 1, MIB, MIB + 1, 5 * 1000 * 1000]


async def test_an_upload_answers_with_the_object_and_where_it_is(world):
    answer = await world.upload()
    found = await world.client().get(answer.headers["location"])

    assert answer.status_code == 201
    assert answer.headers["location"] == f"{OBJECTS}/{answer.json()['id']}"
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert found.content == answer.content


@pytest.mark.parametrize("size", SIZES)
async def test_digests_are_those_of_the_bytes(world, size):
    content = os.urandom(size)
    made = await world.uploaded(content)
    row = await world.rows("SELECT size, checksum, sha256, crc32, blob FROM objects")
    md5, sha256 = hashlib.md5(content).hexdigest(), hashlib.sha256(content).hexdigest()
    file = world.folder / "kept" / row[0][4][:7] / row[0][4]

    assert row == [(size, md5, sha256, zlib.crc32(content), made["id"])]
    assert (made["storedBytes"], made["checksumType"], made["checksum"]) == (size, "MD5", md5)
    assert file.read_bytes() == content
    assert world.files() == [str(file.relative_to(world.folder))]


async def test_members_that_are_left_out_are_filled_in(local):
    made = await local.uploaded(metadata=CALL)
    bare = multipart(
        (METADATA, json.dumps(CALL)), ('Content-Disposition: form-data; name="content"', "x")
    )
    nameless = (await local.client().post(OBJECTS, content=bare, headers=FORM)).json()

    assert (made["objectName"], made["mimeType"]) == ("call.mp3", "audio/mpeg")
    assert (made["userId"], made["bucketId"], made["tags"]) == ("olga", made["id"], [])
    assert (made["shared"], made["objectState"]) == (False, "AVAILABLE")
    assert nameless["objectName"] == nameless["id"]
    assert nameless["mimeType"] == "application/octet-stream"


async def test_what_the_metadata_says_wins_over_the_part(local):
    metadata = {**CALL, "objectName": "2026/a.wav", "mimeType": "audio/wav"}
    made = await local.uploaded(metadata=metadata, name="b.mp3", mime="audio/mpeg")

    assert (made["objectName"], made["mimeType"]) == ("2026/a.wav", "audio/wav")


@pytest.mark.parametrize(
    "value", ["", " ", "a;b,c=d", "x" * 65536, "línea\nnueva\t🎧", "\ufffe", '"']
)
async def test_a_tag_may_hold_any_text(world, value):
    tags = [{"key": "note", "value": value}, {"key": "_a.b-c", "value": "1"}]
    made = await world.uploaded(metadata={**CALL, "tags": tags})
    found = (await world.client().get(f"{OBJECTS}/{made['id']}")).json()

    assert found["tags"] == tags


async def test_tags_keep_the_order_they_came_in(world):
    tags = [{"key": key, "value": "1"} for key in ("z", "a", "M", "_")]
    made = await world.uploaded(metadata={**CALL, "tags": tags})
    found = (await world.client().get(f"{OBJECTS}/{made['id']}")).json()

    assert found["tags"] == tags


async def test_the_parts_may_come_in_either_order(world):
    metadata, content = (METADATA, json.dumps({**CALL, "userId": "pete"})), (CONTENT, b"sound")
    client = world.client()
    made = [
        (await client.post(OBJECTS, content=multipart(*parts), headers=FORM)).json()
        for parts in ((metadata, content), (content, metadata))
    ]

    assert [(each["userId"], each["storedBytes"]) for each in made] == [("pete", 5), ("pete", 5)]


async def test_a_preamble_line_break_and_an_epilogue_are_no_part_of_it(local):
    body = multipart((METADATA, json.dumps(CALL)), (CONTENT, b"sound"))
    client = local.client()
    for wrapped in (b"\r\n" + body, body[:-2], body + b"bye", body + b"\r\n--frontier--"):
        answer = await client.post(OBJECTS, content=wrapped, headers=FORM)

        assert (answer.status_code, answer.json()["storedBytes"]) == (201, 5)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
@given(
    size=st.integers(1, 400),
    content=st.lists(
        st.sampled_from(
            [b"\r\n", b"--", b"frontier", b"\r\n--frontie", b"\n--frontier", b"x" * 50, b"\0"]
        ),
        max_size=12,
    ).map(b"".join),
)
async def test_how_the_network_cuts_the_body_makes_no_difference(local, size, content):
    if b"\r\n--frontier" in content:
        return
    body = multipart((METADATA, json.dumps(CALL)), (CONTENT, content))
    client = local.client()
    answer = await client.post(OBJECTS, content=in_pieces(body, size), headers=FORM)
    back = await client.get(f"{answer.headers.get('location')}/content")

    assert answer.status_code == 201, answer.text
    assert back.content == content


async def test_a_declared_checksum_that_fits_is_taken_in_any_case(local):
    for checksum in ("0b8263d341de01f741e4deadfb18f9eb", "0B8263D341DE01F741E4DEADFB18F9EB"):
        made = await local.uploaded(metadata={**CALL, "checksum": checksum, "checksumType": "MD5"})

        assert made["checksum"] == "0b8263d341de01f741e4deadfb18f9eb"


async def test_the_time_of_an_object_is_that_of_its_upload_and_is_shown_in_seconds(world):
    world.clock.now_ms += 4999
    made = await world.uploaded()
    rows = await world.rows("SELECT created_ms, updated_ms FROM objects")

    assert made["createdTime"] == made["updatedTime"] == "2026-01-01T00:00:04"
    assert rows == [(1_767_225_604_999, 1_767_225_604_999)]


# ---- buckets


async def test_an_upload_makes_its_bucket_and_the_next_one_joins_it(world):
    for user in ("pete", "rita"):
        await world.uploaded(metadata={**CALL, "bucketId": "Call-7.a_b", "userId": user})
    rows = await world.rows("SELECT customer, id, user_id, name, created_ms FROM buckets")

    assert rows == [("acme", "Call-7.a_b", "pete", "Call-7.a_b", 1_767_225_600_000)]


async def test_without_a_bucket_an_object_has_one_of_its_own(world):
    made = await world.uploaded()

    assert await world.rows("SELECT id FROM buckets") == [(made["id"],)]


async def test_two_customers_buckets_of_one_name_stay_apart(world):
    umbra = world.client(customer="umbra", owner="ulf")
    await world.uploaded(metadata={**CALL, "bucketId": "daily"}, name="acme.mp3")
    await world.uploaded(metadata={**CALL, "bucketId": "daily"}, name="umbra.mp3", client=umbra)
    search = {"filter": "bucketId==daily"}
    rows = await world.rows("SELECT customer, user_id FROM buckets ORDER BY customer")

    assert names(await world.client().get(OBJECTS, params=search)) == ["acme.mp3"]
    assert names(await umbra.get(OBJECTS, params=search)) == ["umbra.mp3"]
    assert rows == [("acme", "olga"), ("umbra", "ulf")]


# ---- scope


@pytest.mark.parametrize(
    "metadata",
    [
        {"tags": [{"key": "branchId", "value": "ny"}], "userId": "rita"},
        {"userId": "pete"},
        {"userId": "pete", "tags": [{"key": "branchId", "value": "la"}]},
    ],
    ids=["by site", "by member", "by member, of another site"],
)
async def test_an_upload_within_scope_can_be_seen_by_its_uploader(local, metadata):
    client = local.client(reach=Reach(sites=frozenset({"ny"}), users=frozenset({"pete"})))
    made = await local.uploaded(metadata={**CALL, **metadata}, client=client)

    assert (await client.get(f"{OBJECTS}/{made['id']}")).json() == made


async def test_an_object_without_a_user_is_its_uploaders_own(local):
    client = local.client(reach=Reach(users=frozenset({"olga"})))
    made = await local.uploaded(client=client)

    assert made["userId"] == "olga"


# ---- audit


async def test_each_upload_is_one_link_of_its_customers_audit_chain(world):
    umbra = world.client(customer="umbra")
    first = await world.uploaded(b"12345", name="a.mp3")
    second = await world.uploaded(b"", name="b.mp3", metadata={**CALL, "userId": "pete"})
    await world.uploaded(client=umbra)
    rows = await world.rows(
        """
        SELECT seq, at_ms, event, service, entity_type, entity_key, display_name, user_id, details
        FROM audit WHERE customer = 'acme' ORDER BY seq
        """
    )
    whole = (1_767_225_600_000, "create", "storage", "object")

    assert [row[:8] for row in rows] == [
        (1, *whole, first["id"], "a.mp3", "olga"),
        (2, *whole, second["id"], "b.mp3", "olga"),
    ]
    assert [json.loads(row[8])["new"] for row in rows] == [
        {"client": "sk_test", "storedBytes": size, "type": "callrecording", "userId": user}
        for size, user in ((5, "olga"), (0, "pete"))
    ]
    assert [await world.broken(each) for each in ("acme", "umbra")] == [None, None]


async def test_many_uploads_at_once_are_all_kept(world):
    """Fifty at once: each is whole, the chain is unbroken, and they shared transactions."""
    client = world.client()
    contents = {f"{number}.mp3": os.urandom(1000 + number) for number in range(50)}
    made = await asyncio.gather(
        *(world.upload(content, name=name, client=client) for name, content in contents.items())
    )
    back = {
        each.json()["objectName"]: (await client.get(f"{each.headers['location']}/content")).content
        for each in made
    }

    assert [each.status_code for each in made] == [201] * 50
    assert back == contents
    assert await world.everything() == {"files": 50, "objects": 50, "buckets": 50, "audit": 50}
    assert await world.broken() is None
    assert world.files("incoming") == []
