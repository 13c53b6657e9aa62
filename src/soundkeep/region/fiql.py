"""The filter language: FIQL with RSQL's aliases and the reference service's extensions.

    or   = and *("," and)                  ";" binds tighter than ","
    and  = unit *(";" unit)
    unit = "(" or ")" / selector operator value
    list = "(" value *("," value) ")"      after =in= and =out=

The text was percent-decoded once by the URL layer. It is split first; every value is then
percent-decoded again, so that `%3B` in a value is a semicolon and `%2A` a star. Contract §2,
"Filter language"; draft-nottingham-atompub-fiql-00.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, StrEnum, auto
from urllib.parse import unquote

from soundkeep.foundation.clock import SECOND
from soundkeep.foundation.errors import BadFilter

MAX_BYTES = 8 * 1024
MAX_DEPTH = 32
MAX_TERMS = 256
MAX_VALUES = 1000

_SELECTOR = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_OPERATOR = re.compile(r"[<>]=?|[=!][A-Za-z]*=|[=!~]")
_RAW = re.compile(r"[^;,()]*")
_QUOTED = re.compile(r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)\"""", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_NUMBER = re.compile(r"[+-]?[0-9]{1,18}(?:\.[0-9]{1,18})?")
_OPERAND = re.compile(_NUMBER.pattern + r"(?:[eE][+-]?[0-9]{1,4})?")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_LOST_PLUS = re.compile(r"\A (?=[0-9])")
_ZONE = re.compile(r"(T\S+) (?=[0-9])")
_ALIASES = {"<": "=lt=", "<=": "=le=", ">": "=gt=", ">=": "=ge="}
_TAG_PREFIX = "tags."
_SHOWN = 40


class Operator(StrEnum):
    """What a comparison asks of a value."""

    EQ = "=="
    NE = "!="
    GT = "=gt="
    GE = "=ge="
    LT = "=lt="
    LE = "=le="
    IN = "=in="
    OUT = "=out="


ORDER = frozenset({Operator.GT, Operator.GE, Operator.LT, Operator.LE})
EQUALITY = frozenset({Operator.EQ, Operator.IN})
NEGATION = frozenset({Operator.NE, Operator.OUT})
_LISTS = frozenset({Operator.IN, Operator.OUT})


class Kind(Enum):
    """What values of a field are."""

    TEXT = auto()
    NUMBER = auto()
    TIME = auto()
    FLAG = auto()


@dataclass(frozen=True, slots=True)
class Field:
    """A content field: its column, and what it holds."""

    column: str
    kind: Kind = Kind.TEXT


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag by its key; its values are text, and numbers where they look like it."""

    key: str


@dataclass(frozen=True, slots=True)
class Pattern:
    """Text with wildcards between its pieces; without any, one piece."""

    pieces: tuple[str, ...]

    @property
    def is_wild(self) -> bool:
        """Whether there is a wildcard."""
        return len(self.pieces) > 1


@dataclass(frozen=True, slots=True)
class Span:
    """Moments from `start_ms` up to and without `end_ms`: what an equality on a time means."""

    start_ms: int
    end_ms: int


Value = Pattern | Span | str | float | int | bool


@dataclass(frozen=True, slots=True)
class Term:
    """One comparison. EQ and IN hold for any of `values`; NE and OUT for none of them.

    Values are Patterns or texts (TEXT and tags), numbers (NUMBER, and tags in an order), Spans or
    milliseconds (TIME), booleans (FLAG). `at` and `end` are its place in the filter.
    """

    selector: Field | Tag
    operator: Operator
    values: tuple[Value, ...]
    at: int = 0
    end: int = 0

    @property
    def texts(self) -> tuple[str, ...] | None:
        """The whole texts that a value is equal to, or not; None where it asks something else."""
        found = tuple(_whole(value) for value in self.values)
        if self.operator in ORDER or None in found:
            return None
        return tuple(text for text in found if text is not None)


@dataclass(frozen=True, slots=True)
class All:
    """Every part holds."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Any:
    """At least one part holds."""

    parts: tuple[Node, ...]


def _whole(value: Value) -> str | None:
    """A value that is text without wildcards."""
    if isinstance(value, Pattern):
        return None if value.is_wild else value.pieces[0]
    return value if isinstance(value, str) else None


Node = Term | All | Any
EVERYTHING = All(())


def parse(text: str, fields: Mapping[str, Field]) -> Node:
    """The tree of a filter; an empty one holds for everything. BadFilter tells the position."""
    if not text:
        return EVERYTHING
    if len(text) > MAX_BYTES or len(text.encode(errors="surrogatepass")) > MAX_BYTES:
        raise BadFilter(f"A filter has {MAX_BYTES} bytes at most.", field="filter", at=0)
    return _Parser(text, fields).whole()


def terms(node: Node) -> Iterator[Term]:
    """Every comparison of a tree, from left to right."""
    match node:
        case Term():
            yield node
        case All(parts) | Any(parts):
            for part in parts:
                yield from terms(part)


def number(text: str) -> float | None:
    """The number that a text looks like: a sign, up to 18 digits, a fraction; else None."""
    return float(text) if _NUMBER.fullmatch(text) else None


def selector(name: str, fields: Mapping[str, Field]) -> Field | Tag:
    """What a name stands for; `tags.KEY` is a tag also where a field is called so."""
    if name in fields:
        return fields[name]
    key = name.removeprefix(_TAG_PREFIX)
    if not _SELECTOR.fullmatch(key):
        raise BadFilter(f"{name[:_SHOWN]!r} is no field or tag.", field="filter", at=0)
    return Tag(key)


class _Parser:
    """Recursive descent over one filter."""

    def __init__(self, text: str, fields: Mapping[str, Field]) -> None:
        self._text = text
        self._fields = fields
        self._at = 0
        self._terms = 0
        self._values = 0

    def whole(self) -> Node:
        node = self._or(depth=0)
        if self._at < len(self._text):
            raise self._bad("expected ; or , or the end")
        return node

    def _or(self, depth: int) -> Node:
        parts = [self._and(depth)]
        while self._next(","):
            parts.append(self._and(depth))
        return parts[0] if len(parts) == 1 else Any(tuple(parts))

    def _and(self, depth: int) -> Node:
        parts = [self._unit(depth)]
        while self._next(";"):
            parts.append(self._unit(depth))
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def _unit(self, depth: int) -> Node:
        opened = self._at
        if not self._next("("):
            return self._term()
        if depth == MAX_DEPTH:
            raise self._bad(f"parentheses may be {MAX_DEPTH} deep", at=opened)
        node = self._or(depth + 1)
        if not self._next(")"):
            raise self._bad("this parenthesis is not closed", at=opened)
        return node

    def _term(self) -> Term:
        at = self._at
        name = _SELECTOR.match(self._text, at)
        if name is None:
            raise self._bad("expected a field or a tag")
        self._terms += 1
        if self._terms > MAX_TERMS:
            raise self._bad(f"a filter has {MAX_TERMS} comparisons at most")
        if name.group() == _TAG_PREFIX:
            raise self._bad("expected the key of a tag after tags.", at=name.end())
        self._at = name.end()
        wanted = selector(name.group(), self._fields)
        operator = self._operator()
        raws = self._list() if operator in _LISTS else [self._raw()]
        values = tuple(_value(self, wanted, operator, raw) for raw in raws)
        return Term(wanted, operator, values, at, self._at)

    def _operator(self) -> Operator:
        found = _OPERATOR.match(self._text, self._at)
        if found is None:
            raise self._bad("expected an operator like ==")
        word = _ALIASES.get(found.group(), found.group())
        try:
            operator = Operator(word)
        except ValueError:
            known = " ".join(Operator)
            raise self._bad(f"{found.group()!r} is no operator: use one of {known}") from None
        self._at = found.end()
        return operator

    def _list(self) -> list[_Raw]:
        opened = self._at
        if not self._next("("):
            raise self._bad("expected a list of values in parentheses")
        raws = [self._raw()]
        while self._next(","):
            raws.append(self._raw())
            if self._values + len(raws) > MAX_VALUES:
                raise self._bad(f"the lists of a filter have {MAX_VALUES} values at most")
        self._values += len(raws)
        if not self._next(")"):
            if self._at < len(self._text):
                raise self._bad("expected , or )")
            raise self._bad("this list is not closed", at=opened)
        return raws

    def _raw(self) -> _Raw:
        at = self._at
        quoted = _QUOTED.match(self._text, at)
        if quoted is not None:
            self._at = quoted.end()
            return _Raw(at, quoted[1] if quoted[1] is not None else quoted[2], quoted=True)
        if self._text[at : at + 1] in ("'", '"'):
            raise self._bad("this quotation mark is not closed")
        found = _RAW.match(self._text, at)
        assert found is not None
        self._at = found.end()
        return _Raw(at, found.group(), quoted=False)

    def _next(self, char: str) -> bool:
        if self._text[self._at : self._at + 1] != char:
            return False
        self._at += 1
        return True

    def bad(self, what: str, at: int) -> BadFilter:
        """An error that shows its place."""
        return self._bad(what, at=at)

    def _bad(self, what: str, *, at: int | None = None) -> BadFilter:
        at = self._at if at is None else at
        start = max(0, at - _SHOWN)
        line = "".join(
            each if each.isprintable() else "\N{REPLACEMENT CHARACTER}"
            for each in self._text[start : at + _SHOWN]
        )
        return BadFilter(
            f"The filter cannot be understood at position {at}: {what}.\n"
            f"{line}\n{' ' * (at - start)}^",
            field="filter",
            at=at,
        )


@dataclass(frozen=True, slots=True)
class _Raw:
    """A value as it stands in the filter, without its quotation marks."""

    at: int
    text: str
    quoted: bool

    def pieces(self) -> tuple[str, ...]:
        """Its parts between wildcards, each fully decoded."""
        if not self.quoted:
            return tuple(_decoded(piece) for piece in self.text.split("*"))
        pieces, begun, at = [], "", 0
        for found in re.finditer(r"\\(.)|\*", self.text, re.DOTALL):
            begun += self.text[at : found.start()]
            at = found.end()
            if found[1] is not None:
                begun += found[1]
            else:
                pieces.append(_decoded(begun))
                begun = ""
        return (*pieces, _decoded(begun + self.text[at:]))

    def whole(self) -> str:
        """Its text, in which a star is a star."""
        return _decoded(_ESCAPED.sub(r"\1", self.text) if self.quoted else self.text)


def _decoded(text: str) -> str:
    return unquote(text, errors="surrogateescape")


def _value(parser: _Parser, selector: Field | Tag, operator: Operator, raw: _Raw) -> Value:
    """A value as its selector's kind has it."""
    wild = operator in (Operator.EQ, Operator.NE)
    pieces = _pieces(parser, raw, wild=wild)
    text, kind = pieces[0], Kind.TEXT if isinstance(selector, Tag) else selector.kind
    if kind is not Kind.TEXT and len(pieces) > 1:
        raise parser.bad("wildcards are for text", raw.at)
    match kind:
        case Kind.TEXT if wild:
            return Pattern(pieces)
        case Kind.TEXT if isinstance(selector, Tag) and operator in ORDER:
            found = _operand(parser, text, raw.at)
            return text if found is None else found
        case Kind.TEXT:
            return text
        case Kind.NUMBER:
            found = _operand(parser, text, raw.at)
            if found is None:
                raise parser.bad(f"{text[:_SHOWN]!r} is not a number", raw.at)
            return found
        case Kind.FLAG:
            if operator in ORDER or text not in ("true", "false"):
                raise parser.bad("ask whether it is ==true or ==false", raw.at)
            return text == "true"
        case Kind.TIME:
            moment_ms = _moment_ms(parser, text, raw.at)
            return moment_ms if operator in ORDER else _span(moment_ms)


def _operand(parser: _Parser, text: str, at: int) -> float | None:
    """The number that a client wrote, an exponent allowed; None where it wrote none."""
    if not _OPERAND.fullmatch(text):
        return None
    found = float(text)
    if math.isinf(found):
        raise parser.bad("the number is too large", at)
    return found


def _pieces(parser: _Parser, raw: _Raw, *, wild: bool) -> tuple[str, ...]:
    """A value between its wildcards; a plus before digits may have arrived as a space."""
    first, *others = raw.pieces() if wild else (raw.whole(),)
    if not raw.quoted and first[:1] == " ":
        first = _LOST_PLUS.sub("+", first, count=1)
    for piece in (first, *others):
        if "\0" in piece or any("\ud800" <= char <= "\udfff" for char in piece):
            raise parser.bad("the value is not text in UTF-8 without NUL", raw.at)
    return (first, *others)


def _span(moment_ms: int) -> Span:
    """The second of a moment: clients are shown seconds, so equality goes by them."""
    start_ms = moment_ms // SECOND * SECOND
    return Span(start_ms, start_ms + SECOND)


def _moment_ms(parser: _Parser, text: str, at: int) -> int:
    if _INTEGER.fullmatch(text):
        return int(text)
    try:
        moment = datetime.fromisoformat(_ZONE.sub(r"\1+", text))
        zoned = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return round(zoned.timestamp() * SECOND)
    except (ValueError, OverflowError):
        raise parser.bad(
            f"{text[:_SHOWN]!r} is neither epoch milliseconds nor a time like 2026-01-02T03:04:05Z",
            at,
        ) from None
