"""From a filter's tree to a condition in SQL, for either engine.

Names in the SQL come from the field table and from constants; all that a client wrote, tag keys
too, is a parameter. What it must mean is said by `meaning`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from soundkeep.foundation.sql import Where
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
)

NUMERIC_TAGS: Mapping[str, str] = {
    "duration": "duration_number",
    "startTime": "start_number",
    "endTime": "end_number",
}
"""Well-known numeric tags, and the columns that hold them as numbers."""

_SIGNS: Mapping[Operator, str] = {
    Operator.GT: ">",
    Operator.GE: ">=",
    Operator.LT: "<",
    Operator.LE: "<=",
}
_NEGATIONS = frozenset({Operator.NE, Operator.OUT})
_GLOB = re.compile(r"[*?\[]")
_LIKE = re.compile(r"[%_\\]")


def condition(node: Node, engine: str, *, numbers: Mapping[str, str] = NUMERIC_TAGS) -> Where:
    """The condition that a row is what the filter asks for; `numbers` are its columns of tags."""
    builder = _Builder(engine, "filter", numbers)
    sql = builder.node(node)
    return Where(sql, builder.params)


def order(
    selector: Field | Tag,
    engine: str,
    *,
    descending: bool,
    numbers: Mapping[str, str] = NUMERIC_TAGS,
) -> Where:
    """What follows ORDER BY; ties are broken by id.

    A tag sorts by number where it looks like one, then by text; objects without it come last in
    both directions.
    """
    way = "DESC" if descending else "ASC"
    if isinstance(selector, Field):
        return Where(f"{selector.column} {way}, id {way}")
    builder = _Builder(engine, "sort", numbers)
    value, number = builder.tag(selector), builder.number(selector)
    text = f"CASE WHEN {number} IS NULL THEN {value} END"
    sql = f"{value} IS NULL, {number} IS NULL, {number} {way}, {text} {way}, id {way}"
    return Where(sql, builder.params)


class _Sqlite:
    """SQLite's spelling. Text compares by its bytes in UTF-8, so by code points."""

    tag = "json_extract(tags, {key})"
    number = (
        "(SELECT CASE WHEN length(digits) >= length(value) - 1"
        " AND digits GLOB '[0-9]*' AND digits NOT GLOB '*[^0-9.]*'"
        " AND digits NOT GLOB '*.' AND digits NOT GLOB '*.*.*'"
        " AND length(digits) - length(ltrim(digits, '0123456789')) <= 18"
        " AND length(digits) - length(rtrim(digits, '0123456789')) <= 18"
        " THEN CAST(value AS REAL) END"
        " FROM (SELECT {value} AS value, ltrim({value}, '+-') AS digits))"
    )
    like = "GLOB"

    @staticmethod
    def path(key: str) -> str:
        """How a tag is reached in the column `tags`."""
        return f'$."{key}"'

    @staticmethod
    def pattern(pieces: tuple[str, ...]) -> str:
        """Text with wildcards, as the engine writes them."""
        return "*".join(_GLOB.sub(r"[\g<0>]", piece) for piece in pieces)


class _Postgres:
    """PostgreSQL's spelling. Text compares by code points under the collation "C"."""

    tag = '((tags ->> CAST({key} AS TEXT)) COLLATE "C")'
    number = (
        "(CASE WHEN {value} ~ '^[+-]?[0-9]{{1,18}}([.][0-9]{{1,18}})?$'"
        " THEN CAST({value} AS DOUBLE PRECISION) END)"
    )
    like = "LIKE"

    @staticmethod
    def path(key: str) -> str:
        """How a tag is reached in the column `tags`."""
        return key

    @staticmethod
    def pattern(pieces: tuple[str, ...]) -> str:
        """Text with wildcards, as the engine writes them."""
        return "%".join(_LIKE.sub(r"\\\g<0>", piece) for piece in pieces)


_ENGINES: Mapping[str, type[_Sqlite | _Postgres]] = {"sqlite": _Sqlite, "postgresql": _Postgres}


class _Builder:
    """Spells a tree and gathers its parameters."""

    def __init__(self, engine: str, prefix: str, numbers: Mapping[str, str]) -> None:
        self._engine = _ENGINES[engine]
        self._numbers = numbers
        self._prefix = prefix
        self.params: dict[str, object] = {}

    def node(self, node: Node) -> str:
        match node:
            case All(parts):
                return self._joined(" AND ", parts, "TRUE")
            case Any(parts):
                return self._joined(" OR ", parts, "FALSE")
            case Term(operator=operator) if operator in ORDER:
                return self._ordered(node)
            case Term():
                return self._equality(node)

    def tag(self, tag: Tag) -> str:
        """A tag's text, NULL where there is none."""
        return self._engine.tag.format(key=self._param(self._engine.path(tag.key)))

    def number(self, tag: Tag) -> str:
        """A tag's number, NULL where it looks like none."""
        column = self._numbers.get(tag.key)
        return column or self._engine.number.format(value=self.tag(tag))

    def _joined(self, word: str, parts: tuple[Node, ...], empty: str) -> str:
        return f"({word.join(map(self.node, parts))})" if parts else empty

    def _ordered(self, term: Term) -> str:
        wanted, sign = term.values[0], _SIGNS[term.operator]
        if isinstance(term.selector, Field):
            return f"{term.selector.column} {sign} {self._operand(wanted)}"
        numeric = isinstance(wanted, float)
        found = self.number(term.selector) if numeric else self.tag(term.selector)
        return f"coalesce({found} {sign} {self._operand(wanted)}, FALSE)"

    def _equality(self, term: Term) -> str:
        selector = term.selector
        found = self.tag(selector) if isinstance(selector, Tag) else selector.column
        plain = [self._operand(each) for each in term.values if _is_plain(each)]
        ways = [self._fits(found, each) for each in term.values if not _is_plain(each)]
        if plain:
            ways.append(f"{found} IN ({', '.join(plain)})")
        fits = f"({' OR '.join(ways)})"
        if term.operator not in _NEGATIONS:
            return fits
        return f"NOT coalesce({fits}, FALSE)" if isinstance(selector, Tag) else f"NOT {fits}"

    def _fits(self, found: str, wanted: Value) -> str:
        if isinstance(wanted, Pattern):
            pattern = self._param(self._engine.pattern(wanted.pieces))
            return f"{found} {self._engine.like} {pattern}"
        assert isinstance(wanted, Span)
        start, end = self._param(wanted.start_ms), self._param(wanted.end_ms)
        return f"({found} >= {start} AND {found} < {end})"

    def _operand(self, value: Value) -> str:
        match value:
            case Pattern():
                return self._param(value.pieces[0])
            case bool():
                return self._param(int(value))
            case float():
                return f"CAST({self._param(value)} AS DOUBLE PRECISION)"
            case _:
                return self._param(value)

    def _param(self, value: object) -> str:
        name = f"{self._prefix}_{len(self.params)}"
        self.params[name] = value
        return f":{name}"


def _is_plain(value: Value) -> bool:
    """Whether `=` decides it."""
    return not isinstance(value, Span) and (not isinstance(value, Pattern) or not value.is_wild)
