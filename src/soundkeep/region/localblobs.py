"""The bytes of recordings, on local disks.

A file is made as `incoming/KEY`, linked into `kept/`, in a folder that the beginning of its key
names, and then synced with that folder; settling removes the name in `incoming/`. A small one is
written to a journal in `intake/` first, which shares its sync among those that come together, and
then to its place, not synced. So that folder and the journals tell whatever a crash leaves, and the
journals what a power cut may have taken. `staged/KEY` holds what came so far of a resumable upload.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from soundkeep.foundation.clock import SECOND
from soundkeep.foundation.errors import Conflict, StorageFull, Unavailable
from soundkeep.region.blobs import Piece, Sums, checked, is_key, lost
from soundkeep.region.disk import in_thread, opened, translated
from soundkeep.region.intake import Intake, Left, Small, sync_files, sync_folder, sync_system
from soundkeep.region.model import Digests
from soundkeep.region.pace import Pace

_FLUSH_SIZE = 1024 * 1024
_HASH_SIZE = 32 * 1024 * 1024
_SMALL = 256 * 1024
_TINY = 64 * 1024
"""Hashed sooner than handed to a thread."""

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
        self._journals = root / "intake"
        self._min_free_bytes = min_free_bytes
        self._pace = pace or Pace()
        self._made = ""
        self._left: dict[str, Left] = {}
        with translated():
            self._incoming.mkdir(parents=True, exist_ok=True)
            self._kept.mkdir(exist_ok=True)
            self._staged.mkdir(exist_ok=True)
            self._journals.mkdir(exist_ok=True)
            self._move_old()
            for folder in (root.parent, root):
                sync_folder(folder)
        self._lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.intake = Intake(self._journals, place=self._place, sync=self._sync_kept)

    async def check(self) -> None:
        """Unavailable where the folder is gone; that it can be written was seen when it opened."""
        with translated():
            os.statvfs(self._incoming)

    def incoming(self, key: str, *, expected: int = 0) -> _Incoming:
        """A place for bytes to come; StorageFull where `expected` more would fill the disk."""
        self._must_fit(expected)
        return _Incoming(self, self._incoming / checked(key))

    async def settle(self, keys: Sequence[str]) -> None:
        """Forget that these were on their way: their rows are committed."""
        others = self.intake.decided(keys)

        def work() -> None:
            self._restore([key for key in others if key in self._left])
            for key in others:
                (self._incoming / checked(key)).unlink(missing_ok=True)

        if others:
            await in_thread(work)

    async def discard(self, keys: Iterable[str]) -> None:
        """Remove bytes that no row names, first from their place, then from `incoming/`."""
        doomed = list(keys)

        def work() -> None:
            for key in doomed:
                self.remove(key)
                self._forget(key)

        await in_thread(work)
        self.intake.decided(doomed)

    async def leftovers(self, *, after_ms: int, before_ms: int) -> list[str]:
        """Keys of bytes that are still on their way in since then, or in a journal left behind."""
        ours = self.intake.undecided()

        def work() -> list[str]:
            incoming = _between(self._incoming, after_ms, before_ms)
            found = {path.name for path in incoming if is_key(path.name)}
            journals = list(_between(self._journals, after_ms, before_ms))
            found.update(*(ours.get(path.name, ()) for path in journals))
            return sorted(found.union(self._found_in(journals)))

        return await in_thread(work)

    async def abandoned(self, *, before_ms: int) -> list[str]:
        """Keys in journals of processes that were killed since, where nobody is at them."""

        def work() -> list[str]:
            found = self._found_in(_between(self._journals, 0, before_ms))
            return sorted(found.union(self._left))  # and what could not be decided then

        return await in_thread(work)

    def _found_in(self, journals: Iterable[Path]) -> set[str]:
        found = set[str]()
        for path in journals:
            left = Left.found(path)
            if left is not None:
                found.update(left.keys)
                self._remember(left)
        return found

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

        return _Staging(await opened(work))

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

        file = await opened(lambda: os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        try:
            while at < size:
                before, at = at, await in_thread(lambda: hashed(file, at))  # noqa: B023  awaited
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

        await in_thread(work)
        return sums.digests()

    async def unstage(self, key: str) -> None:
        """Forget what was staged."""
        path = self._staged / checked(key)
        await in_thread(lambda: path.unlink(missing_ok=True))

    def lock(self, *, alone: bool) -> bool:
        """Hold this folder: alone (to sweep it), or with others; False where they hold it so."""
        try:
            fcntl.flock(self._lock, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    async def close(self) -> None:
        """Sync what only a journal holds, and let go of the lock."""
        await self.intake.close()
        for left in self._left.values():
            left.close()
        os.close(self._lock)

    async def rest(self) -> None:
        """End the journal: so long may it have the bytes of what was deleted meanwhile."""
        await self.intake.rest()

    def _place(self, small: Small) -> None:
        """Give a small body its file, not synced; again is fine."""
        self._make_folder(small.key)
        path = self._path(small.key)
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            if Path(path).read_bytes() == small.body:
                return
            raise
        try:
            _write(file, small.body)
        except BaseException:
            Path(path).unlink()
            raise
        finally:
            os.close(file)

    def _restore(self, keys: Sequence[str]) -> None:
        """Make sure of files that a journal left behind has, too."""
        for key in keys:
            body, path = self._left[key].body(key), self._path(key)
            if not _is_safe(path, body):
                self._make_folder(key)
                incoming = self._incoming / key
                incoming.unlink(missing_ok=True)
                incoming.touch(0o600)
                incoming.write_bytes(body)
                sync_files([str(incoming)])
                incoming.replace(path)  # somebody may be reading it
        for folder in {self._folder(key) for key in keys}:
            sync_folder(folder)
        for key in keys:
            self._forget(key)

    def _sync_kept(self, journal: int, keys: Sequence[str]) -> None:
        if sync_system(journal):
            return
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
        with translated():
            disk = os.statvfs(self._incoming)
        if disk.f_bavail * disk.f_frsize < self._min_free_bytes + expected:
            raise StorageFull("There is no room for this recording: nothing of it was kept.")

    def _size(self, path: str) -> int | None:
        with translated(), suppress(FileNotFoundError):
            return os.stat(path).st_size  # noqa: PTH116  a text, not a Path: it is quicker
        return None

    def remove(self, key: str) -> None:
        """Remove a file from its place, then from `incoming/`."""
        Path(self._path(key)).unlink(missing_ok=True)
        (self._incoming / key).unlink(missing_ok=True)

    def link_kept(self, file: Path) -> None:
        """Give a file in `incoming/` its place, durable once the folder is synced."""
        self._make_folder(file.name)
        with suppress(FileExistsError):  # by an attempt that failed and is made again
            os.link(file, self._path(file.name))

    def _make_folder(self, key: str) -> None:
        name = key[:_FOLDER_DIGITS]
        if name != self._made:  # another process may have made it and not yet synced it
            (self._kept / name).mkdir(exist_ok=True)
            sync_folder(self._kept)
            self._made = name

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
            await in_thread(self._flush)

    def _flush(self) -> None:
        for piece in self._waiting:
            _write(self._file, piece)
        self._waiting.clear()
        self._waiting_size = 0


class _Incoming(_Writing):
    """One object's bytes on their way in: a file made with the first MiB, hashed as it grows."""

    def __init__(self, blobs: LocalBlobs, path: Path) -> None:
        super().__init__()
        self._blobs = blobs
        self._path = path
        self._sums = Sums()

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

        await in_thread(work)
        return self._sums.digests()

    async def _close_small(self) -> Digests:
        if self.size <= _TINY:
            self._sum()
        else:
            await in_thread(self._sum)
        digests = self._sums.digests()
        body = b"".join(self._waiting)
        await self._blobs.intake.take(Small(self._path.name, body, digests.sha256))
        return digests

    async def abandon(self) -> None:
        """Keep nothing of it."""

        def work() -> None:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1
            self._blobs.remove(self._path.name)

        await in_thread(work)
        self._blobs.intake.decided([self._path.name])

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

        await in_thread(work)
        return ()

    async def close(self) -> None:
        """Let go of the file and its lock."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


async def _pieces(
    path: str, key: str, start: int, end: int, pace: Pace
) -> AsyncGenerator[bytes, None]:
    with translated():
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while start < end:
            at, length = start, min(pace.size, end - start)
            piece = _in_memory(file, length, at) or await in_thread(
                lambda: os.pread(file, length, at)  # noqa: B023  awaited at once
            )
            if not piece:
                raise Unavailable("The bytes of this recording end too early.", lost=key)
            start += len(piece)
            yield piece
    finally:
        os.close(file)


def _between(folder: Path, after_ms: int, before_ms: int) -> Iterator[Path]:
    """What in a folder was last written between these moments."""
    for entry in os.scandir(folder):
        with suppress(FileNotFoundError):  # settled meanwhile
            if after_ms <= entry.stat().st_mtime * SECOND < before_ms:
                yield Path(entry.path)


def _is_safe(path: str, body: bytes) -> bool:
    """Whether a file has these bytes, and goes on to after a power cut."""
    try:
        if Path(path).read_bytes() != body:
            return False
        sync_files([path])
    except OSError:
        return False
    return True


def _write(file: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(file, rest) :]


def _in_memory(file: int, length: int, at: int) -> bytes:
    """What the system has in memory of these bytes, from their beginning: maybe nothing."""
    if _NO_WAIT is None:
        return b""
    buffer = bytearray(length)
    try:
        return bytes(memoryview(buffer)[: os.preadv(file, [buffer], at, _NO_WAIT)])
    except OSError:
        return b""
