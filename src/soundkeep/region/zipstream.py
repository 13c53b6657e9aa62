"""A ZIP as arithmetic: every byte of it follows from the list of its members. Pure.

Members are stored, not compressed, and their sizes and CRC-32s are known beforehand, so the whole
has an exact length and any slice of it can be told without the rest (PKWARE APPNOTE 6.3.10).
Zip64 is used only where a number does not fit: some readers refuse it elsewhere.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import gmtime

import msgspec

_FULL = 0xFFFF_FFFF
"""Stands where a number is in the Zip64 field instead."""

_MANY = 0xFFFF
_UTF8 = 0x0800
_PLAIN, _ZIP64 = 20, 45
_UNIX = 3 << 8
_ORDINARY_FILE = 0o100644 << 16
_FIRST_DOS_SECOND = 315_532_800
"""1980-01-01T00:00:00Z."""
_LAST_DOS_SECOND = 4_354_819_198
"""2107-12-31T23:59:58Z."""
_LAST_UNIX_SECOND = 2**31 - 1

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_TIME_FIELD = struct.Struct("<2HBi")
_TIME_FIELD_ID, _ZIP64_FIELD_ID = 0x5455, 0x0001
_TIME_FIELD_FLAGS = 1


class Member(msgspec.Struct, frozen=True, array_like=True):
    """One file in the archive; `blob` is the key of its bytes, `object_id` whose they are."""

    object_id: str
    name: str
    size: int
    crc32: int
    modified_ms: int
    blob: str


@dataclass(frozen=True, slots=True)
class Stretch:
    """Bytes of a member's content, from `start` up to and without `end`."""

    member: Member
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Part:
    """Members in a row, and where the first of them begins: its entry, and its directory entry.

    `directory_offset` counts from the beginning of the directory.
    """

    offset: int
    directory_offset: int
    members: Sequence[Member]


@dataclass(frozen=True, slots=True)
class Layout:
    """What an archive amounts to: how many members, the bytes of entries and of the directory."""

    members: int = 0
    entries: int = 0
    directory: int = 0

    @property
    def size(self) -> int:
        """How many bytes the archive has."""
        return self.entries + self.directory + len(self.end())

    def plus(self, member: Member) -> Layout:
        """With one member more."""
        return Layout(
            self.members + 1,
            self.entries + _entry_size(member),
            self.directory + _directory_entry_size(member, self.entries),
        )

    def end(self) -> bytes:
        """The end of central directory record (APPNOTE §4.3.16), after Zip64's where needed."""
        count = min(self.members, _MANY)
        size, offset = min(self.directory, _FULL), min(self.entries, _FULL)
        plain = _END.pack(b"PK\5\6", 0, 0, count, count, size, offset, 0)
        if count < _MANY and size < _FULL and offset < _FULL:
            return plain
        long = _END64.pack(
            b"PK\6\6",
            _END64.size - 12,  # without its first two fields (§4.3.14.1)
            _UNIX | _ZIP64,
            _ZIP64,
            0,
            0,
            self.members,
            self.members,
            self.directory,
            self.entries,
        )
        return long + _LOCATOR.pack(b"PK\6\7", 0, self.entries + self.directory, 1) + plain


def entries(part: Part, start: int, end: int) -> Iterator[bytes | Stretch]:
    """What lies between two places of the archive, as far as this part has it."""
    offsets = [part.offset]
    for member in part.members:
        offsets.append(offsets[-1] + _entry_size(member))
    first = max(bisect_right(offsets, start) - 1, 0)
    for number in range(first, len(part.members)):
        member, offset = part.members[number], offsets[number]
        if offset >= end:
            return
        head = _local_header(member)
        if piece := head[max(start - offset, 0) : max(end - offset, 0)]:
            yield piece
        content = offset + len(head)
        stretch = Stretch(member, max(start - content, 0), min(end - content, member.size))
        if stretch.start < stretch.end:
            yield stretch


def directory(part: Part, start: int, end: int) -> Iterator[bytes]:
    """The same of the directory; places count from its beginning."""
    offset, at = part.offset, part.directory_offset
    for member in part.members:
        if at >= end:
            return
        entry = _directory_entry(member, offset)
        if piece := entry[max(start - at, 0) : max(end - at, 0)]:
            yield piece
        offset += _entry_size(member)
        at += len(entry)


def _local_header(member: Member) -> bytes:
    """APPNOTE §4.3.7."""
    name, time_field = member.name.encode(), _time_field(member)
    long = member.size >= _FULL
    zip64 = struct.pack("<2H2Q", _ZIP64_FIELD_ID, 16, member.size, member.size) if long else b""
    size = _FULL if long else member.size
    day, time = _dos_time(member.modified_ms)
    head = _LOCAL.pack(
        b"PK\3\4",
        _ZIP64 if long else _PLAIN,
        _flags(name),
        0,
        time,
        day,
        member.crc32,
        size,
        size,
        len(name),
        len(zip64) + len(time_field),
    )
    return head + name + zip64 + time_field


def _directory_entry(member: Member, offset: int) -> bytes:
    """APPNOTE §4.3.12; Zip64's field has only the numbers that do not fit (§4.5.3)."""
    name, time_field = member.name.encode(), _time_field(member)
    long = [member.size, member.size] if member.size >= _FULL else []
    if offset >= _FULL:
        long.append(offset)
    zip64 = struct.pack(f"<2H{len(long)}Q", _ZIP64_FIELD_ID, 8 * len(long), *long) if long else b""
    size = min(member.size, _FULL)
    day, time = _dos_time(member.modified_ms)
    version = _ZIP64 if long else _PLAIN
    head = _CENTRAL.pack(
        b"PK\1\2",
        _UNIX | version,
        version,
        _flags(name),
        0,
        time,
        day,
        member.crc32,
        size,
        size,
        len(name),
        len(zip64) + len(time_field),
        0,
        0,
        0,
        _ORDINARY_FILE,
        min(offset, _FULL),
    )
    return head + name + zip64 + time_field


def _entry_size(member: Member) -> int:
    """How many bytes a member takes before the directory."""
    long = 4 + 16 if member.size >= _FULL else 0
    return _LOCAL.size + len(member.name.encode()) + long + _time_size(member) + member.size


def _directory_entry_size(member: Member, offset: int) -> int:
    numbers = (2 if member.size >= _FULL else 0) + (offset >= _FULL)
    long = 4 + 8 * numbers if numbers else 0
    return _CENTRAL.size + len(member.name.encode()) + long + _time_size(member)


def _flags(name: bytes) -> int:
    return 0 if name.isascii() else _UTF8


def _dos_time(moment_ms: int) -> tuple[int, int]:
    """Date and time in steps of two seconds, in UTC (§4.4.6)."""
    second = min(max(moment_ms // 1000, _FIRST_DOS_SECOND), _LAST_DOS_SECOND)
    year, month, day, hour, minute, rest = gmtime(second)[:6]
    return year - 1980 << 9 | month << 5 | day, hour << 11 | minute << 5 | rest // 2


def _time_field(member: Member) -> bytes:
    """The moment to the second, in UTC, for readers that know the field `UT`."""
    if not _time_size(member):
        return b""
    second = member.modified_ms // 1000
    return _TIME_FIELD.pack(_TIME_FIELD_ID, 5, _TIME_FIELD_FLAGS, second)


def _time_size(member: Member) -> int:
    return _TIME_FIELD.size if 0 <= member.modified_ms // 1000 <= _LAST_UNIX_SECOND else 0
