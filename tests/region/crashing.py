"""A region whose process is killed again and again, and what must be true after each time.

    python crashing.py ROUNDS SEED DATABASE BLOBS

BLOBS is a folder, or a bucket as JSON.

A child uploads, resumes, repeats and deletes, many things at once, and says what was acknowledged;
it is killed with SIGKILL at a random moment. Then another looks at all there is.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from cryptography.fernet import Fernet

from soundkeep.foundation import audit
from soundkeep.foundation.claims import internal
from soundkeep.foundation.clock import DAY, now_ms
from soundkeep.foundation.errors import Busy, Conflict, Gone
from soundkeep.foundation.migrate import migrate
from soundkeep.region import content, ledger, resumable, retention
from soundkeep.region.arrivals import Upload, Wanted
from soundkeep.region.blobs import Bucket
from soundkeep.region.plane import PACKAGES, Limits, Region, open_region

CLAIMS = internal("acme", by="crash", owner="olga", regions=("us-east",))
VAULT = Fernet(Fernet.generate_key())
KINDS = 12
CROWD = 30
"""From so many objects on, only deletes: each look reads all that is kept."""

_LOOKS = 20
_PAUSE = 0.25

CALL = Wanted(type="callrecording")


def sound(kind: int) -> bytes:
    """One of a few contents, so that bytes come again while the old ones are freed."""
    size = (0, 5, 28_000, 300_000, 1_200_000, 2_500_000)[kind % 6]
    return random.Random(kind).randbytes(size)


async def opened(database: str, blobs: str, *, ahead_ms: int = 0) -> Region:
    return await open_region(
        "us-east", database=database, blobs=place_of(blobs), clock=lambda: now_ms() + ahead_ms,
        entropy=os.urandom, limits=Limits(min_free_bytes=0, upload_hours=1000),
        vault=VAULT, base_url="https://soundkeep.test",
    )  # fmt: skip


def place_of(blobs: str) -> Path | Bucket:
    """A folder, or the bucket that JSON describes."""
    return Bucket(**json.loads(blobs)) if blobs.startswith("{") else Path(blobs)


# ---- the child that is killed


class Worker:
    """Does what clients do, and says what it was told."""

    def __init__(self, region: Region, seed: int, objects: list[str], uploads: dict, pipe: int):
        self._region = region
        self._chance = random.Random(seed)
        self._objects = objects
        self._uploads = uploads
        self._pipe = pipe

    def say(self, *words: object) -> None:
        os.write(self._pipe, json.dumps(words).encode() + b"\n")

    async def upload(self) -> None:
        kind = self._chance.randrange(KINDS)
        raw = sound(kind)
        async with Upload(self._region, CLAIMS) as upload:
            for start in range(0, len(raw), 100_000):
                await upload.write(raw[start : start + 100_000])
            kept = await upload.finish(CALL)
        self.say("kept", kept.id, kind)
        self._objects.append(kept.id)

    async def resume(self) -> None:
        if len(self._uploads) < 4:
            kind = self._chance.randrange(1, KINDS)
            begun = await resumable.create(
                self._region, CLAIMS, CALL, size=len(sound(kind)), metadata=""
            )
            self.say("begun", begun.id, kind)
            self._uploads[begun.id] = kind
        upload_id = self._chance.choice(list(self._uploads))
        kind = self._uploads[upload_id]
        raw = sound(kind)
        try:
            found = await resumable.find(self._region, CLAIMS, upload_id)
            at = found.position
            end = self._chance.choice((at + 70_000, at + 700_000, len(raw)))
            after = await resumable.append(
                self._region, CLAIMS, upload_id, in_pieces(raw[at:end]), at=at
            )
        except (Conflict, Busy, Gone):
            return
        self.say("offset", upload_id, after.position)
        if after.object_id:
            self._uploads.pop(upload_id, None)
            self.say("kept", after.object_id, kind)

    async def delete(self) -> None:
        if not self._objects:
            return
        gone = self._objects.pop(self._chance.randrange(len(self._objects)))
        self.say("purging", gone)
        await retention.purge(self._region, CLAIMS, [gone])
        self.say("purged", gone)

    async def remove(self) -> None:
        await retention.remove_discarded(self._region)

    async def run(self) -> None:
        async def client() -> None:
            while True:
                deeds = (
                    self.upload,
                    self.upload,
                    self.resume,
                    self.resume,
                    self.delete,
                    self.remove,
                )
                crowded = len(self._objects) > CROWD
                await (self.delete if crowded else self._chance.choice(deeds))()

        await asyncio.gather(*(client() for _ in range(6)))


async def in_pieces(raw: bytes):
    for start in range(0, len(raw), 65_536):
        yield raw[start : start + 65_536]


# ---- what was said, and what must be true


class Memory:
    """All that was ever acknowledged."""

    def __init__(self) -> None:
        self.kept: dict[str, int] = {}
        self.purging: set[str] = set()
        self.purged: set[str] = set()
        self.uploads: dict[str, int] = {}
        self.offsets: Counter[str] = Counter()
        self.said: Counter[str] = Counter()

    def hear(self, line: bytes) -> None:
        match json.loads(line):
            case ["kept", object_id, kind]:
                self.kept[object_id] = kind
                self.uploads.pop(object_id, None)
            case ["purging", object_id]:
                self.purging.add(object_id)
            case ["purged", object_id]:
                self.purged.add(object_id)
            case ["begun", upload_id, kind]:
                self.uploads[upload_id] = kind
            case ["offset", upload_id, position]:
                self.offsets[upload_id] = max(position, self.offsets[upload_id])
        self.said[json.loads(line)[0]] += 1

    def objects(self) -> list[str]:
        return [each for each in self.kept if each not in self.purging]


async def examine(region: Region, memory: Memory) -> None:
    """After a sweep: nothing acknowledged is lost, no byte is wrong, nothing is left over."""
    await retention.at_start(region)
    for object_id, kind in memory.kept.items():
        if object_id in memory.purging:
            continue
        found = await content.readable(region, CLAIMS, object_id)
        pieces = await content.body_of(region, found).read(0, found.size)
        assert b"".join([each async for each in pieces]) == sound(kind), object_id
    for object_id in memory.purged:
        try:
            await content.readable(region, CLAIMS, object_id)
        except Gone:
            continue
        raise AssertionError(f"{object_id} was purged and is there")
    rows = await region.db.scan(
        "SELECT id, blob, size, sha256 FROM objects WHERE state <> 'DELETED'"
    )
    holders = Counter(row[1] for row in rows)
    for object_id, blob, size, sha256 in rows:
        pieces = await region.blobs.read(blob, 0, size)
        digest = hashlib.sha256(b"".join([each async for each in pieces])).hexdigest()
        assert digest == sha256, object_id
    blobs = dict(await region.db.scan("SELECT key, refs FROM blobs"))
    assert blobs == dict(holders), "blobs and what holds them"
    assert await left_over(region, set(blobs)) == set(), "bytes that nothing holds"
    used = await ledger.usage(region.db, customer="acme")
    assert (used.objects, used.bytes) == (len(rows), sum(row[2] for row in rows))
    for upload_id, position in memory.offsets.items():
        found = await resumable.find(region, CLAIMS, upload_id)
        assert found.position >= position, upload_id
    assert await audit.first_broken(region.db, customer="acme") is None


async def left_over(region: Region, held: set[str]) -> set[str]:
    """What is there that nothing holds, once the store is through with what it was sent.

    A server may still be at work on a request of the process that was killed: the next sweep finds
    what came of it.
    """
    left = await everything(region) - held
    for _ in range(_LOOKS if region.blobs.shared else 0):
        if not left:
            break
        await asyncio.sleep(_PAUSE)
        await retention.at_start(region)
        left = await everything(region) - held
    return left


async def everything(region: Region) -> set[str]:
    """The keys of all bytes in the store, of whatever kind it is."""
    left = set(await region.blobs.leftovers(after_ms=0, before_ms=2**62))
    if region.blobs.shared:
        return left
    assert not left
    return {each.name for each in Path(sys.argv[4]).glob("kept/*/*")}  # noqa: ASYNC240  alone


# ---- the rounds


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


def main(rounds: int, seed: int, database: str, blobs: str) -> None:
    chance, memory = random.Random(seed), Memory()

    async def prepare() -> None:
        region = await opened(database, blobs)
        await migrate(region.db, PACKAGES, clock=now_ms)
        await region.close()

    async def work(pipe: int, number: int) -> None:
        region = await opened(database, blobs)
        worker = Worker(region, number, memory.objects(), dict(memory.uploads), pipe)
        worker.say("ready")
        await worker.run()

    async def look() -> None:
        region = await opened(database, blobs, ahead_ms=2 * DAY)
        await examine(region, memory)
        await region.close()

    must(forked(lambda: asyncio.run(prepare())))
    for number in range(rounds):
        reading, writing = os.pipe()
        child = forked(lambda: asyncio.run(work(writing, chance.randrange(2**32))))  # noqa: B023
        os.close(writing)
        with os.fdopen(reading, "rb") as lines:
            memory.hear(lines.readline())
            time.sleep(chance.random() ** 2 * 0.4)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            for line in lines:
                memory.hear(line)
        must(forked(lambda: asyncio.run(look())))
        sys.stderr.write(f"\r{number + 1} {dict(memory.said)} ")
    print(json.dumps(memory.said))


def must(child: int) -> None:
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise SystemExit("It did not hold.")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
