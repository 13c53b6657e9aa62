"""The filter language, first part: `selector==value` terms joined by `;`. Contract §2, "Filter".

The text was percent-decoded once by the URL layer; it is split first and each value is decoded
again after that. Only names from a field table become SQL names; values are parameters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto
from urllib.parse import unquote

from soundkeep.foundation.clock import SECOND
from soundkeep.foundation.errors import BadFilter
from soundkeep.foundation.sql import Where, all_of

MAX_LENGTH = 8 * 1024
MAX_TERMS = 256
_TERM = re.compile(r"(?P<selector>[A-Za-z_][A-Za-z0-9_.-]*)(?P<operator>==)(?P<value>[^;]*)")
_PLUS = re.compile(r"\A (?=\d)")
_ZONE_PLUS = re.compile(r"(T\S+) (?=\d)")
_INTEGER = re.compile(r"-?\d{1,18}")


class Kind(Enum):
    """What values of a field are."""

    TEXT = auto()
    NUMBER = auto()
    TIME = auto()
    FLAG = auto()


@dataclass(frozen=True, slots=True)
class Field:
    """A field that filters and sorts may name: its column, and what it holds."""

    column: str
    kind: Kind = Kind.TEXT


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter understood: the condition, and the fields that it names."""

    where: Where
    selectors: frozenset[str]


def parse(text: str, fields: Mapping[str, Field]) -> Filter:
    """The condition that a filter states; BadFilter tells the position of what is wrong."""
    if not text:
        return Filter(Where(), frozenset())
    if len(text) > MAX_LENGTH:
        raise BadFilter(f"A filter has {MAX_LENGTH} characters at most.", field="filter", at=0)
    conditions: list[Where] = []
    selectors: set[str] = set()
    at = 0
    while True:
        term = _TERM.match(text, at)
        if term is None:
            raise _bad(text, at, "expected field==value")
        selector = term["selector"]
        if selector not in fields:
            raise _bad(text, at, f"{selector} is not a field that filters know")
        if len(conditions) == MAX_TERMS:
            raise _bad(text, at, f"a filter has {MAX_TERMS} terms at most")
        name = f"filter_{len(conditions)}"
        value = _value(text, term, fields[selector].kind)
        conditions.append(Where(f"{fields[selector].column} = :{name}", {name: value}))
        selectors.add(selector)
        at = term.end()
        if at == len(text):
            return Filter(all_of(*conditions), frozenset(selectors))
        at += 1


def _value(text: str, term: re.Match[str], kind: Kind) -> str | int:
    raw = _PLUS.sub("+", unquote(term["value"], errors="surrogateescape"))
    at = term.start("value")
    if "\0" in raw or not _is_utf8(raw):
        raise _bad(text, at, "the value holds characters that cannot be searched for")
    match kind:
        case Kind.TEXT:
            return raw
        case Kind.NUMBER:
            if not _INTEGER.fullmatch(raw):
                raise _bad(text, at, f"{raw!r} is not a whole number")
            return int(raw)
        case Kind.FLAG:
            if raw not in ("true", "false"):
                raise _bad(text, at, f"{raw!r} is neither true nor false")
            return int(raw == "true")
        case Kind.TIME:
            return _time_ms(text, at, raw)


def _time_ms(text: str, at: int, raw: str) -> int:
    """Epoch milliseconds or ISO 8601, down to the second: times are kept in whole seconds."""
    if _INTEGER.fullmatch(raw):
        return int(raw) // SECOND * SECOND
    try:
        moment = datetime.fromisoformat(_ZONE_PLUS.sub(r"\1+", raw))
    except ValueError:
        raise _bad(text, at, f"{raw!r} is neither epoch milliseconds nor ISO 8601") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp()) * SECOND


def _is_utf8(raw: str) -> bool:
    try:
        raw.encode()
    except UnicodeEncodeError:
        return False
    return True


def _bad(text: str, at: int, what: str) -> BadFilter:
    return BadFilter(
        f"The filter cannot be understood at position {at}, {text[at : at + 20]!r}: {what}.",
        field="filter",
        at=at,
    )
