"""`POST /objects`: what is refused, by which name, and that nothing of it is kept."""

from __future__ import annotations

import json

import pytest
from region_world import (
    CALL,
    CONTENT,
    FORM,
    METADATA,
    MIB,
    NOTHING,
    OBJECTS,
    fault,
    in_pieces,
    multipart,
    opened,
)

from soundkeep.foundation.claims import Reach

GOOD = (METADATA, json.dumps(CALL))
SOUND = (CONTENT, b"sound" * 1000)


def tagged(*tags) -> dict:
    return {**CALL, "tags": list(tags)}


def tag(key, value="1") -> dict:
    return {"key": key, "value": value}


BAD_METADATA = {
    "empty": ("", "metadata"),
    "not json": ("type=callrecording", "metadata"),
    "half": ('{"type": "callrec', "metadata"),
    "two": ("{}{}", "metadata"),
    "not utf-8": (b'{"type": "\xff"}', "metadata"),
    "a list": ("[]", "metadata"),
    "a text": ('"callrecording"', "metadata"),
    "null": ("null", "metadata"),
    "deep": ("[" * 100_000, "metadata"),
    "deep inside": ('{"type": "x", "tags": ' + "[" * 100_000, "metadata.tags[0]"),
    "deep unknown": ('{"type": "x", "y": ' + "[" * 100_000, "metadata"),
    "no type": ("{}", "metadata"),
    "type null": ('{"type": null}', "metadata.type"),
    "type number": ('{"type": 1}', "metadata.type"),
    "type empty": ({"type": ""}, "metadata.type"),
    "type with a space": ({"type": "call recording"}, "metadata.type"),
    "type with a digit first": ({"type": "1call"}, "metadata.type"),
    "type with a line break": ({"type": "call\n"}, "metadata.type"),
    "type not ascii": ({"type": "naïve"}, "metadata.type"),
    "type too long": ({"type": "a" * 65}, "metadata.type"),
    "type in capitals": ('{"Type": "callrecording"}', "metadata"),
    "an unknown member": ({**CALL, "color": "red"}, "metadata"),
    "snake case": ({**CALL, "object_name": "a"}, "metadata"),
    "name number": ({**CALL, "objectName": 1}, "metadata.objectName"),
    "name null": ({**CALL, "objectName": None}, "metadata.objectName"),
    "name too long": ({**CALL, "objectName": "a" * 1025}, "metadata.objectName"),
    "name with NUL": ({**CALL, "objectName": "a\0b"}, "metadata.objectName"),
    "name with a line break": ({**CALL, "objectName": "a\nb"}, "metadata.objectName"),
    "name with half a character": ('{"type": "x", "objectName": "\\ud800"}', "metadata"),
    "name with half a character, raw": (b'{"type": "x", "objectName": "\xed\xa0\x80"}', "metadata"),
    "mime too long": ({**CALL, "mimeType": "a" * 256}, "metadata.mimeType"),
    "mime not ascii": ({**CALL, "mimeType": "audio/mpég"}, "metadata.mimeType"),
    "mime with a line break": ({**CALL, "mimeType": "a/b\r\nx: y"}, "metadata.mimeType"),
    "user list": ({**CALL, "userId": ["a"]}, "metadata.userId"),
    "user too long": ({**CALL, "userId": "a" * 65}, "metadata.userId"),
    "user with NUL": ({**CALL, "userId": "\0"}, "metadata.userId"),
    "bucket with slashes": ({**CALL, "bucketId": "../../etc"}, "metadata.bucketId"),
    "bucket with a slash": ({**CALL, "bucketId": "a/b"}, "metadata.bucketId"),
    "bucket of dots": ({**CALL, "bucketId": ".."}, "metadata.bucketId"),
    "bucket too long": ({**CALL, "bucketId": "a" * 65}, "metadata.bucketId"),
    "bucket with NUL": ({**CALL, "bucketId": "a\0"}, "metadata.bucketId"),
    "shared text": ({**CALL, "shared": "true"}, "metadata.shared"),
    "shared number": ({**CALL, "shared": 1}, "metadata.shared"),
    "checksum of another kind": ({**CALL, "checksumType": "SHA256"}, "metadata.checksumType"),
    "checksum too short": ({**CALL, "checksum": "abc"}, "metadata.checksum"),
    "checksum not hex": ({**CALL, "checksum": "g" * 32}, "metadata.checksum"),
    "tags an object": ({**CALL, "tags": {"a": "b"}}, "metadata.tags"),
    "tags null": ({**CALL, "tags": None}, "metadata.tags"),
    "tag a text": (tagged("a=b"), "metadata.tags[0]"),
    "tag without a value": (tagged({"key": "a"}), "metadata.tags[0]"),
    "tag without a key": (tagged({"value": "a"}), "metadata.tags[0]"),
    "tag with more": (tagged({**tag("a"), "type": "x"}), "metadata.tags[0]"),
    "tag value number": (tagged(tag("a"), tag("b", 1)), "metadata.tags[1].value"),
    "tag value null": (tagged(tag("a", None)), "metadata.tags[0].value"),
    "tag value too long": (tagged(tag("a", "x" * 65537)), "metadata.tags"),
    "tag value with NUL": (tagged(tag("a", "x\0")), "metadata.tags"),
    "tag value with half a character": (
        '{"type": "x", "tags": [{"key": "a", "value": "\\udfff"}]}',
        "metadata",
    ),
    "tag key twice": (tagged(tag("a"), tag("a")), "metadata.tags"),
    "tag key empty": (tagged(tag("")), "metadata.tags"),
    "tag key with a space": (tagged(tag("a b")), "metadata.tags"),
    "tag key with a digit first": (tagged(tag("1a")), "metadata.tags"),
    "tag key with NUL": (tagged(tag("a\0")), "metadata.tags"),
    "tag key too long": (tagged(tag("a" * 129)), "metadata.tags"),
    "too many tags": (tagged(*(tag(f"t{number}") for number in range(257))), "metadata.tags"),
}


@pytest.mark.parametrize("case", BAD_METADATA)
async def test_bad_metadata_is_refused_by_name(local, case):
    given, field = BAD_METADATA[case]
    metadata = (METADATA, json.dumps(given) if isinstance(given, dict) else given)
    client = local.client()
    for parts in ((metadata, SOUND), (SOUND, metadata)):
        answer = await client.post(OBJECTS, content=multipart(*parts), headers=FORM)

        assert fault(answer) == (400, "bad_input", field)
        assert await local.everything() == NOTHING


async def test_the_missing_and_the_unknown_member_are_named_in_the_message(local):
    missing = await local.upload(metadata={"objectName": "a"})
    unknown = await local.upload(metadata={**CALL, "color": "red"})

    assert "`type`" in missing.json()["message"]
    assert "`color`" in unknown.json()["message"]


async def test_the_limits_themselves_are_allowed(local):
    metadata = {
        "type": "a" * 64,
        "objectName": "n" * 1024,
        "mimeType": "m" * 255,
        "userId": "u" * 64,
        "bucketId": "b" * 64,
        "tags": [tag("k" * 128, "x" * 65536), *(tag(f"t{number}") for number in range(255))],
    }
    made = await local.uploaded(metadata=metadata)

    assert {key: made[key] for key in metadata} == metadata


@pytest.mark.parametrize("size", [MIB + 1, 2 * MIB])
async def test_metadata_beyond_a_mebibyte_is_too_large(local, size):
    metadata = (METADATA, json.dumps(CALL).ljust(size))
    for parts in ((metadata, SOUND), (SOUND, metadata)):
        body = in_pieces(multipart(*parts), 100_000)
        answer = await local.client().post(OBJECTS, content=body, headers=FORM)

        assert fault(answer) == (413, "too_large", "metadata")
        assert await local.everything() == NOTHING


async def test_metadata_of_a_mebibyte_is_allowed(local):
    body = multipart((METADATA, json.dumps(CALL).ljust(MIB)), SOUND)
    answer = await local.client().post(OBJECTS, content=body, headers=FORM)

    assert answer.status_code == 201


@pytest.mark.parametrize("name", ["a%0D%0Ab.mp3", "a\tb", "a\0b", "x" * 1025])
async def test_a_bad_name_in_the_content_part_is_refused_too(local, name):
    content = (f'Content-Disposition: form-data; name="content"; filename="{name}"', "sound")
    answer = await local.client().post(OBJECTS, content=multipart(GOOD, content), headers=FORM)

    assert fault(answer) == (400, "bad_input", "metadata.objectName")
    assert await local.everything() == NOTHING


# ---- the form of the body


BAD_FORMS = {
    "no metadata": (multipart(SOUND), "metadata"),
    "no content": (multipart(GOOD), "content"),
    "no parts": (b"--frontier--\r\n", "metadata"),
    "metadata twice": (multipart(GOOD, GOOD, SOUND), "metadata"),
    "content twice": (multipart(SOUND, SOUND), "content"),
    "content twice at the end": (multipart(GOOD, SOUND, SOUND), None),
    "metadata again at the end": (multipart(GOOD, SOUND, GOOD), None),
    "an unknown part": (multipart(GOOD, ('Content-Disposition: form-data; name="x"', "y")), None),
    "an unknown part first": (
        multipart(('Content-Disposition: form-data; name="x"', "y"), GOOD),
        None,
    ),
    "an unknown part at the end": (
        multipart(GOOD, SOUND, ('Content-Disposition: form-data; name="x"', "y")),
        None,
    ),
    "a nameless part": (multipart(("Content-Disposition: form-data", "y"), GOOD), None),
    "a part without headers": (multipart(("X-Y: z", "y"), GOOD), None),
    "an attachment": (multipart(('Content-Disposition: attachment; name="content"', "y")), None),
    "another boundary": (multipart(GOOD, SOUND, boundary="border"), None),
    "bare line feeds": (multipart(GOOD, SOUND).replace(b"\r\n", b"\n"), None),
    "too many headers": (multipart((METADATA + "\nX: y" * 9, "{}"), SOUND), None),
    "too long a header": (multipart((METADATA + "\nX: " + "y" * 5000, "{}"), SOUND), None),
    "a header that is not utf-8": (
        multipart(GOOD, SOUND).replace(b"call.mp3", b"call\xff.mp3"),
        None,
    ),
    "a length that is not true": (
        multipart(GOOD, (CONTENT + "\nContent-Length: 3", "sound")),
        None,
    ),
    "nothing like a form": (b"sound" * 1000, None),
}


@pytest.mark.parametrize("case", BAD_FORMS)
async def test_a_malformed_body_is_refused(local, case):
    body, field = BAD_FORMS[case]
    client = local.client()
    whole = await client.post(OBJECTS, content=body, headers=FORM)
    pieces = await client.post(OBJECTS, content=in_pieces(body, 7), headers=FORM)

    assert fault(whole) == (400, "bad_input", field)
    assert fault(pieces)[:2] == (400, "bad_input")
    assert await local.everything() == NOTHING


@pytest.mark.parametrize("body", [b"", b"-", b"--frontier", b"--frontier\r\nContent-"])
async def test_a_body_that_hardly_begins_is_incomplete(local, body):
    answer = await local.client().post(OBJECTS, content=in_pieces(body, 1), headers=FORM)

    assert fault(answer) == (400, "incomplete_body", None)
    assert await local.everything() == NOTHING


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "application/octet-stream",
        "audio/mpeg",
        "multipart/mixed; boundary=frontier",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        "multipart/form-data; boundary=" + "x" * 1025,
        "multipart/form-data boundary=frontier",
    ],
)
async def test_another_content_type_or_no_boundary_is_refused(local, content_type):
    body = multipart(GOOD, SOUND)
    headers = {"content-type": content_type}
    answer = await local.client().post(OBJECTS, content=body, headers=headers)

    assert fault(answer) == (400, "bad_input", None)
    assert await local.everything() == NOTHING


@pytest.mark.parametrize(
    "content_type",
    [
        "Multipart/Form-Data; Boundary=frontier",
        'multipart/form-data; charset=x; boundary="frontier"',
    ],
)
async def test_the_content_type_may_be_spelled_as_headers_may(local, content_type):
    body = multipart(GOOD, SOUND)
    answer = await local.client().post(
        OBJECTS, content=body, headers={"content-type": content_type}
    )

    assert answer.status_code == 201


# ---- bodies that stop


@pytest.mark.parametrize(
    "parts", [(GOOD, SOUND), (SOUND, GOOD)], ids=["metadata first", "content first"]
)
async def test_a_body_that_ends_anywhere_before_its_end_leaves_nothing(local, parts):
    body = multipart(*parts)
    client = local.client()
    for end in (*range(30, 400, 37), 3000, len(body) - 400, len(body) - 5, len(body) - 4):
        answer = await client.post(OBJECTS, content=body[:end], headers=FORM)

        assert fault(answer) == (400, "incomplete_body", None)
    assert await local.everything() == NOTHING


@pytest.mark.parametrize("size", [5000, 3 * MIB])
async def test_a_client_that_vanishes_half_way_leaves_nothing(world, size):
    body = multipart(GOOD, (CONTENT, bytes(size)))
    half = {"type": "http.request", "body": body[: size // 2], "more_body": True}
    sent = await world.exchange("POST", OBJECTS, [half], headers=FORM)

    assert sent[0]["status"] == 400
    assert await world.everything() == NOTHING


async def test_a_client_that_vanishes_before_its_body_leaves_nothing(local):
    sent = await local.exchange("POST", OBJECTS, [], headers=FORM)

    assert sent[0]["status"] == 400
    assert await local.everything() == NOTHING


# ---- sizes and room


@pytest.fixture
async def small(tmp_path, folder, anyio_backend):
    """A region that takes 100 kB at most."""
    url = str(tmp_path / "small.sqlite")
    async with opened(url, folder, max_upload_bytes=100_000) as world:
        yield world


@pytest.mark.parametrize("how", ["declared", "chunked"])
async def test_content_beyond_the_limit_is_too_large(small, how):
    client = small.client()
    statuses = {}
    for size in (100_000, 100_001, 5 * MIB):
        body = multipart(GOOD, (CONTENT, bytes(size)))
        content = body if how == "declared" else in_pieces(body, 30_000)
        answer = await client.post(OBJECTS, content=content, headers=FORM)
        statuses[size] = answer.status_code
        if answer.status_code != 201:
            assert fault(answer)[:2] == (413, "too_large")

    assert statuses == {100_000: 201, 100_001: 413, 5 * MIB: 413}
    assert await small.everything() == {"files": 1, "objects": 1, "buckets": 1, "audit": 1}


async def test_a_body_declared_too_large_is_refused_before_it_is_read(small):
    headers = {**FORM, "content-length": str(100_000 + MIB + 1)}
    sent = await small.exchange("POST", OBJECTS, [], headers=headers)

    assert sent[0]["status"] == 413
    assert await small.everything() == NOTHING


@pytest.mark.parametrize("length", ["x", "-1", "9" * 30, "²"])
async def test_a_nonsensical_length_says_nothing(local, length):
    body = {"type": "http.request", "body": multipart(GOOD, SOUND), "more_body": False}
    sent = await local.exchange("POST", OBJECTS, [body], headers={**FORM, "content-length": length})

    assert sent[0]["status"] == 201


async def test_a_checksum_that_does_not_fit_is_refused(world):
    answer = await world.upload(metadata={**CALL, "checksum": "0" * 32})

    assert fault(answer) == (400, "incomplete_body", "checksum")
    assert "0b8263d341de01f741e4deadfb18f9eb" in answer.json()["detail"]
    assert await world.everything() == NOTHING


async def test_where_too_little_room_is_left_nothing_begins(tmp_path, folder):
    url = str(tmp_path / "full.sqlite")
    async with opened(url, folder, min_free_bytes=2**60) as world:
        answer = await world.upload()

        assert fault(answer) == (507, "storage_full", None)
        assert await world.everything() == NOTHING


async def test_a_declared_length_that_would_not_fit_is_refused_at_once(tmp_path, folder):
    url = str(tmp_path / "region.sqlite")
    async with opened(url, folder, max_upload_bytes=2**61) as world:
        headers = {**FORM, "content-length": str(2**59)}
        sent = await world.exchange("POST", OBJECTS, [], headers=headers)

        assert sent[0]["status"] == 507
        assert await world.everything() == NOTHING


# ---- scope


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"tags": [tag("branchId", "la")]},
        {"tags": [tag("branchId", "")]},
        {"tags": [tag("branchid", "ny")]},
        {"userId": "pete"},
    ],
    ids=["no site", "another site", "an empty site", "another tag", "another user"],
)
@pytest.mark.parametrize("first", ["metadata", "content"])
async def test_a_key_may_not_upload_outside_of_its_scope(local, metadata, first):
    client = local.client(reach=Reach(sites=frozenset({"ny"})))
    given = (METADATA, json.dumps({**CALL, **metadata}))
    parts = (given, SOUND) if first == "metadata" else (SOUND, given)
    answer = await client.post(OBJECTS, content=multipart(*parts), headers=FORM)

    assert fault(answer) == (403, "insufficient_scope", None)
    assert await local.everything() == NOTHING


async def test_a_key_that_reaches_nothing_may_upload_nothing(local):
    answer = await local.upload(client=local.client(reach=Reach()))

    assert fault(answer)[0] == 403
    assert await local.everything() == NOTHING


async def test_metadata_that_comes_first_is_judged_before_the_content_is_read(local):
    body = multipart((METADATA, '{"type": 1}'), SOUND)[:200]
    first = {"type": "http.request", "body": body, "more_body": True}
    sent = await local.exchange("POST", OBJECTS, [first], headers=FORM)

    assert b"metadata.type" in sent[1]["body"]
