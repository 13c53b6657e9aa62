"""Bytes on local disks: what the contract of all stores leaves open."""

from __future__ import annotations

import asyncio
import fcntl
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from blob_stores import arrive, everything_unsettled, read

from soundkeep.foundation.errors import Conflict, StorageFull, Unavailable
from soundkeep.region import disk, localblobs
from soundkeep.region.localblobs import LocalBlobs

MIB = 1024 * 1024
KEY = "019b76da-a800-7a95-815c-651e21c61677"


@pytest.fixture
async def blobs(folder, anyio_backend):
    blobs = LocalBlobs(folder, min_free_bytes=0)
    yield blobs
    await blobs.close()


def open_below(folder: Path) -> list[str]:
    """The names of this process's open files in a folder, but for the journal of small bodies."""
    targets = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the listing's own
            targets.append(link.readlink())
    below = (each for each in targets if each.is_relative_to(folder))
    return sorted(each.name for each in below if each.parent.name != "intake")


async def test_incoming_bytes_have_a_place_once_they_are_closed(blobs, folder):
    incoming = blobs.incoming(KEY)
    await incoming.write(b"sound")
    with pytest.raises(Unavailable):
        blobs.look(KEY, 5)
    await incoming.close()

    assert await everything_unsettled(blobs) == [KEY]
    assert (folder / f"kept/019b76d/{KEY}").read_bytes() == b"sound"


async def test_closed_bytes_can_be_abandoned_too(blobs, folder):
    """Their checksum may turn out to be wrong."""
    incoming = blobs.incoming(KEY)
    await incoming.write(b"sound")
    await incoming.close()
    await incoming.abandon()

    assert await everything_unsettled(blobs) == []
    assert not list(folder.glob("kept/*/*"))


async def test_files_are_found_where_an_earlier_version_put_them(folder):
    old, alien = folder / "kept/77" / KEY, folder / "kept/78/README"
    for file in (old, alien):
        file.parent.mkdir(parents=True)
        file.write_bytes(b"sound")
    blobs = LocalBlobs(folder, min_free_bytes=0)
    kept = await read(blobs, KEY, 0, 5)
    await blobs.close()

    assert kept == b"sound"
    assert not old.parent.exists()
    assert alien.exists()


async def test_settled_bytes_are_no_leftovers(blobs):
    await arrive(blobs, b"sound", KEY)
    before = await everything_unsettled(blobs)
    await blobs.settle([KEY])

    assert (before, await everything_unsettled(blobs)) == ([KEY], [])


async def test_two_uploads_never_share_a_key(blobs):
    await arrive(blobs, b"first", KEY)
    second = blobs.incoming(KEY)
    await second.write(b"second")

    with pytest.raises(Unavailable):
        await second.close()


async def test_files_are_for_the_services_eyes_only(blobs, folder):
    await arrive(blobs, b"sound", KEY)
    await arrive(blobs, bytes(MIB), KEY[::-1])
    modes = {each.stat().st_mode & 0o777 for each in folder.glob("*/*/*")}
    modes |= {each.stat().st_mode & 0o777 for each in folder.glob("in*/*")}

    assert modes == {0o600}


async def test_where_room_is_short_nothing_may_begin(tmp_path):
    free = os.statvfs(tmp_path)
    room = free.f_bavail * free.f_frsize
    strict = LocalBlobs(tmp_path / "strict", min_free_bytes=room * 2)
    loose = LocalBlobs(tmp_path / "loose", min_free_bytes=0)

    with pytest.raises(StorageFull):
        strict.incoming(KEY)
    with pytest.raises(StorageFull):
        loose.incoming(KEY, expected=room * 2)
    assert await arrive(loose, b"sound", KEY)
    await strict.close()
    await loose.close()


# ---- small bytes at hand


@pytest.mark.parametrize("size", [0, 1, 256 * 1024])
async def test_few_bytes_at_hand_are_whole_or_none(blobs, size):
    """None where the file system cannot tell what is in memory: then they are read in a thread."""
    content = os.urandom(size)
    await arrive(blobs, content, KEY)

    assert blobs.at_hand(KEY, size, 0, size) in (content, None)


async def test_a_few_bytes_of_many_are_at_hand(blobs):
    content = os.urandom(MIB)
    await arrive(blobs, content, KEY)

    assert blobs.at_hand(KEY, MIB, 5, 256 * 1024) in (content[5 : 256 * 1024], None)
    assert blobs.at_hand(KEY, MIB, MIB - 9, MIB) in (content[-9:], None)


async def test_wrong_many_and_missing_bytes_are_never_at_hand(blobs):
    await arrive(blobs, bytes(256 * 1024 + 1), KEY)
    found = [
        blobs.at_hand(KEY, 256 * 1024 + size, 0, 256 * 1024 + end)
        for size, end in ((1, 1), (0, 0), (2, 0))
    ]

    assert found == [None, None, None]
    assert blobs.at_hand(KEY[::-1], 0, 0, 0) is None


async def test_alien_files_among_what_comes_in_are_left_alone(blobs, folder):
    """A file system's own `lost+found`, or what somebody put there."""
    (folder / "incoming/lost+found").mkdir()
    (folder / "incoming/README").touch()
    await arrive(blobs, b"sound", KEY)

    assert await everything_unsettled(blobs) == [KEY]


# ---- threads


@pytest.mark.parametrize("times", [1, 3])
async def test_a_cancelled_caller_waits_until_the_disk_is_left_alone(times):
    """Otherwise what it does next, like removing the file, would come too early."""
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        may_end.wait(5)
        ended.set()

    task = asyncio.create_task(disk.in_thread(work))
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


async def test_a_caller_that_is_cancelled_while_a_file_is_opened_leaves_none_open(
    blobs, folder, monkeypatch
):
    """It would keep the resumable upload's lock, too."""
    await arrive(blobs, b"sound", KEY)
    original = os.open

    def slow(*arguments, **more):
        time.sleep(0.05)
        return original(*arguments, **more)

    monkeypatch.setattr(localblobs.os, "open", slow)
    task = asyncio.create_task(blobs.stage(KEY, at=0))
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


# ---- staging


async def test_one_process_at_a_time_stages_an_upload(blobs):
    first = await blobs.stage(KEY, at=0)
    with pytest.raises(Conflict):
        await blobs.stage(KEY, at=0)
    await first.close()
    second = await blobs.stage(KEY, at=0)
    await second.close()


async def test_nobody_goes_on_past_what_is_there(blobs):
    staging = await blobs.stage(KEY, at=0)
    await staging.write(b"sound")
    await staging.sync()
    await staging.close()

    with pytest.raises(Unavailable):
        await blobs.stage(KEY, at=6)
