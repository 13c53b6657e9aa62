"""What time does to objects: for now, tidying up what a crash left of unfinished uploads."""

from __future__ import annotations

from collections.abc import Sequence

from soundkeep.foundation import audit
from soundkeep.foundation.audit import Deed, Event
from soundkeep.foundation.claims import Claims
from soundkeep.foundation.clock import DAY, HOUR
from soundkeep.region import ledger, resumable, store, uploadstore
from soundkeep.region.ledger import Usage
from soundkeep.region.model import Readable, State
from soundkeep.region.plane import Region

_AT_ONCE = 500
_EVER_MS = 2**62
_LONGEST_MS = 8 * DAY
"""How long an upload may take, and more."""


async def sweep(region: Region) -> tuple[int, int]:
    """Finish uploads whose row is committed, discard those without: how many of each.

    To be run at start. Where nobody else can be uploading now, all is settled at once; in a store
    that other nodes share, only what lies there for longer than an upload's last step takes.
    """
    after_ms, before_ms = 0, _EVER_MS
    if region.blobs.shared:
        after_ms, before_ms = region.clock() - _LONGEST_MS, region.clock() - HOUR
    else:
        async with region.db.transaction() as tx:
            await uploadstore.release_all(tx)
    keys = await region.blobs.leftovers(after_ms=after_ms, before_ms=before_ms)
    finished = 0
    for start in range(0, len(keys), _AT_ONCE):
        part = keys[start : start + _AT_ONCE]
        known = await ledger.known_keys(region.db, part)
        await region.blobs.settle([key for key in part if key in known])
        await region.blobs.discard(key for key in part if key not in known)
        finished += len(known)
    return finished, len(keys) - finished


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
