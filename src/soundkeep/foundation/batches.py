"""Group commit: what arrives while one batch is being written makes up the next one.

One disk sync and one transaction then serve every request that waited for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from soundkeep.foundation.errors import Unavailable
from soundkeep.foundation.waiting import to_the_end

T = TypeVar("T")

_LONG_SECONDS = 1.0

Work = Callable[[Sequence[T]], Awaitable[None]]
"""Makes a whole batch durable, or raises and leaves it fit for another try, item by item."""


class Batches(Generic[T]):
    """A queue of things to be made durable together."""

    def __init__(self, *, largest: int = 256) -> None:
        self._largest = largest
        self._waiting: list[tuple[T, asyncio.Future[None]]] = []
        self._runner: asyncio.Task[None] | None = None

    async def add(self, item: T, work: Work[T]) -> None:
        """Return when `work` is through with the item; raise what it raised for it.

        A caller that is cancelled meanwhile learns it only after the item's fate is decided.
        """
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run(work))
        await to_the_end(done)

    async def _run(self, work: Work[T]) -> None:
        batch: Sequence[tuple[T, asyncio.Future[None]]] = ()
        try:
            while self._waiting:
                batch = self._waiting[: self._largest]
                del self._waiting[: self._largest]
                await self._settle(batch, work)
        except asyncio.CancelledError:  # the loop is being shut down: let nobody wait for ever
            for _, done in (*batch, *self._waiting):
                done.cancel()
            self._waiting.clear()
            raise

    async def _settle(self, batch: Sequence[tuple[T, asyncio.Future[None]]], work: Work[T]) -> None:
        """Try all together; where that fails, each alone, so that one cannot spoil the others.

        Where one alone waited long for something that does not answer, the rest would as well: they
        fail with it. No other failure is passed on, since its words are for its owner.
        """
        clock = asyncio.get_running_loop().time
        try:
            await work([item for item, _ in batch])
        except Exception as error:  # noqa: BLE001  whatever it is, it is the item's
            if len(batch) == 1:
                batch[0][1].set_exception(error)
                return
            begun = clock()
            for number, each in enumerate(batch):
                await self._settle([each], work)
                failed = each[1].exception()
                if isinstance(failed, Unavailable) and clock() - begun > _LONG_SECONDS:
                    for _, done in batch[number + 1 :]:
                        done.set_exception(failed)
                    return
                begun = clock()
        else:
            for _, done in batch:
                done.set_result(None)
