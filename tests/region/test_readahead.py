"""Reading ahead: order, growth, and what stalled readers may cost."""

from __future__ import annotations

import asyncio
import os
import weakref
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial

import pytest
from region_world import MIB

from soundkeep.foundation.errors import Unavailable
from soundkeep.region.readahead import FIRST_SIZE, Budget, Reader, in_order


class Copy(bytearray):
    """One that can be watched."""


@dataclass
class Store:
    """Bytes far away: each range takes twenty turns of the loop."""

    content: bytes
    asked: list[int] = field(default_factory=list)
    flying: int = 0
    most: int = 0
    cancelled: int = 0
    held: int = 0
    fails_at: int | None = None

    async def fetch(self, start: int, end: int) -> memoryview:
        self.asked.append(end - start)
        self.flying += 1
        self.most = max(self.most, self.flying)
        try:
            await turns(20)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.flying -= 1
        if self.fails_at is not None and start <= self.fails_at < end:
            raise Unavailable("gone")
        return self.kept(start, end)

    def kept(self, start: int, end: int) -> memoryview:
        """Bytes of their own, counted for as long as somebody has them."""
        copy = Copy(self.content[start:end])
        self.held += len(copy)
        weakref.finalize(copy, self.dropped, len(copy))
        return memoryview(copy)

    def dropped(self, size: int) -> None:
        self.held -= size

    def reader(self, start: int, end: int, budget: Budget) -> Reader:
        first = self.kept(start, min(end, start + FIRST_SIZE))
        return Reader(self.fetch, start, end, first=first, budget=budget)


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def all_of(reader: Reader, *, pause: int = 0) -> bytes:
    found = b""
    async for piece in reader.pieces():
        found += piece
        await turns(pause)
    return found


@pytest.fixture
def store(anyio_backend):
    return Store(os.urandom(6 * MIB + 17))


@pytest.mark.parametrize("budget", [0, 100_000, MIB, 32 * MIB])
@pytest.mark.parametrize("pause", [0, 10, 100])
async def test_all_bytes_come_in_order_whatever_may_be_read_ahead(store, budget, pause):
    lent = Budget(budget)
    for start, end in [(0, 1), (5, FIRST_SIZE + 6), (3, len(store.content) - 3)]:
        found = await all_of(store.reader(start, end, lent), pause=pause)
        assert found == store.content[start:end]
    assert lent.free == budget
    assert store.flying == 0


async def test_a_fast_reader_gets_larger_pieces_and_more_of_them(store):
    await all_of(store.reader(0, len(store.content), Budget(32 * MIB)))

    assert store.asked[0] == FIRST_SIZE
    assert max(store.asked) == MIB
    assert store.most == 4


async def test_a_slow_reader_has_one_small_piece_ahead(store):
    await all_of(store.reader(0, 2 * MIB, Budget(32 * MIB)), pause=50)

    assert set(store.asked) == {FIRST_SIZE}
    assert store.most == 1


async def test_a_reader_that_stops_early_leaves_nothing_on_its_way(store):
    budget = Budget(32 * MIB)
    async with aclosing(store.reader(0, len(store.content), budget).pieces()) as pieces:
        while store.flying < 3:
            await anext(pieces)
            await turns(1)
        before = store.flying
    await turns(1)

    assert before > 0
    assert (store.flying, store.cancelled) == (0, before)
    assert store.held == 0
    assert budget.free == 32 * MIB


async def test_a_piece_that_fails_ends_the_reader_after_those_before_it(store):
    store.fails_at, budget, found = 3 * MIB, Budget(32 * MIB), b""
    with pytest.raises(Unavailable):
        async for piece in store.reader(0, len(store.content), budget).pieces():
            found += piece

    assert len(found) > MIB
    assert store.content.startswith(found)
    assert budget.free == 32 * MIB


async def test_hundreds_of_readers_that_stall_cost_little(store):
    """They were fast at first, so that each had 4 MiB ahead."""
    budget, readers = Budget(32 * MIB), []
    for _ in range(200):
        pieces = store.reader(0, len(store.content), budget).pieces()
        taken = [await anext(pieces) for _ in range(12)]
        assert sum(map(len, taken)) >= 12 * FIRST_SIZE
        readers.append(pieces)
    await turns(50)
    held = store.held
    for pieces in readers:
        await pieces.aclose()

    assert held <= 32 * MIB + 200 * FIRST_SIZE
    assert (store.held, budget.free) == (0, 32 * MIB)


async def test_a_reader_that_stalls_makes_way_and_goes_on_later(store):
    budget = Budget(MIB)
    pieces = store.reader(0, len(store.content), budget).pieces()
    found = b"".join([await anext(pieces) for _ in range(16)])
    lent = MIB - budget.free
    await asyncio.sleep(1.1)  # it stalls
    store.asked.clear()
    other = await all_of(store.reader(0, len(store.content), budget))
    largest = max(store.asked)
    rest = b"".join([piece async for piece in pieces])

    assert lent > MIB // 2 > FIRST_SIZE
    assert largest >= MIB // 2
    assert other == found + rest == store.content
    assert budget.free == MIB


# ---- jobs in order


async def test_jobs_give_their_results_in_order_a_few_at_once(anyio_backend):
    running, most = 0, 0

    async def job(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await turns(number % 3)
        running -= 1
        return number

    found = [each async for each in in_order((partial(job, n) for n in range(20)), at_once=2)]

    assert found == list(range(20))
    assert most == 2


async def test_jobs_of_somebody_who_left_are_cancelled(anyio_backend):
    cancelled = []

    async def job(number: int) -> int:
        try:
            await asyncio.sleep(number)
        except asyncio.CancelledError:
            cancelled.append(number)
            raise
        return number

    async with aclosing(in_order([partial(job, n) for n in (0, 100, 200)], at_once=3)) as results:
        first = await anext(results)
    await turns(1)

    assert (first, cancelled) == (0, [100, 200])
