"""RFC 9110 §13 and §14: what conditions and ranges ask for. No server needed."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundkeep.foundation.errors import PreconditionFailed, RangeNotSatisfiable
from soundkeep.region.http.conditional import MAX_RANGES, Slice, Validators, is_fresh, ranges

CURRENT = Validators('"abc"', 1_767_225_605_999)
AT = "Thu, 01 Jan 2026 00:00:05 GMT"
BEFORE = "Thu, 01 Jan 2026 00:00:04 GMT"
AFTER = "Thu, 01 Jan 2026 00:00:06 GMT"


def asked_all(header: str, size: int = 1000, **more: str) -> list[tuple[int, int]] | str:
    try:
        found = ranges({"range": header, **more}, CURRENT, size)
    except RangeNotSatisfiable:
        return "unsatisfiable"
    return "whole" if found is None else [(each.start, each.end) for each in found]


def asked(header: str, size: int = 1000, **more: str) -> tuple[int, int] | str:
    found = asked_all(header, size, **more)
    if isinstance(found, str):
        return found
    (one,) = found
    return one


def refusal(headers: dict[str, str]) -> int | None:
    try:
        return 304 if is_fresh(headers, CURRENT) else None
    except PreconditionFailed:
        return 412


def test_last_modified_is_written_as_http_writes_dates():
    assert CURRENT.last_modified == AT


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=0-499", (0, 500)),
        ("bytes=500-", (500, 1000)),
        ("bytes=-1", (999, 1000)),
        ("bytes=-1000", (0, 1000)),
        ("bytes=-1001", (0, 1000)),
        ("bytes=999-999", (999, 1000)),
        ("bytes=999-5000", (999, 1000)),
        ("bytes=0-9999999999999999999", (0, 1000)),
        ("bytes=-9999999999999999999", (0, 1000)),
        ("BYTES=0-1", (0, 2)),
        ("bytes= 0-1 ", (0, 2)),
        ("bytes=00-01", (0, 2)),
        ("bytes=1000-", "unsatisfiable"),
        ("bytes=1000-2000", "unsatisfiable"),
        ("bytes=9999999999999999999-", "unsatisfiable"),
        ("bytes=-0", "unsatisfiable"),
        ("bytes=5-2", "whole"),
        ("bytes=5000-2000", "whole"),
        ("bytes=0-18446744073709551615", (0, 1000)),
        ("bytes=-18446744073709551615", (0, 1000)),
        ("bytes=18446744073709551615-", "unsatisfiable"),
        ("bytes=0000000000000000000000000-0000000000000000000000001", (0, 2)),
        ("bytes=0-" + "9" * 5000, (0, 1000)),
        ("bytes=" + "9" * 5000 + "-", "unsatisfiable"),
        ("bytes=0-1,", (0, 2)),
        ("bytes=,,\t0-1 , ,", (0, 2)),
        ("bytes=,", "whole"),
        ("bytes=", "whole"),
        ("bytes", "whole"),
        ("bytes =0-1", "whole"),
        ("bytes=0 - 1", "whole"),
        ("bytes=0--1", "whole"),
        ("bytes=+0-1", "whole"),
        ("bytes=\u0660-\u0661", "whole"),
        ("bytes=\u00b2-", "whole"),
        ("bytes=0_0-1_0", "whole"),
        ("bytes=0-1;2-3", "whole"),
        ("bytes=-", "whole"),
        ("bytes=a-b", "whole"),
        ("bytes=-1-2", "whole"),
        ("bytes=0x1-2", "whole"),
        ("bytes=1.0-2", "whole"),
        ("bytes 0-1", "whole"),
        ("items=0-1", "whole"),
        ("", "whole"),
    ],
)
def test_one_range_is_honoured_and_what_is_none_is_ignored(header, expected):
    assert asked(header) == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-1,3-4", [(0, 2), (3, 5)]),
        ("bytes=3-4, 0-1", [(3, 5), (0, 2)]),
        ("bytes=-1,0-0,500-500", [(999, 1000), (0, 1), (500, 501)]),
        ("bytes=0-1,2-3", [(0, 4)]),
        ("bytes=2-3,0-1", [(0, 4)]),
        ("bytes=0-5,3-9", [(0, 10)]),
        ("bytes=3-9,0-5", [(0, 10)]),
        ("bytes=0-9,3-4", [(0, 10)]),
        ("bytes=0-9,0-9", [(0, 10)]),
        ("bytes=900-,-200", [(800, 1000)]),
        ("bytes=0-,-1,5-6", [(0, 1000)]),
        ("bytes=0-1,10-11,2-9", [(0, 12)]),
        ("bytes=10-11,20-21,12-13", [(10, 14), (20, 22)]),
        ("bytes=20-21,12-13,10-11", [(20, 22), (10, 14)]),
        ("bytes=500-501,10-11,498-499,12-13", [(498, 502), (10, 14)]),
        ("bytes=0-0,1000-,5-5", [(0, 1), (5, 6)]),
        ("bytes=-0,5000-6000,7-7", [(7, 8)]),
        ("bytes=1000-,-0,5000-", "unsatisfiable"),
        ("bytes=0-1,x", "whole"),
        ("bytes=0-1,5-2", "whole"),
        ("bytes=5000-2000,0-1", "whole"),
        ("bytes=0-1,bytes=3-4", "whole"),
    ],
)
def test_several_ranges_come_in_their_order_and_touching_ones_as_one(header, expected):
    assert asked_all(header) == expected


@given(
    st.integers(0, 60),
    st.lists(st.tuples(st.integers(0, 70), st.integers(0, 70)).map(sorted), min_size=1, max_size=9),
)
def test_any_ranges_are_exactly_the_bytes_asked_for_each_once(size, pairs):
    found = asked_all("bytes=" + ",".join(f"{first}-{last}" for first, last in pairs), size)
    wanted = {byte for first, last in pairs for byte in range(first, min(last + 1, size))}
    slices = [] if found == "unsatisfiable" else found
    covered = [byte for start, end in slices for byte in range(start, end)]
    places = [
        min(place for place, (first, _) in enumerate(pairs) if start <= first < end)
        for start, end in slices
    ]

    assert sorted(covered) == sorted(wanted)
    assert places == sorted(places)
    assert all(a_end < b_start for (_, a_end), (b_start, _) in pairwise(sorted(slices)))


def test_fifty_ranges_are_honoured():
    assert asked_all("bytes=" + ",".join(["0-1"] * MAX_RANGES)) == [(0, 2)]


@pytest.mark.parametrize("count", [MAX_RANGES + 1, 20_000])
def test_more_than_fifty_ranges_are_refused_even_where_they_touch(count):
    header = "bytes=" + ",".join(["0-1"] * count)
    with pytest.raises(RangeNotSatisfiable, match="Ask for 50 ranges at most") as refused:
        ranges({"range": header}, CURRENT, 1000)

    assert refused.value.facts["content_range"] == "bytes */1000"


@pytest.mark.parametrize(
    "header",
    [
        "bytes=" + "," * 60_000 + "0-1",
        "bytes=" + " " * 60_000 + "0-1",
        "bytes=" + "0" * 60_000 + "-1",
        "bytes=0-1" + "\t" * 60_000,
    ],
    ids=["commas", "spaces", "zeros", "tabs"],
)
def test_a_header_as_long_as_headers_may_be_is_understood(header):
    assert asked(header) == (0, 2)


@pytest.mark.parametrize("filling", ["9", "-", "0-", "x", "=", "bytes=", "\x00"])
def test_a_long_header_that_is_no_range_is_ignored(filling):
    header = "bytes=a" + filling * (60_000 // len(filling))

    assert asked(header) == "whole"


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=0-0", "bytes=-1", "bytes=-0"])
def test_no_range_of_nothing_can_be_satisfied(header):
    assert asked(header, size=0) == "unsatisfiable"


@given(
    st.integers(0, 50),
    st.one_of(st.none(), st.integers(0, 60)),
    st.one_of(st.none(), st.integers(0, 60)),
)
def test_any_range_is_the_slice_that_python_would_take(size, first, last):
    whole = bytes(range(size))
    header = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    found = asked(header, size)
    if first is None:
        expected = whole[-last:] if last else b""
    else:
        expected = whole[first:] if last is None else whole[first : last + 1]
    backwards = first is not None and last is not None and last < first

    if backwards or first is last is None:
        assert found == "whole"
    elif not expected:
        assert found == "unsatisfiable"
    else:
        assert whole[slice(*found)] == expected


@given(st.text(max_size=30) | st.text(alphabet="0123456789-, \t", max_size=30), st.integers(0, 10))
def test_any_text_is_ranges_inside_the_bytes_or_none(text, size):
    found = asked_all(f"bytes={text}", size)

    assert found in ("whole", "unsatisfiable") or all(0 <= a < b <= size for a, b in found)


@pytest.mark.parametrize(
    ("if_range", "applies"),
    [
        ('"abc"', True),
        (' "abc" ', True),
        ('W/"abc"', False),
        ('"xyz"', False),
        (AT, True),
        (BEFORE, False),
        (AFTER, False),
        ("", False),
        ("nonsense", False),
    ],
)
def test_a_range_is_given_only_of_the_version_that_if_range_names(if_range, applies):
    assert asked("bytes=0-0", **{"if-range": if_range}) == ((0, 1) if applies else "whole")


def test_if_range_of_another_version_makes_an_impossible_range_a_whole_answer():
    assert asked("bytes=5000-", **{"if-range": '"old"'}) == "whole"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"if-none-match": '"abc"'}, 304),
        ({"if-none-match": 'W/"abc"'}, 304),
        ({"if-none-match": '"x", "abc"'}, 304),
        ({"if-none-match": '"x" , W/"abc" ,"y"'}, 304),
        ({"if-none-match": "*"}, 304),
        ({"if-none-match": " * "}, 304),
        ({"if-none-match": '"x", *'}, None),
        ({"if-none-match": '"x,*,y"'}, None),
        ({"if-none-match": "W/*"}, None),
        ({"if-none-match": '"x"'}, None),
        ({"if-none-match": "abc"}, None),
        ({"if-none-match": ""}, None),
        ({"if-modified-since": AT}, 304),
        ({"if-modified-since": AFTER}, 304),
        ({"if-modified-since": BEFORE}, None),
        ({"if-modified-since": "yesterday"}, None),
        ({"if-modified-since": ""}, None),
        ({"if-modified-since": "Thursday, 01-Jan-26 00:00:05 GMT"}, 304),
        ({"if-modified-since": "Thu Jan  1 00:00:05 2026"}, 304),
        ({"if-modified-since": "Thu Jan  1 00:00:04 2026"}, None),
        ({"if-modified-since": "Thu, 01 Jan 99999 00:00:05 GMT"}, None),
        ({"if-modified-since": f"{AFTER}, {AFTER}"}, None),
        ({"if-unmodified-since": f"{BEFORE}, {BEFORE}"}, None),
        ({"if-match": '"abc"'}, None),
        ({"if-match": '"x", "abc"'}, None),
        ({"if-match": "*"}, None),
        ({"if-match": '"x"'}, 412),
        ({"if-match": 'W/"abc"'}, 412),
        ({"if-match": ""}, 412),
        ({"if-match": '"x,*,y"'}, 412),
        ({"if-unmodified-since": AT}, None),
        ({"if-unmodified-since": AFTER}, None),
        ({"if-unmodified-since": BEFORE}, 412),
        ({"if-unmodified-since": "yesterday"}, None),
        # precedence, §13.2.2
        ({"if-none-match": '"x"', "if-modified-since": AFTER}, None),
        ({"if-none-match": '"abc"', "if-modified-since": BEFORE}, 304),
        ({"if-match": '"abc"', "if-unmodified-since": BEFORE}, None),
        ({"if-match": '"x"', "if-none-match": '"abc"'}, 412),
        ({"if-match": '"abc"', "if-none-match": '"abc"'}, 304),
        ({"if-unmodified-since": BEFORE, "if-modified-since": AFTER}, 412),
    ],
)
def test_conditions_refuse_as_the_rfc_says(headers, expected):
    assert refusal(headers) == expected


def test_dates_are_in_gmt_wherever_the_server_stands(monkeypatch):
    monkeypatch.setenv("TZ", "America/Los_Angeles")
    time.tzset()
    try:
        found = refusal({"if-modified-since": "Thu Jan  1 00:00:04 2026"})
        written = CURRENT.last_modified
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()

    assert (found, written) == (None, AT)


@given(st.text(max_size=40) | st.text(alphabet="0123456789 :+-,JanThuGMT", max_size=40))
def test_no_text_is_a_date_that_breaks_anything(text):
    for name in (
        "if-modified-since",
        "if-unmodified-since",
        "if-none-match",
        "if-match",
        "if-range",
    ):
        assert refusal({name: text}) in (None, 304, 412)
        assert ranges({"range": "bytes=0-1", name: text}, CURRENT, 2) in (None, [Slice(0, 2)])
