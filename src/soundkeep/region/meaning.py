"""What a filter means, in plain Python: the yardstick for the SQL of both engines.

Nothing here knows a database. `matches` decides for one object; property tests hold
`selection` to it over random trees and random objects.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any as Anything

from soundkeep.region.fiql import (
    ORDER,
    All,
    Any,
    Field,
    Node,
    Operator,
    Pattern,
    Span,
    Tag,
    Term,
    Value,
    number,
)
from soundkeep.region.model import StoredObject

_COMPARE: Mapping[Operator, Callable[[Anything, Anything], bool]] = {
    Operator.GT: operator.gt,
    Operator.GE: operator.ge,
    Operator.LT: operator.lt,
    Operator.LE: operator.le,
}
_COLUMNS = {"checksum": attrgetter("digests.md5"), "size": attrgetter("digests.size")}

Found = str | int | float | bool | None


def matches(node: Node, stored: StoredObject) -> bool:
    """Whether an object is what the filter asks for."""
    match node:
        case All(parts):
            return all(matches(part, stored) for part in parts)
        case Any(parts):
            return any(matches(part, stored) for part in parts)
        case Term():
            return _term(node, stored)


def _term(term: Term, stored: StoredObject) -> bool:
    found = _value_of(term.selector, stored)
    if term.operator in ORDER:
        return _ordered(term, found)
    equal = found is not None and any(_equals(found, value) for value in term.values)
    return equal if term.operator in (Operator.EQ, Operator.IN) else not equal


def _ordered(term: Term, found: Found) -> bool:
    wanted = term.values[0]
    if isinstance(term.selector, Tag) and isinstance(wanted, float):
        found = number(found) if isinstance(found, str) else None
    return found is not None and _COMPARE[term.operator](found, wanted)


def _equals(found: Found, wanted: Value) -> bool:
    match wanted:
        case Pattern(pieces):
            expression = ".*".join(map(re.escape, pieces))
            return re.fullmatch(expression, str(found), re.DOTALL) is not None
        case Span(start_ms, end_ms):
            return isinstance(found, int) and start_ms <= found < end_ms
        case _:
            return found == wanted


def _value_of(selector: Field | Tag, stored: StoredObject) -> Found:
    if isinstance(selector, Tag):
        return stored.tags.get(selector.key)
    found: Found = _COLUMNS.get(selector.column, attrgetter(selector.column))(stored)
    return found
