"""Journals that make small bodies durable: one sync for all that arrive together.

Then their files are written, but not synced, so a power cut may take them: the journal gives them
back. It goes once it is full, the fate of each body is decided (a row names it, or it is gone) and
their files are synced. Each process writes a journal of its own and holds its lock; a journal that
nobody holds was left by a process that was killed.

A journal is 32 random bytes and then records: a head, the key, the body. The head vouches for the
rest with those random bytes as its key, so neither a torn record nor a body that looks like records
is ever taken for one.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import hashlib
import os
import platform
import re
import secrets
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import structlog

from soundkeep.foundation.batches import Batches
from soundkeep.region.disk import in_thread

log = structlog.get_logger("intake")


def _syncfs() -> Callable[[int], int] | None:
    """The system's call of that name, which Python does not have."""
    version = re.match(r"(\d+)\.(\d+)", platform.release())
    if sys.platform != "linux" or not version or tuple(map(int, version.groups())) < (5, 8):
        return None
    return getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)


_SYNCFS = _syncfs()
_JOURNAL_SIZE = 32 * 1024 * 1024
_MOST_RETIRING = 2
"""Journals whose files are being synced, before more waits: that takes long on a busy disk."""

_SEED_SIZE = 32
_NAME = re.compile(r"[0-9a-f]{32}")
_SEAL_SIZE = 16
_HEAD = struct.Struct(f">HQ32s{_SEAL_SIZE}s")
"""Size of the key, size of the body, the body's SHA-256, and the seal over it all."""


@dataclass(frozen=True, slots=True)
class Small:
    """A small body under its key, with its SHA-256 in hex."""

    key: str
    body: bytes
    sha256: str


class Intake:
    """Takes small bodies, by one journal after the other in a folder.

    `place` gives a body its file, `sync` makes the files of keys durable: both in a thread. The
    latter gets the journal's descriptor, which is told of all that failed since it was opened.
    """

    def __init__(
        self,
        folder: Path,
        *,
        place: Callable[[Small], None],
        sync: Callable[[int, Sequence[str]], None],
    ) -> None:
        self._folder = folder
        self._place = place
        self._sync = sync
        self._batches = Batches[Small]()
        self._turn = asyncio.Lock()
        self._journal: Journal | None = None
        self._undecided: dict[str, Journal] = {}
        self._retiring: set[asyncio.Future[None]] = set()

    async def take(self, small: Small) -> None:
        """Make a body durable and give it its file, together with others that come now."""
        await self._batches.add(small, self._take)

    def decided(self, keys: Sequence[str]) -> list[str]:
        """The fate of these is decided; those of them that no journal told of."""
        others = []
        for key in keys:
            journal = self._undecided.pop(key, None)
            if journal is None:
                others.append(key)
            else:
                journal.undecided.discard(key)
                self._retire_if_over(journal)
        return others

    def undecided(self) -> dict[str, list[str]]:
        """The keys whose fate is open, by the names of their journals."""
        found: dict[str, list[str]] = {}
        for key, journal in self._undecided.items():
            found.setdefault(journal.path.name, []).append(key)
        return found

    async def rest(self) -> None:
        """End the journal and wait until it is gone; the fate of something in it may be open."""
        async with self._turn:
            self._end()
        await self._retired()

    async def close(self) -> None:
        """The same; what is open is left to the next start."""
        await self.rest()
        left = set(self._undecided.values())
        self._undecided.clear()
        for journal in left:
            journal.let_go()

    async def _take(self, batch: Sequence[Small]) -> None:
        async with self._turn:
            if self._journal is None:
                while len(self._retiring) >= _MOST_RETIRING:
                    await asyncio.wait(self._retiring, return_when=asyncio.FIRST_COMPLETED)
                self._journal = await in_thread(lambda: Journal(self._folder))
            journal = self._journal

            def work() -> None:
                journal.add(batch)
                for each in batch:
                    self._place(each)

            try:
                await in_thread(work)
            except BaseException:
                self._end()
                raise
            for each in batch:
                journal.undecided.add(each.key)
                self._undecided[each.key] = journal
            if journal.size >= _JOURNAL_SIZE:
                self._end()

    def _end(self) -> None:
        journal, self._journal = self._journal, None
        if journal is not None:
            journal.ended = True
            self._retire_if_over(journal)

    def _retire_if_over(self, journal: Journal) -> None:
        if journal.ended and not journal.undecided:
            retiring = asyncio.ensure_future(in_thread(lambda: self._retire(journal)))
            self._retiring.add(retiring)
            retiring.add_done_callback(self._retiring.discard)

    async def _retired(self) -> None:
        if self._retiring:
            await asyncio.wait(self._retiring)

    def _retire(self, journal: Journal) -> None:
        """Sync the files of a journal, then remove it; where that fails the next start does it."""
        try:
            self._sync(journal.file, journal.keys)
            journal.remove()
        except OSError as error:
            log.warning("intake", error=str(error), left=journal.path.name)
            journal.let_go()


class Journal:
    """A journal being written. OSError, after which it takes no more, where the disk fails."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / secrets.token_hex(16)
        self.keys: list[str] = []
        self.undecided: set[str] = set()
        self.ended = False
        self.size = 0
        self._seed = secrets.token_bytes(_SEED_SIZE)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self.file = os.open(self.path, flags, 0o600)
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.path.stat()  # nobody took it for one that was left behind
            self._write(self._seed)
            sync_folder(folder)
        except BaseException:
            self.remove()
            raise

    def add(self, bodies: Sequence[Small]) -> None:
        """Make bodies durable, all with one sync."""
        pieces, at = [], self.size
        for each in bodies:
            head = _head(self._seed, at, each)
            pieces += [head, each.key.encode(), each.body]
            at += len(head) + len(each.key) + len(each.body)
        self._write(b"".join(pieces))
        os.fdatasync(self.file)
        self.keys += [each.key for each in bodies]

    def let_go(self) -> None:
        """Leave it to the next start."""
        os.close(self.file)

    def remove(self) -> None:
        """All that it holds is durable elsewhere."""
        self.path.unlink(missing_ok=True)
        os.close(self.file)

    def _write(self, content: bytes) -> None:
        rest = memoryview(content)
        while rest:
            written = os.write(self.file, rest)
            rest = rest[written:]
            self.size += written


class Left:
    """A journal that was left behind: the bodies in it, by their keys."""

    def __init__(self, path: Path, file: int) -> None:
        self._path = path
        self._file = file
        self._places = {key: (at, size) for key, at, size in _records(file)}

    @classmethod
    def found(cls, path: Path) -> Self | None:
        """The journal of this path; None where somebody holds it, or it went meanwhile."""
        if not _NAME.fullmatch(path.name):
            return None
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return cls(path, file)
        except BlockingIOError:
            os.close(file)
            return None
        except BaseException:
            os.close(file)
            raise

    @property
    def keys(self) -> list[str]:
        """Those whose fate is not decided yet."""
        return list(self._places)

    def body(self, key: str) -> bytes:
        """The bytes of a key."""
        at, size = self._places[key]
        return _read(self._file, at, size)

    def forget(self, key: str) -> None:
        """Its fate is decided: with the last one, the journal goes."""
        del self._places[key]
        self.end_if_empty()

    def end_if_empty(self) -> None:
        """Remove a journal in which nothing is left."""
        if not self._places:
            self._path.unlink(missing_ok=True)
            self.close()

    def close(self) -> None:
        """Let go of it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_system(file: int) -> bool:
    """Make all durable that was written to an open file's file system since it was opened.

    False where this system cannot, or would not tell of what failed (Linux before 5.8).
    """
    if _SYNCFS is None:
        return False
    if _SYNCFS(file):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return True


def sync_files(paths: Sequence[str]) -> None:
    """Make the bytes of files durable; those that are gone are passed over."""
    for path in paths:
        with suppress(FileNotFoundError):
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(file)
            finally:
                os.close(file)


def _head(seed: bytes, at: int, small: Small) -> bytes:
    sha256 = bytes.fromhex(small.sha256)
    seal = _seal(seed, at, small.key.encode(), len(small.body), sha256)
    return _HEAD.pack(len(small.key), len(small.body), sha256, seal)


def _seal(seed: bytes, at: int, key: bytes, size: int, sha256: bytes) -> bytes:
    told = struct.pack(">QQ", at, size) + sha256 + key
    return hashlib.blake2b(told, key=seed, digest_size=_SEAL_SIZE).digest()


def _records(file: int) -> Iterator[tuple[str, int, int]]:
    """(key, where its body begins, its size) of each record, up to the first that is not whole."""
    seed, at = _read(file, 0, _SEED_SIZE), _SEED_SIZE
    while len(head := _read(file, at, _HEAD.size)) == _HEAD.size:
        key_size, size, sha256, seal = _HEAD.unpack(head)
        key = _read(file, at + _HEAD.size, key_size)
        if not secrets.compare_digest(seal, _seal(seed, at, key, size, sha256)):
            return
        start = at + _HEAD.size + key_size
        body = _read(file, start, size)
        if hashlib.sha256(body).digest() != sha256:
            return
        yield key.decode(), start, size
        at = start + size


def _read(file: int, at: int, size: int) -> bytes:
    """So many bytes, or fewer where the file ends."""
    pieces = []
    while size and (piece := os.pread(file, size, at)):
        pieces.append(piece)
        at += len(piece)
        size -= len(piece)
    return b"".join(pieces)
