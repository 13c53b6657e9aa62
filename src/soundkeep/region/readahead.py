"""Reading ahead of a reader: pieces in order, larger and more of them while it keeps up.

All readers of a store share one `Budget`, so that hundreds that stall cost little: what a reader
has beyond one small piece is taken back when another can use it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

Fetch = Callable[[int, int], Awaitable[memoryview]]
"""The bytes from an offset up to and without another, all of them."""

FIRST_SIZE = 64 * 1024
"""What a reader may always have: the first piece, and each next one where the budget is used up."""

_LARGEST = 1024 * 1024
_MOST_AHEAD = 4
_SLICE = 128 * 1024
_IDLE_SECONDS = 1.0


class Budget:
    """How many bytes the readers of a store may hold together, beyond one small piece each."""

    def __init__(self, size: int) -> None:
        self.free = size
        self._lent = dict[Reader, int]()  # who asked longest ago is first

    def take(self, size: int, reader: Reader) -> bool:
        """Lend so many bytes, if need be taking them from readers that stall; False without."""
        if self.free < size:
            for other in [each for each in self._lent if each.is_idle()]:
                other.shed()
                if self.free >= size:
                    break
        if self.free < size:
            return False
        self.free -= size
        self._lent[reader] = self._lent.get(reader, 0) + size
        return True

    def give_back(self, size: int, reader: Reader) -> None:
        """It does not hold these any more."""
        if size:
            self.free += size
            self._lent[reader] -= size
            if not self._lent[reader]:
                del self._lent[reader]

    def asked(self, reader: Reader) -> None:
        """It keeps going: others are to lose theirs first."""
        if reader in self._lent:
            self._lent[reader] = self._lent.pop(reader)


@dataclass(slots=True)
class _Piece:
    start: int
    end: int
    lent: int
    fetching: asyncio.Task[memoryview]


class Reader:
    """The bytes from `start` up to and without `end`, of which `first` is here already."""

    def __init__(
        self, fetch: Fetch, start: int, end: int, *, first: memoryview, budget: Budget
    ) -> None:
        self._fetch = fetch
        self._at = start  # the reader has everything before
        self._next = start + len(first)  # what is fetched next
        self._end = end
        self._rest = first
        self._rest_lent = 0
        self._ahead = deque[_Piece]()
        self._size, self._most = FIRST_SIZE, 1
        self._budget = budget
        self._asking = False
        self._asked_at = 0.0

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """All of them, in order; closing it early cancels what is on its way."""
        try:
            while self._at < self._end:
                yield await self._slice()
        finally:
            self.shed()

    def is_idle(self) -> bool:
        """Whether whoever reads does not come for more."""
        now = asyncio.get_running_loop().time()
        return not self._asking and now - self._asked_at > _IDLE_SECONDS

    def shed(self) -> None:
        """Drop what was read ahead; it is fetched anew when the reader goes on."""
        for piece in self._ahead:
            piece.fetching.cancel()
            self._budget.give_back(piece.lent, self)
        self._ahead.clear()
        self._let_go()
        self._next = self._at
        self._size, self._most = FIRST_SIZE, 1

    def _let_go(self) -> None:
        """Of the whole piece, of which even an empty part would keep all."""
        self._budget.give_back(self._rest_lent, self)
        self._rest, self._rest_lent = memoryview(b""), 0

    async def _slice(self) -> bytes:
        self._asking = True
        try:
            if not self._rest:
                await self._refill()
            part = bytes(self._rest[:_SLICE])
            self._rest = self._rest[_SLICE:]
            self._at += len(part)
            if not self._rest:
                self._let_go()
            self._look_ahead()
            return part
        finally:
            self._asking = False
            self._asked_at = asyncio.get_running_loop().time()
            self._budget.asked(self)

    async def _refill(self) -> None:
        self._look_ahead()
        piece = self._ahead[0]
        if not piece.fetching.done():  # it is faster than the store
            self._size = min(self._size * 2, _LARGEST)
            self._most = min(self._most + 1, _MOST_AHEAD)
            self._look_ahead()
        self._rest = await piece.fetching
        self._rest_lent = piece.lent
        self._ahead.popleft()

    def _look_ahead(self) -> None:
        while self._next < self._end and len(self._ahead) < self._most:
            size = lent = min(self._size, self._end - self._next)
            only = not self._ahead and not self._rest
            if only and (size <= FIRST_SIZE or not self._budget.take(size, self)):
                size, lent = min(FIRST_SIZE, size), 0
            elif not only and not self._budget.take(size, self):
                return
            end = self._next + size
            fetching = asyncio.ensure_future(self._fetch(self._next, end))
            fetching.add_done_callback(_looked_at)
            self._ahead.append(_Piece(self._next, end, lent, fetching))
            self._next = end


async def in_order(
    jobs: Iterable[Callable[[], Awaitable[T]]], *, at_once: int
) -> AsyncGenerator[T, None]:
    """What the jobs give, in their order, while up to `at_once` of them run."""
    waiting, running = iter(jobs), deque[asyncio.Future[T]]()
    try:
        while True:
            while len(running) < at_once and (job := next(waiting, None)) is not None:
                running.append(asyncio.ensure_future(job()))
                running[-1].add_done_callback(_looked_at)
            if not running:
                return
            yield await running[0]
            running.popleft()
    finally:
        for each in running:
            each.cancel()


def _looked_at(done: asyncio.Future[Any]) -> None:
    """A failure that nobody waits for any more is none."""
    if not done.cancelled():
        done.exception()
