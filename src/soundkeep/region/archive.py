"""An archive's bytes, told from the list of its members and read from the recordings as they go."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing

import structlog

from soundkeep.foundation.errors import Gone, Unavailable
from soundkeep.region import bulkstore, zipstream
from soundkeep.region.content import Body
from soundkeep.region.model import Job
from soundkeep.region.plane import Region
from soundkeep.region.zipstream import Part, Stretch

_MIME_TYPE = "application/zip"
_SMALL = 256 * 1024
_AHEAD = 512 * 1024
"""Bytes of small members that are read ahead of their turn."""

_SEND_SIZE = 64 * 1024
_OVER = "This archive is over: start a new bulk download."

log = structlog.get_logger("archive")


def body_of(region: Region, job: Job) -> Body:
    """A job's archive, to be sent whole or in part: the same bytes every time."""

    async def read(start: int, end: int) -> AsyncGenerator[bytes, None]:
        return _sent(region, job, start, end)

    return Body(
        id=job.id,
        name=job.zip_name,
        mime_type=_MIME_TYPE,
        size=bulkstore.layout(job).size,
        etag=f'"{job.id}"',
        modified_ms=job.created_ms,
        read=read,
    )


async def _sent(region: Region, job: Job, start: int, end: int) -> AsyncGenerator[bytes, None]:
    """The archive's bytes, small pieces gathered into larger ones."""
    gathered = bytearray()
    async with aclosing(_pieces(region, job, start, end)) as pieces:
        async for piece in pieces:
            if not gathered and len(piece) >= _SEND_SIZE:
                yield piece
                continue
            gathered += piece
            if len(gathered) >= _SEND_SIZE:
                yield bytes(gathered)
                gathered.clear()
    if gathered:
        yield bytes(gathered)


async def _pieces(region: Region, job: Job, start: int, end: int) -> AsyncGenerator[bytes, None]:
    """The same in the order they come; small members are read while those before are sent."""
    waiting = deque[bytes | asyncio.Task[bytes]]()
    ahead = 0

    async def first() -> bytes:
        nonlocal ahead
        found = waiting.popleft()
        piece = found if isinstance(found, bytes) else await found
        ahead -= len(piece)
        return piece

    try:
        async with aclosing(_told_from(region, job, start, end)) as items:
            async for item in items:
                if isinstance(item, Stretch) and item.end - item.start > _SMALL:
                    while waiting:
                        yield await first()
                    async with aclosing(_member(region, job, item)) as content:
                        async for piece in content:
                            yield piece
                    continue
                if isinstance(item, bytes):
                    waiting.append(item)
                    ahead += len(item)
                else:
                    waiting.append(_small(region, job, item))
                    ahead += item.end - item.start
                while waiting and (ahead > _AHEAD or isinstance(waiting[0], bytes)):
                    yield await first()
        while waiting:
            yield await first()
    finally:
        left = [each for each in waiting if not isinstance(each, bytes)]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


def _small(region: Region, job: Job, stretch: Stretch) -> bytes | asyncio.Task[bytes]:
    member = stretch.member
    at_hand = region.blobs.at_hand(member.blob, member.size, stretch.start, stretch.end)
    if at_hand is not None:
        return at_hand

    async def whole() -> bytes:
        async with aclosing(_member(region, job, stretch)) as content:
            return b"".join([piece async for piece in content])

    return asyncio.create_task(whole())


async def _member(region: Region, job: Job, stretch: Stretch) -> AsyncGenerator[bytes, None]:
    """A member's bytes; where they are lost, that is put on record before the sending is cut."""
    try:
        region.blobs.look(stretch.member.blob, stretch.member.size)
        read = await region.blobs.read(stretch.member.blob, stretch.start, stretch.end)
        async with aclosing(read) as pieces:
            async for piece in pieces:
                yield piece
    except Unavailable as error:
        if error.facts.get("lost") == stretch.member.blob:
            async with region.db.transaction() as tx:
                await bulkstore.add_lost(tx, job.id, stretch.member, customer=job.customer)
            log.error(  # noqa: TRY400  the words say it all
                "lost", region=region.name, zip=job.id, blob=stretch.member.blob
            )
        raise


async def _told_from(
    region: Region, job: Job, start: int, end: int
) -> AsyncGenerator[bytes | Stretch, None]:
    """What lies between two places of the archive: entries, then directory, then its end."""
    layout = bulkstore.layout(job)
    if start < layout.entries:
        async with aclosing(_parts(region, job, start, directory=False)) as parts:
            async for part in parts:
                if part.offset >= min(end, layout.entries):
                    break
                for item in zipstream.entries(part, start, end):
                    yield item
    begin = layout.entries
    if start < begin + layout.directory and end > begin:
        first, last = max(start - begin, 0), end - begin
        async with aclosing(_parts(region, job, first, directory=True)) as parts:
            async for part in parts:
                if part.directory_offset >= min(last, layout.directory):
                    break
                yield b"".join(zipstream.directory(part, first, last))
    begin += layout.directory
    if end > begin:
        yield layout.end()[max(start - begin, 0) : end - begin]


async def _parts(
    region: Region, job: Job, start: int, *, directory: bool
) -> AsyncGenerator[Part, None]:
    """Parts from the one that has this byte on, to the last."""
    found = await bulkstore.part_at(
        region.db, job.id, start, customer=job.customer, directory=directory
    )
    if found is None:
        raise Gone(_OVER)
    place, part = found
    yield part
    while following := await bulkstore.part(region.db, job.id, place + 1, customer=job.customer):
        yield following
        place += 1
