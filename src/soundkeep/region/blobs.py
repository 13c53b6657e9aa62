"""The bytes of recordings, on local disks.

Bytes come in under `incoming/KEY` and are synced there. `publish` gives them their place (a hard
link, then a sync of both folders); only then may a row name them. `settle` removes the name in
`incoming/`. So whatever a crash leaves is told by `incoming/`: an entry whose key no row names is
an orphan, to be discarded.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import re
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from soundkeep.foundation.errors import StorageFull, Unavailable
from soundkeep.foundation.waiting import to_the_end
from soundkeep.region.model import Digests

T = TypeVar("T")

READ_SIZE = 1024 * 1024
_FLUSH_SIZE = 1024 * 1024
_SMALL = 256 * 1024
_NO_WAIT: int | None = getattr(os, "RWF_NOWAIT", None)
"""Read what is in memory or fail: Linux only."""

_KEY = re.compile(r"[0-9a-f-]{8,64}")
_FOLDERS = tuple(f"{number:02x}" for number in range(256))


class LocalBlobs:
    """Files below one folder, fanned out over 256 by the end of their key."""

    def __init__(self, root: Path, *, min_free_bytes: int) -> None:
        self._incoming = root / "incoming"
        self._kept = root / "kept"
        self._min_free_bytes = min_free_bytes
        with _translated():
            self._incoming.mkdir(parents=True, exist_ok=True)
            self._kept.mkdir(exist_ok=True)
            for name in _FOLDERS:
                (self._kept / name).mkdir(exist_ok=True)
            for folder in (root.parent, root, self._kept):
                _sync_folder(folder)
        self._lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def incoming(self, key: str, *, expected: int = 0) -> Incoming:
        """A place for bytes to come; StorageFull where `expected` more would fill the disk."""
        with _translated():
            disk = os.statvfs(self._incoming)
        if disk.f_bavail * disk.f_frsize < self._min_free_bytes + expected:
            raise StorageFull("There is no room for this recording: nothing of it was kept.")
        return Incoming(self._incoming / _checked(key))

    async def publish(self, keys: Sequence[str]) -> None:
        """Give closed incoming bytes their place, durably."""

        def work() -> None:
            _sync_folder(self._incoming)
            for key in keys:
                with suppress(FileExistsError):  # by a batch that failed and is tried again
                    os.link(self._incoming / _checked(key), self._path(key))
            for folder in {self._kept / key[-2:] for key in keys}:
                _sync_folder(folder)

        await _in_thread(work)

    async def settle(self, keys: Sequence[str]) -> None:
        """Forget that these were on their way: their rows are committed."""

        def work() -> None:
            for key in keys:
                (self._incoming / _checked(key)).unlink(missing_ok=True)

        await _in_thread(work)

    async def discard(self, keys: Iterable[str]) -> None:
        """Remove bytes that no row names, first from their place, then from `incoming/`."""

        def work() -> None:
            for key in keys:
                Path(self._path(key)).unlink(missing_ok=True)
                (self._incoming / _checked(key)).unlink(missing_ok=True)

        await _in_thread(work)

    def unsettled(self) -> list[str]:
        """Keys of bytes that were on their way in."""
        with _translated():
            names = [entry.name for entry in os.scandir(self._incoming)]
        return sorted(name for name in names if _KEY.fullmatch(name))

    def path(self, key: str, size: int) -> str:
        """The file of an object's bytes; Unavailable where it is missing or cut short."""
        path = self._path(key)
        try:
            found = os.stat(path).st_size  # noqa: PTH116  a text, not a Path: it is quicker
        except OSError:
            found = -1
        if found != size:
            raise Unavailable(
                "The bytes of this recording cannot be read: tell the operator to run "
                "`soundkeep doctor`.",
                lost=key,
            )
        return path

    def at_hand(self, key: str, size: int) -> bytes | None:
        """All bytes of a small object that the system has in memory; else None, without waiting."""
        if size > _SMALL or _NO_WAIT is None:
            return None
        buffer = bytearray(size)
        try:
            file = os.open(self._path(key), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            found = os.preadv(file, [buffer], 0, _NO_WAIT) if size else 0
            return bytes(buffer) if found == size == os.fstat(file).st_size else None
        except OSError:
            return None
        finally:
            os.close(file)

    async def read(self, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes from `start` up to and without `end`, 1 MiB at a time."""
        file = await _in_thread(lambda: os.open(self._path(key), os.O_RDONLY | os.O_CLOEXEC))
        try:
            while start < end:
                at, length = start, min(READ_SIZE, end - start)
                piece = await _in_thread(lambda: os.pread(file, length, at))  # noqa: B023  awaited at once
                if not piece:
                    raise Unavailable("The bytes of this recording end too early.", lost=key)
                start += len(piece)
                yield piece
        finally:
            os.close(file)

    def lock(self, *, alone: bool) -> bool:
        """Hold this folder: alone (to sweep it), or with others; False where they hold it so."""
        try:
            fcntl.flock(self._lock, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Let go of the lock."""
        os.close(self._lock)

    def _path(self, key: str) -> str:
        return f"{self._kept}/{_checked(key)[-2:]}/{key}"


class Incoming:
    """One object's bytes on their way in: written and hashed in a thread while they arrive."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1
        self._waiting: list[bytes] = []
        self._waiting_size = 0
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._sha256 = hashlib.sha256()
        self._crc32 = 0
        self.size = 0

    async def write(self, chunk: bytes) -> None:
        """Take a piece; a MiB is gathered before the disk is asked."""
        self._waiting.append(chunk)
        self._waiting_size += len(chunk)
        self.size += len(chunk)
        if self._waiting_size >= _FLUSH_SIZE:
            await _in_thread(self._flush)

    async def close(self) -> Digests:
        """Everything is here: write the rest and sync it."""

        def work() -> None:
            self._flush()
            os.fsync(self._file)
            os.close(self._file)
            self._file = -1

        await _in_thread(work)
        return Digests(self.size, self._md5.hexdigest(), self._sha256.hexdigest(), self._crc32)

    async def abandon(self) -> None:
        """Keep nothing of it."""

        def work() -> None:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1
            self._path.unlink(missing_ok=True)

        await _in_thread(work)

    def _flush(self) -> None:
        if self._file < 0:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._file = os.open(self._path, flags, 0o600)
        for piece in self._waiting:
            self._md5.update(piece)
            self._sha256.update(piece)
            self._crc32 = zlib.crc32(piece, self._crc32)
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(self._file, rest) :]
        self._waiting.clear()
        self._waiting_size = 0


async def _in_thread(work: Callable[[], T]) -> T:
    """Run disk work beside the loop; a cancelled caller waits for its end all the same."""

    def translated() -> T:
        with _translated():
            return work()

    return await to_the_end(asyncio.ensure_future(asyncio.to_thread(translated)))


def _checked(key: str) -> str:
    """Keys are ours, never a user's; even so, nothing but hex digits becomes a path."""
    if not _KEY.fullmatch(key):
        raise ValueError(key)
    return key


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull("The disk is full: nothing of this recording was kept.") from error
        raise Unavailable(f"The store of recordings does not answer: {error.strerror}.") from error
