"""The bytes of recordings, in a bucket of an S3 store.

`kept/KEY` holds a blob, put there whole: what is not closed leaves no object. Nothing marks blobs
without a row, so `leftovers` goes by time. `staged/KEY/` holds the pieces of a resumable upload,
since S3 cannot append; each has a name of its own, so that a writer that comes back late replaces
nothing.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from soundkeep.foundation.clock import Entropy
from soundkeep.foundation.errors import SoundkeepError, TooLarge, Unavailable
from soundkeep.foundation.waiting import to_the_end
from soundkeep.region.blobs import Bucket, Piece, Sums, checked, is_key, lost
from soundkeep.region.model import Digests
from soundkeep.region.readahead import FIRST_SIZE, Budget, Reader, in_order
from soundkeep.region.s3requests import ERRORS, Patience, Ranges, Requests

if TYPE_CHECKING:
    from obstore import PutResult

_MIB = 1024 * 1024
_FLUSH_SIZE = _MIB
_PART_SIZE = 8 * _MIB
_MOST_PARTS = 10_000

_GATHER_SIZE = 4 * _MIB
_READ_AHEAD = 32 * _MIB
_PIECE_NAME = re.compile(r"[0-9]{20}-[0-9a-f]{16}")
_LAST_MS = 2**48 - 1
_PATIENCE = Patience()


class S3Blobs:
    """Objects below a prefix of one bucket."""

    shared = True

    def __init__(self, bucket: Bucket, *, entropy: Entropy, patience: Patience = _PATIENCE) -> None:
        self._root = f"{bucket.prefix}/" if bucket.prefix else ""
        self._entropy = entropy
        self._budget = Budget(_READ_AHEAD)
        probe = f"{self._root}check/alive"
        self._requests = Requests(bucket, probe=probe, patience=patience)

    async def check(self) -> None:
        """Unavailable, with what to change, where bytes could not be kept and read here."""
        path, token = f"{self._root}check/{self._entropy(8).hex()}", self._entropy(16)
        await self._requests.paths(f"{self._root}check/")
        await self._requests.put(path, [token])
        try:
            found = await Ranges(self._requests, path, path, len(token))(0, len(token))
        finally:
            await self._requests.delete([path])
        if found != token:
            raise Unavailable("The store of recordings does not give back what it was given.")

    def incoming(self, key: str, *, expected: int = 0) -> _Incoming:
        """A place for bytes to come; up to 8 MiB wait in memory, longer ones go in parts."""
        part_size = max(_PART_SIZE, -(-expected // _MOST_PARTS))
        return _Incoming(self._requests, self._kept(key), part_size)

    async def settle(self, keys: Sequence[str]) -> None:
        """Nothing tells what is on its way."""
        for key in keys:
            checked(key)

    async def discard(self, keys: Iterable[str]) -> None:
        """Remove bytes that no row names."""
        await self._requests.delete([self._kept(key) for key in keys])

    async def rest(self) -> None:
        """A bucket has them in one place as it is."""

    async def leftovers(self, *, after_ms: int, before_ms: int) -> list[str]:
        """Keys of all bytes that came between these moments, by our clock and by the store's."""
        first, folder = f"{min(after_ms, _LAST_MS):012x}", f"{self._root}kept/"
        after = f"{folder}{first[:8]}-{first[8:]}"
        found = await self._requests.paths(folder, after=after, until=before_ms)
        keys = (path.removeprefix(folder) for path in found)
        return [key for key in keys if is_key(key) and after_ms <= _born_ms(key) < before_ms]

    async def abandoned(self, *, before_ms: int) -> list[str]:
        """Nothing but its age tells what was abandoned, and at start that is looked at."""
        del before_ms
        return []

    async def size(self, key: str) -> int | None:
        """How many bytes there are; None where there is no such blob."""
        return await self._requests.size(self._kept(key))

    def look(self, key: str, size: int) -> None:
        """A look would have to wait."""
        del size
        checked(key)

    def at_hand(self, key: str, size: int, start: int, end: int) -> None:
        """No bytes are in memory."""
        del size, start, end
        checked(key)

    async def read(self, key: str, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` up to and without `end`; Unavailable where they are not there."""
        path = self._kept(key)
        if start >= end:
            found = await self._requests.size(path)
            if found is None or found < end:
                raise lost(key)
            return _nothing()
        ranges = Ranges(self._requests, key, path, end)
        first = await ranges(start, min(start + FIRST_SIZE, end))
        return Reader(ranges, start, end, first=first, budget=self._budget).pieces()

    async def link(self, key: str, *, seconds: int) -> str:
        """A URL that gives the bytes, ranges included, for so long to whoever has it."""
        return await self._requests.link(self._kept(key), seconds=seconds)

    async def stage(self, key: str, *, at: int) -> _Staging:
        """Go on with a resumable upload at this offset; who else does is not known here."""
        return _Staging(self._requests, self._staged(key), at, self._entropy)

    async def gather(self, key: str, size: int, pieces: Sequence[Piece]) -> Digests:
        """Turn staged pieces into a blob; Unavailable unless they join to exactly `size` bytes."""
        folder, at = self._staged(key), 0
        ranges = list[Callable[[], Awaitable[memoryview]]]()
        for piece in sorted(pieces, key=lambda each: each.start):
            if not _PIECE_NAME.fullmatch(piece.name):
                raise ValueError(piece.name)
            if piece.start != at:
                raise lost(key)
            at, length = piece.end, piece.end - piece.start
            fetch = Ranges(self._requests, key, folder + piece.name, length)
            for start in range(0, length, _GATHER_SIZE):
                ranges.append(partial(fetch, start, min(start + _GATHER_SIZE, length)))
        if at != size:
            raise lost(key)
        incoming = self.incoming(key, expected=size)
        try:
            async for part in in_order(ranges, at_once=2):
                await incoming.write(part)
            return await incoming.close()
        except BaseException:
            await incoming.abandon()
            raise

    async def unstage(self, key: str) -> None:
        """Forget what was staged."""
        await self._requests.delete(await self._requests.paths(self._staged(key)))

    def lock(self, *, alone: bool) -> bool:
        """A bucket has no locks: whoever sweeps it spares what is young."""
        del alone
        return True

    async def close(self) -> None:
        """Give up what is still to be removed."""
        await self._requests.close()

    def _kept(self, key: str) -> str:
        return f"{self._root}kept/{checked(key)}"

    def _staged(self, key: str) -> str:
        return f"{self._root}staged/{checked(key)}/"


class _Incoming:
    """One object's bytes on their way in, hashed by the MiB in a thread."""

    def __init__(self, requests: Requests, path: str, part_size: int) -> None:
        self._requests = requests
        self._path = path
        self._part_size = part_size
        self._sums = Sums()
        self._waiting = _Waiting()
        self._hashed = list[bytes]()
        self._parts: _Parts | None = None
        self._closing: asyncio.Future[PutResult] | None = None
        self.size = 0

    async def write(self, chunk: bytes | memoryview) -> None:
        """Take the next bytes: those past 8 MiB make it an upload in parts."""
        if self.size + len(chunk) > self._part_size * _MOST_PARTS:
            raise TooLarge("So long a recording has to tell its length first.", field="content")
        self.size += len(chunk)
        self._waiting.add(chunk)
        if self._waiting.size >= _FLUSH_SIZE:
            await self._flush()

    async def close(self) -> Digests:
        """Everything is here: put it in its place."""
        await self._flush()
        if self._parts is None:
            putting = self._requests.put(self._path, self._hashed)
        else:
            putting = self._parts.finish()
        self._closing = asyncio.ensure_future(putting)
        result = await asyncio.shield(self._closing)
        self._hashed = []
        digests = self._sums.digests()
        if (result["e_tag"] or "").strip('"') != digests.md5:  # an ETag need not be an MD5
            await self._must_be_whole(digests.size)
        return digests

    async def abandon(self) -> None:
        """Keep nothing of it; where the store does not answer, `leftovers` tells of the rest."""
        self._hashed = []
        await to_the_end(asyncio.ensure_future(self._requests.later(self._remove())))

    async def _remove(self) -> None:
        if self._closing is not None:  # it may come to its place still
            with suppress(SoundkeepError):
                await self._closing
        if self._parts is not None:
            await self._parts.abandon()
        if self._closing is not None:
            with suppress(SoundkeepError):
                await self._requests.delete([self._path])

    async def _flush(self) -> None:
        chunks = self._waiting.take()

        def work() -> bytes:
            piece = b"".join(chunks)
            self._sums.add(piece)
            return piece

        self._hashed.append(await asyncio.to_thread(work))
        if self._parts is None and self.size > _PART_SIZE:
            self._parts = _Parts(self._requests, self._path, self._part_size)
        while self._parts is not None and self._hashed:
            await self._parts.add(self._hashed.pop(0))

    async def _must_be_whole(self, size: int) -> None:
        if await self._requests.size(self._path) != size:
            raise Unavailable("The store of recordings did not keep all bytes: send them again.")


class _Parts:
    """An object on its way in parts: the next piece is taken when there is room for it."""

    def __init__(self, requests: Requests, path: str, part_size: int) -> None:
        self._requests = requests
        self._queue = asyncio.Queue[bytes | None](1)
        self._abandoned = False
        self._putting = asyncio.ensure_future(
            requests.put_parts(path, self._pieces(), part_size=part_size)
        )

    async def add(self, piece: bytes | None) -> None:
        """Hand over the next piece, None after the last."""
        room = asyncio.ensure_future(self._queue.put(piece))
        try:
            await self._requests.while_alive(room, self._putting)
        finally:
            room.cancel()
        if self._putting.done():
            await self.result()

    async def finish(self) -> PutResult:
        """Join the parts."""
        await self.add(None)
        return await self.result()

    async def result(self) -> PutResult:
        """What came of it, in the end."""
        return await self._requests.told("PutObject", self._putting)

    async def abandon(self) -> None:
        """Remove the parts; what is on its way has its end first."""
        self._abandoned = True
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put_nowait(None)
        with suppress(asyncio.CancelledError, _Abandoned, *ERRORS):
            await self._putting

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        while (piece := await self._queue.get()) is not None:
            yield piece
        if self._abandoned:
            raise _Abandoned


class _Abandoned(Exception):
    """Tells obstore to remove the parts."""


class _Staging:
    """What comes of a resumable upload: objects of up to 8 MiB, one on its way at a time."""

    def __init__(self, requests: Requests, folder: str, at: int, entropy: Entropy) -> None:
        self._requests = requests
        self._folder = folder
        self._at = at
        self._entropy = entropy
        self._waiting = _Waiting()
        self._putting: tuple[Piece, asyncio.Future[PutResult]] | None = None
        self._made = list[Piece]()

    async def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._waiting.add(chunk)
        if self._waiting.size >= _PART_SIZE:
            await self._put()

    async def sync(self) -> Sequence[Piece]:
        """Make durable what came so far: the pieces that are new."""
        if self._waiting.size:
            await self._put()
        await self._put_to_the_end()
        made, self._made = self._made, []
        return made

    async def close(self) -> None:
        """Let go; what was not synced may be lost."""
        if self._putting is not None:
            self._putting[1].cancel()
            with suppress(asyncio.CancelledError, SoundkeepError):
                await self._putting[1]

    async def _put(self) -> None:
        await self._put_to_the_end()
        end = self._at + self._waiting.size
        piece = Piece(f"{self._at:020}-{self._entropy(8).hex()}", self._at, end)
        putting = self._requests.put(self._folder + piece.name, self._waiting.take())
        self._putting, self._at = (piece, asyncio.ensure_future(putting)), end

    async def _put_to_the_end(self) -> None:
        """Wait for the one before: a failure stays, so that no later piece is told of."""
        if self._putting is not None:
            piece, putting = self._putting
            await putting
            self._made.append(piece)
            self._putting = None


class _Waiting:
    """Chunks that wait to be sent."""

    def __init__(self) -> None:
        self._chunks = list[bytes | memoryview]()
        self.size = 0

    def add(self, chunk: bytes | memoryview) -> None:
        self._chunks.append(chunk)
        self.size += len(chunk)

    def take(self) -> list[bytes | memoryview]:
        taken, self._chunks, self.size = self._chunks, [], 0
        return taken


def _born_ms(key: str) -> int:
    """When a key was made, which UUIDv7 tells (RFC 9562 §5.7)."""
    return int(key.replace("-", "")[:12], 16)


async def _nothing() -> AsyncGenerator[bytes, None]:
    for piece in list[bytes]():
        yield piece
