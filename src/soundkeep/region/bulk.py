"""Bulk downloads: a list of objects that is frozen, and the ZIP that follows from it.

Nothing is built: the archive's bytes are told from the list and read from the recordings as they
are asked for. Contract §2, "Bulk".
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from soundkeep.foundation import audit
from soundkeep.foundation.audit import Deed, Event
from soundkeep.foundation.claims import Claims
from soundkeep.foundation.clock import DAY, HOUR
from soundkeep.foundation.database import Connection
from soundkeep.foundation.errors import (
    BadInput,
    Gone,
    IllegalMove,
    NotAllowed,
    NotFound,
    TooMany,
    Unavailable,
)
from soundkeep.region import bulkstore, catalog, ledger
from soundkeep.region.freezing import SILENT_MS, freeze
from soundkeep.region.model import NOTHING, Job, JobState
from soundkeep.region.plane import Region, must_live_here, new_object_id

_TAKEN = "DONE"
_LOST = "LOST"
_LONGEST_ID = 64
_ASKED_AT_ONCE = 500
_LISTED_AT_ONCE = 20
_PATIENCE_SECONDS = 2.0
"""How long a start waits for its list to be frozen before it answers IN_PROGRESS."""

_SEARCHES_AT_ONCE = 4
"""Of one key, for bulk downloads by filter: each takes a search after the other."""

_RETRY_SECONDS = 2
_WAIT_SECONDS = 30.0
_WAIT_STEP = 0.05
_GRACE_MS = HOUR
"""What is being sent when its job ends may still be sent for so long."""

_REMEMBERED_MS = 30 * DAY
_NAME = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:\.zip){0,2}")
_OVER = "This archive was cancelled, cleared or expired: start a new bulk download."


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be in an archive: objects by id, or all that a filter finds (None: by id).

    With `manifest`, files that tell what is in it come last.
    """

    ids: Sequence[str] = ()
    filter: str | None = None
    manifest: bool = False


# ---- starting -------------------------------------------------------------------------------


async def start(region: Region, claims: Claims, wanted: Wanted) -> Job:
    """Freeze what is asked for, as it is now; a job that is DONE at once, or soon.

    TooMany where so many of this key's are still being made that one more search has to wait.
    """
    must_live_here(region, claims)
    if wanted.filter is None:
        batches = _batches(checked_ids(region, wanted.ids))
    else:
        batches = await catalog.ids(region, claims, wanted.filter)
    now_ms = region.clock()
    job = Job(
        id=new_object_id(region),
        customer=claims.customer,
        client=claims.client,
        owner=claims.owner,
        state=JobState.NOT_STARTED,
        created_ms=now_ms,
        touched_ms=now_ms,
        expires_ms=now_ms + region.limits.bulk_days * DAY,
    )
    async with region.db.transaction() as tx:  # first of all: from here on no byte is removed
        if wanted.filter is not None:
            await _must_have_few(tx, job)
        await bulkstore.add(tx, job, customer=claims.customer)
    freezing = region.background(
        freeze(region, claims, job, batches, with_manifest=wanted.manifest)
    )
    await asyncio.wait({freezing}, timeout=_PATIENCE_SECONDS)
    if freezing.done():
        freezing.result()
    return await _by_id(region, claims, job.id)


async def _must_have_few(tx: Connection, job: Job) -> None:
    since_ms = job.created_ms - SILENT_MS
    found = await bulkstore.under_way(
        tx, customer=job.customer, client=job.client, since_ms=since_ms
    )
    if found >= _SEARCHES_AT_ONCE:
        raise TooMany(
            f"{found} bulk downloads of this key are still being made: wait for one, or cancel it.",
            retry_after=_RETRY_SECONDS,
        )


def checked_ids(region: Region, ids: Sequence[str]) -> list[str]:
    """Each id once, in the order in which they came; BadInput where they are none, or too many."""
    most = region.limits.bulk_ids
    if not ids:
        raise BadInput("Send the ids of at least one object: a JSON array of strings.")
    if len(ids) > most:
        raise BadInput(f"Send {most:,} ids at most: split the list.")
    for number, each in enumerate(ids):
        if not each or len(each) > _LONGEST_ID or not each.isprintable():
            raise BadInput(f"Number {number} of the list is no object id: {each[:_LONGEST_ID]!r}.")
    return list(dict.fromkeys(ids))


async def _batches(ids: Sequence[str]) -> AsyncGenerator[Sequence[str], None]:
    for start in range(0, len(ids), _ASKED_AT_ONCE):
        yield ids[start : start + _ASKED_AT_ONCE]


# ---- what became of it ----------------------------------------------------------------------


async def find(region: Region, claims: Claims, name: str) -> Job:
    """A job by the name of its archive, with or without `.zip`; NotFound where none may be seen.

    One that lies within the caller's scope as a whole, whichever of the customer's keys began it.
    Gone where it was cleared or expired.
    """
    must_live_here(region, claims)
    job = await _by_id(region, claims, job_id(name))
    if job.cleared or job.expires_ms <= region.clock():
        raise Gone(_OVER)
    return job


def job_id(name: str) -> str:
    """The id of the job that an archive's name tells; NotFound where it tells none."""
    named = _NAME.fullmatch(name)
    if named is None:
        raise NotFound(NOTHING)
    return named[1]


async def jobs(region: Region, claims: Claims) -> AsyncGenerator[Job, None]:
    """This key's jobs, newest first."""
    must_live_here(region, claims)
    before = (2**62, "")
    while True:
        found = await bulkstore.of_client(
            region.db,
            customer=claims.customer,
            client=claims.client,
            before=before,
            limit=_LISTED_AT_ONCE,
        )
        for job in found:
            seen = await _as_it_is(region, job)
            if seen.expires_ms > region.clock() and _may_see(claims, seen):
                yield seen
        if len(found) < _LISTED_AT_ONCE:
            return
        before = (found[-1].created_ms, found[-1].id)


async def outcome(region: Region, job: Job) -> AsyncGenerator[list[tuple[str, str]], None]:
    """[object id, status] of everything that was asked for, a part at a time."""
    lost = await bulkstore.lost(region.db, job.id, customer=job.customer)
    place = 0
    while (
        part := await bulkstore.outcome(region.db, job.id, place, customer=job.customer)
    ) is not None:
        taken, missing = part
        yield [*((each, _LOST if each in lost else _TAKEN) for each in taken), *missing]
        place += 1


async def cancel(region: Region, claims: Claims, name: str) -> Job:
    """End a job, at once; again is fine. NotAllowed for another key's."""
    job = await find(region, claims, name)
    if job.client != claims.client:
        raise NotAllowed("Another API key began this bulk download: only that one can cancel it.")
    now_ms = region.clock()
    async with region.db.transaction() as tx:
        if await bulkstore.cancel(tx, job.id, customer=job.customer, at_ms=now_ms):
            deed = _ended(claims, job.zip_name, JobState.CANCELLED, now_ms)
            await audit.append(tx, [deed], entropy=region.entropy)
    return await _by_id(region, claims, job.id)


async def clear(region: Region, claims: Claims) -> int:
    """Take this key's finished and cancelled jobs out of its list: how many."""
    must_live_here(region, claims)
    now_ms = region.clock()
    async with region.db.transaction() as tx:
        ids = await bulkstore.clear(
            tx,
            customer=claims.customer,
            client=claims.client,
            at_ms=now_ms,
            silent_ms=now_ms - SILENT_MS,
        )
        deeds = [_ended(claims, f"{each}.zip", "cleared", now_ms) for each in ids]
        await audit.append(tx, deeds, entropy=region.entropy)
    return len(ids)


async def _by_id(region: Region, claims: Claims, job_id: str) -> Job:
    found = await bulkstore.by_id(region.db, job_id, customer=claims.customer)
    if found is None or not _may_see(claims, found):
        raise NotFound(NOTHING)
    return await _as_it_is(region, found)


def _may_see(claims: Claims, job: Job) -> bool:
    """Whether all that is in a job's archive lies within the caller's scope."""
    if claims.client != job.client and not job.members:
        return False  # there is nothing by which to tell, or not yet
    if job.owners is None:
        return claims.reach.company
    return all(claims.reach.covers(site=site, user=user) for site, user in job.owners)


async def _as_it_is(region: Region, job: Job) -> Job:
    """A job with what was found out since its list was frozen."""
    if _is_under_way(job):
        return replace(job, state=JobState.FAILED) if _is_silent(region, job) else job
    if job.state not in (JobState.DONE, JobState.PARTIAL_DONE):
        return job
    lost = await bulkstore.lost(region.db, job.id, customer=job.customer)
    if not lost:
        return job
    left = job.members - len(job.own_blobs) - len(lost)
    return replace(job, state=JobState.PARTIAL_DONE if left else JobState.FAILED)


def _is_under_way(job: Job) -> bool:
    return job.state in (JobState.NOT_STARTED, JobState.IN_PROGRESS)


def _is_silent(region: Region, job: Job) -> bool:
    """Whether nobody says any more that a job is being made."""
    return job.touched_ms + SILENT_MS < region.clock()


# ---- its archive ----------------------------------------------------------------------------


def is_ready(job: Job) -> bool:
    """Whether there is an archive to be fetched."""
    return job.state in (JobState.DONE, JobState.PARTIAL_DONE)


async def ready(region: Region, claims: Claims, name: str) -> Job:
    """A job whose archive may be sent now; otherwise the reason why not.

    One that is still being frozen is waited for: clients fetch without a look at the status.
    """
    until = asyncio.get_running_loop().time() + _WAIT_SECONDS
    while _is_under_way(job := await find(region, claims, name)):
        if asyncio.get_running_loop().time() > until:
            raise Unavailable("This archive is not ready yet: try again.", retry_after=5)
        await asyncio.sleep(_WAIT_STEP)
    if job.state is JobState.CANCELLED:
        raise Gone(_OVER)
    await _must_be_there(region, job)
    if not job.members:
        raise IllegalMove("None of its objects can be read: see its status.", state=job.state)
    return job


async def _must_be_there(region: Region, job: Job) -> None:
    """IllegalMove where bytes were found lost and are not back."""
    lost = await bulkstore.lost(region.db, job.id, customer=job.customer)
    if not lost:
        return
    back = [each for each, (blob, size) in lost.items() if await region.blobs.size(blob) == size]
    if back:
        async with region.db.transaction() as tx:
            await bulkstore.forget_lost(tx, job.id, back, customer=job.customer)
    if len(back) < len(lost):
        raise IllegalMove(
            f"The bytes of {len(lost) - len(back)} of its objects are lost (see its status): start "
            "a new bulk download without them.",
            state=job.state,
        )


# ---- what time does -------------------------------------------------------------------------


async def expire(region: Region) -> int:
    """Let go of archives whose time is over: how many. Again does no harm."""
    count, now_ms = 0, region.clock()
    while found := await bulkstore.over(
        region.db, before_ms=now_ms - _GRACE_MS, limit=_LISTED_AT_ONCE
    ):
        for job in found:
            async with region.db.transaction() as tx:
                if await bulkstore.drop(tx, job.id, customer=job.customer):
                    await ledger.release_blobs(tx, job.own_blobs, customer=job.customer)
                    await ledger.look_again(tx, customer=job.customer)
                    count += 1
    async with region.db.transaction() as tx:
        await bulkstore.forget(tx, before_ms=now_ms - _REMEMBERED_MS)
    return count


@dataclass(frozen=True, slots=True)
class Hold:
    """Blobs that archives hold: until when, by key, and the jobs of these archives."""

    until_ms: Mapping[str, int]
    jobs: frozenset[str]


async def hold(region: Region, customer: str, keys: Collection[str]) -> Hold:
    """What archives hold of these blobs: all of them while one is being frozen.

    To be asked of blobs that no object holds any more: no archive that begins later has them.
    """
    held, holders, after = dict[str, int](), set[str](), ""
    while jobs := await bulkstore.holding(
        region.db, customer=customer, after=after, limit=_LISTED_AT_ONCE
    ):
        after = jobs[-1].id
        for job in jobs:
            if _is_under_way(job) and not _is_silent(region, job):
                until_ms = region.clock() + SILENT_MS
                return Hold(dict.fromkeys(keys, until_ms), frozenset({job.id}))
            ends = [each for each in (job.ended_ms, job.expires_ms) if each is not None]
            until_ms, place = max(min(ends) + _GRACE_MS, region.clock() + SILENT_MS), 0
            while (
                named := await bulkstore.held(region.db, job.id, place, customer=customer)
            ) is not None:
                for key in named.intersection(keys):
                    held[key] = max(held.get(key, 0), until_ms)
                    holders.add(job.id)
                place += 1
    return Hold(held, frozenset(holders))


async def stands(tx: Connection, held: Hold, *, customer: str) -> bool:
    """Whether none of the archives let go since; none does before the transaction ends."""
    return await bulkstore.kept(tx, held.jobs, customer=customer) == held.jobs


# ---- what the audit says --------------------------------------------------------------------


def _ended(claims: Claims, zip_name: str, state: str, at_ms: int) -> Deed:
    return Deed(
        customer=claims.customer,
        at_ms=at_ms,
        event=Event.DELETE,
        service="storage",
        entity_type="bulk",
        entity_key=zip_name.removesuffix(".zip"),
        display_name=zip_name,
        user_id=claims.owner,
        new={"status": state, "client": claims.client},
    )
