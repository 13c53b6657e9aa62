"""Bytes on local disks, their keys, and the ids that are their names."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import threading
import time
import uuid
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from region_world import MIB, START_MS

from soundkeep.foundation.errors import StorageFull, Unavailable
from soundkeep.region import localblobs
from soundkeep.region.localblobs import LocalBlobs
from soundkeep.region.model import Digests

KEY = "019b76da-a800-7a95-815c-651e21c61677"
NO_KEYS = [
    "",
    "a",
    "../../etc/passwd",
    "..",
    "/etc/passwd",
    "0123456/",
    "01234567/../../x",
    "0123456\0",
    "01234567\n",
    "0123456G",
    "ABCDEF01",
    "é" * 8,
    "0" * 65,
]


@pytest.fixture
async def blobs(folder, anyio_backend):
    blobs = LocalBlobs(folder, min_free_bytes=0)
    yield blobs
    await blobs.close()


async def arrive(blobs: LocalBlobs, content: bytes, key: str = KEY) -> Digests:
    incoming = blobs.incoming(key)
    for start in range(0, len(content), 100_000):
        await incoming.write(content[start : start + 100_000])
    return await incoming.close()


async def read(blobs: LocalBlobs, start: int, end: int, key: str = KEY) -> bytes:
    return b"".join([piece async for piece in await blobs.read(key, start, end)])


async def unsettled(blobs: LocalBlobs) -> list[str]:
    return await blobs.leftovers(after_ms=0, before_ms=2**62)


def open_below(folder: Path) -> list[str]:
    """The names of this process's open files in a folder."""
    targets = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the listing's own
            targets.append(link.readlink())
    return sorted(each.name for each in targets if each.is_relative_to(folder))


# ---- in and out


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB])
async def test_what_comes_in_goes_out_and_its_digests_are_right(blobs, size):
    content = os.urandom(size)
    digests = await arrive(blobs, content)
    await blobs.settle([KEY])

    assert digests == Digests(
        size,
        hashlib.md5(content).hexdigest(),
        hashlib.sha256(content).hexdigest(),
        zlib.crc32(content),
    )
    assert await read(blobs, 0, size) == content
    assert await read(blobs, size // 3, size // 2) == content[size // 3 : size // 2]
    assert await unsettled(blobs) == []


async def test_incoming_bytes_have_a_place_once_they_are_closed(blobs):
    incoming = blobs.incoming(KEY)
    await incoming.write(b"sound")
    with pytest.raises(Unavailable):
        blobs.file(KEY, 5)
    await incoming.close()

    assert await unsettled(blobs) == [KEY]
    assert blobs.file(KEY, 5).endswith(f"kept/019b76d/{KEY}")


async def test_settling_and_discarding_can_be_repeated(blobs):
    await arrive(blobs, b"sound")
    for _ in range(2):
        await blobs.settle([KEY])
    kept = await read(blobs, 0, 5)
    for _ in range(2):
        await blobs.discard([KEY])

    assert kept == b"sound"
    with pytest.raises(Unavailable):
        blobs.file(KEY, 5)


async def test_closed_bytes_can_be_abandoned_too(blobs, folder):
    """Their checksum may turn out to be wrong."""
    incoming = blobs.incoming(KEY)
    await incoming.write(b"sound")
    await incoming.close()
    await incoming.abandon()

    assert await unsettled(blobs) == []
    assert not list(folder.glob("kept/*/*"))


async def test_files_are_found_where_an_earlier_version_put_them(folder):
    old = folder / "kept/77" / KEY
    old.parent.mkdir(parents=True)
    old.write_bytes(b"sound")
    blobs = LocalBlobs(folder, min_free_bytes=0)
    kept = await read(blobs, 0, 5)
    await blobs.close()

    assert kept == b"sound"
    assert not old.parent.exists()


async def test_what_is_abandoned_leaves_nothing(blobs):
    for content in (b"", b"x", bytes(2 * MIB)):
        incoming = blobs.incoming(KEY)
        await incoming.write(content)
        await incoming.abandon()

    assert await unsettled(blobs) == []


async def test_two_uploads_never_share_a_key(blobs):
    await arrive(blobs, b"first")
    second = blobs.incoming(KEY)
    await second.write(b"second")

    with pytest.raises(Unavailable):
        await second.close()


async def test_files_are_for_the_services_eyes_only(blobs, folder):
    await arrive(blobs, b"sound")
    mode = (folder / "incoming" / KEY).stat().st_mode

    assert mode & 0o077 == 0


async def test_where_room_is_short_nothing_may_begin(tmp_path):
    free = os.statvfs(tmp_path)
    room = free.f_bavail * free.f_frsize
    strict = LocalBlobs(tmp_path / "strict", min_free_bytes=room * 2)
    loose = LocalBlobs(tmp_path / "loose", min_free_bytes=0)

    with pytest.raises(StorageFull):
        strict.incoming(KEY)
    with pytest.raises(StorageFull):
        loose.incoming(KEY, expected=room * 2)
    assert await arrive(loose, b"sound")
    await strict.close()
    await loose.close()


# ---- small bytes at hand


@pytest.mark.parametrize("size", [0, 1, 256 * 1024])
async def test_small_bytes_at_hand_are_whole_or_none(blobs, size):
    """None where the file system cannot tell what is in memory: then they are read in a thread."""
    content = os.urandom(size)
    await arrive(blobs, content)

    assert blobs.at_hand(KEY, size) in (content, None)


async def test_wrong_large_and_missing_bytes_are_never_at_hand(blobs):
    await arrive(blobs, bytes(256 * 1024 + 1))
    found = [blobs.at_hand(KEY, 256 * 1024 + change) for change in (1, 0, -1)]

    assert found == [None, None, None]
    assert blobs.at_hand(KEY[::-1], 0) is None


# ---- keys


@pytest.mark.parametrize("key", NO_KEYS)
async def test_what_is_no_key_becomes_no_path(blobs, folder, key):
    before = sorted(folder.parent.rglob("*"))
    with pytest.raises(ValueError):
        blobs.incoming(key)
    with pytest.raises(ValueError):
        blobs.file(key, 0)
    with pytest.raises(ValueError):
        blobs.at_hand(key, 0)
    with pytest.raises(ValueError):
        await read(blobs, 0, 1, key)
    for step in (blobs.settle, blobs.discard):
        with pytest.raises(ValueError):
            await step([key])

    assert sorted(folder.parent.rglob("*")) == before


async def test_alien_files_among_what_comes_in_are_left_alone(blobs, folder):
    """A file system's own `lost+found`, or what somebody put there."""
    (folder / "incoming/lost+found").mkdir()
    (folder / "incoming/README").touch()
    await arrive(blobs, b"sound")

    assert await unsettled(blobs) == [KEY]


# ---- threads


@pytest.mark.parametrize("times", [1, 3])
async def test_a_cancelled_caller_waits_until_the_disk_is_left_alone(times):
    """Otherwise what it does next, like removing the file, would come too early."""
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        may_end.wait(5)
        ended.set()

    task = asyncio.create_task(localblobs._in_thread(work))
    await asyncio.to_thread(begun.wait, 5)
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0.005)
    still_waiting = not task.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert still_waiting
    assert ended.is_set()


@pytest.mark.parametrize("begin", ["read", "stage"])
async def test_a_caller_that_is_cancelled_while_a_file_is_opened_leaves_none_open(
    blobs, folder, monkeypatch, begin
):
    """Of a resumable upload it would keep the lock, too."""
    await arrive(blobs, b"sound")
    original = os.open

    def slow(*arguments, **more):
        time.sleep(0.05)
        return original(*arguments, **more)

    async def work() -> None:
        if begin == "read":
            await read(blobs, 0, 5)
        else:
            await blobs.stage(KEY, at=0)

    monkeypatch.setattr(localblobs.os, "open", slow)
    task = asyncio.create_task(work())
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert open_below(folder) == ["lock"]


async def test_a_folder_is_swept_by_one_and_used_by_many(folder):
    first, second = (LocalBlobs(folder, min_free_bytes=0) for _ in range(2))
    found = [
        first.lock(alone=True),
        second.lock(alone=False),
        first.lock(alone=False),
        second.lock(alone=False),
        second.lock(alone=True),
    ]
    await first.close()
    found.append(second.lock(alone=True))
    await second.close()

    assert found == [True, False, True, True, False, True]
    with (folder / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


# ---- ids


async def test_ids_are_uuids_of_version_7_that_sort_by_time(local):
    ids = []
    for _ in range(200):
        local.clock.advance(seconds=0.001)
        ids.append((await local.keep()).id)
    parsed = [uuid.UUID(each) for each in ids]

    assert {(each.version, each.variant) for each in parsed} == {(7, uuid.RFC_4122)}
    assert [str(each) for each in parsed] == ids == sorted(ids)
    assert parsed[0].int >> 80 == START_MS + 1001


@given(st.binary(min_size=10, max_size=10), st.integers(0, 2**48 - 1))
def test_any_moment_and_any_randomness_make_a_valid_id(random, now_ms):
    from types import SimpleNamespace

    from soundkeep.region.plane import new_object_id

    found = uuid.UUID(
        new_object_id(SimpleNamespace(clock=lambda: now_ms, entropy=lambda _: random))
    )
    bits = int.from_bytes(random)

    assert (found.version, found.variant, found.int >> 80) == (7, uuid.RFC_4122, now_ms)
    assert found.int & (2**62 - 1) == bits & (2**62 - 1)
    assert found.int >> 64 & 0xFFF == bits >> 64 & 0xFFF
