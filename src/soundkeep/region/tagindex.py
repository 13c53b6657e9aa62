"""The tag index: from a filter to what an inverted index can answer, on either engine.

SQLite keeps a full-text index of tokens, one for each `key = value` of an object, with its
customer and state in front (schema/0002_search.sqlite.sql makes them). Rows are numbered by time,
so whatever the index finds comes newest first for nothing. PostgreSQL keeps a GIN index over the
tags, which finds but does not sort; `selection` spells conditions so that it applies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from soundkeep.foundation.claims import Reach
from soundkeep.region.fiql import (
    EQUALITY,
    NEGATION,
    All,
    Any,
    Field,
    Kind,
    Node,
    Operator,
    Span,
    Tag,
    Term,
    terms,
)
from soundkeep.region.model import SITE_TAG, State

MOMENT_BITS = 20
"""Of a row's number in SQLite, those below the millisecond."""

_SEPARATOR = "\x1f"
_VALUE_CHARACTERS = 64
_FIELDS = frozenset({"id", "type", "mime_type", "name", "checksum", "user_id", "bucket_id"})
_DEEPEST = 8
_STATE = Field("state")
_CREATED = Field("created_ms", Kind.TIME)


@dataclass(frozen=True, slots=True)
class Match:
    """What to ask SQLite's index for: nothing where `text` is empty.

    `tokens` is how many lists of objects it reads; `exact` that no row has to be tested besides.
    """

    text: str
    tokens: int
    exact: bool


def match(tree: Node, reach: Reach, *, customer: str, states: Sequence[State]) -> Match:
    """The part of a filter and a reach that the index decides.

    Comparisons of states and of creation times at the top are taken as dealt with: by `states`,
    and by the range of row numbers.
    """
    builders = [_Builder(customer, state, alone=len(states) == 1) for state in states]
    texts = [builder.whole(tree, reach) for builder in builders]
    return Match(
        " OR ".join(f"({text})" for text in texts if text),
        sum(builder.tokens for builder in builders),
        all(builder.exact for builder in builders),
    )


def everything(*, customer: str, state: State) -> str:
    """What to ask the index for to be told of all that a customer has in a state."""
    return _Builder(customer, state, alone=True).everything()


def parts(tree: Node) -> tuple[Node, ...]:
    """What must hold all at once."""
    return tree.parts if isinstance(tree, All) else (tree,)


def indexed_terms(tree: Node) -> Iterator[Term]:
    """The comparisons at the top that an index over equal tags can start from."""
    for part in parts(tree):
        if (
            isinstance(part, Term)
            and isinstance(part.selector, Tag)
            and part.operator in EQUALITY
            and part.texts is not None
        ):
            yield part


class _Builder:
    """Spells a filter for one customer's objects in one state."""

    def __init__(self, customer: str, state: State, *, alone: bool) -> None:
        self._front = (customer, state)
        self._alone = alone
        self.tokens = 0
        self.exact = True

    def whole(self, tree: Node, reach: Reach) -> str:
        """The text for a tree within reach; empty where one state alone is asked for all it has."""
        wanted, unwanted = [], []
        for part in parts(tree):
            if _is_elsewhere(part):
                continue
            if isinstance(part, Term) and part.operator in NEGATION and _is_exact(part):
                unwanted.append(self._term(part))
            elif (text := self._node(part, _DEEPEST)) is not None:
                wanted.append(text)
                self.exact = self.exact and all(map(_is_exact, terms(part)))
            else:
                self.exact = False
        if not reach.company:
            wanted.append(self._within(reach))
        if not wanted and (unwanted or not self._alone):
            wanted.append(self.everything())
        text = " AND ".join(wanted)
        return f"({text}) NOT ({' OR '.join(unwanted)})" if unwanted else text

    def everything(self) -> str:
        """The token of every object."""
        return self._token("", "")

    def _within(self, reach: Reach) -> str:
        sites = [self._token(SITE_TAG, site) for site in sorted(reach.sites - {""})]
        users = [self._token(":user_id", user) for user in sorted(reach.users)]
        return f"({' OR '.join(sites + users)})"

    def _node(self, node: Node, depth: int) -> str | None:
        """A part's text, with parentheses around what needs them; None where it is not for us."""
        if isinstance(node, Term):
            if not _is_indexed(node):
                return None
            text = self._term(node)
            if node.operator not in NEGATION:
                return text
            return f"({self.everything()} NOT {text})" if _is_exact(node) else None
        if depth == 0:
            return None
        texts = [self._node(part, depth - 1) for part in node.parts]
        known = [text for text in texts if text is not None]
        if len(known) < len(texts):
            return None
        return f"({(' OR ' if isinstance(node, Any) else ' AND ').join(known)})"

    def _token(self, key: str, value: str) -> str:
        self.tokens += 1
        whole = _SEPARATOR.join((*self._front, key, value[:_VALUE_CHARACTERS]))
        return whole.encode().hex()

    def _term(self, term: Term) -> str:
        selector = term.selector
        key = selector.key if isinstance(selector, Tag) else f":{selector.column}"
        return f"({' OR '.join(self._token(key, value) for value in term.texts or ())})"


def _is_elsewhere(part: Node) -> bool:
    """Whether the states asked for or the range of row numbers decide it."""
    return isinstance(part, Term) and (_bounds(part) is not None or _names_states(part))


def states(tree: Node) -> tuple[State, ...]:
    """The states that a filter may hold for: AVAILABLE alone unless it names any (contract §2)."""
    named = [term for term in terms(tree) if term.selector == _STATE]
    if not named:
        return (State.AVAILABLE,)
    wanted = set(State)
    for part in parts(tree):
        if isinstance(part, Term) and _names_states(part):
            wanted &= {state for state in wanted if state in (part.texts or ())}
    return tuple(sorted(wanted))


def moments(tree: Node) -> tuple[int | None, int | None]:
    """The earliest and the latest millisecond of creation that a filter may hold for."""
    first, last = None, None
    for part in parts(tree):
        bounds = _bounds(part) if isinstance(part, Term) else None
        if bounds is None:
            continue
        low, high = bounds
        if low is not None:
            first = low if first is None else max(first, low)
        if high is not None:
            last = high if last is None else min(last, high)
    return first, last


def _bounds(term: Term) -> tuple[int | None, int | None] | None:
    """The earliest and latest millisecond; None for what bounds no time of creation."""
    if term.selector != _CREATED:
        return None
    match term.operator, term.values:
        case Operator.GT, (int(moment),):
            return moment + 1, None
        case Operator.GE, (int(moment),):
            return moment, None
        case Operator.LT, (int(moment),):
            return None, moment - 1
        case Operator.LE, (int(moment),):
            return None, moment
        case Operator.EQ, (Span(start_ms, end_ms),):
            return start_ms, end_ms - 1
    return None


def _is_indexed(term: Term) -> bool:
    """Whether tokens help with a comparison."""
    if isinstance(term.selector, Field) and term.selector.column not in _FIELDS:
        return False
    return term.texts is not None


def _is_exact(term: Term) -> bool:
    """Whether tokens decide a comparison for good: they hold the beginning of a value only."""
    return _is_indexed(term) and all(len(text) < _VALUE_CHARACTERS for text in term.texts or ())


def _names_states(term: Term) -> bool:
    return term.selector == _STATE and term.operator in EQUALITY and term.texts is not None
