"""Which way to find the rows of a search: by walking its order, or from what an index says of it.

SQLite is told the way outright: its own planner knows nothing of how rare a tag is, while the tag
index counts exactly. On PostgreSQL the choice is only between letting it walk the order (which it
does well for all that has an index of its own) and starting from its index over tags, and a look at
the first rows decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from soundkeep.foundation.claims import Reach
from soundkeep.foundation.database import Database
from soundkeep.foundation.sql import Where, all_of, one_of
from soundkeep.region import pages, selection, store, tagindex
from soundkeep.region.fiql import EQUALITY, ORDER, All, Field, Node, Tag, Term
from soundkeep.region.pages import Plan, Source
from soundkeep.region.selection import NUMERIC_TAGS, ORDERED_TAGS, Order

FEW = 5000
"""Rows that are sooner sorted than looked for along an order."""

_PROBED = 2000
_PAGE = 100
_COUNTED = 1_000_000
_MEANINGS = {
    Source.TIME: "an index over the time of creation, {}; every row is tested",
    Source.NUMBER: "an index over a numeric tag, {}; every row is tested",
    Source.TERMS: "the tag index, {}; every row it names is tested",
    Source.TABLE: "what the database itself takes for best, {}; every row is tested",
}
_POINTS = frozenset({"id", "name", "checksum", "bucket_id"})
"""Columns with values that few objects share, each with an index of its own on PostgreSQL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Whose objects are looked for, which, and in which order."""

    customer: str
    reach: Reach
    tree: Node
    sort: Field | Tag
    descending: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """A plan, and how many rows it was thought to have to test; None where nobody asked."""

    plan: Plan
    estimated: int | None = None


async def choose(db: Database, query: Query, *, seconds: float) -> Choice:
    """How to find the objects of a query."""
    if db.engine == "sqlite":
        return await _choose_on_sqlite(db, query, seconds=seconds)
    return await _choose_on_postgres(db, query, seconds=seconds)


class Explanation(msgspec.Struct, frozen=True, rename="camel"):
    """How a search found its rows: as many as thought, as many as there are, the engine's steps."""

    plan: Source
    meaning: str
    estimated_rows: int
    rows: int
    milliseconds: float
    steps: list[str]


async def explain(
    db: Database, choice: Choice, *, customer: str, rows: int, milliseconds: float, seconds: float
) -> Explanation:
    """A choice in words for people; `rows` and `milliseconds` are what it came to."""
    plan, estimated = choice.plan, choice.estimated
    if estimated is None:
        estimated = await pages.estimate(
            db, plan, customer=customer, most=_COUNTED, seconds=seconds
        )
    meaning = _MEANINGS[plan.source].format("in order" if plan.ordered else "sorted then")
    steps = await pages.steps(db, plan, customer=customer, seconds=seconds)
    return Explanation(plan.source, meaning, estimated, rows, milliseconds, steps)


def buckets(engine: str, query: Query) -> Plan:
    """How to find the buckets of a query."""
    condition = selection.condition(query.tree, engine, numbers={})
    return Plan(
        table="buckets",
        source=Source.TABLE,
        order=Order(query.sort, engine, descending=query.descending, numbers={}),
        where=all_of(store.bucket_within(query.reach), condition),
    )


def _tested(query: Query, engine: str, *, indexed: bool = False) -> Where:
    """The condition that every row is put to."""
    return all_of(
        store.within(query.reach),
        selection.condition(query.tree, engine, indexed=indexed),
        _in_state(query),
    )


def _in_state(query: Query) -> Where:
    states = tagindex.states(query.tree)
    if len(states) == 1:
        return Where("state = :state", {"state": states[0]})
    return one_of("state", "state", states)


# ---- SQLite ---------------------------------------------------------------------------------


async def _choose_on_sqlite(db: Database, query: Query, *, seconds: float) -> Choice:
    states = tagindex.states(query.tree)
    order = Order(query.sort, db.engine, descending=query.descending)
    rest = Plan(source=Source.TABLE, order=order, where=_tested(query, db.engine), ordered=False)
    if not states:
        return Choice(rest, 0)
    match = tagindex.match(query.tree, query.reach, customer=query.customer, states=states)
    rest = replace(
        rest,
        match=match.text or tagindex.everything(customer=query.customer, state=states[0]),
        moments=tagindex.moments(query.tree),
        exact=match.exact,
    )
    matching = replace(rest, source=Source.TERMS)
    newest = order.column == "created_ms"
    single = len(states) == 1
    candidates = [plan for plan in (_by_number(query, rest),) if plan is not None and single]
    if match.text and (candidates or not newest):
        candidates.append(matching)
    choice = await _fewest(db, query, candidates, seconds=seconds)
    if choice is not None and not (newest and choice.plan is matching):
        return choice
    if newest and match.text:
        brief = match.exact and match.tokens == 1
        return Choice(replace(matching, ordered=True, brief=brief))
    if newest:
        return Choice(replace(rest, source=Source.TIME, ordered=True, brief=match.exact))
    if order.column in pages.NUMBER_INDEXES and single:
        return Choice(
            replace(rest, source=Source.NUMBER, number=order.column, ordered=True, zoned=True)
        )
    return Choice(matching if match.text else replace(rest, source=Source.TIME))


def _by_number(query: Query, rest: Plan) -> Plan | None:
    """A plan that starts from a range of a well-known numeric tag, where the filter gives one."""
    for part in tagindex.parts(query.tree):
        if not isinstance(part, Term) or not isinstance(part.selector, Tag):
            continue
        column = NUMERIC_TAGS.get(part.selector.key)
        if column and part.operator in ORDER and isinstance(part.values[0], float):
            return replace(rest, source=Source.NUMBER, number=column)
    return None


async def _fewest(
    db: Database, query: Query, candidates: Sequence[Plan], *, seconds: float
) -> Choice | None:
    """The candidate that has the fewest rows to test; None if all have many."""
    best = None
    for plan in candidates:
        offer = plan
        if plan.source is Source.NUMBER:
            offer = replace(plan, where=all_of(_in_state(query), _range_of(query, plan.number)))
        most = FEW if best is None or best.estimated is None else best.estimated
        offered = await pages.estimate(
            db, offer, customer=query.customer, most=most + 1, seconds=seconds
        )
        if offered <= most:
            best = Choice(plan, offered)
    return best


def _range_of(query: Query, column: str) -> Where:
    """The comparisons of a filter that bound a well-known numeric tag."""
    bounds = tuple(
        part
        for part in tagindex.parts(query.tree)
        if isinstance(part, Term)
        and isinstance(part.selector, Tag)
        and NUMERIC_TAGS.get(part.selector.key) == column
        and part.operator in ORDER
        and isinstance(part.values[0], float)
    )
    return selection.condition(All(bounds), "sqlite")


# ---- PostgreSQL -----------------------------------------------------------------------------


async def _choose_on_postgres(db: Database, query: Query, *, seconds: float) -> Choice:
    order = Order(query.sort, db.engine, descending=query.descending)
    walk = Plan(source=Source.TABLE, order=order, where=_tested(query, db.engine))
    indexed = _tested(query, db.engine, indexed=True)
    matching = replace(walk, source=Source.TERMS, where=indexed, ordered=False)
    if order.column == "created_ms":
        walk = replace(walk, source=Source.TIME)
    elif order.column in pages.NUMBER_INDEXES:
        walk = replace(walk, source=Source.NUMBER, number=order.column, zoned=True)
    else:
        return Choice(replace(walk, where=indexed, ordered=False))
    if _has_own_index(query) or not any(tagindex.indexed_terms(query.tree)):
        return Choice(walk)
    everything = await db.one("SELECT reltuples FROM pg_class WHERE oid = 'objects'::regclass")
    passed = await pages.probe(
        db,
        all_of(store.within(query.reach), _in_state(query)),
        selection.condition(query.tree, db.engine),
        customer=query.customer,
        rows=_PROBED,
        seconds=seconds,
    )
    total = max(_PROBED, int(everything[0]) if everything else 0)
    estimated = passed * total // _PROBED
    # To walk is to test total / estimated rows for each one wanted, to start from the tags is to
    # test all that have them.
    if estimated * estimated > _PAGE * total:
        return Choice(walk, estimated)
    return Choice(matching, estimated)


def _has_own_index(query: Query) -> bool:
    """Whether a comparison at the top is one that PostgreSQL has an ordered index for."""
    return any(
        isinstance(part, Term)
        and part.operator in EQUALITY
        and (
            part.selector.key in ORDERED_TAGS
            if isinstance(part.selector, Tag)
            else part.selector.column in _POINTS
        )
        for part in tagindex.parts(query.tree)
    )
