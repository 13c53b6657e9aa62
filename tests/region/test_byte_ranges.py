"""Several ranges as `multipart/byteranges` (RFC 9110 §14.6), and how the bytes of ranges are sent."""

from __future__ import annotations

import asyncio
import os
import re
from email import policy
from email.parser import BytesParser
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from region_world import CALL, MIB, OBJECTS, fault
from starlette.requests import Request

from soundkeep.region import content
from soundkeep.region.http import download

SOUND = bytes(range(256)) * 4
LONG = os.urandom(3 * MIB + 17)


@pytest.fixture
async def kept(local):
    """An object of 1024 bytes: its content's path, and a client that may read it."""
    made = await local.uploaded(SOUND)
    return f"{OBJECTS}/{made['id']}/content", local.client()


def parts_of(answer) -> list[tuple[str, str, bytes]]:
    """What Python's e-mail parser finds: each part's type, its range, its bytes."""
    head = f"MIME-Version: 1.0\r\nContent-Type: {answer.headers['content-type']}\r\n\r\n"
    message = BytesParser(policy=policy.HTTP).parsebytes(head.encode() + answer.content)
    assert message.get_content_type() == "multipart/byteranges"
    assert message.defects == []
    return [
        (part.get_content_type(), part["content-range"], part.get_payload(decode=True))
        for part in message.iter_parts()
    ]


def runs_of(pairs: list[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    """Asked-for bytes as runs without a gap, each where its first range was: (first, last)."""
    wanted = {byte for first, last in pairs for byte in range(first, min(last + 1, size))}
    runs = []
    for first, _ in pairs:
        if first not in wanted:
            continue
        start = end = first
        while start - 1 in wanted:
            start -= 1
        while end + 1 in wanted:
            end += 1
        if (start, end) not in runs:
            runs.append((start, end))
    return runs


# ---- what comes


async def test_several_ranges_come_as_the_parts_of_one_answer(kept):
    path, client = kept
    answer = await client.get(path, headers={"range": "bytes=500-599, 0-0, -4"})

    assert answer.status_code == 206
    assert parts_of(answer) == [
        ("audio/mpeg", "bytes 500-599/1024", SOUND[500:600]),
        ("audio/mpeg", "bytes 0-0/1024", SOUND[:1]),
        ("audio/mpeg", "bytes 1020-1023/1024", SOUND[-4:]),
    ]
    assert answer.headers["content-length"] == str(len(answer.content))
    assert "content-range" not in answer.headers


async def test_an_answer_in_parts_has_the_headers_of_the_whole(kept):
    path, client = kept
    client.headers["x-request-id"] = "same"
    whole = await client.get(path)
    answer = await client.get(path, headers={"range": "bytes=0-1,5-6"})
    differing = {name for name, value in whole.headers.items() if answer.headers[name] != value}

    assert answer.headers.keys() == whole.headers.keys()
    assert differing == {"content-length", "content-type"}


async def test_the_boundary_cannot_be_guessed(kept):
    """Else a recording's own bytes could pass for another part."""
    path, client = kept
    boundaries = set()
    for _ in range(20):
        answer = await client.get(path, headers={"range": "bytes=0-1,5-6"})
        kind, boundary = answer.headers["content-type"].split("; boundary=")
        assert kind == "multipart/byteranges"
        assert re.fullmatch("[0-9a-f]{32}", boundary)
        boundaries.add(boundary)

    assert len(boundaries) == 20


@pytest.mark.parametrize(
    ("header", "content_range", "expected"),
    [
        ("bytes=0-1,2-3", "bytes 0-3/1024", SOUND[:4]),
        ("bytes=9-20,0-10", "bytes 0-20/1024", SOUND[:21]),
        ("bytes=0-1,1024-,-0", "bytes 0-1/1024", SOUND[:2]),
        ("bytes=0-,5-6,-1", "bytes 0-1023/1024", SOUND),
    ],
)
async def test_ranges_that_come_down_to_one_are_answered_as_one(
    kept, header, content_range, expected
):
    path, client = kept
    answer = await client.get(path, headers={"range": header})

    assert (answer.status_code, answer.content) == (206, expected)
    assert answer.headers["content-range"] == content_range
    assert answer.headers["content-type"] == "audio/mpeg"


async def test_ranges_outside_of_the_bytes_are_refused_with_the_size(kept):
    path, client = kept
    answer = await client.get(path, headers={"range": "bytes=1024-,5000-6000,-0"})

    assert fault(answer) == (416, "range_not_satisfiable", None)
    assert answer.headers["content-range"] == "bytes */1024"


async def test_fifty_ranges_come_and_one_more_is_refused(kept):
    path, client = kept
    fifty = [f"{first}-{first}" for first in range(0, 100, 2)]
    answer = await client.get(path, headers={"range": f"bytes={','.join(fifty)}"})
    refused = await client.get(path, headers={"range": f"bytes={','.join([*fifty, '0-0'])}"})

    assert [body for _, _, body in parts_of(answer)] == [SOUND[n : n + 1] for n in range(0, 100, 2)]
    assert fault(refused) == (416, "range_not_satisfiable", None)
    assert refused.json()["detail"] == "Ask for 50 ranges at most."
    assert refused.headers["content-range"] == "bytes */1024"


async def test_ranges_of_another_version_get_the_whole(kept):
    path, client = kept
    headers = {"range": "bytes=0-1,5-6", "if-range": '"another"'}
    answer = await client.get(path, headers=headers)

    assert (answer.status_code, answer.content) == (200, SOUND)


async def test_head_ignores_several_ranges_too(kept):
    path, client = kept
    for header in ("bytes=0-1,5-6", "bytes=" + "0-0," * 60):
        head = await client.head(path, headers={"range": header})

        assert (head.status_code, head.content) == (200, b"")
        assert (head.headers["content-length"], head.headers["content-type"]) == (
            "1024",
            "audio/mpeg",
        )


async def test_large_parts_come_whole(world):
    made = await world.uploaded(LONG)
    headers = {"range": f"bytes={2 * MIB - 5}-,0-{MIB},{MIB + 7}-{MIB + 9}"}
    answer = await world.client().get(f"{OBJECTS}/{made['id']}/content", headers=headers)

    assert [body for _, _, body in parts_of(answer)] == [
        LONG[2 * MIB - 5 :],
        LONG[: MIB + 1],
        LONG[MIB + 7 : MIB + 10],
    ]
    assert answer.headers["content-length"] == str(len(answer.content))


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
@given(
    st.binary(max_size=80) | st.text(alphabet="-\r\nab:", max_size=80).map(str.encode),
    st.lists(st.tuples(st.integers(0, 90), st.integers(0, 90)).map(sorted), min_size=1, max_size=6),
)
async def test_any_ranges_of_any_bytes_are_exactly_those_slices(local, body, pairs):
    made = await local.uploaded(body, metadata={**CALL, "mimeType": "audio/x-wav"})
    header = "bytes=" + ",".join(f"{first}-{last}" for first, last in pairs)
    answer = await local.client().get(f"{OBJECTS}/{made['id']}/content", headers={"range": header})
    runs, size = runs_of(pairs, len(body)), len(body)

    if not runs:
        assert answer.status_code == 416
    elif len(runs) == 1:
        ((first, last),) = runs
        assert (answer.status_code, answer.content) == (206, body[first : last + 1])
        assert answer.headers["content-range"] == f"bytes {first}-{last}/{size}"
    else:
        assert answer.status_code == 206
        assert parts_of(answer) == [
            ("audio/x-wav", f"bytes {first}-{last}/{size}", body[first : last + 1])
            for first, last in runs
        ]
    assert answer.headers["content-length"] == str(len(answer.content))


# ---- how it is sent


async def test_parts_are_sent_in_small_pieces(local):
    """The server keeps some pieces for every reader that is slow."""
    made = await local.uploaded(LONG)
    for header in ("bytes=1-", f"bytes=1-5,{MIB}-"):
        sent = await local.exchange(
            "GET", f"{OBJECTS}/{made['id']}/content", [], headers={"range": header}, stays=True
        )

        assert sent[0]["status"] == 206
        assert max(len(each["body"]) for each in sent[1:]) == 64 * 1024


async def test_bytes_that_cannot_be_read_are_refused_before_anything_is_sent(local):
    made = await local.uploaded(LONG)
    (local.folder / local.files("kept")[0]).unlink()
    path = f"{OBJECTS}/{made['id']}/content"
    answer = await local.client().get(path, headers={"range": "bytes=0-1,5-6"})

    assert fault(answer) == (503, "unavailable", None)
    assert "soundkeep doctor" in answer.json()["detail"]


@pytest.mark.parametrize("header", ["bytes=1-", f"bytes=0-0,{MIB}-"])
async def test_a_reader_that_stalls_and_leaves_lets_go_of_the_file_at_once(local, header):
    made = await local.uploaded(LONG)
    found = await content.readable(local.region, local.claims(), made["id"])
    left, pieces, opened = asyncio.Event(), 0, 0

    async def receive() -> dict:
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict) -> None:
        """As the server's: it waits for the client to read, or to leave."""
        nonlocal pieces, opened
        pieces += "body" in message
        if pieces == 5:
            opened = open_files(local.folder)
            asyncio.get_running_loop().call_later(0.1, left.set)
            await left.wait()

    request = asked(header)
    await download.answer(request, local.region, content.body_of(local.region, found))(
        request.scope, receive, send
    )

    assert (opened, open_files(local.folder)) == (1, 0)
    assert pieces < 2 * MIB // (64 * 1024)


async def test_a_reader_that_left_is_noticed_though_nothing_waits_any_more(local):
    """To a client that is gone, a server "sends" at once, and bytes in memory are read at once."""
    made = await local.uploaded(LONG)
    found = await content.readable(local.region, local.claims(), made["id"])
    left, sent = asyncio.Event(), 0

    async def receive() -> dict:
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict) -> None:
        nonlocal sent
        sent += len(message.get("body", b""))
        if sent:
            left.set()

    request = asked("bytes=1-")
    await download.answer(request, local.region, content.body_of(local.region, found))(
        request.scope, receive, send
    )

    assert 0 < sent <= 2 * MIB


def asked(header: str) -> Request:
    """A request as Granian brings it."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "method": "GET",
        "path": "/",
        "query_string": b"",
        "headers": [(b"range", header.encode())],
    }
    return Request(scope)


def open_files(folder: Path) -> int:
    """How many of this process's open files lie below the folder of kept bytes."""
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return sum(str(link.readlink()).startswith(f"{folder}/kept/") for link in links)
