"""What time does to objects: for now, tidying up what a crash left of unfinished uploads."""

from __future__ import annotations

from soundkeep.region import store
from soundkeep.region.plane import Region

_AT_ONCE = 500


async def sweep(region: Region, *, after_ms: int = 0, before_ms: int = 2**62) -> tuple[int, int]:
    """Finish uploads whose row is committed, discard those without: how many of each.

    To be run while nobody uploads what came between these moments: at start, under the folder's
    lock, or of what is so old that no upload can be at it.
    """
    keys = await region.blobs.leftovers(after_ms=after_ms, before_ms=before_ms)
    finished = 0
    for start in range(0, len(keys), _AT_ONCE):
        part = keys[start : start + _AT_ONCE]
        known = await store.known_ids(region.db, part)
        await region.blobs.settle([key for key in part if key in known])
        await region.blobs.discard(key for key in part if key not in known)
        finished += len(known)
    return finished, len(keys) - finished


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
