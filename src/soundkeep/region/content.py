"""Bytes out: what may be sent, and its pieces. Contract §2, "Objects"."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from soundkeep.foundation.claims import Claims
from soundkeep.foundation.errors import Gone, IllegalMove, NotFound
from soundkeep.region import store
from soundkeep.region.model import GONE, NOTHING, Readable, State
from soundkeep.region.plane import Region, must_live_here


async def readable(region: Region, claims: Claims, object_id: str) -> Readable:
    """An object whose bytes may be sent now; otherwise the reason why not."""
    must_live_here(region, claims)
    found = await store.readable_by_id(
        region.db, object_id, customer=claims.customer, reach=claims.reach
    )
    if found is None:
        raise NotFound(NOTHING)
    if found.state in GONE:
        raise Gone("The object was deleted.", state=found.state)
    if found.state is State.ARCHIVED:
        raise IllegalMove(
            f"The object is ARCHIVED: restore it first, POST .../objects/{object_id}/restore.",
            state=found.state,
        )
    if found.state is not State.AVAILABLE:
        raise IllegalMove(f"The object is {found.state}, not AVAILABLE.", state=found.state)
    return found


def at_hand(region: Region, found: Readable) -> bytes | None:
    """All bytes of a small object, where that takes no waiting for a disk."""
    return region.blobs.at_hand(found.blob, found.size)


async def slices(
    region: Region, found: Readable, start: int, end: int
) -> AsyncGenerator[bytes, None]:
    """The bytes of a readable object from `start` up to and without `end`."""
    return await region.blobs.read(found.blob, start, end)


def file_of(region: Region, found: Readable) -> str | None:
    """The path of the whole object, where it is a file: for a server that sends files itself."""
    return region.blobs.file(found.blob, found.size)
