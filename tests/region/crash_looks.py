"""What a region acknowledged that is killed again and again, and a look at whether it holds."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from crash_clients import BULK_DAYS, CLAIMS, UNDELETE_DAYS, name_of, sound

from soundkeep.foundation import audit
from soundkeep.foundation.errors import Gone
from soundkeep.region import (
    archive,
    bulk,
    bulkstore,
    content,
    ledger,
    manifest,
    resumable,
    retention,
)
from soundkeep.region.content import Body
from soundkeep.region.model import Job, State
from soundkeep.region.plane import Region

THERE, REVOKED, GONE = State.AVAILABLE, State.REVOKED, State.DELETED

_LOOKS = 20
_PAUSE = 0.25
_MANY = 100_000


@dataclass(kw_only=True)
class Archive:
    """An archive that was acknowledged; `over` is None where it may be, or may not."""

    size: int
    objects: list[str]
    manifest: bool
    digest: str | None = None
    over: bool | None = False


@dataclass
class Memory:
    """All that was ever acknowledged, and what it must have come to.

    The states of an object are those that it may be in: two, while it is not known whether what a
    killed process had begun was done. `tried` are Idempotency-Keys and what is sent with them,
    `keyed` the objects that they have, `made` all that they ever had. Archives from before
    `expired_ms` had expired when somebody looked, at a later time than it is now.
    """

    kinds: dict[str, int] = field(default_factory=dict)
    states: dict[str, set[State]] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)
    uploads: dict[str, int] = field(default_factory=dict)
    offsets: Counter[str] = field(default_factory=Counter)
    tried: dict[str, int] = field(default_factory=dict)
    keyed: dict[str, str] = field(default_factory=dict)
    made: set[str] = field(default_factory=set)
    archives: dict[str, Archive] = field(default_factory=dict)
    expired_ms: int = 0
    aging: bool = False
    clearing: bool = False
    said: Counter[str] = field(default_factory=Counter)

    def hear(self, line: bytes) -> None:
        words = json.loads(line)
        self.said[words[0]] += 1
        match words:
            case ["kept", object_id, kind]:
                self._keep(object_id, kind)
                self.uploads.pop(object_id, None)
            case ["begun", upload_id, kind]:
                self.uploads[upload_id] = kind
            case ["offset", upload_id, position]:
                self.offsets[upload_id] = max(position, self.offsets[upload_id])
            case ["trying", key, kind]:
                self.tried[key] = kind
            case ["keyed", key, object_id]:
                assert self.keyed.setdefault(key, object_id) == object_id, key
                self.made.add(object_id)
                if object_id not in self.states:
                    self._keep(object_id, self.tried[key])
            case ["found", object_id, state]:
                self._found(object_id, {State(state)})
            case ["looked"]:
                self.aging = self.clearing = False
            case _:
                self._hear_of_ends(words)
                self._hear_of_archives(words)

    def _keep(self, object_id: str, kind: int) -> None:
        self.kinds[object_id] = kind
        self.states[object_id] = {THERE}

    def _found(self, object_id: str, states: set[State]) -> None:
        self.states[object_id] = states
        if THERE not in states:
            self.keyed = {key: each for key, each in self.keyed.items() if each != object_id}

    def _hear_of_ends(self, words: list) -> None:
        match words:
            case ["deleting", object_id]:
                self._may_be(object_id, REVOKED)
            case ["deleted", object_id]:
                self._found(object_id, {REVOKED, GONE} if self.aging else {REVOKED})
            case ["undeleting", object_id]:
                self._may_be(object_id, THERE)
            case ["undeleted", object_id]:
                self.states[object_id] = {THERE}
            case ["too late", object_id]:
                assert self.aging, f"{object_id} could not be taken back"
                self.states[object_id] = {GONE}
            case ["purging", object_id]:
                self._may_be(object_id, GONE)
            case ["purged", object_id]:
                self.states[object_id] = {GONE}
            case ["aging"]:
                self.aging = True
                for states in self.states.values():
                    if REVOKED in states:
                        states.add(GONE)

    def _may_be(self, object_id: str, state: State) -> None:
        self.states[object_id] |= {state, GONE} if self.aging else {state}
        self.touched.add(object_id)

    def _hear_of_archives(self, words: list) -> None:
        match words:
            case ["started", job_id, size, objects, missing, told]:
                assert self.touched.issuperset(missing), job_id
                self.archives[job_id] = Archive(size=size, objects=objects, manifest=told)
                self.archives[job_id].over = None if self.clearing else False
            case ["failed", job_id, missing]:
                assert self.touched.issuperset(missing), job_id
            case ["read" | "stands", job_id, digest]:
                found = self.archives[job_id]
                assert found.digest in (None, digest), f"{job_id} has other bytes"
                found.digest = digest
                if words[0] == "stands":
                    found.over = False
            case ["refused", job_id]:
                assert self.archives[job_id].over is not False, f"{job_id} was refused"
            case ["cancelling", job_id]:
                self.archives[job_id].over = self.archives[job_id].over or None
            case ["was over", job_id]:
                assert self.clearing, f"{job_id} could not be cancelled"
            case ["cancelled", job_id]:
                self.archives[job_id].over = True
            case ["clearing"]:
                self.clearing = True
                for each in self.archives.values():
                    each.over = each.over or None
            case ["cleared", ids]:
                for job_id in ids:
                    self.archives[job_id].over = True
            case ["over", job_id]:
                del self.archives[job_id]

    def pass_time(self, days: int, *, now_ms: int) -> None:
        """What is over so long after all that was done until now."""
        if days > UNDELETE_DAYS:
            for states in self.states.values():
                if REVOKED in states:
                    states.remove(REVOKED)
                    states.add(GONE)
        if days > BULK_DAYS:
            self.expired_ms = now_ms
            for each in self.archives.values():
                each.over = True

    def left(self) -> dict[str, object]:
        """What the next clients go on with."""
        others = {each: states for each, states in self.states.items() if each not in self.made}
        return {
            "objects": [each for each, states in others.items() if states == {THERE}],
            "revoked": [each for each, states in others.items() if states == {REVOKED}],
            "uploads": dict(self.uploads),
            "tried": dict(self.tried),
            "keyed": dict(self.keyed),
            "archives": [key for key, each in self.archives.items() if each.over is False],
        }


# ---- what must be true ----------------------------------------------------------------------


class Look:
    """At a region that nobody else uses: nothing acknowledged is lost, nothing is left over."""

    def __init__(
        self, region: Region, memory: Memory, say: Callable[..., None], blobs: Path | None
    ) -> None:
        self._region = region
        self._memory = memory
        self._say = say
        self._blobs = blobs

    async def examine(self) -> None:
        """After a sweep, look at everything; what was not known is said."""
        await retention.at_start(self._region)
        rows = await self._region.db.scan(
            "SELECT id, name, state, blob, size, sha256 FROM objects ORDER BY seq"
        )
        kept = [row for row in rows if row[2] != GONE]
        await self._objects({row[0]: State(row[2]) for row in rows})
        self._keys({(row[1], row[0]) for row in rows if row[2] == THERE})
        await self._bytes({(row[3], row[4], row[5]) for row in kept})
        await self._archives()
        await self._holders(Counter(row[3] for row in kept))
        used = await ledger.usage(self._region.db, customer="acme")
        assert (used.objects, used.bytes) == (len(kept), sum(row[4] for row in kept))
        for upload_id, position in self._memory.offsets.items():
            found = await resumable.find(self._region, CLAIMS, upload_id)
            assert found.position >= position, upload_id
        assert await audit.first_broken(self._region.db, customer="acme") is None
        self._say("looked")

    async def _objects(self, found: dict[str, State]) -> None:
        """Each is in a state that it may be in, and what can be read has its bytes."""
        for object_id, states in self._memory.states.items():
            assert found[object_id] in states, (object_id, found[object_id], states)
            if len(states) > 1:
                self._say("found", object_id, found[object_id])
            if found[object_id] is THERE:
                read = await content.readable(self._region, CLAIMS, object_id)
                body = await whole(content.body_of(self._region, read))
                assert body == sound(self._memory.kinds[object_id]), object_id

    def _keys(self, named: set[tuple[str, str]]) -> None:
        """An Idempotency-Key has one object: none, where nobody was answered or it was deleted."""
        count = Counter(name for name, _ in named)
        for key in self._memory.tried:
            assert count[name_of(key)] <= 1, key
        for key, object_id in self._memory.keyed.items():
            deleting = self._memory.states[object_id] != {THERE}
            assert deleting or (name_of(key), object_id) in named, key

    async def _bytes(self, blobs: set[tuple[str, int, str]]) -> None:
        for key, size, sha256 in blobs:
            pieces = await self._region.blobs.read(key, 0, size)
            read = b"".join([each async for each in pieces])
            assert hashlib.sha256(read).hexdigest() == sha256, key

    async def _archives(self) -> None:
        """Those in the list are whole; those acknowledged are in it, or over and refused."""
        listed = {
            job.id: job
            async for job in bulk.jobs(self._region, CLAIMS)
            if bulk.is_ready(job) and job.created_ms > self._memory.expired_ms
        }
        for job in listed.values():
            self._stands(job, await whole(archive.body_of(self._region, job)))
        for job_id, known in self._memory.archives.items():
            assert job_id in listed or known.over is not False, f"{job_id} is gone"
            assert job_id not in listed or known.over is not True, f"{job_id} is back"
            if job_id not in listed:
                await self._must_be_over(job_id)

    def _stands(self, job: Job, body: bytes) -> None:
        known = self._memory.archives.get(job.id)
        bodies = entries(body)
        if known is None:
            return
        kinds = [self._memory.kinds[each] for each in known.objects]
        assert len(body) == known.size, job.id
        assert list(bodies.values())[: len(kinds)] == [sound(each) for each in kinds], job.id
        if known.manifest:
            must_be_told(bodies, known.objects)
        else:
            assert len(bodies) == len(kinds), job.id
        if any(GONE in self._memory.states[each] for each in known.objects):
            self._say("outlives", job.id)
        self._say("stands", job.id, hashlib.sha256(body).hexdigest())

    async def _must_be_over(self, job_id: str) -> None:
        try:
            await bulk.ready(self._region, CLAIMS, job_id)
        except Gone:
            self._say("over", job_id)
        else:
            raise AssertionError(f"{job_id} is not in the list, and can be read")

    async def _holders(self, holders: Counter[str]) -> None:
        """Every blob is held by what the books say, and no other bytes are there."""
        db, named = self._region.db, set[str]()
        for job in await bulkstore.holding(db, customer="acme", after="", limit=_MANY):
            holders.update(job.own_blobs)
            place = 0
            while keys := await bulkstore.held(db, job.id, place, customer="acme"):
                named |= keys
                place += 1
        blobs = dict(await db.scan("SELECT key, refs FROM blobs"))
        assert blobs == dict(holders), "blobs and what holds them"
        put_off = {row[0] for row in await db.scan("SELECT key FROM discarded")}
        assert put_off <= named, "bytes that are put off for no archive"
        assert await self._left_over(put_off | blobs.keys()) == set(), "bytes that nothing holds"

    async def _left_over(self, held: set[str]) -> set[str]:
        """What is there that nothing holds, once the store is through with what it was sent.

        A server may still be at work on a request of the process that was killed: the next sweep
        finds what came of it.
        """
        left = await self._everything() - held
        for _ in range(_LOOKS if self._region.blobs.shared else 0):
            if not left:
                break
            await asyncio.sleep(_PAUSE)
            await retention.at_start(self._region)
            left = await self._everything() - held
        return left

    async def _everything(self) -> set[str]:
        """The keys of all bytes in the store, of whatever kind it is."""
        left = set(await self._region.blobs.leftovers(after_ms=0, before_ms=2**62))
        if self._blobs is None:
            return left
        assert not left
        return {each.name for each in self._blobs.glob("kept/*/*")}


async def whole(body: Body) -> bytes:
    return b"".join([each async for each in await body.read(0, body.size)])


def entries(body: bytes) -> dict[str, bytes]:
    """What an archive holds, in its order; BadZipFile where a checksum is wrong."""
    with zipfile.ZipFile(io.BytesIO(body)) as read:
        return {name: read.read(name) for name in read.namelist()}


def must_be_told(bodies: dict[str, bytes], objects: list[str]) -> None:
    """The files that tell what is in an archive come last, and are right."""
    assert tuple(bodies)[len(objects) :] == manifest.FILES
    lines = bodies[manifest.JSON_LINES].splitlines()
    assert [json.loads(each)["object"]["id"] for each in lines] == objects
    sums = (each.split("  ", 1) for each in bodies[manifest.CHECKSUMS].decode().splitlines())
    told = {name: digest for digest, name in sums}
    del bodies[manifest.CHECKSUMS]
    assert told == {name: hashlib.sha256(each).hexdigest() for name, each in bodies.items()}
