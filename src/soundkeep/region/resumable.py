"""Uploads that survive anything: begun, continued after any break, kept when whole (tus 1.0)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Protocol

import msgspec

from soundkeep.foundation.claims import Claims
from soundkeep.foundation.clock import DAY, HOUR, SECOND
from soundkeep.foundation.database import Connection
from soundkeep.foundation.errors import (
    Busy,
    ChecksumMismatch,
    Conflict,
    Gone,
    Incomplete,
    NotFound,
    SoundkeepError,
    TooLarge,
)
from soundkeep.region import arrivals, store, uploadstore
from soundkeep.region.arrivals import Wanted
from soundkeep.region.blobs import Piece, Staging
from soundkeep.region.model import NOTHING, Resumable, Stage
from soundkeep.region.plane import Region, must_live_here, new_object_id

_SAVE_BYTES = 16 * 1024 * 1024
"""What a crash may cost a client that sends without pause."""

_HELD_MS = 4 * SECOND
_HOLD_ON_SECONDS = 1.0
_PATIENCE_SECONDS = 8.0
_POLL_SECONDS = 0.1
_REMEMBERED_MS = 7 * DAY
_AT_ONCE = 500


class Checksum(Protocol):
    """A digest that the client declared of the bytes of one request."""

    def update(self, piece: bytes, /) -> None:
        """Take the next bytes."""

    def is_right(self) -> bool:
        """Whether those that came are those that were declared."""


async def create(
    region: Region, claims: Claims, wanted: Wanted, *, size: int, metadata: str
) -> Resumable:
    """Begin an upload of `size` bytes; everything that can be refused is refused now."""
    must_live_here(region, claims)
    arrivals.check(claims, wanted)
    await arrivals.may_join(region, claims, wanted.bucket_id)
    most = region.limits.max_upload_bytes
    if size > most:
        raise TooLarge(f"A recording may have {most} bytes at most.", field="Upload-Length")
    await arrivals.must_have_room(region, claims, size)
    upload = Resumable(
        id=new_object_id(region),
        customer=claims.customer,
        client=claims.client,
        size=size,
        position=0,
        wanted=msgspec.json.encode(wanted).decode(),
        metadata=metadata,
        state=Stage.OPEN,
        object_id="",
        expires_ms=_expiry(region),
    )
    async with region.db.transaction() as tx:
        await uploadstore.add(tx, upload, customer=claims.customer)
    return upload


async def find(region: Region, claims: Claims, upload_id: str) -> Resumable:
    """An upload of this key; NotFound for any other, Gone when its time is over."""
    must_live_here(region, claims)
    found = await uploadstore.by_id(
        region.db, upload_id, customer=claims.customer, client=claims.client
    )
    if found is None:
        raise NotFound(NOTHING)
    if found.state is Stage.ENDED or (
        found.state is Stage.OPEN and found.expires_ms < region.clock()
    ):
        raise Gone("This upload expired or was ended: begin a new one with POST .../uploads.")
    return found


async def append(
    region: Region,
    claims: Claims,
    upload_id: str,
    chunks: AsyncIterator[bytes],
    *,
    at: int,
    checksum: Checksum | None = None,
) -> Resumable:
    """Add what comes to an upload that has `at` bytes; with the last one it becomes an object.

    Conflict where it has another number of bytes, Busy where another request goes on adding. What
    came before a break is kept, unless a checksum was declared for it.
    """
    found = await find(region, claims, upload_id)
    _must_be_at(found, at)
    if found.state is Stage.KEPT:
        await _must_be_empty(chunks)
        return found
    async with _held(region, found) as hold:
        if await _became_an_object(region, found):
            async for _ in chunks:  # it has these already
                pass
            return await find(region, claims, upload_id)
        found = await find(region, claims, upload_id)
        _must_be_at(found, at)
        adding = _Adding(region, found, hold.holder, await region.blobs.stage(found.id, at=at))
        try:
            await _receive(adding, chunks, hold, checksum)
            if adding.position == found.size:
                await _finish(region, claims, found, adding.pieces)
            else:
                await adding.save()
        finally:
            await adding.close()
    return await find(region, claims, upload_id)


async def terminate(region: Region, claims: Claims, upload_id: str) -> None:
    """End an upload and forget its bytes; what became an object stays one."""
    found = await find(region, claims, upload_id)
    async with _held(region, found):
        if (await find(region, claims, upload_id)).state is Stage.KEPT:
            raise Conflict("This upload is an object by now: it cannot be ended.")
        await _close(region, found, Stage.ENDED)


async def expire(region: Region) -> int:
    """End the uploads whose time is over: how many. Again does no harm."""
    count, now_ms = 0, region.clock()
    while ids := await uploadstore.expired(region.db, now_ms=now_ms, limit=_AT_ONCE):
        for upload_id in ids:
            async with region.db.transaction() as tx:
                ended = await uploadstore.end_expired(tx, upload_id, now_ms=now_ms)
            if ended:  # else somebody went on with it
                await region.blobs.unstage(upload_id)
                count += 1
    before_ms = now_ms - _REMEMBERED_MS
    while ids := await uploadstore.over(region.db, before_ms=before_ms, limit=_AT_ONCE):
        for upload_id in ids:  # a crash may have come between an end and this
            await region.blobs.unstage(upload_id)
        async with region.db.transaction() as tx:
            await uploadstore.forget(tx, ids)
    return count


# ---- adding bytes ---------------------------------------------------------------------------


class _Adding:
    """Bytes on their way into an upload, and how many of them are safe."""

    def __init__(self, region: Region, upload: Resumable, holder: str, staging: Staging) -> None:
        self._region = region
        self._upload = upload
        self._holder = holder
        self._staging = staging
        self._saved = upload.position
        self._unsaved: list[Piece] = []
        self.position = upload.position
        self.pieces: list[Piece] = []

    async def write(self, chunk: bytes, *, save: bool) -> None:
        """Take the next bytes; TooLarge past the upload's size."""
        if self.position + len(chunk) > self._upload.size:
            raise TooLarge(
                f"These are more than the {self._upload.size} bytes of Upload-Length.",
                field="Upload-Length",
            )
        await self._staging.write(chunk)
        self.position += len(chunk)
        if (
            save
            and self.position - self._saved >= _SAVE_BYTES
            and self.position < self._upload.size
        ):
            await self.save()

    async def sync(self) -> None:
        """Make the bytes durable, not yet known to be."""
        fresh = await self._staging.sync()
        self._unsaved += fresh
        self.pieces += fresh

    async def save(self) -> None:
        """Make the bytes durable and known; Conflict where another request has taken over."""
        await self.sync()
        async with self._region.db.transaction() as tx:
            kept = await uploadstore.advance(
                tx,
                self._upload,
                self._unsaved,
                customer=self._upload.customer,
                holder=self._holder,
                position=self.position,
                expires_ms=_expiry(self._region),
            )
        if not kept:
            raise Conflict("This upload was ended, or another request goes on with it.")
        self._unsaved = []
        self._saved = self.position

    async def close(self) -> None:
        """Let go of the bytes' place."""
        await self._staging.close()


async def _receive(
    adding: _Adding, chunks: AsyncIterator[bytes], hold: _Hold, checksum: Checksum | None
) -> None:
    """Take all that comes; what a client that leaves has sent is kept."""
    try:
        async with hold.while_ours():
            async for chunk in chunks:
                if checksum is not None:
                    checksum.update(chunk)
                await adding.write(chunk, save=checksum is None)
    except (Incomplete, Busy):
        if checksum is None:
            with suppress(SoundkeepError):  # the client is told of its own trouble
                await adding.save()
        raise
    if checksum is not None and not checksum.is_right():
        raise ChecksumMismatch(
            "The bytes of this request are not those of Upload-Checksum: none of them was kept, "
            "send them again.",
            field="Upload-Checksum",
        )
    await adding.sync()


async def _finish(
    region: Region, claims: Claims, upload: Resumable, fresh: Sequence[Piece]
) -> None:
    """Make the object of an upload that is whole."""
    wanted = msgspec.json.decode(upload.wanted, type=Wanted)
    arrivals.check(claims, wanted)
    await arrivals.may_join(region, claims, wanted.bucket_id)
    known = await uploadstore.pieces(region.db, upload, customer=claims.customer)
    before = [each for each in known if each.start < upload.position]
    digests = await region.blobs.gather(upload.id, upload.size, [*before, *fresh])
    try:
        arrivals.must_be(digests, wanted)
    except Incomplete as error:
        await region.blobs.discard([upload.id])
        await _close(region, upload, Stage.ENDED)
        raise ChecksumMismatch(error.message, field=error.facts["field"]) from None
    kept = await arrivals.keep(region, claims, wanted, digests, object_id=upload.id)
    await _close(region, upload, Stage.KEPT, object_id=kept.id)


async def _became_an_object(region: Region, upload: Resumable) -> bool:
    """Whether an upload's object is there already: a crash came before that was noted.

    To be asked before a byte is added: its bytes are the object's own by then.
    """
    made = await store.document_by_id(region.db, upload.id, customer=upload.customer)
    if made is not None:
        await _close(region, upload, Stage.KEPT, object_id=upload.id)
    return made is not None


async def _close(region: Region, upload: Resumable, stage: Stage, *, object_id: str = "") -> None:
    async with region.db.transaction() as tx:
        await uploadstore.close(tx, upload, stage, customer=upload.customer, object_id=object_id)
    await region.blobs.unstage(upload.id)


# ---- one at a time --------------------------------------------------------------------------


class _Hold:
    """The right to add to an upload, as long as it is said again and nobody else wants it."""

    def __init__(self, region: Region, upload: Resumable) -> None:
        self._region = region
        self._upload = upload
        self._contested = False
        self._scope: asyncio.Timeout | None = None
        self.holder = region.entropy(16).hex()

    async def take(self) -> None:
        """Wait until it is ours; Busy where another request does not let go."""
        async with self._region.db.transaction() as tx:
            if await self._take(tx):
                return
        until = asyncio.get_running_loop().time() + _PATIENCE_SECONDS
        while asyncio.get_running_loop().time() < until:
            await asyncio.sleep(_POLL_SECONDS)
            async with self._region.db.transaction() as tx:
                if await self._take(tx):
                    return
        raise Busy("Another request is adding to this upload: try again in a moment.")

    async def keep(self) -> None:
        """Say again and again that we are at it, and hear whether somebody else wants it."""
        while True:
            await asyncio.sleep(_HOLD_ON_SECONDS)
            with suppress(SoundkeepError):  # what is added meanwhile is not said to be safe
                async with self._region.db.transaction() as tx:
                    self._contested = not await uploadstore.hold_on(
                        tx,
                        self._upload.id,
                        customer=self._upload.customer,
                        holder=self.holder,
                        until_ms=self._region.clock() + _HELD_MS,
                    )
            if self._contested and self._scope is not None:
                self._scope.reschedule(0)

    async def let_go(self) -> None:
        """Let others have it; where that cannot be said, its time runs out soon."""
        with suppress(SoundkeepError):
            async with self._region.db.transaction() as tx:
                await uploadstore.let_go(
                    tx, self._upload.id, customer=self._upload.customer, holder=self.holder
                )

    @asynccontextmanager
    async def while_ours(self) -> AsyncIterator[None]:
        """What is done in here ends with Busy as soon as somebody else wants the upload."""
        try:
            async with asyncio.timeout(None) as self._scope:
                yield
        except TimeoutError:
            raise Busy("Another request goes on with this upload.") from None
        finally:
            self._scope = None

    async def _take(self, tx: Connection) -> bool:
        now_ms = self._region.clock()
        return await uploadstore.take(
            tx,
            self._upload.id,
            customer=self._upload.customer,
            holder=self.holder,
            now_ms=now_ms,
            until_ms=now_ms + _HELD_MS,
        )


@asynccontextmanager
async def _held(region: Region, upload: Resumable) -> AsyncIterator[_Hold]:
    hold = _Hold(region, upload)
    await hold.take()
    keeping = asyncio.create_task(hold.keep())
    try:
        yield hold
    finally:
        keeping.cancel()
        await asyncio.wait([keeping])
        await hold.let_go()


def _must_be_at(upload: Resumable, at: int) -> None:
    if upload.position != at:
        raise Conflict(
            f"The upload has {upload.position} bytes, not {at}: ask for its Upload-Offset with "
            "HEAD and go on from there.",
            field="Upload-Offset",
        )


async def _must_be_empty(chunks: AsyncIterator[bytes]) -> None:
    async for chunk in chunks:
        if chunk:
            raise TooLarge("This upload is whole: nothing can be added to it.")


def _expiry(region: Region) -> int:
    return region.clock() + region.limits.upload_hours * HOUR
