"""A ZIP told from the list of its members: any slice of it, whatever the sizes. APPNOTE 6.3.10."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soundkeep.region import zipstream
from soundkeep.region.zipstream import Layout, Member, Part, Stretch

NEW_YEAR_MS = 1_767_225_600_000
GIB = 1024**3
FULL = 0xFFFF_FFFF


def a_member(number: int, size: int, name: str = "", *, modified_ms: int = NEW_YEAR_MS) -> Member:
    crc32 = zlib.crc32(content(number, 0, size)) if size < GIB else 0
    named = name or f"call {number}.mp3"
    return Member(f"object {number}", named, size, crc32, modified_ms, str(number))


def content(number: int, start: int, end: int) -> bytes:
    """What stands for the bytes of a member."""
    return bytes((number * 31 + at) & 0xFF for at in range(start, end))


def parted(members: Sequence[Member], size: int) -> tuple[Layout, list[Part]]:
    """Members in parts of so many."""
    layout, parts = Layout(), list[Part]()
    for start in range(0, len(members), size):
        part = members[start : start + size]
        parts.append(Part(layout.entries, layout.directory, part))
        for member in part:
            layout = layout.plus(member)
    return layout, parts


def told(layout: Layout, parts: Sequence[Part], start: int, end: int) -> list[bytes | Stretch]:
    """What lies between two places of the archive."""
    found: list[bytes | Stretch] = []
    for part in parts:
        found += zipstream.entries(part, start, end)
    begin = layout.entries
    for part in parts:
        found += zipstream.directory(part, start - begin, end - begin)
    begin += layout.directory
    found.append(layout.end()[max(start - begin, 0) : max(end - begin, 0)])
    return found


def written(items: Sequence[bytes | Stretch]) -> bytes:
    return b"".join(
        content(int(item.member.blob), item.start, item.end) if isinstance(item, Stretch) else item
        for item in items
    )


def whole(members: Sequence[Member], size: int = 3) -> bytes:
    layout, parts = parted(members, size)
    archive = written(told(layout, parts, 0, layout.size))
    assert len(archive) == layout.size
    return archive


def test_pythons_zipfile_reads_what_is_told():
    members = [a_member(number, size) for number, size in enumerate((0, 1, 100, 70_000))]

    with zipfile.ZipFile(io.BytesIO(whole(members))) as opened:
        assert opened.testzip() is None
        assert opened.namelist() == [each.name for each in members]
        assert [opened.read(each.name) for each in members] == [
            content(number, 0, each.size) for number, each in enumerate(members)
        ]
        assert {each.compress_type for each in opened.infolist()} == {zipfile.ZIP_STORED}


def test_an_archive_of_nothing_is_an_archive():
    with zipfile.ZipFile(io.BytesIO(Layout().end())) as opened:
        assert opened.namelist() == []


SIZES = st.lists(st.integers(0, 300), min_size=0, max_size=9)
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1)


@settings(max_examples=200, deadline=None)
@given(SIZES, st.integers(1, 4), st.data())
def test_every_slice_is_a_slice_of_the_whole(sizes, part_size, data):
    members = [
        a_member(number, size, f"{number} {data.draw(NAMES)}") for number, size in enumerate(sizes)
    ]
    layout, parts = parted(members, part_size)
    archive = whole(members, part_size)
    for _ in range(8):
        start = data.draw(st.integers(0, layout.size))
        end = data.draw(st.integers(start, layout.size))

        assert written(told(layout, parts, start, end)) == archive[start:end]


def test_every_single_byte_can_be_asked_for():
    members = [a_member(number, size, f"ü{number}") for number, size in enumerate((3, 0, 5))]
    layout, parts = parted(members, 2)
    archive = whole(members, 2)

    assert archive == b"".join(
        written(told(layout, parts, at, at + 1)) for at in range(layout.size)
    )


def test_zip64_is_used_only_where_a_number_does_not_fit():
    small = whole([a_member(0, 10)])

    assert struct.pack("<H", 45) not in (small[4:6], small[-22 - 60 :][4:6])
    assert b"PK\6\6" not in small
    assert b"PK\6\7" not in small


@pytest.mark.parametrize("size", [FULL - 1, FULL, FULL + 1, 5 * GIB])
def test_a_member_of_many_bytes_has_a_zip64_field_of_its_own(size):
    members = [a_member(0, size), a_member(1, 1)]
    layout, parts = parted(members, 1000)
    with Sparse(layout, parts) as file, zipfile.ZipFile(file) as opened:
        first, second = opened.infolist()

        assert (first.file_size, first.compress_size) == (size, size)
        assert second.header_offset == layout.entries - len("call 1.mp3") - 30 - 9 - 1
        assert opened.read("call 1.mp3") == content(1, 0, 1)
        assert (first.extract_version == 45) is (size >= FULL)
        assert (second.extract_version == 45) is (second.header_offset >= FULL)


def test_an_archive_of_many_bytes_has_zip64_only_from_there_on():
    members = [a_member(number, GIB, f"{number}") for number in range(6)]
    layout, parts = parted(members, 2)
    with Sparse(layout, parts) as file, zipfile.ZipFile(file) as opened:
        infos = opened.infolist()

    assert [each.extract_version for each in infos] == [20, 20, 20, 20, 45, 45]
    assert [each.file_size for each in infos] == [GIB] * 6
    assert layout.end().startswith(b"PK\6\6")


@pytest.mark.parametrize("count", [65_534, 65_535, 65_536, 70_000])
def test_many_members_take_zip64_at_the_end_alone(count):
    members = [a_member(number, 0) for number in range(count)]
    archive = whole(members, 1000)

    assert (b"PK\6\6" in archive[-100:]) is (count >= 65_535)
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        assert len(opened.infolist()) == count
        assert {each.extract_version for each in opened.infolist()} == {20}


@pytest.mark.parametrize(
    ("modified_ms", "date_time", "has_field"),
    [
        (NEW_YEAR_MS + 5_999, (2026, 1, 1, 0, 0, 4), True),
        (0, (1980, 1, 1, 0, 0, 0), True),
        (-5_000, (1980, 1, 1, 0, 0, 0), False),
        (2**31 * 1000, (2038, 1, 19, 3, 14, 8), False),
        (2**43, (2107, 12, 31, 23, 59, 58), False),
    ],
)
def test_moments_are_told_as_far_as_zip_can_tell_them(modified_ms, date_time, has_field):
    archive = whole([a_member(0, 1, modified_ms=modified_ms)])

    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        [info] = opened.infolist()
    assert info.date_time == date_time
    second = modified_ms // 1000 if has_field else 0
    assert info.extra == struct.pack("<2HBi", 0x5455, 5, 1, second) * has_field


def test_names_are_utf8_and_say_so_where_they_must():
    archive = whole([a_member(0, 1, "Gespräch ☎.mp3"), a_member(1, 1, "call.mp3")])

    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        first, second = opened.infolist()
    assert (first.filename, first.flag_bits & 0x800) == ("Gespräch ☎.mp3", 0x800)
    assert (second.filename, second.flag_bits) == ("call.mp3", 0)
    assert first.external_attr >> 16 == 0o100644


class Sparse(io.RawIOBase):
    """An archive that is told as it is read: too large to be made."""

    def __init__(self, layout: Layout, parts: Sequence[Part]) -> None:
        super().__init__()
        self._layout = layout
        self._parts = parts
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._layout.size}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = self._layout.size if size < 0 else min(self._at + size, self._layout.size)
        found = written(told(self._layout, self._parts, self._at, end))
        self._at = end
        return found
