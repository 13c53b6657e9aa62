"""Conditional and range requests (RFC 9110 §13 and §14): what the headers ask for. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from functools import lru_cache

from soundkeep.foundation.clock import SECOND
from soundkeep.foundation.errors import PreconditionFailed, RangeNotSatisfiable

_RANGE = re.compile(r"bytes=\s*(?:(\d{1,19})-(\d{0,19})|-(\d{1,19}))\s*", re.IGNORECASE)


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
    since = _seconds(headers.get("if-modified-since", ""))
    return since is not None and current.modified_ms // SECOND <= since


def part(headers: Mapping[str, str], current: Validators, size: int) -> Slice | None:
    """The one range that is asked for; None for the whole. Several ranges get the whole."""
    asked = _RANGE.fullmatch(headers.get("range", ""))
    if asked is None or not _range_applies(headers.get("if-range"), current):
        return None
    first, last, suffix = asked.groups()
    if suffix is not None:
        if int(suffix) == 0 or size == 0:
            raise _outside(size)
        return Slice(max(0, size - int(suffix)), size)
    start, end = int(first), min(int(last) + 1, size) if last else size
    if last and int(last) < start:
        return None  # not a valid range: ignored (RFC 9110 §14.1.1)
    if start >= size:
        raise _outside(size)
    return Slice(start, end)


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
    tags = [tag.strip() for tag in header.split(",")]
    if weakly:
        tags = [tag.removeprefix("W/") for tag in tags]
    return "*" in tags or etag in tags


def _seconds(date: str) -> int | None:
    try:
        moment = parsedate_to_datetime(date)
        zoned = moment if moment.tzinfo else moment.replace(tzinfo=UTC)  # the asctime form
        return int(zoned.timestamp())
    except (ValueError, OverflowError):
        return None
