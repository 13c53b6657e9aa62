"""From what is asked for to a frozen list: the members of an archive, part by part."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace

from soundkeep.foundation import audit
from soundkeep.foundation.audit import Deed, Event
from soundkeep.foundation.claims import Claims
from soundkeep.foundation.clock import DAY, MINUTE, SECOND
from soundkeep.foundation.errors import Gone, SoundkeepError
from soundkeep.region import bulkstore, ledger, manifest
from soundkeep.region.blobs import Incoming
from soundkeep.region.bulkstore import Candidate, FilledPart
from soundkeep.region.entrynames import Names
from soundkeep.region.manifest import Line
from soundkeep.region.model import Digests, Job, JobState, State
from soundkeep.region.plane import Region, new_object_id
from soundkeep.region.zipstream import Layout, Member, Part

_NOT_FOUND = "NOT_FOUND"
_PART_SIZE = 1000
_PARTS_AT_ONCE = 20
_SAVE_MS = 30 * SECOND
SILENT_MS = 2 * MINUTE
"""A job that nobody touched for so long is made by no process any more, and holds nothing."""

_MOST_OWNERS = 10_000
_ENDED = "This bulk download was cancelled, or took too long: start a new one."


async def freeze(
    region: Region,
    claims: Claims,
    job: Job,
    batches: AsyncGenerator[Sequence[str], None],
    *,
    with_manifest: bool,
) -> None:
    """Take what is asked for into a job, batch by batch, until it is what it will be."""
    frozen = _Freezing(region, claims, job, with_manifest=with_manifest)
    try:
        async with aclosing(batches):
            async for ids in batches:
                await frozen.take(ids)
        await frozen.finish()
    except BaseException:
        with suppress(SoundkeepError):
            await frozen.fail()
        raise


class _Freezing:
    """A job's list as it grows, part by part."""

    def __init__(self, region: Region, claims: Claims, job: Job, *, with_manifest: bool) -> None:
        self._region = region
        self._claims = claims
        self._job = job
        self._with_manifest = with_manifest
        self._told: _Told | None = None
        self._names = Names()
        self._layout = Layout()
        self._owners: set[tuple[str, str]] | None = set()
        self._by_site = False
        self._taken = self._missed = self._places = 0
        self._begin = self._layout
        self._members: list[Member] = []
        self._missing: list[tuple[str, str]] = []
        self._waiting: list[FilledPart] = []
        self._saved_ms = job.touched_ms
        if with_manifest:
            for name in manifest.FILES:
                self._names.give(name, name)

    async def take(self, ids: Sequence[str]) -> None:
        """The next objects that are asked for; Gone where nobody asks for them any more."""
        job = self._job
        if not await bulkstore.is_under_way(self._region.db, job.id, customer=job.customer):
            raise Gone(_ENDED)
        if self._with_manifest and self._told is None:
            self._told = _Told(self._region)
        found = await bulkstore.candidates(
            self._region.db,
            ids,
            customer=self._claims.customer,
            reach=self._claims.reach,
            documents=self._with_manifest,
        )
        lines = []
        for object_id in ids:
            candidate = found.get(object_id)
            if candidate is not None:
                self._note_owner(candidate.site, candidate.user_id)
            if candidate is None or candidate.state != State.AVAILABLE:
                state = _NOT_FOUND if candidate is None else candidate.state
                self._missing.append((object_id, state))
                self._missed += 1
            else:
                lines.append(self._add(candidate))
            if len(self._members) + len(self._missing) >= _PART_SIZE:
                self._cut()
        if self._told is not None:
            await self._told.write(lines)
        silent_ms = self._region.clock() - self._saved_ms
        if len(self._waiting) >= _PARTS_AT_ONCE or silent_ms > _SAVE_MS:
            await self._save()

    async def finish(self) -> None:
        """Everything was taken: the archive is what it is from now on."""
        made = await self._told.close() if self._told is not None and self._taken else []
        now_ms = self._region.clock()
        for name, key, digests in made:
            self._append(Member("", name, digests.size, digests.crc32, now_ms, key))
        self._cut()
        state = JobState.PARTIAL_DONE if self._missed else JobState.DONE
        job = replace(
            self._job,
            state=state if self._taken else JobState.FAILED,
            touched_ms=now_ms,
            expires_ms=now_ms + self._region.limits.bulk_days * DAY,
            members=self._layout.members,
            missing=self._missed,
            entries=self._layout.entries,
            directory=self._layout.directory,
            owners=None if self._owners is None else frozenset(self._owners),
            own_blobs=tuple(key for _, key, _ in made),
        )
        customer = job.customer
        async with self._region.db.transaction() as tx:
            if not await bulkstore.finish(tx, job, customer=customer, silent_ms=now_ms - SILENT_MS):
                raise Gone(_ENDED)
            await bulkstore.add_parts(tx, job.id, self._waiting, customer=customer)
            for _, key, digests in made:
                await ledger.hold_made(tx, key, digests, customer=customer)
            deed = _started(self._claims, job, self._taken)
            await audit.append(tx, [deed], entropy=self._region.entropy)
        if self._told is not None:
            await self._told.settle()

    async def fail(self) -> None:
        """It came to nothing."""
        if self._told is not None:
            await self._told.abandon()
        job = replace(self._job, state=JobState.FAILED, touched_ms=self._region.clock())
        async with self._region.db.transaction() as tx:
            await bulkstore.finish(tx, job, customer=job.customer, silent_ms=0)

    def _add(self, found: Candidate) -> Line:
        name = self._names.give(found.name, found.id)
        self._append(Member(found.id, name, found.size, found.crc32, found.created_ms, found.blob))
        self._taken += 1
        return Line(name, found.sha256, found.doc)

    def _append(self, member: Member) -> None:
        self._members.append(member)
        self._layout = self._layout.plus(member)

    def _note_owner(self, site: str, user: str) -> None:
        """Who may see the archive: past so many, whoever reaches the sites; then, the company."""
        if self._owners is None:
            return
        self._owners.add((site, "" if site and self._by_site else user))
        if len(self._owners) > _MOST_OWNERS and not self._by_site:
            self._by_site = True
            self._owners = {(at, "" if at else whose) for at, whose in self._owners}
        if len(self._owners) > _MOST_OWNERS:
            self._owners = None

    def _cut(self) -> None:
        """End a part."""
        part = Part(self._begin.entries, self._begin.directory, self._members)
        self._waiting.append(FilledPart(self._places, part, self._missing))
        self._places += 1
        self._begin, self._members, self._missing = self._layout, [], []

    async def _save(self) -> None:
        """Write the parts that are whole, and say that more will come."""
        job, customer, now_ms = self._job, self._job.customer, self._region.clock()
        async with self._region.db.transaction() as tx:
            if not await bulkstore.touch(
                tx, job.id, customer=customer, at_ms=now_ms, silent_ms=now_ms - SILENT_MS
            ):
                raise Gone(_ENDED)
            await bulkstore.add_parts(tx, job.id, self._waiting, customer=customer)
        self._waiting, self._saved_ms = [], now_ms


class _Told:
    """The files that tell what is in an archive, as they are written."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._keys = {name: new_object_id(region) for name in manifest.FILES}
        self._files: dict[str, Incoming] = {
            name: region.blobs.incoming(key) for name, key in self._keys.items()
        }
        self._begun = False
        self._closed = False

    async def write(self, lines: Sequence[Line]) -> None:
        """More files of the archive."""
        if not self._begun:
            await self._files[manifest.CSV].write(manifest.header())
            self._begun = True
        sums = manifest.checksums((each.file, each.sha256) for each in lines)
        for name, text in (
            (manifest.JSON_LINES, manifest.json_lines(lines)),
            (manifest.CSV, manifest.csv_rows(lines)),
            (manifest.CHECKSUMS, sums),
        ):
            await self._files[name].write(text)

    async def close(self) -> list[tuple[str, str, Digests]]:
        """Nothing more comes: each file's name, its key and its digests."""
        made: list[tuple[str, str, Digests]] = []
        for name in manifest.FILES:
            if name == manifest.CHECKSUMS:
                sums = manifest.checksums((each, digests.sha256) for each, _, digests in made)
                await self._files[name].write(sums)
            made.append((name, self._keys[name], await self._files[name].close()))
        self._closed = True
        return made

    async def settle(self) -> None:
        """They are an archive's now."""
        if self._closed:
            await self._region.blobs.settle(list(self._keys.values()))
        else:
            await self.abandon()

    async def abandon(self) -> None:
        """Keep nothing of them, unless a commit whose answer was lost made them an archive's."""
        if self._closed:
            known = await ledger.known_keys(self._region.db, self._keys.values())
            await self._region.blobs.discard(set(self._keys.values()) - known)
        else:
            for each in self._files.values():
                await each.abandon()


def _started(claims: Claims, job: Job, objects: int) -> Deed:
    return Deed(
        customer=job.customer,
        at_ms=job.touched_ms,
        event=Event.EXPORT,
        service="storage",
        entity_type="bulk",
        entity_key=job.id,
        display_name=job.zip_name,
        user_id=claims.owner,
        new={
            "objects": objects,
            "missing": job.missing,
            "storedBytes": bulkstore.layout(job).size,
            "client": claims.client,
        },
    )
