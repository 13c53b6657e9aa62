"""From a filter's tree to a condition in SQL, for either engine.

Names in the SQL come from the field table and from constants; all that a client wrote, tag keys
too, is a parameter. What it must mean is said by `meaning`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from soundkeep.foundation.sql import Where
from soundkeep.region.fiql import (
    EQUALITY,
    NEGATION,
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

ORDERED_TAGS = frozenset({"agentId", "callerId", "callId"})
"""Tags that have an index of their own, newest first, on PostgreSQL (schema/0002_search)."""

_SIGNS: Mapping[Operator, str] = {
    Operator.GT: ">",
    Operator.GE: ">=",
    Operator.LT: "<",
    Operator.LE: "<=",
}
_FLAT = 8
_GLOB = re.compile(r"[*?\[]")
_LIKE = re.compile(r"[%_\\]")


@dataclass(frozen=True, slots=True)
class Key:
    """The place of a row in an order: what it is sorted by, and its id.

    The value of a tag is a number where it looks like one, else text, and None where there is none.
    """

    value: str | float | int | None
    id: str


def condition(
    node: Node, engine: str, *, numbers: Mapping[str, str] = NUMERIC_TAGS, indexed: bool = False
) -> Where:
    """The condition that a row is what the filter asks for; `numbers` are its columns of tags.

    `indexed` spells it so that PostgreSQL can use its index over all tags.
    """
    builder = _Builder(engine, "filter", numbers, indexed=indexed)
    sql = builder.node(node)
    return Where(sql, builder.params)


@dataclass(frozen=True, slots=True)
class Order:
    """An order of rows: by a field or a tag, ties by id.

    A tag sorts by number where it looks like one, then by text; rows without it come last in both
    directions.
    """

    selector: Field | Tag
    engine: str
    descending: bool
    numbers: Mapping[str, str] = field(default_factory=lambda: NUMERIC_TAGS)

    @property
    def column(self) -> str:
        """The column that it sorts by; empty where there is none."""
        if isinstance(self.selector, Field):
            return self.selector.column
        return self.numbers.get(self.selector.key, "")

    def values(self) -> Where:
        """What to select of a row to make its key: `sort_value` and `sort_text`."""
        if isinstance(self.selector, Field):
            return Where(f"{self.selector.column} AS sort_value, NULL AS sort_text")
        builder, value, number = self._spelled("zone")
        return Where(f"{number} AS sort_value, {value} AS sort_text", builder.params)

    def valued(self, columns: str, rows: str) -> Where:
        """What follows FROM to have some columns of `rows`, and `sort_value` and `sort_text`.

        For tags: each is worked out once for a row, and the fences keep the engines from doing it
        again wherever it is named.
        """
        assert isinstance(self.selector, Tag)
        builder = _Builder(self.engine, "sort", self.numbers)
        text, fence = builder.tag(self.selector), f"LIMIT {2**63 - 1} OFFSET 0"
        if self.column:
            values = f"{self.column} AS sort_value, {text} AS sort_text"
            sql = f"(SELECT {columns}, {values} FROM {rows} {fence}) AS valued"
        else:
            number = _ENGINES[self.engine].number.format(value="sort_text")
            inner = f"(SELECT {columns}, {text} AS sort_text FROM {rows} {fence}) AS texts"
            sql = f"(SELECT {columns}, {number} AS sort_value, sort_text FROM {inner} {fence}) AS v"
        return Where(sql, builder.params)

    def clause(self) -> str:
        """What follows ORDER BY; for tags, among what `valued` gives."""
        way = self._way
        if isinstance(self.selector, Field):
            return f"{self.selector.column} {way}, id {way}"
        text = f"CASE WHEN sort_value IS NULL THEN sort_text END {way}"
        return f"sort_text IS NULL, sort_value IS NULL, sort_value {way}, {text}, id {way}"

    def after(self, key: Key | None) -> Where:
        """The condition that a row comes after a key; for tags, among what `valued` gives."""
        if key is None:
            return Where()
        if isinstance(self.selector, Field):
            return self._beyond(self.selector.column, key)
        beyond = self._beyond(("sort_value", "sort_text", None)[_zone(key)], key)
        sql = (
            f"({beyond.sql} OR sort_value IS NULL)",
            f"(sort_value IS NULL AND ({beyond.sql} OR sort_text IS NULL))",
            f"(sort_text IS NULL AND {beyond.sql})",
        )[_zone(key)]
        return Where(sql, beyond.params)

    def zones(self, key: Key | None) -> Iterator[tuple[Where, str]]:
        """Condition and ORDER BY of a tag's numbers, of its texts, and of the rest, from a key on.

        One after the other they are the same rows in the same order; each can walk an index.
        """
        builder, value, number = self._spelled("zone")
        zones = (
            (f"{number} IS NOT NULL", number),
            (f"{number} IS NULL AND {value} IS NOT NULL", value),
            (f"{number} IS NULL AND {value} IS NULL", None),
        )
        first = 0 if key is None else _zone(key)
        for condition, found in zones[first:]:
            beyond = Where() if key is None else self._beyond(found, key)
            by = f"{found} {self._way}, id {self._way}" if found else f"id {self._way}"
            params = {**builder.params, **beyond.params}
            yield Where(f"({condition} AND {beyond.sql})", params), by
            key = None

    @property
    def _way(self) -> str:
        return "DESC" if self.descending else "ASC"

    @property
    def _sign(self) -> str:
        return "<" if self.descending else ">"

    def _beyond(self, found: str | None, key: Key) -> Where:
        if found is None:
            return Where(f"id {self._sign} :after_id", {"after_id": key.id})
        params = {"after_value": key.value, "after_id": key.id}
        return Where(f"({found}, id) {self._sign} (:after_value, :after_id)", params)

    def _spelled(self, prefix: str) -> tuple[_Builder, str, str]:
        """A builder, and in its words the tag's text and number."""
        assert isinstance(self.selector, Tag)
        builder = _Builder(self.engine, prefix, self.numbers)
        return builder, builder.tag(self.selector), builder.number(self.selector)


def _zone(key: Key) -> int:
    """Where a tag's value sorts: 0 among numbers, 1 among texts, 2 among what lacks it."""
    if key.value is None:
        return 2
    return 1 if isinstance(key.value, str) else 0


class _Sqlite:
    """SQLite's spelling. Text compares by its bytes in UTF-8, so by code points."""

    tag = "json_extract(tags, {key})"
    number = (
        "(CASE WHEN {value} NOT GLOB '*[^0-9]*' THEN"
        " CASE WHEN length({value}) BETWEEN 1 AND 18 THEN CAST({value} AS REAL) END"
        " WHEN {value} GLOB '[-+0-9]*' THEN"
        " (SELECT CASE WHEN length(digits) >= length(value) - 1"
        " AND digits GLOB '[0-9]*' AND digits NOT GLOB '*[^0-9.]*'"
        " AND digits NOT GLOB '*.' AND digits NOT GLOB '*.*.*'"
        " AND length(digits) - length(ltrim(digits, '0123456789')) <= 18"
        " AND length(digits) - length(rtrim(digits, '0123456789')) <= 18"
        " THEN CAST(value AS REAL) END"
        " FROM (SELECT {value} AS value, ltrim({value}, '+-') AS digits)) END)"
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

    def __init__(
        self, engine: str, prefix: str, numbers: Mapping[str, str], *, indexed: bool = False
    ) -> None:
        self._engine = _ENGINES[engine]
        self._indexed = indexed and engine == "postgresql"
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
        if self._engine is _Postgres and tag.key in ORDERED_TAGS:
            return self._engine.tag.format(key=f"'{tag.key}'")
        return self._engine.tag.format(key=self._param(self._engine.path(tag.key)))

    def number(self, tag: Tag) -> str:
        """A tag's number, NULL where it looks like none."""
        column = self._numbers.get(tag.key)
        return column or self._engine.number.format(value=self.tag(tag))

    def _joined(self, word: str, parts: tuple[Node, ...], empty: str) -> str:
        return _joined(word, [self.node(part) for part in parts]) if parts else empty

    def _ordered(self, term: Term) -> str:
        wanted, sign = term.values[0], _SIGNS[term.operator]
        if isinstance(term.selector, Field):
            return f"{term.selector.column} {sign} {self._operand(wanted)}"
        numeric = isinstance(wanted, float)
        found = self.number(term.selector) if numeric else self.tag(term.selector)
        return f"{found} {sign} {self._operand(wanted)}"

    def _equality(self, term: Term) -> str:
        selector = term.selector
        if self._indexed and isinstance(selector, Tag) and term.operator in EQUALITY and term.texts:
            return self._contained(selector.key, term.texts)
        found = self.tag(selector) if isinstance(selector, Tag) else selector.column
        plain = [self._operand(each) for each in term.values if _is_plain(each)]
        ways = [self._fits(found, each) for each in term.values if not _is_plain(each)]
        if plain:
            ways.append(f"{found} IN ({', '.join(plain)})")
        fits = _joined(" OR ", ways)
        # NOT would let PostgreSQL make AND of many OR, which it takes seconds to plan.
        return f"{fits} IS NOT TRUE" if term.operator in NEGATION else fits

    def _contained(self, key: str, values: tuple[str, ...]) -> str:
        wanted = [self._param(json.dumps({key: value})) for value in values]
        return _joined(" OR ", [f"tags @> CAST({each} AS JSONB)" for each in wanted])

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


def _joined(word: str, parts: Sequence[str]) -> str:
    """Parts in parentheses, halved again and again: SQLite's expressions may be 1000 deep."""
    if len(parts) <= _FLAT:
        return f"({word.join(parts)})"
    half = len(parts) // 2
    return f"({_joined(word, parts[:half])}{word}{_joined(word, parts[half:])})"


def _is_plain(value: Value) -> bool:
    """Whether `=` decides it."""
    return not isinstance(value, Span) and (not isinstance(value, Pattern) or not value.is_wild)
