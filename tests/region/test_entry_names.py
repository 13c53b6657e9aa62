"""Names in an archive: safe to extract, each there once. Contract §2, "Bulk"."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundkeep.region.entrynames import Names, safe


@pytest.mark.parametrize(
    ("wanted", "given"),
    [
        ("call.mp3", "call.mp3"),
        ("2026/01/call.mp3", "2026/01/call.mp3"),
        ("+15550100:2026-01-01T10:00:00.mp3", "+15550100:2026-01-01T10:00:00.mp3"),
        ("/etc/passwd", "etc/passwd"),
        ("../../etc/passwd", "etc/passwd"),
        ("a/../../b", "a/b"),
        ("a/./b//c", "a/b/c"),
        ("..\\..\\evil.exe", ".._.._evil.exe"),
        ("a\0b\n.mp3", "a_b_.mp3"),
        ("photo\u202egpj.exe", "photo_gpj.exe"),
        ("half\ud800", "half_"),
        ("folder/", "folder"),
        ("", "the id"),
        ("///", "the id"),
        ("..", "the id"),
        (" / . / .. ", "the id"),
        ("...", "..."),
        ("é" * 300 + ".mp3", "é" * 98 + ".mp3"),
        ("x/" * 50 + "call.mp3", "x/" * 32 + "call.mp3"),
    ],
)
def test_a_name_is_made_safe_and_otherwise_left_alone(wanted, given):
    assert safe(wanted, "the id") == given


def names_of(*wanted: str) -> list[str]:
    names = Names()
    return [names.give(each, "id") for each in wanted]


def test_what_is_taken_gets_a_number_before_its_extension():
    assert names_of("call.mp3", "call.mp3", "call.mp3", "call") == [
        "call.mp3",
        "call (2).mp3",
        "call (3).mp3",
        "call",
    ]


def test_a_number_that_is_taken_is_passed_over():
    assert names_of("a (2).mp3", "a.mp3", "a.mp3", "a.mp3") == [
        "a (2).mp3",
        "a.mp3",
        "a (3).mp3",
        "a (4).mp3",
    ]


def test_names_that_some_file_systems_take_for_one_are_one():
    assert names_of("Call.mp3", "call.MP3", "u\u0308.mp3", "\u00fc.mp3") == [
        "Call.mp3",
        "call (2).MP3",
        "u\u0308.mp3",
        "\u00fc (2).mp3",
    ]


def test_a_file_and_a_folder_do_not_share_a_name():
    assert names_of("2026", "2026/a.mp3", "2026/b.mp3") == [
        "2026",
        "2026 (2)/a.mp3",
        "2026 (2)/b.mp3",
    ]
    assert names_of("2026/a.mp3", "2026") == ["2026/a.mp3", "2026 (2)"]


def test_ids_stand_in_where_nothing_is_left():
    assert names_of("..", "/") == ["id", "id (2)"]


ANY = st.text(alphabet=st.sampled_from("aAbB./\\ (2)é\0"), max_size=12)


@given(st.lists(ANY, max_size=30))
def test_whatever_is_wanted_names_are_safe_and_different(wanted):
    found = names_of(*wanted)

    folded = [each.casefold() for each in found]
    assert len(set(folded)) == len(folded)
    folders = {
        "/".join(each.split("/")[:end]) for each in folded for end in range(1, each.count("/") + 1)
    }
    assert not folders & set(folded)
    for each in found:
        assert not each.startswith("/")
        assert "\0" not in each
        assert "\\" not in each
        assert not {"", ".", ".."} & set(each.split("/"))


def test_a_hundred_thousand_times_the_same_name_is_no_trouble():
    found = names_of(*["call.mp3"] * 100_000)

    assert found[-1] == "call (100000).mp3"
    assert len(set(found)) == 100_000
