"""Whether the bytes are still what they were: they are read again, and what rotted is marked.

What was marked is read again, too: when its bytes are back, so are its objects.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import structlog

from soundkeep.foundation import audit, metrics
from soundkeep.foundation.audit import Deed, Event
from soundkeep.foundation.clock import DAY, MINUTE
from soundkeep.foundation.errors import SoundkeepError, Unavailable
from soundkeep.region import ledger, store
from soundkeep.region.ledger import Blob
from soundkeep.region.model import Readable, State
from soundkeep.region.plane import Region

_AT_ONCE = 100
_LEASE = "verification"
_LEASE_MS = 30 * MINUTE
_IDLE_SECONDS = 60.0
_OTHERS = 20

log = structlog.get_logger("integrity")


@dataclass(frozen=True, slots=True)
class Finding:
    """A blob that was read again.

    `failed` are the objects that its rot took away now, `returned` those that its bytes gave back.
    """

    blob: Blob
    sound: bool
    failed: tuple[str, ...] = ()
    returned: tuple[str, ...] = ()


async def verify(
    region: Region,
    *,
    before_ms: int,
    rotten_before_ms: int = 0,
    bytes_per_second: float = float("inf"),
) -> AsyncGenerator[Finding, None]:
    """Read every blob that was not read since `before_ms`, longest ago first.

    Before them, those that were rotten, if they were not read since `rotten_before_ms`. Objects
    whose bytes are lost or changed become FAILED, with an audit record; new uploads of the same
    bytes get a blob of their own. Objects whose bytes are back become AVAILABLE again, likewise.
    Unavailable where the store as a whole does not answer.
    """
    while blobs := (
        await ledger.rotten_blobs(region.db, before_ms=rotten_before_ms, limit=_AT_ONCE)
        or await ledger.blobs_to_verify(region.db, before_ms=before_ms, limit=_AT_ONCE)
    ):
        for blob in blobs:
            sound = await _is_sound(region, blob, bytes_per_second)
            metrics.count_verified(region.name, blob.size)
            yield await _settled(region, blob, sound=sound)


async def pending(region: Region, *, before_ms: int) -> tuple[int, int]:
    """How many blobs `verify` would read, and how many bytes."""
    return await ledger.blobs_before(region.db, before_ms=before_ms)


async def watch(region: Region) -> None:
    """Verify for ever, at the region's pace; of all its processes one at a time."""
    days, holder = region.limits.verify_days, region.entropy(16).hex()
    while days:
        try:
            if await _is_ours(region, holder):
                found = verify(
                    region,
                    before_ms=region.clock() - days * DAY,
                    rotten_before_ms=region.clock() - DAY,
                    bytes_per_second=region.limits.verify_bytes_per_second,
                )
                async with aclosing(found) as findings:
                    until_ms = region.clock() + _LEASE_MS // 2
                    async for _ in findings:
                        if region.clock() > until_ms:
                            break  # to say again that it is ours
        except SoundkeepError as error:
            log.warning("verification", region=region.name, error=error.message)
        await asyncio.sleep(_IDLE_SECONDS)


async def _is_ours(region: Region, holder: str) -> bool:
    now_ms = region.clock()
    async with region.db.transaction() as tx:
        return await ledger.lease(
            tx, _LEASE, holder=holder, now_ms=now_ms, until_ms=now_ms + _LEASE_MS
        )


async def _is_sound(region: Region, blob: Blob, bytes_per_second: float) -> bool:
    digest = hashlib.sha256()
    try:
        size = await region.blobs.size(blob.key)
        if size is None and not blob.rotten:
            await _must_have_others(region, blob)
        if size != blob.size:
            return False
        async with aclosing(await region.blobs.read(blob.key, 0, blob.size)) as pieces:
            async for piece in pieces:
                digest.update(piece)
                await asyncio.sleep(len(piece) / bytes_per_second)
    except Unavailable as error:
        if error.facts.get("lost") == blob.key:
            return False
        raise
    return digest.hexdigest() == blob.sha256


async def _must_have_others(region: Region, blob: Blob) -> None:
    """Unavailable where not one of many blobs is there.

    Then no recording rotted: a disk is not mounted, or a setting names another place.
    """
    others = await ledger.other_blobs(region.db, blob.key, limit=_OTHERS)
    for key, size in others:
        if await region.blobs.size(key) == size:
            return
    if others:
        raise Unavailable(
            "Not one of the recordings is there: see whether the disk is mounted, and whether "
            "`blobs` in the settings names the right place."
        )


async def _settled(region: Region, blob: Blob, *, sound: bool) -> Finding:
    """What comes of a blob that was read."""
    if sound and blob.rotten:
        return Finding(blob, sound=True, returned=await _return(region, blob))
    if not sound and not blob.rotten:
        return Finding(blob, sound=False, failed=await _fail(region, blob))
    async with region.db.transaction() as tx:  # nothing new
        await ledger.mark_verified(tx, blob.key, customer=blob.customer, at_ms=region.clock())
    return Finding(blob, sound=sound)


async def _fail(region: Region, blob: Blob) -> tuple[str, ...]:
    customer, at_ms = blob.customer, region.clock()
    async with region.db.transaction() as tx:  # first of all, so that nothing new shares it
        if not await ledger.retire_blob(tx, blob.key, customer=customer):
            return ()  # somebody purged it while it was read
    holding = {State.AVAILABLE, State.REVOKED}
    ids = await store.ids_of_blob(region.db, blob.key, customer=customer, states=holding)
    failed: list[Readable] = []
    async with region.db.transaction() as tx:
        for part in _parts(ids):
            moved, deleted = await store.move_objects(
                tx, part, State.AVAILABLE, State.FAILED, customer=customer, at_ms=at_ms
            )
            waiting = [*(each.id for each in moved), *deleted]
            await ledger.add_failures(tx, waiting, blob.key, customer=customer)
            await ledger.forget_repeats(tx, part, customer=customer)  # they may be sent again
            failed += moved
        await ledger.mark_verified(tx, blob.key, customer=customer, at_ms=at_ms)
        reason = "its bytes are lost or changed"
        deeds = [_moved(customer, each, State.FAILED, reason, at_ms) for each in failed]
        await audit.append(tx, deeds, entropy=region.entropy)
    metrics.count_rotten(region.name)
    log.error("rotten", region=region.name, blob=blob.key, objects=len(failed))
    return tuple(each.id for each in failed)


async def _return(region: Region, blob: Blob) -> tuple[str, ...]:
    customer, at_ms = blob.customer, region.clock()
    ids = await ledger.failures_of_blob(region.db, blob.key, customer=customer)
    returned: list[Readable] = []
    async with region.db.transaction() as tx:
        for part in _parts(ids):
            moved, _ = await store.move_objects(
                tx, part, State.FAILED, State.AVAILABLE, customer=customer, at_ms=at_ms
            )
            await ledger.forget_failures(tx, part, customer=customer)
            returned += moved
        await ledger.mark_verified(tx, blob.key, customer=customer, at_ms=at_ms)
        reason = "its bytes are back"
        deeds = [_moved(customer, each, State.AVAILABLE, reason, at_ms) for each in returned]
        await audit.append(tx, deeds, entropy=region.entropy)
    async with region.db.transaction() as tx:
        await ledger.share_again(tx, blob.key, customer=customer)
    metrics.count_returned(region.name)
    log.info("returned", region=region.name, blob=blob.key, objects=len(returned))
    return tuple(each.id for each in returned)


def _parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """In one order, so no deadlock."""
    ordered = sorted(ids)
    return (ordered[start : start + _AT_ONCE] for start in range(0, len(ordered), _AT_ONCE))


def _moved(customer: str, found: Readable, state: State, reason: str, at_ms: int) -> Deed:
    return Deed(
        customer=customer,
        at_ms=at_ms,
        event=Event.UPDATE,
        service="storage",
        entity_type="object",
        entity_key=found.id,
        display_name=found.name,
        user_id="",
        old={"objectState": found.state},
        new={"objectState": state, "reason": reason},
    )
