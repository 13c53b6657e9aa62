"""What clients do to a region that is killed under them, and what they say they were told."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import os
import random
from dataclasses import replace

from soundkeep.foundation.claims import internal
from soundkeep.foundation.clock import DAY
from soundkeep.foundation.errors import Busy, Conflict, Gone, Unavailable
from soundkeep.region import archive, bulk, resumable, retention
from soundkeep.region.arrivals import Kept, Upload, Wanted
from soundkeep.region.model import JobState
from soundkeep.region.plane import Region

CLAIMS = internal("acme", by="crash", owner="olga", regions=("us-east",))
CALL = Wanted(type="callrecording")
KINDS = 12
UNDELETE_DAYS = 4
BULK_DAYS = 10
PURGE_DAYS = 6
"""When the undelete window is over, and archives are not."""

_CLIENTS = 6
_CROWD = 30
"""From so many objects on, only deletes: each look reads all that is kept."""

_UPLOADS = 4
_KEYS = 6
_ARCHIVES = 5
_MEMBERS = 6


@functools.lru_cache(maxsize=2 * KINDS)
def sound(kind: int) -> bytes:
    """The bytes of a kind, which tells their size as well."""
    size = (0, 5, 28_000, 300_000, 1_200_000, 2_500_000)[kind % 6]
    return random.Random(kind).randbytes(size)


def name_of(key: str) -> str:
    """What the object of an Idempotency-Key is called."""
    return f"made with {key}"


def is_silence(region: Region, error: Unavailable) -> bool:
    """Whether a store beyond a network did not answer: nothing is known to be lost."""
    return region.blobs.shared and "lost" not in error.facts


def say_into(pipe: int, *words: object) -> None:
    """A line that the parent hears, whole even where the child is killed."""
    os.write(pipe, json.dumps(words).encode() + b"\n")


class Clients:
    """Do what they do many at once; what one takes up, no other does meanwhile.

    `objects`, `revoked` and `archives` are ids; `uploads` and `tried` tell what is sent with an
    upload's id and with an Idempotency-Key, `keyed` the objects of the keys that were answered.
    """

    def __init__(
        self,
        region: Region,
        seed: int,
        pipe: int,
        *,
        objects: list[str],
        revoked: list[str],
        uploads: dict[str, int],
        tried: dict[str, int],
        keyed: dict[str, str],
        archives: list[str],
    ) -> None:
        self._region = region
        self._chance = random.Random(seed)
        self._say = functools.partial(say_into, pipe)
        self._objects = objects
        self._revoked = revoked
        self._uploads = uploads
        self._tried = tried
        self._keyed = keyed
        self._archives = archives
        self._reading = asyncio.Lock()
        """Held while an archive is read, and while those are dropped that were over long ago."""

    async def run(self) -> None:
        """Go on until the process is killed."""

        async def client() -> None:
            while True:
                often = self._how_often()
                try:
                    await self._chance.choices(list(often), list(often.values()))[0]()
                except Unavailable as error:
                    if not is_silence(self._region, error):
                        raise
                    self._say("no answer")

        self._say("ready")
        await asyncio.gather(*(client() for _ in range(_CLIENTS)))

    def _how_often(self):
        """What is done next, and how often each."""
        if len(self._objects) + len(self._revoked) > _CROWD:
            return {self.delete: 1, self.purge: 1, self.age: 1}
        return {
            self.upload: 12,
            self.repeat: 8,
            self.replace: 4,
            self.resume: 12,
            self.delete: 10,
            self.undelete: 6,
            self.purge: 4,
            self.age: 1,
            self.remove: 4,
            self.start: 8,
            self.read: 12,
            self.cancel: 4,
            self.clear: 1,
        }

    def _kind(self) -> int:
        """One of a few, so that bytes come again while the old ones are freed; or a new one."""
        new = KINDS + self._chance.getrandbits(32)
        return self._chance.choice((self._chance.randrange(KINDS), new))

    def _take(self, among: list[str]) -> str | None:
        return among.pop(self._chance.randrange(len(among))) if among else None

    # ---- uploads

    async def upload(self) -> None:
        kind = self._kind()
        kept = await self._sent(kind, CALL)
        self._say("kept", kept.id, kind)
        self._objects.append(kept.id)

    async def repeat(self) -> None:
        """Send with an Idempotency-Key, twice at once: one that nobody answered, or a new one."""
        key = self._take(list(self._tried))
        if key is None or len(self._tried) < _KEYS:
            key = f"{self._chance.getrandbits(64):016x}"
            self._tried[key] = self._kind()
        before, kind = self._keyed.pop(key, None), self._tried.pop(key)
        first = await asyncio.gather(*(self._tries(key, kind) for _ in range(2)))
        assert len({each.id for each in first}) == 1, first
        assert before in (None, first[0].id), (before, first)
        self._tried[key], self._keyed[key] = kind, first[0].id

    async def replace(self) -> None:
        """Delete an object and send the same again."""
        key = self._take(list(self._keyed))
        if key is None:
            return
        old, kind = self._keyed.pop(key), self._tried.pop(key)
        await self._deleted(old)
        kept = await self._tries(key, kind)
        assert kept.fresh
        self._tried[key], self._keyed[key] = kind, kept.id

    async def _tries(self, key: str, kind: int) -> Kept:
        self._say("trying", key, kind)
        kept = await self._sent(kind, replace(CALL, name=name_of(key), repeat_key=key))
        self._say("keyed", key, kept.id)
        return kept

    async def _sent(self, kind: int, wanted: Wanted) -> Kept:
        async with Upload(self._region, CLAIMS) as upload:
            async for piece in in_pieces(sound(kind)):
                await upload.write(piece)
            return await upload.finish(wanted)

    async def resume(self) -> None:
        if len(self._uploads) < _UPLOADS:
            kind = self._kind()
            begun = await resumable.create(
                self._region, CLAIMS, CALL, size=len(sound(kind)), metadata=""
            )
            self._say("begun", begun.id, kind)
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
        self._say("offset", upload_id, after.position)
        if after.object_id and self._uploads.pop(upload_id, None) is not None:
            self._say("kept", after.object_id, kind)
            self._objects.append(after.object_id)

    # ---- deletions

    async def delete(self) -> None:
        gone = self._take(self._objects)
        if gone is not None:
            await self._deleted(gone)
            self._revoked.append(gone)

    async def _deleted(self, object_id: str) -> None:
        self._say("deleting", object_id)
        outcome = await retention.revoke(self._region, CLAIMS, [object_id], None)
        assert outcome.moved == [object_id]
        self._say("deleted", object_id)

    async def undelete(self) -> None:
        back = self._take(self._revoked)
        if back is None:
            return
        self._say("undeleting", back)
        outcome = await retention.undelete(self._region, CLAIMS, [back])
        if outcome.moved:
            self._say("undeleted", back)
            self._objects.append(back)
        else:
            self._say("too late", back)

    async def purge(self) -> None:
        gone = self._take(self._objects)
        if gone is not None:
            self._say("purging", gone)
            await retention.purge(self._region, CLAIMS, [gone])
            self._say("purged", gone)

    async def age(self) -> None:
        """Let the undelete window pass: no client, but what runs every hour."""
        gone, self._revoked[:] = list(self._revoked), []
        self._say("aging")
        clock = self._region.clock
        later = replace(self._region, clock=lambda: clock() + PURGE_DAYS * DAY)
        await retention.purge_revoked(later)
        for each in gone:
            self._say("purged", each)
        async with self._reading:
            await bulk.expire(later)

    async def remove(self) -> None:
        await retention.remove_discarded(self._region)

    # ---- archives

    async def start(self) -> None:
        if len(self._archives) > _ARCHIVES:
            await self.cancel()
            return
        most = [*self._objects, *self._keyed.values(), *self._revoked[:1]]
        ids = self._chance.sample(most, min(len(most), _MEMBERS))
        if not ids:
            return
        manifest = self._chance.random() < 0.5
        job = await bulk.start(self._region, CLAIMS, bulk.Wanted(ids=ids, manifest=manifest))
        if job.state is JobState.FAILED:
            self._say("failed", job.id, ids)
        if not bulk.is_ready(job):
            return
        told = [each async for part in bulk.outcome(self._region, job) for each in part]
        done = [each for each, status in told if status == "DONE"]
        missing = [each for each, status in told if status != "DONE"]
        size = archive.body_of(self._region, job).size
        self._say("started", job.id, size, done, missing, manifest)
        self._archives.append(job.id)

    async def read(self) -> None:
        """Fetch an archive with a break somewhere in it."""
        if not self._archives:
            return
        job_id, digest = self._chance.choice(self._archives), hashlib.sha256()
        async with self._reading:
            try:
                job = await bulk.ready(self._region, CLAIMS, job_id)
            except Gone:
                self._say("refused", job_id)
                return
            body = archive.body_of(self._region, job)
            middle = self._chance.randrange(body.size)
            for start, end in ((0, middle), (middle, body.size)):
                async for piece in await body.read(start, end):
                    digest.update(piece)
        self._say("read", job_id, digest.hexdigest())

    async def cancel(self) -> None:
        job_id = self._take(self._archives)
        if job_id is None:
            return
        self._say("cancelling", job_id)
        try:
            await bulk.cancel(self._region, CLAIMS, job_id)
        except Gone:
            self._say("was over", job_id)
        else:
            self._say("cancelled", job_id)

    async def clear(self) -> None:
        gone, self._archives[:] = list(self._archives), []
        self._say("clearing")
        await bulk.clear(self._region, CLAIMS)
        self._say("cleared", gone)


async def in_pieces(raw: bytes):
    for start in range(0, len(raw), 65_536):
        yield raw[start : start + 65_536]
