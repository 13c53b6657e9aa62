"""`GET /objects/{id}/content`: bytes, headers, ranges, conditions."""

from __future__ import annotations

import base64
import hashlib
import os
from email.message import Message
from urllib.parse import unquote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from region_world import CALL, MIB, OBJECTS, fault, without

from soundkeep.region.model import Digests

SOUND = bytes(range(256)) * 4
LONG = os.urandom(2 * MIB + 300)


@pytest.fixture
async def kept(local):
    """An object of 1024 bytes: its content's path, and a client that may read it."""
    made = await local.uploaded(SOUND)
    return f"{OBJECTS}/{made['id']}/content", local.client()


@pytest.fixture
async def empty(local):
    made = await local.uploaded(b"")
    return f"{OBJECTS}/{made['id']}/content", local.client()


# ---- whole


async def test_the_bytes_come_with_everything_that_describes_them(kept):
    path, client = kept
    answer = await client.get(path)

    assert answer.content == SOUND
    assert without({"x-request-id"}, dict(answer.headers)) == {
        "accept-ranges": "bytes",
        "cache-control": "private, no-cache",
        "content-disposition": "attachment; filename=\"call.mp3\"; filename*=UTF-8''call.mp3",
        "content-length": "1024",
        "content-security-policy": "sandbox; default-src 'none'",
        "content-type": "audio/mpeg",
        "etag": f'"{hashlib.sha256(SOUND).hexdigest()}"',
        "last-modified": "Thu, 01 Jan 2026 00:00:00 GMT",
        "repr-digest": f"sha-256=:{base64.b64encode(hashlib.sha256(SOUND).digest()).decode()}:",
        "x-content-type-options": "nosniff",
    }


async def test_head_gives_the_same_headers_and_no_bytes(kept):
    path, client = kept
    client.headers["x-request-id"] = "same"
    whole, head = await client.get(path), await client.head(path)

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers == whole.headers


@pytest.mark.parametrize("header", ["bytes=0-9", "bytes=-1", "bytes=5000-", "bytes=-0"])
async def test_head_ignores_ranges(kept, header):
    """RFC 9110 §14.2: ranges are defined for GET only."""
    path, client = kept
    head = await client.head(path, headers={"range": header})

    assert (head.status_code, head.headers["content-length"]) == (200, "1024")
    assert "content-range" not in head.headers


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 5 * MIB + 17])
async def test_content_of_any_size_comes_back_as_it_was(world, size):
    content = os.urandom(size)
    made = await world.uploaded(content)
    answer = await world.client().get(f"{OBJECTS}/{made['id']}/content")

    assert answer.content == content
    assert answer.headers["content-length"] == str(size)


async def test_long_content_is_sent_piece_by_piece(local):
    """The server keeps some pieces for every reader that is slow."""
    made = await local.uploaded(LONG)
    path = f"{OBJECTS}/{made['id']}/content"
    start, *pieces = await local.exchange("GET", path, [], stays=True)

    assert start["status"] == 200
    assert (b"content-length", str(len(LONG)).encode()) in start["headers"]
    assert max(len(each["body"]) for each in pieces) == 64 * 1024
    assert b"".join(each["body"] for each in pieces) == LONG
    assert [each["more_body"] for each in pieces] == [True] * (len(pieces) - 1) + [False]


async def test_few_bytes_are_sent_at_once(local):
    made = await local.uploaded(LONG)
    path, header = f"{OBJECTS}/{made['id']}/content", {"range": f"bytes={MIB}-{MIB + 99_999}"}
    start, *pieces = await local.exchange("GET", path, [], headers=header, stays=True)

    assert start["status"] == 206
    assert b"".join(each["body"] for each in pieces) == LONG[MIB : MIB + 100_000]


async def test_nothing_to_send_is_a_whole_answer(empty):
    path, client = empty
    answer, head = await client.get(path), await client.head(path)

    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == head.headers["content-length"] == "0"


# ---- names and types


def disposition(header: str) -> tuple[str, str, str]:
    """What a browser makes of the header: the disposition, `filename`, and `filename*` decoded."""
    plain, _, extended = header.partition("; filename*=")
    parsed = Message()
    parsed["content-disposition"] = plain
    charset, language, encoded = extended.split("'")
    assert (charset, language) == ("UTF-8", "")
    assert encoded.isascii()
    return parsed.get_content_disposition(), parsed.get_filename(), unquote(encoded)


@pytest.mark.parametrize(
    ("name", "plain", "extended"),
    [
        ("call.mp3", "call.mp3", "call.mp3"),
        ('say "hi".mp3', "say _hi_.mp3", 'say "hi".mp3'),
        ("back\\slash.mp3", "back_slash.mp3", "back\\slash.mp3"),
        ("Grüße 録音 🎧.mp3", "Gr__e __ _.mp3", "Grüße 録音 🎧.mp3"),
        ("2026/01/call.mp3", "call.mp3", "call.mp3"),
        ("../../etc/passwd", "passwd", "passwd"),
        ("a;b=c,d'e%41.mp3", "a;b=c,d'e%41.mp3", "a;b=c,d'e%41.mp3"),
        ("100%.mp3", "100%.mp3", "100%.mp3"),
    ],
)
async def test_a_download_has_the_objects_name_in_both_forms(local, name, plain, extended):
    made = await local.uploaded(metadata={**CALL, "objectName": name})
    answer = await local.client().get(f"{OBJECTS}/{made['id']}/content")

    assert made["objectName"] == name
    assert disposition(answer.headers["content-disposition"]) == ("attachment", plain, extended)


@pytest.mark.parametrize("name", ["call.mp3", "Grüße 録音 🎧.mp3"])
async def test_what_is_asked_for_inline_keeps_its_name_in_both_forms(local, name):
    made = await local.uploaded(metadata={**CALL, "objectName": name})
    path, client = f"{OBJECTS}/{made['id']}/content", local.client()
    kinds = {}
    for query in ("", "?inline=false", "?inline=true", "?inline=TRUE"):
        for method, headers in (("GET", {}), ("GET", {"range": "bytes=1-2"}), ("HEAD", {})):
            answer = await client.request(method, path + query, headers=headers)
            kind, _, extended = disposition(answer.headers["content-disposition"])
            assert extended == name
            kinds.setdefault(query, set()).add(kind)

    assert kinds == {
        "": {"attachment"},
        "?inline=false": {"attachment"},
        "?inline=true": {"inline"},
        "?inline=TRUE": {"inline"},
    }


@pytest.mark.parametrize("query", ["inline=", "inline=1", "inline=yes", "inline=true&inline=true"])
async def test_inline_is_true_or_false(kept, query):
    path, client = kept

    assert fault(await client.get(f"{path}?{query}")) == (400, "bad_input", "inline")


async def test_a_name_that_ends_in_a_slash_gives_way_to_the_id(local):
    made = await local.uploaded(metadata={**CALL, "objectName": "2026/"})
    answer = await local.client().get(f"{OBJECTS}/{made['id']}/content")

    assert disposition(answer.headers["content-disposition"])[2] == made["id"]


@pytest.mark.parametrize(
    "character", ["\r", "\n", "\r\nset-cookie: a=b", "\0", "\x1b", "\u2028", "\u202e"]
)
@pytest.mark.parametrize("member", ["objectName", "mimeType"])
async def test_no_name_or_type_can_break_a_header(local, member, character):
    answer = await local.upload(metadata={**CALL, member: f"a{character}b"})

    assert fault(answer) == (400, "bad_input", f"metadata.{member}")


@pytest.mark.parametrize("mime", ["text/html", "image/svg+xml", "application/xhtml+xml"])
@pytest.mark.parametrize(("query", "kind"), [("", "attachment"), ("?inline=true", "inline")])
async def test_what_a_browser_could_run_is_an_attachment_and_shown_in_a_sandbox(
    local, mime, query, kind
):
    made = await local.uploaded(b"<script>alert(1)</script>", metadata={**CALL, "mimeType": mime})
    answer = await local.client().get(f"{OBJECTS}/{made['id']}/content{query}")

    assert answer.headers["content-type"] == mime
    assert answer.headers["content-disposition"].startswith(f"{kind};")
    assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert answer.headers["x-content-type-options"] == "nosniff"


# ---- parts


@pytest.mark.parametrize(
    ("header", "content_range", "expected"),
    [
        ("bytes=0-0", "bytes 0-0/1024", SOUND[:1]),
        ("bytes=10-19", "bytes 10-19/1024", SOUND[10:20]),
        ("bytes=1000-", "bytes 1000-1023/1024", SOUND[1000:]),
        ("bytes=-24", "bytes 1000-1023/1024", SOUND[1000:]),
        ("bytes=-5000", "bytes 0-1023/1024", SOUND),
        ("bytes=1023-9999999999999999999", "bytes 1023-1023/1024", SOUND[1023:]),
    ],
)
async def test_a_range_gives_that_part(kept, header, content_range, expected):
    path, client = kept
    answer = await client.get(path, headers={"range": header})

    assert (answer.status_code, answer.content) == (206, expected)
    assert answer.headers["content-range"] == content_range
    assert answer.headers["content-length"] == str(len(expected))
    assert {"etag", "last-modified", "content-type", "content-disposition"} <= answer.headers.keys()


@pytest.mark.parametrize(
    "header", ["bytes=1024-", "bytes=5000-6000", "bytes=-0", "bytes=9999999999999999999-"]
)
async def test_a_range_beyond_the_end_is_refused_with_the_size(kept, header):
    path, client = kept
    answer = await client.get(path, headers={"range": header})

    assert answer.status_code == 416
    assert answer.headers["content-range"] == "bytes */1024"
    assert SOUND[:1] not in answer.content


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=0-0", "bytes=-1"])
async def test_no_part_of_nothing_can_be_had(empty, header):
    path, client = empty
    answer = await client.get(path, headers={"range": header})

    assert (answer.status_code, answer.headers["content-range"]) == (416, "bytes */0")


@pytest.mark.parametrize(
    "header", ["bytes=5-2", "bytes=0-1,x", "chunks=0-1", "bytes=x", "bytes=" + "x" * 5000 + "-"]
)
async def test_a_range_that_is_none_gets_the_whole(kept, header):
    path, client = kept
    answer = await client.get(path, headers={"range": header})

    assert (answer.status_code, answer.content) == (200, SOUND)
    assert "content-range" not in answer.headers


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=80
)
@given(
    st.integers(0, 1100), st.integers(0, 1100), st.sampled_from(["first-last", "first-", "-last"])
)
async def test_any_range_equals_the_slice_of_the_bytes(kept, first, last, form):
    path, client = kept
    header = form.replace("first", str(first)).replace("last", str(last))
    answer = await client.get(path, headers={"range": f"bytes={header}"})
    match form:
        case "first-last":
            expected = SOUND[first : last + 1] if first <= last else SOUND
        case "first-":
            expected = SOUND[first:]
        case _:
            expected = SOUND[-last:] if last else b""

    if expected:
        assert answer.status_code == (200 if form == "first-last" and last < first else 206)
        assert answer.content == expected
    else:
        assert answer.status_code == 416


async def test_a_large_part_comes_whole(world):
    content = os.urandom(3 * MIB)
    made = await world.uploaded(content)
    headers = {"range": f"bytes=1-{3 * MIB - 2}"}
    answer = await world.client().get(f"{OBJECTS}/{made['id']}/content", headers=headers)

    assert answer.content == content[1:-1]


# ---- conditions


async def test_what_the_client_has_already_is_not_sent_again(kept):
    path, client = kept
    whole = await client.get(path)
    etag, modified = whole.headers["etag"], whole.headers["last-modified"]
    for headers in (
        {"if-none-match": etag},
        {"if-none-match": f"W/{etag}"},
        {"if-none-match": "*"},
        {"if-modified-since": modified},
        {"if-none-match": etag, "range": "bytes=0-1"},
    ):
        for method in ("GET", "HEAD"):
            answer = await client.request(method, path, headers=headers)

            assert (answer.status_code, answer.content) == (304, b"")
            assert answer.headers["etag"] == etag
            assert "content-type" not in answer.headers


async def test_if_none_match_of_another_version_gets_the_bytes(kept):
    path, client = kept
    answer = await client.get(path, headers={"if-none-match": '"other"'})

    assert (answer.status_code, answer.content) == (200, SOUND)


@pytest.mark.parametrize(
    "headers",
    [{"if-match": '"other"'}, {"if-unmodified-since": "Wed, 31 Dec 2025 23:59:59 GMT"}],
)
async def test_a_precondition_that_fails_is_412(kept, headers):
    path, client = kept
    answer = await client.get(path, headers=headers)
    head = await client.head(path, headers=headers)

    assert fault(answer) == (412, "precondition_failed", None)
    assert head.status_code == 412


async def test_conditions_may_be_spread_over_several_lines(kept):
    """RFC 9110 §5.3: a list in two lines is one list; two ranges fields are no valid one."""
    path, client = kept
    etag = (await client.head(path)).headers["etag"]
    statuses = [
        (await client.get(path, headers=lines)).status_code
        for lines in (
            [("if-none-match", '"x"'), ("if-none-match", etag)],
            [("if-match", '"x"'), ("if-match", etag)],
            [("if-match", '"x"'), ("if-match", '"y"')],
            [("range", "bytes=0-1"), ("range", "bytes=3-4")],
        )
    ]

    assert statuses == [304, 200, 412, 200]


async def test_if_range_decides_between_the_part_and_the_whole(kept):
    path, client = kept
    whole = await client.get(path)
    statuses = {
        validator: (
            await client.get(path, headers={"range": "bytes=0-1", "if-range": validator})
        ).status_code
        for validator in (
            whole.headers["etag"],
            whole.headers["last-modified"],
            f"W/{whole.headers['etag']}",
            '"other"',
            "Wed, 31 Dec 2025 23:59:59 GMT",
        )
    }

    assert list(statuses.values()) == [206, 206, 200, 200, 200]


# ---- bytes that are not what they should be


@pytest.mark.parametrize("damage", ["missing", "cut short", "too long", "a folder"])
@pytest.mark.parametrize("content", [SOUND, LONG], ids=["small", "large"])
async def test_damaged_bytes_are_refused_before_anything_is_sent(local, damage, content):
    made = await local.uploaded(content)
    (file,) = (local.folder / each for each in local.files("kept"))
    match damage:
        case "missing":
            file.unlink()
        case "cut short":
            os.truncate(file, len(content) - 1)
        case "too long":
            os.truncate(file, len(content) + 1)
        case "a folder":
            file.unlink()
            file.mkdir()
    path = f"{OBJECTS}/{made['id']}/content"
    for headers in ({}, {"range": "bytes=0-1"}):
        start, *rest = await local.exchange("GET", path, [], headers=headers)

        assert start["status"] == 503
        assert (b"content-type", b"application/problem+json") in start["headers"]
        assert b"soundkeep doctor" in b"".join(each.get("body", b"") for each in rest)


async def test_head_tells_of_damaged_bytes_too(local):
    made = await local.uploaded(SOUND)
    (local.folder / local.files("kept")[0]).unlink()

    assert (await local.client().head(f"{OBJECTS}/{made['id']}/content")).status_code == 503


async def test_bytes_that_end_early_cut_the_answer_instead_of_padding_it(local):
    """The file shrinks after it was looked at: no complete answer may come."""
    stored = await local.keep(digests=Digests(2 * MIB, "0" * 32, "0" * 64, 0))
    file = local.folder / "kept" / stored.blob[:7] / stored.blob
    file.parent.mkdir()
    file.write_bytes(bytes(2 * MIB))
    pieces = await local.region.blobs.read(stored.blob, 0, 2 * MIB)
    first = await anext(pieces)
    os.truncate(file, len(first) + 5)
    rest = await anext(pieces)

    with pytest.raises(Exception, match="end too early"):
        await anext(pieces)
    assert 0 < len(first) < MIB
    assert len(rest) == 5


async def test_what_is_no_word_for_a_presigned_link_is_refused(kept):
    """A client that asks for one reads JSON: bytes would be taken for a broken answer."""
    path, client = kept

    assert fault(await client.get(f"{path}?presignUrl=yes")) == (400, "bad_input", "presignUrl")
    assert (await client.get(f"{path}?presignUrl=false")).status_code == 200
