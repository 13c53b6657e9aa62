"""Bytes out: what may be sent, and its pieces. Contract §2, "Objects"."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from soundkeep.foundation.claims import Claims
from soundkeep.foundation.errors import Gone, IllegalMove, NotFound
from soundkeep.region import store
from soundkeep.region.model import GONE, NOTHING, Readable, State
from soundkeep.region.plane import Region, must_live_here


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """Bytes that may be sent, whole or in part, and what to say of them.

    `read` gives those from one place up to another; `at_hand` does so at once, or gives None where
    they are many or would have to be waited for; `look` raises where they are not there. `sha256`
    is hex, or empty where it is not known.
    """

    id: str
    name: str
    mime_type: str
    size: int
    etag: str
    modified_ms: int
    read: Callable[[int, int], Awaitable[AsyncGenerator[bytes, None]]]
    at_hand: Callable[[int, int], bytes | None] = lambda _start, _end: None
    look: Callable[[], None] = lambda: None
    sha256: str = ""


def body_of(region: Region, found: Readable) -> Body:
    """The bytes of a readable object."""
    return Body(
        id=found.id,
        name=found.name,
        mime_type=found.mime_type,
        size=found.size,
        etag=f'"{found.sha256}"',
        modified_ms=found.updated_ms,
        read=partial(region.blobs.read, found.blob),
        at_hand=partial(region.blobs.at_hand, found.blob, found.size),
        look=partial(region.blobs.look, found.blob, found.size),
        sha256=found.sha256,
    )


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
