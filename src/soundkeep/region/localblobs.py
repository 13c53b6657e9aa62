"""The bytes of recordings, on local disks.

A file is made as `incoming/KEY`, linked into `kept/`, in a folder that the beginning of its key
names, and then synced with that folder; a small one, not synced, shares the sync of a journal in
`intake/` with those that come beside it. Settling removes the name in `incoming/`, so whatever a
crash leaves is told by that folder, and what a power cut may have taken by the journals.
`staged/KEY` holds what came so far of a resumable upload.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import structlog

from soundkeep.foundation.batches import Batches
from soundkeep.foundation.clock import SECOND
from soundkeep.foundation.errors import Conflict, StorageFull, Unavailable
from soundkeep.foundation.waiting import to_the_end
from soundkeep.region.blobs import Piece, Sums, checked, is_key, lost
from soundkeep.region.intake import Journal, Left, Small, sync_files, sync_folder
from soundkeep.region.model import Digests
from soundkeep.region.pace import Pace

T = TypeVar("T")

log = structlog.get_logger("blobs")

_FLUSH_SIZE = 1024 * 1024
_HASH_SIZE = 32 * 1024 * 1024
_SMALL = 256 * 1024
_TINY = 64 * 1024
"""Hashed sooner than handed to a thread."""

_JOURNAL_SIZE = 32 * 1024 * 1024
_NO_WAIT: int | None = getattr(os, "RWF_NOWAIT", None)
"""Read what is in memory or fail: Linux only."""

_FOLDER_DIGITS = 7
"""Of a key's: what comes within seventeen minutes shares a folder, so a batch takes one sync."""


class LocalBlobs:
    """Files below one folder, in folders by the time in their key."""

    shared = False

    def __init__(self, root: Path, *, min_free_bytes: int, pace: Pace | None = None) -> None:
        self._incoming = root / "incoming"
        self._kept = root / "kept"
        self._staged = root / "staged"
        self._intake = root / "intake"
        self._min_free_bytes = min_free_bytes
        self._pace = pace or Pace()
        self._synced: set[Path] = set()
        self._small = Batches[_Incoming]()
        self._journal: Journal | None = None
        self._journaling = threading.Lock()
        self._retirer = ThreadPoolExecutor(1, thread_name_prefix="retire")
        self._retiring: Future[None] | None = None
        self._left: dict[str, Left] = {}
        with _translated():
            self._incoming.mkdir(parents=True, exist_ok=True)
            self._kept.mkdir(exist_ok=True)
            self._staged.mkdir(exist_ok=True)
            self._intake.mkdir(exist_ok=True)
            self._move_old()
            for folder in (root.parent, root):
                sync_folder(folder)
        self._lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    async def check(self) -> None:
        """Unavailable where the folder is gone; that it can be written was seen when it opened."""
        with _translated():
            os.statvfs(self._incoming)

    def incoming(self, key: str, *, expected: int = 0) -> _Incoming:
        """A place for bytes to come; StorageFull where `expected` more would fill the disk."""
        self._must_fit(expected)
        return _Incoming(self, self._incoming / checked(key))

    async def settle(self, keys: Sequence[str]) -> None:
        """Forget that these were on their way: their rows are committed."""

        def work() -> None:
            self._restore([key for key in keys if key in self._left])
            for key in keys:
                (self._incoming / checked(key)).unlink(missing_ok=True)

        await _in_thread(work)

    async def discard(self, keys: Iterable[str]) -> None:
        """Remove bytes that no row names, first from their place, then from `incoming/`."""

        def work() -> None:
            for key in keys:
                self.remove(key)
                self._forget(key)

        await _in_thread(work)

    async def leftovers(self, *, after_ms: int, before_ms: int) -> list[str]:
        """Keys of bytes that are still on their way in since then, or in a journal left behind."""

        def work() -> list[str]:
            found = {path.name for path in since(self._incoming) if is_key(path.name)}
            for path in since(self._intake):
                left = Left.found(path)
                if left is not None:
                    found.update(left.keys)
                    self._remember(left)
            return sorted(found)

        def since(folder: Path) -> Iterator[Path]:
            for entry in os.scandir(folder):
                with suppress(FileNotFoundError):  # settled meanwhile
                    came_ms = entry.stat().st_mtime * SECOND
                    if after_ms <= came_ms < before_ms:
                        yield Path(entry.path)

        return await _in_thread(work)

    async def size(self, key: str) -> int | None:
        """How many bytes there are; None where there is no such blob."""
        return self._size(self._path(key))

    def look(self, key: str, size: int) -> None:
        """Unavailable where the file of a blob is missing or cut short."""
        if self._size(self._path(key)) != size:
            raise lost(key)

    def at_hand(self, key: str, size: int, start: int, end: int) -> bytes | None:
        """Few bytes that the system has in memory; else None, without waiting."""
        if end - start > _SMALL or _NO_WAIT is None:
            return None
        try:
            file = os.open(self._path(key), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            found = _in_memory(file, end - start, start) if start < end else b""
            whole = len(found) == end - start and os.fstat(file).st_size == size
            return found if whole else None
        except OSError:
            return None
        finally:
            os.close(file)

    async def read(self, key: str, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` up to and without `end`; Unavailable where they are not there."""
        path = self._path(key)
        found = self._size(path)
        if found is None or found < end:
            raise lost(key)
        return _pieces(path, key, start, end, self._pace)

    async def link(self, key: str, *, seconds: int) -> str | None:
        """Files have no address of their own."""
        del seconds
        checked(key)
        return None

    async def stage(self, key: str, *, at: int) -> _Staging:
        """Go on at this offset; Conflict where another process is at it."""
        self._must_fit(0)
        path = self._staged / checked(key)

        def work() -> int:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(file).st_size < at:
                    raise lost(key)
                os.ftruncate(file, at)
                os.lseek(file, at, os.SEEK_SET)
                if not at:
                    sync_folder(self._staged)
            except BlockingIOError:
                os.close(file)
                raise Conflict("Another request is sending bytes of this upload.") from None
            except BaseException:
                os.close(file)
                raise
            return file

        return _Staging(await _opened(work))

    async def gather(self, key: str, size: int, pieces: Sequence[Piece]) -> Digests:
        """Turn `size` staged bytes into closed incoming ones of the same key; again is fine."""
        del pieces  # one file has them all
        path, sums, at = self._staged / checked(key), Sums(), 0

        def hashed(file: int, at: int) -> int:
            end = min(at + _HASH_SIZE, size)
            while at < end and (piece := os.pread(file, min(_FLUSH_SIZE, end - at), at)):
                sums.add(piece)
                at += len(piece)
            return at

        file = await _opened(lambda: os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        try:
            while at < size:
                before, at = at, await _in_thread(lambda: hashed(file, at))  # noqa: B023  awaited
                if at == before:
                    raise lost(key)
        finally:
            os.close(file)

        def work() -> None:
            incoming = self._incoming / key
            with suppress(FileExistsError):
                os.link(path, incoming)
            self.link_kept(incoming)
            self.sync_kept(key)

        await _in_thread(work)
        return sums.digests()

    async def unstage(self, key: str) -> None:
        """Forget what was staged."""
        path = self._staged / checked(key)
        await _in_thread(lambda: path.unlink(missing_ok=True))

    def lock(self, *, alone: bool) -> bool:
        """Hold this folder: alone (to sweep it), or with others; False where they hold it so."""
        try:
            fcntl.flock(self._lock, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    async def close(self) -> None:
        """Sync what only a journal holds, and let go of the lock."""

        def work() -> None:
            self._turn()
            self._retirer.shutdown()
            for left in self._left.values():
                left.close()

        await _in_thread(work)
        os.close(self._lock)

    async def rest(self) -> None:
        """End the journal: so long may it have the bytes of what was deleted meanwhile."""

        def work() -> None:
            with self._journaling:
                self._turn()

        await _in_thread(work)

    async def take(self, small: _Incoming) -> None:
        """Give a small file its place, durably, together with others that come now."""
        await self._small.add(small, self._take)

    async def _take(self, batch: Sequence[_Incoming]) -> None:
        def work() -> None:
            bodies = [each.place() for each in batch]
            with self._journaling:
                if self._journal is None:
                    self._journal = Journal(self._intake)
                try:
                    self._journal.add(bodies)
                except OSError:
                    self._turn()
                    raise
                if self._journal.size >= _JOURNAL_SIZE:
                    self._turn()

        await _in_thread(work)

    def _turn(self) -> None:
        """Begin a new journal with what comes next; the one before the last has been retired."""
        full, self._journal = self._journal, None
        if self._retiring is not None:
            self._retiring.result()
        if full is not None:
            self._retiring = self._retirer.submit(self._retire, full)

    def _retire(self, full: Journal) -> None:
        """Sync the files of a journal, then remove it; where that fails the next start does it."""
        try:
            self._sync_kept(full.keys)
            sync_folder(self._incoming)
        except OSError as error:
            log.warning("intake", error=str(error), left=full.path.name)
            full.let_go()
        else:
            full.remove()

    def _restore(self, keys: Sequence[str]) -> None:
        """Make sure of files that a journal left behind has, too."""
        for key in keys:
            body, path = self._left[key].body(key), Path(self._path(key))
            if not path.exists() or path.read_bytes() != body:
                self.remove(key)
                incoming = self._incoming / key
                incoming.write_bytes(body)
                incoming.chmod(0o600)
                self.link_kept(incoming)
        self._sync_kept(keys)
        for key in keys:
            self._forget(key)

    def _sync_kept(self, keys: Sequence[str]) -> None:
        sync_files([self._path(key) for key in keys])
        for folder in {self._folder(key) for key in keys}:
            sync_folder(folder)

    def _remember(self, left: Left) -> None:
        for key in left.keys:
            self._forget(key)  # an older journal may have it from a try that failed
            self._left[key] = left
        left.end_if_empty()

    def _forget(self, key: str) -> None:
        left = self._left.pop(key, None)
        if left is not None:
            left.forget(key)

    def _must_fit(self, expected: int) -> None:
        with _translated():
            disk = os.statvfs(self._incoming)
        if disk.f_bavail * disk.f_frsize < self._min_free_bytes + expected:
            raise StorageFull("There is no room for this recording: nothing of it was kept.")

    def _size(self, path: str) -> int | None:
        with _translated(), suppress(FileNotFoundError):
            return os.stat(path).st_size  # noqa: PTH116  a text, not a Path: it is quicker
        return None

    def remove(self, key: str) -> None:
        """Remove a file from its place, then from `incoming/`."""
        Path(self._path(key)).unlink(missing_ok=True)
        (self._incoming / key).unlink(missing_ok=True)

    def link_kept(self, file: Path) -> None:
        """Give a file in `incoming/` its place, durable once the folder is synced."""
        folder = self._folder(file.name)
        if folder not in self._synced:  # another process may have made it and not yet synced it
            folder.mkdir(exist_ok=True)
            sync_folder(self._kept)
            self._synced = {folder}
        with suppress(FileExistsError):  # by an attempt that failed and is made again
            os.link(file, folder / file.name)

    def sync_kept(self, key: str) -> None:
        """Make a file's place durable."""
        sync_folder(self._folder(key))

    def _folder(self, key: str) -> Path:
        return self._kept / key[:_FOLDER_DIGITS]

    def _path(self, key: str) -> str:
        return f"{self._kept}/{checked(key)[:_FOLDER_DIGITS]}/{key}"

    def _move_old(self) -> None:
        """Bring files to where they belong that lie where version 0.1 put them: `kept/xx/KEY`."""
        for old in self._kept.glob("[0-9a-f][0-9a-f]"):
            for file in filter(lambda each: is_key(each.name), old.iterdir()):
                self._folder(file.name).mkdir(exist_ok=True)
                file.rename(self._path(file.name))
            with suppress(OSError):  # something is in it that is not ours
                old.rmdir()


class _Writing:
    """Bytes gathered to a MiB, then written by a thread."""

    def __init__(self, file: int = -1) -> None:
        self._file = file
        self._waiting: list[bytes] = []
        self._waiting_size = 0
        self.size = 0

    async def write(self, chunk: bytes) -> None:
        """Take a piece; a MiB is gathered before the disk is asked."""
        self._waiting.append(chunk)
        self._waiting_size += len(chunk)
        self.size += len(chunk)
        if self._waiting_size >= _FLUSH_SIZE:
            await _in_thread(self._flush)

    def _flush(self) -> None:
        for piece in self._waiting:
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(self._file, rest) :]
        self._waiting.clear()
        self._waiting_size = 0


class _Incoming(_Writing):
    """One object's bytes on their way in: a file made with the first MiB, hashed as it grows."""

    def __init__(self, blobs: LocalBlobs, path: Path) -> None:
        super().__init__()
        self._blobs = blobs
        self._path = path
        self._sums = Sums()
        self._placed: Small | None = None

    async def close(self) -> Digests:
        """Everything is here: write the rest, and give it its place, durably."""
        if self._file < 0 and self.size <= _SMALL:
            return await self._close_small()

        def work() -> None:
            self._flush()
            self._blobs.link_kept(self._path)
            os.fsync(self._file)
            os.close(self._file)
            self._file = -1
            self._blobs.sync_kept(self._path.name)

        await _in_thread(work)
        return self._sums.digests()

    async def _close_small(self) -> Digests:
        if self.size <= _TINY:
            self._sum()
        else:
            await _in_thread(self._sum)
        await self._blobs.take(self)
        return self._sums.digests()

    def place(self) -> Small:
        """Write a small file and give it its place, not synced; again is fine."""
        if self._placed is None:
            body = b"".join(self._waiting)
            small = Small(self._path.name, body, self._sums.digests().sha256)
            self._waiting = [body]
            self._open()
            try:
                super()._flush()
                self._blobs.link_kept(self._path)
            except BaseException:
                self._blobs.remove(self._path.name)
                raise
            finally:
                os.close(self._file)
                self._file = -1
            self._placed = small
        return self._placed

    async def abandon(self) -> None:
        """Keep nothing of it."""

        def work() -> None:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1
            self._blobs.remove(self._path.name)

        await _in_thread(work)

    def _flush(self) -> None:
        if self._file < 0:
            self._open()
        self._sum()
        super()._flush()

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._file = os.open(self._path, flags, 0o600)

    def _sum(self) -> None:
        for piece in self._waiting:
            self._sums.add(piece)


class _Staging(_Writing):
    """What comes of a resumable upload, appended to its file, which is locked meanwhile."""

    async def sync(self) -> Sequence[Piece]:
        """Make durable what came so far: the file is all there is to remember."""

        def work() -> None:
            self._flush()
            os.fsync(self._file)

        await _in_thread(work)
        return ()

    async def close(self) -> None:
        """Let go of the file and its lock."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


async def _pieces(
    path: str, key: str, start: int, end: int, pace: Pace
) -> AsyncGenerator[bytes, None]:
    with _translated():
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while start < end:
            at, length = start, min(pace.size, end - start)
            piece = _in_memory(file, length, at) or await _in_thread(
                lambda: os.pread(file, length, at)  # noqa: B023  awaited at once
            )
            if not piece:
                raise Unavailable("The bytes of this recording end too early.", lost=key)
            start += len(piece)
            yield piece
    finally:
        os.close(file)


async def _opened(work: Callable[[], int]) -> int:
    """A file that is opened beside the loop; a caller that is cancelled leaves none behind."""
    files: list[int] = []
    try:
        await _in_thread(lambda: files.append(work()))
    except BaseException:
        for file in files:
            os.close(file)
        raise
    return files[0]


def _in_memory(file: int, length: int, at: int) -> bytes:
    """What the system has in memory of these bytes, from their beginning: maybe nothing."""
    if _NO_WAIT is None:
        return b""
    buffer = bytearray(length)
    try:
        return bytes(memoryview(buffer)[: os.preadv(file, [buffer], at, _NO_WAIT)])
    except OSError:
        return b""


async def _in_thread(work: Callable[[], T]) -> T:
    """Run disk work beside the loop; a cancelled caller waits for its end all the same."""

    def translated() -> T:
        with _translated():
            return work()

    return await to_the_end(asyncio.ensure_future(asyncio.to_thread(translated)))


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull("The disk is full: nothing of this recording was kept.") from error
        raise Unavailable(f"The store of recordings does not answer: {error.strerror}.") from error
