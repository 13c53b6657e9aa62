"""Journals that make small bodies durable: one sync for all that arrive together.

Their files are written as well, but not synced, so a power cut may take them: the journal gives
them back. Once it is full its files are synced, and it goes. Each process writes a journal of its
own and holds its lock; a journal that nobody holds was left by a process that was killed.

A journal is 32 random bytes and then records: a head, the key, the body. The head vouches for the
rest with those random bytes as its key, so neither a torn record nor a body that looks like records
is ever taken for one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

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


class Journal:
    """A journal being written. OSError, after which it takes no more, where the disk fails."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / secrets.token_hex(16)
        self.keys: list[str] = []
        self.size = 0
        self._seed = secrets.token_bytes(_SEED_SIZE)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._file = os.open(self.path, flags, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
        os.fdatasync(self._file)
        self.keys += [each.key for each in bodies]

    def let_go(self) -> None:
        """Leave it to the next start."""
        os.close(self._file)

    def remove(self) -> None:
        """All that it holds is durable elsewhere."""
        self.path.unlink(missing_ok=True)
        os.close(self._file)

    def _write(self, content: bytes) -> None:
        rest = memoryview(content)
        while rest:
            written = os.write(self._file, rest)
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
