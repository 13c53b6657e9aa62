"""How much readers are handed at once."""

from __future__ import annotations

import asyncio
import os

import pytest

from soundkeep.region.pace import Pace

OBJECTS = "/storage/us-east/v3/objects"
LONG = os.urandom(1024 * 1024)


async def test_pieces_are_small_while_many_readers_wait_and_large_again_after():
    pace, taken, sizes = Pace(), asyncio.Event(), []
    waiting = []
    for _ in range(17):
        sizes.append(pace.size)
        waiting.append(asyncio.create_task(pace.hand(taken.wait())))
        await asyncio.sleep(0)
    taken.set()
    await asyncio.gather(*waiting)

    assert sizes == [64 * 1024] * 16 + [2 * 1024]
    assert pace.size == 64 * 1024


async def test_a_reader_that_fails_waits_no_longer():
    pace = Pace()

    async def broken() -> None:
        raise OSError

    for _ in range(20):
        with pytest.raises(OSError):
            await pace.hand(broken())

    assert pace.size == 64 * 1024


async def test_a_reader_among_many_that_stall_gets_all_bytes_in_small_pieces(local):
    made = await local.uploaded(LONG)
    stall = asyncio.Event()
    stalled = [asyncio.create_task(local.region.pace.hand(stall.wait())) for _ in range(16)]
    await asyncio.sleep(0)
    sent = await local.exchange("GET", f"{OBJECTS}/{made['id']}/content", [], stays=True)
    stall.set()
    await asyncio.gather(*stalled)

    assert b"".join(each.get("body", b"") for each in sent) == LONG
    assert max(len(each.get("body", b"")) for each in sent) == 2 * 1024
