"""SQL of searches: a page of rows in their order, how many there are, where an offset lies.

A `Plan` says where rows come from and how each is tested; `planning` chooses it. Every statement
that gives rows away tests customer, reach and filter on the row itself, whatever an index said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from soundkeep.foundation.database import Database, Params, Row
from soundkeep.foundation.sql import Where, all_of
from soundkeep.region.fiql import Field, Tag
from soundkeep.region.selection import Key, Order
from soundkeep.region.store import BUCKET, bucket_of
from soundkeep.region.tagindex import MOMENT_BITS
from soundkeep.region.wire import bucket_document

NUMBER_INDEXES: Mapping[str, str] = {
    "duration_number": "objects_by_duration",
    "start_number": "objects_by_start",
    "end_number": "objects_by_end",
}
"""Columns of well-known numeric tags, and their indexes."""

_LATEST = 2**43 - 1
"""The last millisecond that SQLite's row numbers have room for: the year 2248."""

_MOST_TIES = 1000
_INNER = {"objects": "seq, id", "buckets": BUCKET}
_OUTER = {
    "objects": "(SELECT doc FROM documents WHERE documents.seq = found.seq), id, "
    "sort_value, sort_text, seq",
    "buckets": f"NULL, id, sort_value, sort_text, {BUCKET}",
}


class Source(StrEnum):
    """Where rows come from."""

    TIME = "time"
    """An index over the time of creation."""
    NUMBER = "number"
    """An index over a well-known numeric tag."""
    TERMS = "terms"
    """The tag index."""
    TABLE = "table"
    """Wherever the engine's own planner takes them from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a search finds its rows.

    Rows that are `ordered` leave their source as `order` wants them, by one zone of a tag's values
    after the other if it is `zoned`; others are sorted. `number` is the column whose index NUMBER
    reads. `match`, within the milliseconds `moments`, is what TERMS asks SQLite's tag index for; an
    `exact` one decides alone, and counts the rows of any source. A plan is `brief` if it reads
    hardly more rows than it returns.
    """

    source: Source
    order: Order
    where: Where
    table: str = "objects"
    ordered: bool = True
    zoned: bool = False
    number: str = ""
    match: str = ""
    moments: tuple[int | None, int | None] = (None, None)
    exact: bool = False
    brief: bool = False

    @property
    def by_row(self) -> bool:  # every customer: a question about a plan
        """Whether rows come in the order of SQLite's row numbers, which is that of time."""
        return self.by_match and self.ordered

    @property
    def by_match(self) -> bool:  # every customer: a question about a plan
        """Whether rows come from SQLite's tag index."""
        return self.source is Source.TERMS and bool(self.match)


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a page, in their order."""

    plan: Plan
    rows: Sequence[Row]

    def documents(self, start: int, end: int) -> list[str]:  # every customer: found already
        """The JSON of some of them."""
        if self.plan.table == "buckets":
            return [bucket_document(bucket_of(row[4:])) for row in self.rows[start:end]]
        return [row[0] for row in self.rows[start:end]]

    def key(self, index: int) -> Key:  # every customer: found already
        """The place of one of them."""
        return _key(self.plan, *self.rows[index][1:4])


async def page(
    db: Database, plan: Plan, *, customer: str, after: Key | None, limit: int, seconds: float
) -> Rows:
    """The first rows after a key, or from the beginning."""
    if plan.by_row:
        found = await _by_row(db, plan, after, customer=customer, limit=limit, seconds=seconds)
        if found is not None:
            return Rows(plan, found)
        plan = replace(plan, source=Source.TABLE, brief=False)
    rows: list[Row] = []
    for part in _parts(plan, after, _INNER[plan.table]):
        left = limit - len(rows)
        rows += await _rows(db, plan, part, customer=customer, limit=left, seconds=seconds)
        if len(rows) == limit:
            break
    return Rows(plan, rows)


async def seek(
    db: Database, plan: Plan, *, customer: str, skip: int, seconds: float
) -> tuple[Key, int] | None:
    """How to leave out the first `skip` rows: after which key, and how many to drop from there.

    None where there are no more rows than that.
    """
    if plan.by_row:
        return await _seek_row(db, plan, customer=customer, skip=skip, seconds=seconds)
    (part,) = _parts(replace(plan, zoned=False), None, "id")
    rows = await db.scan(
        f"{part.sql} ORDER BY {part.order} LIMIT 1 OFFSET :before",
        {**part.params, "customer": customer, "before": skip - 1},
        seconds=seconds,
    )
    return (_key(plan, *rows[0]), 0) if rows else None


async def count(db: Database, plan: Plan, *, customer: str, seconds: float) -> int:
    """How many rows there are."""
    access = _range(plan) if plan.exact else _access(plan)
    return await _count(db, plan, access, customer=customer, seconds=seconds)


async def estimate(db: Database, plan: Plan, *, customer: str, most: int, seconds: float) -> int:
    """How many rows a plan's source offers, counted up to `most`."""
    access = _access(plan)
    if plan.by_match:
        sql, params = f"SELECT 1 FROM tagindex WHERE {access.sql} LIMIT :most", access.params
    else:
        where = plan.where
        sql = f"SELECT 1 FROM {_from(plan)} WHERE customer = :customer AND {where.sql} LIMIT :most"
        params = {**where.params, "customer": customer}
    counted = f"SELECT count(*) FROM ({sql}) AS offered"
    rows = await db.scan(counted, {**params, "most": most}, seconds=seconds)
    found: int = rows[0][0]
    return found


async def probe(
    db: Database, where: Where, tested: Where, *, customer: str, rows: int, seconds: float
) -> int:
    """How many of the newest objects that pass a test pass another besides."""
    found = await db.scan(
        f"""
        SELECT count(*) FROM (
            SELECT * FROM objects WHERE customer = :customer AND {where.sql}
            ORDER BY created_ms DESC, id DESC LIMIT :rows
        ) AS newest WHERE {tested.sql}
        """,
        {**all_of(where, tested).params, "customer": customer, "rows": rows},
        seconds=seconds,
    )
    passed: int = found[0][0]
    return passed


async def steps(db: Database, plan: Plan, *, customer: str, seconds: float) -> list[str]:
    """How the engine goes about the first page, in its own words."""
    word = {"sqlite": "EXPLAIN QUERY PLAN", "postgresql": "EXPLAIN (COSTS OFF)"}[db.engine]
    part = next(_parts(plan, None, _INNER[plan.table]))
    params = {**part.params, "customer": customer, "limit": 1}
    rows = await db.scan(f"{word} {_whole(plan, part)}", params, seconds=seconds)
    return [str(row[-1]) for row in rows]


# ---- rows in the order of time, from SQLite's tag index -------------------------------------


async def _by_row(
    db: Database, plan: Plan, after: Key | None, *, customer: str, limit: int, seconds: float
) -> list[Row] | None:
    """A page by row numbers, put into order by id where rows share a millisecond.

    None where too many share one.
    """
    descending = plan.order.descending

    async def rows(access: Where, most: int) -> list[Row]:
        part = _part(plan, all_of(plan.order.after(after), access), _row_order(plan))
        return await _rows(db, plan, part, customer=customer, limit=most, seconds=seconds)

    found = await rows(_access(plan, after), limit + 1)
    if len(found) > limit and found[-1][2] == found[-2][2]:
        last = found[-1][4]
        first_row, last_row = _rows_of(last >> MOMENT_BITS)
        beside = (first_row, last - 1) if descending else (last + 1, last_row)
        ties = await rows(_between(plan, *beside), _MOST_TIES)
        if len(ties) == _MOST_TIES:
            return None
        found += ties
    found.sort(key=lambda row: (row[2], row[1]), reverse=descending)
    return found[:limit]


async def _seek_row(
    db: Database, plan: Plan, *, customer: str, skip: int, seconds: float
) -> tuple[Key, int] | None:
    """As `seek`: to the millisecond by row numbers, and from its beginning by id."""
    descending, access = plan.order.descending, _access(plan)
    order = f"ORDER BY {_row_order(plan)} LIMIT 1 OFFSET :skip"
    if plan.exact:
        sql = f"SELECT rowid FROM tagindex WHERE {access.sql} {order}"
        where = access
    else:
        where = all_of(plan.where, access)
        sql = f"""
            SELECT tagindex.rowid FROM {_from(plan)}
            WHERE customer = :customer AND {where.sql} {order}
        """
    params = {**where.params, "customer": customer, "skip": skip}
    rows = await db.scan(sql, params, seconds=seconds)
    if not rows:
        return None
    moment = rows[0][0] >> MOMENT_BITS
    first_row, last_row = _rows_of(moment)
    least, most = access.params["first_row"], access.params["last_row"]
    passed = (last_row + 1, most) if descending else (least, first_row - 1)
    before = await _count(db, plan, _between(plan, *passed), customer=customer, seconds=seconds)
    return Key(moment + 1 if descending else moment, ""), skip - before


async def _count(db: Database, plan: Plan, access: Where, *, customer: str, seconds: float) -> int:
    if plan.exact:
        rows = await db.scan(
            f"SELECT count(*) FROM tagindex WHERE {access.sql}", access.params, seconds=seconds
        )
    else:
        where = all_of(plan.where, access)
        rows = await db.scan(
            f"SELECT count(*) FROM {_from(plan)} WHERE customer = :customer AND {where.sql}",
            {**where.params, "customer": customer},
            seconds=seconds,
        )
    found: int = rows[0][0]
    return found


def _access(plan: Plan, after: Key | None = None) -> Where:
    """The condition of a plan's source: what SQLite's tag index is asked for, if it is asked."""
    return _range(plan, after) if plan.by_match else Where()


def _range(plan: Plan, after: Key | None = None) -> Where:
    """What SQLite's tag index is to be asked for."""
    first, last = plan.moments
    first_row = _rows_of(-_LATEST if first is None else first)[0]
    last_row = _rows_of(_LATEST if last is None else last)[1]
    if after is not None and plan.by_row:
        assert isinstance(after.value, int)
        begin, end = _rows_of(after.value)
        if plan.order.descending:
            last_row = min(last_row, end)
        else:
            first_row = max(first_row, begin)
    return _between(plan, first_row, last_row)


def _between(plan: Plan, first_row: int, last_row: int) -> Where:
    return Where(
        "tagindex MATCH :match AND tagindex.rowid BETWEEN :first_row AND :last_row",
        {"match": plan.match, "first_row": first_row, "last_row": last_row},
    )


def _row_order(plan: Plan) -> str:
    return f"tagindex.rowid {'DESC' if plan.order.descending else 'ASC'}"


def _rows_of(moment_ms: int) -> tuple[int, int]:
    """The first and last row number of a millisecond."""
    moment = max(-_LATEST, min(moment_ms, _LATEST))
    return moment << MOMENT_BITS, (moment + 1 << MOMENT_BITS) - 1


# ---- statements -----------------------------------------------------------------------------


def _from(plan: Plan) -> str:
    """What follows FROM."""
    if plan.by_match:
        return "tagindex CROSS JOIN objects ON objects.seq = tagindex.rowid"
    if plan.source is Source.TERMS:  # the fence keeps PostgreSQL from walking an order instead
        fenced = f"SELECT * FROM objects WHERE customer = :customer AND {plan.where.sql} OFFSET 0"
        return f"({fenced}) AS objects"
    if plan.order.engine == "sqlite" and plan.source is Source.TIME:
        return "objects INDEXED BY objects_by_time"
    if plan.order.engine == "sqlite" and plan.source is Source.NUMBER:
        return f"objects INDEXED BY {NUMBER_INDEXES[plan.number]}"
    return plan.table


@dataclass(frozen=True, slots=True)
class _Part:
    """A SELECT without its ORDER BY; with `:customer` still to be given."""

    sql: str
    order: str
    params: Params


def _parts(plan: Plan, after: Key | None, columns: str) -> Iterator[_Part]:
    """What to read, one after the other."""
    order, access = plan.order, _access(plan)
    if plan.by_row:
        yield _part(plan, all_of(order.after(after), _access(plan, after)), _row_order(plan))
    elif isinstance(order.selector, Field):
        yield _part(plan, all_of(order.after(after), access), order.clause(), columns)
    elif plan.zoned:
        for zone, by in order.zones(after):
            yield _part(plan, zone, by, columns)
    else:
        where, beyond = all_of(plan.where, access), order.after(after)
        rows = order.valued(columns, f"{_from(plan)} WHERE customer = :customer AND {where.sql}")
        sql = f"SELECT {columns}, sort_value, sort_text FROM {rows.sql} WHERE {beyond.sql}"
        yield _Part(sql, order.clause(), all_of(where, rows, beyond).params)


def _part(plan: Plan, access: Where, order: str, columns: str = _INNER["objects"]) -> _Part:
    values, where = plan.order.values(), all_of(plan.where, access)
    sql = f"""
        SELECT {columns}, {values.sql} FROM {_from(plan)}
        WHERE customer = :customer AND {where.sql}
    """
    return _Part(sql, order, {**where.params, **values.params})


def _whole(plan: Plan, part: _Part) -> str:
    """Which rows come first, and then what there is to say of those."""
    return f"""
        WITH found AS MATERIALIZED ({part.sql} ORDER BY {part.order} LIMIT :limit)
        SELECT {_OUTER[plan.table]} FROM found
    """


async def _rows(
    db: Database, plan: Plan, part: _Part, *, customer: str, limit: int, seconds: float
) -> list[Row]:
    sql, params = _whole(plan, part), {**part.params, "customer": customer, "limit": limit}
    if plan.brief:
        return await db.all(sql, params)
    return await db.scan(sql, params, seconds=seconds)


def _key(plan: Plan, row_id: str, value: str | float | None, text: str | None) -> Key:
    if isinstance(plan.order.selector, Tag):
        value = text if value is None else value
    return Key(value, row_id)
