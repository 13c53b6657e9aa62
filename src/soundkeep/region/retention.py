"""How objects end: deleted, taken back, purged; and tidying up what nobody needs any more."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from soundkeep.foundation import audit
from soundkeep.foundation.audit import Deed, Event
from soundkeep.foundation.claims import Claims, internal
from soundkeep.foundation.clock import DAY, MINUTE
from soundkeep.foundation.errors import BadInput
from soundkeep.region import bulk, catalog, ledger, resumable, store, uploadstore
from soundkeep.region.ledger import Usage
from soundkeep.region.model import GONE, Readable, State
from soundkeep.region.plane import Region, must_live_here

_AT_ONCE = 500
_MOVED_AT_ONCE = 1000
_FEW = 100
_ABANDONED_MS = MINUTE
_OLDEST_MS = 30 * DAY
_YOUNGEST_MS = DAY
"""In a shared store: between these, what no row names was left by a crash."""


async def sweep(region: Region, *, after_ms: int = 0, before_ms: int = 2**62) -> tuple[int, int]:
    """Finish uploads whose row is committed, discard those without: how many of each.

    To be run while nobody uploads what came between these moments: at start, under the folder's
    lock, or of what is so old that no upload can be at it.
    """
    return await _decide(
        region, await region.blobs.leftovers(after_ms=after_ms, before_ms=before_ms)
    )


async def _decide(region: Region, keys: Sequence[str]) -> tuple[int, int]:
    """Finish what a row names, and discard the rest."""
    finished = 0
    for start in range(0, len(keys), _AT_ONCE):
        part = keys[start : start + _AT_ONCE]
        known = await ledger.known_keys(region.db, part)
        await region.blobs.settle([key for key in part if key in known])
        await region.blobs.discard(key for key in part if key not in known)
        finished += len(known)
    return finished, len(keys) - finished


async def at_start(region: Region) -> tuple[int, int]:
    """Sweep and tidy: how many unfinished uploads were finished, and how many discarded.

    In a store that others share, uploads may be under way: then only what is old is swept.
    """
    if region.blobs.shared:
        now_ms = region.clock()
        swept = await sweep(region, after_ms=now_ms - _OLDEST_MS, before_ms=now_ms - _YOUNGEST_MS)
    else:
        async with region.db.transaction() as tx:
            await ledger.wait_for_commits(tx)
            await uploadstore.release_all(tx)
        swept = await sweep(region)
    await tidy(region)
    return swept


async def tidy(region: Region) -> None:
    """What time brings: things expire, and bytes that nothing holds are removed."""
    await region.blobs.rest()
    await _take_over(region)
    await resumable.expire(region)
    await bulk.expire(region)
    await purge_revoked(region)
    await remove_discarded(region)


async def _take_over(region: Region) -> None:
    """Decide what processes were at that were killed, and let go of what they kept of it."""
    keys = await region.blobs.abandoned(before_ms=region.clock() - _ABANDONED_MS)
    if keys:
        async with region.db.transaction() as tx:
            await ledger.wait_for_commits(tx)
        await _decide(region, keys)


async def survey(region: Region) -> tuple[int, list[str]]:
    """How many objects should have bytes, and the ids of those whose bytes are not there."""
    total, lost, seq = 0, list[str](), -(2**63)
    while rows := await store.blobs_after(region.db, seq, limit=_AT_ONCE):
        seq = rows[-1][0]
        total += len(rows)
        for _, object_id, blob, size in rows:
            if await region.blobs.size(blob) != size:
                lost.append(object_id)
    return total, lost


# ---- deleting, and taking it back -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of objects: their ids. `held` are those that may not be deleted yet."""

    moved: list[str] = field(default_factory=list)
    not_found: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)


async def revoke(
    region: Region, claims: Claims, ids: Sequence[str], text: str | None, *, dry_run: bool = False
) -> Outcome:
    """Delete objects, by id or all that a filter finds: their bytes stay for the undelete window.

    What is another customer's, out of scope or deleted already is not found. A thousand go at a
    time: whatever stops this, what was moved is on record. With `dry_run` nothing is changed.
    """
    must_live_here(region, claims)
    if text is None:
        wanted = bulk.checked_ids(region, ids)
    else:
        wanted = await _found(region, claims, text)
    outcome = Outcome()
    for start in range(0, len(wanted), _MOVED_AT_ONCE):
        part = wanted[start : start + _MOVED_AT_ONCE]
        moved = await (_would_revoke if dry_run else _revoke)(region, claims, part)
        outcome.moved.extend(each for each in part if each in moved)
        outcome.not_found.extend(each for each in part if each not in moved)
    return outcome


async def undelete(region: Region, claims: Claims, ids: Sequence[str]) -> Outcome:
    """Take deletions back, as long as their window is open: objects return to where they were."""
    must_live_here(region, claims)
    wanted, at_ms, outcome = bulk.checked_ids(region, ids), region.clock(), Outcome()
    for start in range(0, len(wanted), _MOVED_AT_ONCE):
        part = wanted[start : start + _MOVED_AT_ONCE]
        back: list[tuple[Readable, State]] = []
        async with region.db.transaction() as tx:
            for few in _few(part):
                back += await store.reinstate_objects(
                    tx, few, customer=claims.customer, reach=claims.reach, at_ms=at_ms
                )
            deeds = [_moved(claims, each, state, at_ms) for each, state in back]
            await audit.append(tx, deeds, entropy=region.entropy)
        moved = {each.id for each, _ in back}
        outcome.moved.extend(each for each in part if each in moved)
        outcome.not_found.extend(each for each in part if each not in moved)
    return outcome


async def _found(region: Region, claims: Claims, text: str) -> list[str]:
    """What a filter finds, if that is not more than may be deleted at once."""
    if not text.strip():
        raise BadInput("An empty filter would delete everything: say what.", field="filter")
    most, found = region.limits.bulk_ids, list[str]()
    async with aclosing(await catalog.ids(region, claims, text)) as batches:
        async for ids in batches:
            found += ids
            if len(found) > most:
                raise BadInput(
                    f"The filter finds more than {most:,} objects: narrow it, by createdTime for "
                    "instance. Nothing was deleted.",
                    field="filter",
                )
    return found


async def _would_revoke(region: Region, claims: Claims, ids: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for few in _few(ids):
        found.update(
            await store.revocable(region.db, few, customer=claims.customer, reach=claims.reach)
        )
        await asyncio.sleep(0)
    return found


async def _revoke(region: Region, claims: Claims, ids: Sequence[str]) -> set[str]:
    customer, at_ms, gone = claims.customer, region.clock(), list[Readable]()
    until_ms = at_ms + region.limits.undelete_days * DAY
    async with region.db.transaction() as tx:
        for few in _few(ids):
            revoked = await store.revoke_objects(
                tx, few, customer=customer, reach=claims.reach, at_ms=at_ms, until_ms=until_ms
            )
            await ledger.forget_repeats(tx, [each.id for each in revoked], customer=customer)
            gone += revoked
        deeds = [_moved(claims, each, State.REVOKED, at_ms) for each in gone]
        await audit.append(tx, deeds, entropy=region.entropy)
    return {each.id for each in gone}


def _few(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """So many that the event loop is not held up for long; in one order, so no deadlock."""
    ordered = sorted(ids)
    return (ordered[start : start + _FEW] for start in range(0, len(ordered), _FEW))


# ---- purging --------------------------------------------------------------------------------


async def purge_revoked(region: Region) -> int:
    """Delete for good what was deleted longer ago than the undelete window: how many objects."""
    count, at_ms = 0, region.clock()
    while found := await store.revoked_before(region.db, at_ms=at_ms, limit=_FEW):
        gone = 0
        for customer, ids in found.items():
            by = internal(customer, by="retention", owner="", regions=(region.name,))
            gone += await purge(region, by, ids, states={State.REVOKED})
        count += gone
        if not gone:  # somebody else is at it
            break
    return count


async def purge(
    region: Region, claims: Claims, ids: Sequence[str], *, states: Collection[State] | None = None
) -> int:
    """Delete objects for good: their bytes go when no other object holds them. How many there were.

    What is another customer's, out of scope, not in one of the states or gone already is passed
    over.
    """
    at_ms, narrowed = region.clock(), {} if states is None else {"states": states}
    async with region.db.transaction() as tx:
        gone = await store.delete_objects(
            tx, ids, customer=claims.customer, reach=claims.reach, at_ms=at_ms, **narrowed
        )
        if not gone:
            return 0
        await ledger.release_blobs(tx, [each.blob for each in gone], customer=claims.customer)
        less = Usage(-len(gone), -sum(each.size for each in gone))
        await ledger.add_usage(tx, less, customer=claims.customer)
        await ledger.forget_repeats(tx, [each.id for each in gone], customer=claims.customer)
        await ledger.forget_failures(tx, [each.id for each in gone], customer=claims.customer)
        deeds = [_moved(claims, each, State.DELETED, at_ms) for each in gone]
        await audit.append(tx, deeds, entropy=region.entropy)
    return len(gone)


async def remove_discarded(region: Region) -> int:
    """Remove the bytes that nothing holds any more: how many blobs. Again does no harm.

    What archives hold is put off until they let go.
    """
    removed = 0
    while found := await ledger.discarded_keys(region.db, now_ms=region.clock(), limit=_AT_ONCE):
        for customer, keys in sorted(found.items()):
            held = await bulk.hold(region, customer, keys)
            free = sorted(keys - held.until_ms.keys())
            await region.blobs.discard(free)
            async with region.db.transaction() as tx:
                stands = await bulk.stands(tx, held, customer=customer)
                await ledger.forget_discarded(tx, free)
                if stands:  # else they are looked at again at once
                    await ledger.put_off(tx, held.until_ms, customer=customer)
            removed += len(free)
    return removed


def _moved(claims: Claims, found: Readable, state: State, at_ms: int) -> Deed:
    return Deed(
        customer=claims.customer,
        at_ms=at_ms,
        event=Event.DELETE if state in GONE else Event.UPDATE,
        service="storage",
        entity_type="object",
        entity_key=found.id,
        display_name=found.name,
        user_id=claims.owner,
        old={"objectState": found.state, "storedBytes": found.size},
        new={"objectState": state, "client": claims.client},
    )
