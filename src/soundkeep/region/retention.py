"""What time does to objects: for now, tidying up what a crash left of unfinished uploads."""

from __future__ import annotations

from collections.abc import Sequence

from soundkeep.foundation import audit
from soundkeep.foundation.audit import Deed, Event
from soundkeep.foundation.claims import Claims
from soundkeep.foundation.clock import DAY
from soundkeep.region import ledger, resumable, store, uploadstore
from soundkeep.region.ledger import Usage
from soundkeep.region.model import Readable, State
from soundkeep.region.plane import Region

_AT_ONCE = 500
_OLDEST_MS = 30 * DAY
_YOUNGEST_MS = DAY
"""In a shared store: between these, what no row names was left by a crash."""


async def sweep(region: Region, *, after_ms: int = 0, before_ms: int = 2**62) -> tuple[int, int]:
    """Finish uploads whose row is committed, discard those without: how many of each.

    To be run while nobody uploads what came between these moments: at start, under the folder's
    lock, or of what is so old that no upload can be at it.
    """
    keys = await region.blobs.leftovers(after_ms=after_ms, before_ms=before_ms)
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
            await uploadstore.release_all(tx)
        swept = await sweep(region)
    await tidy(region)
    return swept


async def tidy(region: Region) -> None:
    """What time brings: uploads expire, and bytes that nothing holds are removed."""
    await resumable.expire(region)
    await remove_discarded(region)


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


async def purge(region: Region, claims: Claims, ids: Sequence[str]) -> int:
    """Delete objects for good: their bytes go when no other object holds them. How many there were.

    What is another customer's, out of scope or gone already is passed over.
    """
    at_ms = region.clock()
    async with region.db.transaction() as tx:
        gone = await store.delete_objects(
            tx, ids, customer=claims.customer, reach=claims.reach, at_ms=at_ms
        )
        if not gone:
            return 0
        await ledger.release_blobs(tx, [each.blob for each in gone], customer=claims.customer)
        less = Usage(-len(gone), -sum(each.size for each in gone))
        await ledger.add_usage(tx, less, customer=claims.customer)
        await ledger.forget_repeats(tx, [each.id for each in gone], customer=claims.customer)
        deeds = [_purged(claims, each, at_ms) for each in gone]
        await audit.append(tx, deeds, entropy=region.entropy)
    return len(gone)


async def remove_discarded(region: Region) -> int:
    """Remove the bytes that nothing holds any more: how many blobs. Again does no harm."""
    removed = 0
    while keys := await ledger.discarded_keys(region.db, limit=_AT_ONCE):
        await region.blobs.discard(keys)
        async with region.db.transaction() as tx:
            await ledger.forget_discarded(tx, keys)
        removed += len(keys)
    return removed


def _purged(claims: Claims, found: Readable, at_ms: int) -> Deed:
    return Deed(
        customer=claims.customer,
        at_ms=at_ms,
        event=Event.DELETE,
        service="storage",
        entity_type="object",
        entity_key=found.id,
        display_name=found.name,
        user_id=claims.owner,
        old={"objectState": found.state, "storedBytes": found.size},
        new={"objectState": State.DELETED, "client": claims.client},
    )
