"""What other programs say of our archives: unzip, 7-Zip, libarchive, Python and Java."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from soundkeep.region import zipstream
from soundkeep.region.zipstream import Layout, Member, Part, Stretch

NEW_YEAR_MS = 1_767_225_600_000
MIB = 1024**2
GIB = 1024**3
JUDGES = {
    "python": [sys.executable, "-m", "zipfile", "--test"],
    "unzip": ["unzip", "-tqq"],
    "7-zip": ["7zz", "t"],
    "libarchive": ["bsdtar", "-xOf"],
    "java": ["java", "-Xmx512m", str(Path(__file__).with_name("ZipJudge.java"))],
}


def sound(number: int, size: int) -> bytes:
    return (b"%d " % number) * (size // len(b"%d " % number) + 1)


def an_archive(path: Path, sizes: Sequence[int], names: Sequence[str] = ()) -> Path:
    """Members of these sizes, written as they are told; those of a GiB and more are holes."""
    layout, members = Layout(), list[Member]()
    for number, size in enumerate(sizes):
        crc32 = crc_of_zeros(size) if size >= GIB else zlib.crc32(sound(number, size)[:size])
        name = names[number] if names else f"calls/{number:06}.mp3"
        member = Member("", name, size, crc32, NEW_YEAR_MS + number * 1000, str(number))
        members.append(member)
        layout = layout.plus(member)
    part = Part(0, 0, members)
    with path.open("wb") as file:
        for item in zipstream.entries(part, 0, layout.entries):
            if not isinstance(item, Stretch):
                file.write(item)
            elif item.member.size >= GIB:
                file.seek(item.end - item.start, os.SEEK_CUR)
            else:
                file.write(sound(int(item.member.blob), item.member.size)[item.start : item.end])
        file.writelines(zipstream.directory(part, 0, layout.directory))
        file.write(layout.end())
    assert path.stat().st_size == layout.size
    return path


def crc_of_zeros(size: int) -> int:
    zeros, crc32 = bytes(64 * MIB), 0
    for start in range(0, size, len(zeros)):
        crc32 = zlib.crc32(zeros[: size - start], crc32)
    return crc32


def judged(judge: str, archive: Path, entries: int) -> None:
    command = JUDGES[judge]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run([*command, str(archive)], capture_output=True, timeout=600, check=False)
    said = done.stdout[-500:] + done.stderr[-500:]
    assert done.returncode == 0, said
    if judge == "java":
        assert done.stdout.split() == [b"%d" % entries] * 2, said


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("archives")


@pytest.fixture(scope="module")
def small(folder):
    names = ["call.mp3", "empty", "Gespräch ☎.mp3", "+1:555.wav", "deep/er/call (2).mp3"]
    return an_archive(folder / "small.zip", [70_000, 0, 1, 17, MIB], names)


@pytest.fixture(scope="module")
def single(folder):
    return an_archive(folder / "single.zip", [28_000])


@pytest.fixture(scope="module")
def many(folder):
    return an_archive(folder / "many.zip", [number % 3 for number in range(70_000)])


@pytest.mark.parametrize("judge", JUDGES)
def test_they_accept_empty_and_small_and_strangely_named_members(judge, small):
    judged(judge, small, 5)


@pytest.mark.parametrize("judge", JUDGES)
def test_they_accept_a_single_member(judge, single):
    judged(judge, single, 1)


@pytest.mark.parametrize("judge", JUDGES)
def test_they_accept_seventy_thousand_members(judge, many):
    judged(judge, many, 70_000)


def test_what_is_extracted_is_what_was_put_in(small, tmp_path):
    subprocess.run(["unzip", "-q", str(small), "-d", str(tmp_path)], check=True)

    found = {
        str(each.relative_to(tmp_path)): each.read_bytes()
        for each in tmp_path.rglob("*")
        if each.is_file()
    }
    assert found == {
        "call.mp3": sound(0, 70_000)[:70_000],
        "empty": b"",
        "Gespräch ☎.mp3": sound(2, 1)[:1],
        "+1:555.wav": sound(3, 17)[:17],
        "deep/er/call (2).mp3": sound(4, MIB)[:MIB],
    }
    assert (tmp_path / "call.mp3").stat().st_mtime == NEW_YEAR_MS / 1000


@pytest.mark.soak
@pytest.mark.parametrize("judge", JUDGES)
def test_they_accept_a_member_of_more_than_four_gibibytes(judge, tmp_path):
    judged(judge, an_archive(tmp_path / "large.zip", [5 * GIB, 1000]), 2)


@pytest.mark.soak
@pytest.mark.parametrize("judge", JUDGES)
def test_they_accept_an_archive_of_more_than_four_gibibytes(judge, tmp_path):
    judged(judge, an_archive(tmp_path / "long.zip", [1000, *[GIB] * 5, 1000]), 7)
