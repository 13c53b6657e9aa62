"""A region whose process is killed again and again, and what must be true after each time.

    python crashing.py ROUNDS SEED DATABASE BLOBS

BLOBS is a folder, or a bucket as JSON.

A child does what clients do, many things at once (`crash_clients`), and says what was acknowledged;
it is killed with SIGKILL at a random moment, and in some rounds the start that follows is killed as
well. Then another looks at all there is (`crash_looks`), at a time when what waits for time is over.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

from crash_clients import (
    BULK_DAYS,
    KINDS,
    PURGE_DAYS,
    UNDELETE_DAYS,
    Clients,
    is_silence,
    say_into,
    sound,
)
from crash_looks import Look, Memory
from cryptography.fernet import Fernet

from soundkeep.foundation.clock import DAY, MINUTE, now_ms
from soundkeep.foundation.errors import Unavailable
from soundkeep.foundation.migrate import migrate
from soundkeep.region import retention
from soundkeep.region.blobs import Bucket
from soundkeep.region.plane import PACKAGES, Limits, Region, open_region

VAULT = Fernet(Fernet.generate_key())
LIMITS = Limits(
    min_free_bytes=0, upload_hours=1000, undelete_days=UNDELETE_DAYS, bulk_days=BULK_DAYS
)

_STEP_MS = 5 * MINUTE
"""From round to round, so that what a killed process was at is known to be over."""

_LOOKED_AT = {2: 8, PURGE_DAYS: 3, BULK_DAYS + 2: 1}
"""How many days later a look may come, and how often."""

_STARTS = 1 / 3
_TRIES, _PAUSE_SECONDS = 20, 3
"""A look is taken again where the store did not answer: it has seen nothing yet."""


class Rounds:
    """A region, and all that is known of it."""

    def __init__(self, seed: int, database: str, blobs: str) -> None:
        self._chance = random.Random(seed)
        self._database = database
        self._blobs = Bucket(**json.loads(blobs)) if blobs.startswith("{") else Path(blobs)
        self._ahead_ms = 0
        self.memory = Memory()

    def prepare(self) -> None:
        """An empty region, and the contents of all uploads."""
        for kind in range(KINDS):
            sound(kind)
        must(self._heard(self._migrated))

    def run(self) -> None:
        """Kill a child, maybe a start, and look."""
        self._ahead_ms += _STEP_MS
        must(self._heard(self._clients, seconds=self._chance.random() ** 2 * 0.4), -signal.SIGKILL)
        days = self._chance.choices(list(_LOOKED_AT), list(_LOOKED_AT.values()))[0]
        self.memory.pass_time(days, now_ms=now_ms() + self._ahead_ms)
        if self._chance.random() < _STARTS:
            start = functools.partial(self._start, days)
            ended = self._heard(start, seconds=self._chance.random() ** 2 * 0.1)
            must(ended, 0, os.EX_TEMPFAIL, -signal.SIGKILL)
        look = functools.partial(self._look, days)
        tries = _TRIES
        while (ended := self._heard(look)) == os.EX_TEMPFAIL and tries:
            tries -= 1
            self.memory.said["looked again"] += 1
            time.sleep(_PAUSE_SECONDS)
        must(ended)

    async def _migrated(self, pipe: int) -> None:
        region = await self._opened()
        await migrate(region.db, PACKAGES, clock=now_ms)
        await region.close()

    async def _clients(self, pipe: int) -> None:
        region = await self._opened()
        clients = Clients(region, self._chance.randrange(2**32), pipe, **self.memory.left())
        await clients.run()

    async def _start(self, days: int, pipe: int) -> None:
        region = await self._opened(days=days)
        say_into(pipe, "starting")
        async with answered(region):
            await retention.at_start(region)
        await region.close()

    async def _look(self, days: int, pipe: int) -> None:
        region = await self._opened(days=days)
        folder = self._blobs if isinstance(self._blobs, Path) else None
        look = Look(region, self.memory, functools.partial(say_into, pipe), folder)
        async with answered(region):
            await look.examine()
        await region.close()

    async def _opened(self, *, days: int = 0) -> Region:
        ahead_ms = self._ahead_ms + days * DAY
        return await open_region(
            "us-east", database=self._database, blobs=self._blobs,
            clock=lambda: now_ms() + ahead_ms, entropy=os.urandom, limits=LIMITS,
            vault=VAULT, base_url="https://soundkeep.test",
        )  # fmt: skip

    def _heard(
        self, work: Callable[[int], Coroutine[None, None, None]], *, seconds: float | None = None
    ) -> int:
        """How a child ended that was heard to the end, killed so long after its first word."""
        reading, writing = os.pipe()
        child = forked(lambda: asyncio.run(work(writing)))
        os.close(writing)
        with os.fdopen(reading, "rb") as lines:
            if seconds is not None and (first := lines.readline()):
                self.memory.hear(first)
                time.sleep(seconds)
                os.kill(child, signal.SIGKILL)
            for line in lines:
                self.memory.hear(line)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@asynccontextmanager
async def answered(region: Region) -> AsyncIterator[None]:
    """Ends the child in a way of its own where a store does not answer."""
    try:
        yield
    except Unavailable as error:
        if is_silence(region, error):
            os._exit(os.EX_TEMPFAIL)
        raise


def forked(work: Callable[[], None]) -> int:
    """A child that runs `work` and ends; its process id."""
    child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    except BaseException:  # noqa: BLE001  it is told, and ends the child
        traceback.print_exc()
        os._exit(1)


def must(ended: int, *expected: int) -> None:
    if ended not in (expected or (0,)):
        raise SystemExit(f"It did not hold: {ended}.")


def main(count: int, seed: int, database: str, blobs: str) -> None:
    rounds = Rounds(seed, database, blobs)
    rounds.prepare()
    for number in range(count):
        rounds.run()
        sys.stderr.write(f"\r{number + 1} {dict(rounds.memory.said)} ")
    print(json.dumps(rounds.memory.said))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
