"""Conditional and range requests (RFC 9110 §13 and §14): what the headers ask for. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from functools import lru_cache

from soundkeep.foundation.clock import SECOND
from soundkeep.foundation.errors import PreconditionFailed, RangeNotSatisfiable

MAX_RANGES = 50
"""How many ranges one request may ask for."""

_ASKING = frozenset(
    {
        b"if-match",
        b"if-modified-since",
        b"if-none-match",
        b"if-range",
        b"if-unmodified-since",
        b"range",
    }
)
_SPACE = " \t"
_MAX_DIGITS = 19
_BEYOND = 10**_MAX_DIGITS
"""Stands for every longer number: no object has so many bytes."""

_MAX_DATE = 40


@dataclass(frozen=True, slots=True)
class Validators:
    """What tells one version of the bytes from another: a strong ETag and a date."""

    etag: str
    modified_ms: int

    @property
    def last_modified(self) -> str:
        """The date as HTTP writes it."""
        return _date(self.modified_ms // SECOND)


@dataclass(frozen=True, slots=True)
class Slice:
    """Bytes from `start` up to and without `end`."""

    start: int
    end: int


def asked(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The conditions and ranges among a request's headers; what came in several is one list."""
    found: dict[str, str] = {}
    for raw_name, value in raw:
        if raw_name in _ASKING:
            name, text = raw_name.decode(), value.decode("latin-1")
            found[name] = f"{found[name]}, {text}" if name in found else text
    return found


def is_fresh(headers: Mapping[str, str], current: Validators) -> bool:
    """Whether the client has this version already: 304 (RFC 9110 §13.2.2).

    PreconditionFailed where it insists on another version.
    """
    if "if-match" in headers:
        if not _lists(headers["if-match"], current.etag, weakly=False):
            raise PreconditionFailed("The object is not in the version that If-Match names.")
    elif "if-unmodified-since" in headers:
        since = _seconds(headers["if-unmodified-since"])
        if since is not None and current.modified_ms // SECOND > since:
            raise PreconditionFailed("The object changed since then.")
    if "if-none-match" in headers:
        return _lists(headers["if-none-match"], current.etag, weakly=True)
    since = _seconds(headers["if-modified-since"]) if "if-modified-since" in headers else None
    return since is not None and current.modified_ms // SECOND <= since


def ranges(headers: Mapping[str, str], current: Validators, size: int) -> Sequence[Slice] | None:
    """The ranges that are asked for (RFC 9110 §14.2); None for the whole.

    What overlaps or touches is one range, at the place of the first of them; what lies outside is
    left out. RangeNotSatisfiable where nothing is left, and for more than MAX_RANGES of them.
    """
    unit, _, listed = headers.get("range", "").partition("=")
    if unit.lower() != "bytes" or not _range_applies(headers.get("if-range"), current):
        return None
    specs = [spec for each in listed.split(",") if (spec := each.strip(_SPACE))]
    if len(specs) > MAX_RANGES:
        raise RangeNotSatisfiable(
            f"Ask for {MAX_RANGES} ranges at most.", content_range=f"bytes */{size}"
        )
    asked = [_slice(spec, size) for spec in specs]
    if not asked or None in asked:
        return None  # not valid: ignored (RFC 9110 §14.1.1)
    inside = [each for each in asked if each is not None and each.start < each.end]
    if not inside:
        raise _outside(size)
    return _merged(inside)


def _slice(spec: str, size: int) -> Slice | None:
    """One range within the bytes, empty where it lies outside of them; None if it is not valid."""
    first, dash, last = spec.partition("-")
    digits = first + last
    if not (dash and digits.isascii() and digits.isdigit()):
        return None
    if not first:
        return Slice(max(0, size - _number(last)), size)
    start = _number(first)
    if last and _number(last) < start:
        return None
    return Slice(start, min(_number(last) + 1, size) if last else size)


def _merged(asked: Iterable[Slice]) -> list[Slice]:
    """The same bytes in as few slices as can be."""
    places = sorted(enumerate(asked), key=lambda placed: placed[1].start)
    merged: list[tuple[int, Slice]] = []
    for place, each in places:
        if merged and each.start <= merged[-1][1].end:
            earlier, before = merged[-1]
            joined = Slice(before.start, max(before.end, each.end))
            merged[-1] = (min(earlier, place), joined)
        else:
            merged.append((place, each))
    return [each for _, each in sorted(merged, key=lambda placed: placed[0])]


def _number(digits: str) -> int:
    digits = digits.lstrip("0")
    return int(digits or "0") if len(digits) <= _MAX_DIGITS else _BEYOND


def _outside(size: int) -> RangeNotSatisfiable:
    return RangeNotSatisfiable(
        f"The range lies outside of the object's {size} bytes.", content_range=f"bytes */{size}"
    )


@lru_cache(maxsize=4096)
def _date(seconds: int) -> str:
    return format_datetime(datetime.fromtimestamp(seconds, UTC), usegmt=True)


def _range_applies(if_range: str | None, current: Validators) -> bool:
    if if_range is None:
        return True
    if if_range.strip().startswith('"'):
        return if_range.strip() == current.etag
    return if_range.strip() == current.last_modified


def _lists(header: str, etag: str, *, weakly: bool) -> bool:
    if header.strip() == "*":
        return True
    tags = [tag.strip() for tag in header.split(",")]
    return etag in tags or (weakly and f"W/{etag}" in tags)


def _seconds(date: str) -> int | None:
    """An HTTP-date as seconds; None for what is none, and so to be ignored."""
    if len(date) > _MAX_DATE:
        return None
    try:
        moment = parsedate_to_datetime(date)
        zoned = moment if moment.tzinfo else moment.replace(tzinfo=UTC)  # the asctime form
        return int(zoned.timestamp())
    except (ValueError, OverflowError):
        return None
