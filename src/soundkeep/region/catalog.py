"""Find objects and buckets. Contract §2."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass

from soundkeep.foundation.claims import Claims
from soundkeep.foundation.errors import BadFilter, BadInput, NotFound, TooSlow
from soundkeep.region import fiql, ledger, pages, planning, store, walks
from soundkeep.region.fiql import Field, Kind, Node, Operator, Pattern, Tag, Term
from soundkeep.region.ledger import Usage
from soundkeep.region.model import NOTHING, StoredObject
from soundkeep.region.pages import Plan
from soundkeep.region.plane import Region, must_live_here
from soundkeep.region.planning import Choice, Explanation, Query
from soundkeep.region.walks import Place, Total
from soundkeep.region.wire import bucket_document

FIELDS = {
    "id": Field("id"),
    "type": Field("type"),
    "mimeType": Field("mime_type"),
    "objectName": Field("name"),
    "name": Field("name"),
    "checksum": Field("checksum"),
    "customerId": Field("customer"),
    "userId": Field("user_id"),
    "storedBytes": Field("size", Kind.NUMBER),
    "size": Field("size", Kind.NUMBER),
    "createdTime": Field("created_ms", Kind.TIME),
    "updatedTime": Field("updated_ms", Kind.TIME),
    "objectState": Field("state"),
    "bucketId": Field("bucket_id"),
    "shared": Field("shared", Kind.FLAG),
}
"""Content fields by the names that filters and `sortField` use."""

BUCKET_FIELDS = {
    "id": Field("id"),
    "bucketId": Field("id"),
    "customerId": Field("customer"),
    "userId": Field("user_id"),
    "name": Field("name"),
    "createdTime": Field("created_ms", Kind.TIME),
    "updatedTime": Field("updated_ms", Kind.TIME),
}
"""The same of buckets."""

DEFAULT_SORT = "createdTime"
DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
_LOAD_SIZE = 1000
_WALK_SIZE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What a client looks for; `offset` counts records, 0 first."""

    filter: str = ""
    offset: int = 0
    limit: int = DEFAULT_LIMIT
    sort: str = DEFAULT_SORT
    descending: bool = True
    explain: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """Objects or buckets as JSON texts; `last` is true exactly when nothing follows."""

    documents: Sequence[str]
    last: bool
    total: Total
    explanation: Explanation | None = None


async def search(region: Region, claims: Claims, wanted: Search) -> Page:
    """The caller's objects that match; only AVAILABLE ones unless the filter names the state."""
    must_live_here(region, claims)
    query = _query(claims, wanted, FIELDS)
    deadline = _Deadline(region.limits.search_seconds)
    try:
        choice = await planning.choose(region.db, query, seconds=deadline.left())
        return await _page(region, claims, wanted, choice, deadline)
    except TooSlow:
        raise _too_slow(region, wanted, query.tree) from None


async def buckets(region: Region, claims: Claims, wanted: Search) -> Page:
    """The customer's buckets that match and hold an object within the caller's scope."""
    must_live_here(region, claims)
    query = _query(claims, wanted, BUCKET_FIELDS)
    choice = Choice(planning.buckets(region.db.engine, query))
    try:
        return await _page(region, claims, wanted, choice, _Deadline(region.limits.search_seconds))
    except TooSlow:
        raise _too_slow(region, wanted, query.tree) from None


async def bucket(region: Region, claims: Claims, bucket_id: str) -> str:
    """A bucket's JSON with its AVAILABLE objects within scope, oldest first, 1000 at most."""
    must_live_here(region, claims)
    found = await store.bucket_by_id(
        region.db, bucket_id, customer=claims.customer, reach=claims.reach
    )
    if found is None:
        raise NotFound(NOTHING)
    inside = Term(FIELDS["bucketId"], Operator.EQ, (Pattern((bucket_id,)),))
    query = Query(
        customer=claims.customer,
        reach=claims.reach,
        tree=inside,
        sort=FIELDS[DEFAULT_SORT],
        descending=False,
    )
    seconds = region.limits.search_seconds
    choice = await planning.choose(region.db, query, seconds=seconds)
    objects = await pages.page(
        region.db,
        choice.plan,
        customer=claims.customer,
        after=None,
        limit=MAX_LIMIT,
        seconds=seconds,
    )
    return bucket_document(found, objects.documents(0, MAX_LIMIT))


async def ids(region: Region, claims: Claims, text: str) -> AsyncGenerator[list[str], None]:
    """The ids of all objects that match a filter, oldest first, some at a time.

    BadFilter and TooSlow before the first of them, where they come at once.
    """
    must_live_here(region, claims)
    query = _query(claims, Search(filter=text, descending=False), FIELDS)
    seconds = region.limits.search_seconds
    choice = await planning.choose(region.db, query, seconds=seconds)

    async def walk() -> AsyncGenerator[list[str], None]:
        after = None
        while True:
            found = await pages.page(
                region.db,
                choice.plan,
                customer=claims.customer,
                after=after,
                limit=_WALK_SIZE,
                seconds=seconds,
            )
            if found.rows:
                yield [row[1] for row in found.rows]
            if len(found.rows) < _WALK_SIZE:
                return
            after = found.key(-1)

    return walk()


class _Deadline:
    """A search's time, which runs from its arrival."""

    def __init__(self, seconds: float) -> None:
        self._began = time.monotonic()
        self._until = self._began + seconds

    def passed_ms(self) -> float:
        """Milliseconds since its arrival."""
        return round((time.monotonic() - self._began) * 1000, 3)

    def left(self) -> float:
        """Seconds; TooSlow when they are used up."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise TooSlow("The search took too long.")
        return left


def _query(claims: Claims, wanted: Search, fields: Mapping[str, Field]) -> Query:
    return Query(
        customer=claims.customer,
        reach=claims.reach,
        tree=fiql.parse(wanted.filter, fields),
        sort=_sort_field(wanted.sort, fields),
        descending=wanted.descending,
    )


async def _page(
    region: Region, claims: Claims, wanted: Search, choice: Choice, deadline: _Deadline
) -> Page:
    """A page, from where the walk that it belongs to has come."""
    plan, customer = choice.plan, claims.customer
    search = walks.name(
        plan.table,
        customer,
        claims.reach.company,
        sorted(claims.reach.sites),
        sorted(claims.reach.users),
        wanted.filter,
    )
    walk = walks.name(search, claims.client, wanted.sort, wanted.descending)
    now_ms = region.clock()
    place = None
    if wanted.offset:
        place = await region.walks.find(
            walk, offset=wanted.offset, token=claims.token_id, now_ms=now_ms
        )
    after, dropped = None, 0
    if place is not None:
        after, dropped = place.key, wanted.offset - place.offset
    elif wanted.offset:
        start = await pages.seek(
            region.db, plan, customer=customer, skip=wanted.offset, seconds=deadline.left()
        )
        if start is None:
            return Page([], True, await _total(region, customer, search, plan, 0, deadline))
        after, dropped = start
    found = await pages.page(
        region.db,
        plan,
        customer=customer,
        after=after,
        limit=dropped + wanted.limit + 1,
        seconds=deadline.left(),
    )
    read, end = len(found.rows), dropped + wanted.limit
    shown, last = found.documents(dropped, end), read <= end
    proven = wanted.offset - dropped + read
    if last:
        total = Total(proven, exact=True)
    elif place is not None:
        total = place.total if place.total.rows >= proven else Total(proven, exact=False)
    else:
        total = await _total(region, customer, search, plan, proven, deadline)
    places = []
    if shown and dropped:
        places.append(Place(wanted.offset, found.key(dropped - 1), total))
    elif shown and after is not None and place is None:
        places.append(Place(wanted.offset, after, total))
    if not last:
        places.append(Place(wanted.offset + wanted.limit, found.key(end - 1), total))
    await region.walks.keep(walk, places, token=claims.token_id, now_ms=now_ms)
    explanation = None
    if wanted.explain:
        explanation = await planning.explain(
            region.db,
            choice,
            customer=customer,
            rows=total.rows,
            milliseconds=deadline.passed_ms(),
            seconds=deadline.left(),
        )
    return Page(shown, last, total, explanation)


async def _total(
    region: Region, customer: str, search: str, plan: Plan, proven: int, deadline: _Deadline
) -> Total:
    """How many rows a search has; what is `proven` by now where counting takes too long."""

    async def counted() -> Total:
        try:
            seconds = min(deadline.left(), region.limits.count_seconds)
            return Total(
                await pages.count(region.db, plan, customer=customer, seconds=seconds), exact=True
            )
        except TooSlow:
            return Total(0, exact=False)

    total = await region.walks.total(region.db, search, counted)
    return total if total.exact else Total(max(total.rows, proven), exact=False)


def _too_slow(region: Region, wanted: Search, tree: Node) -> TooSlow:
    """What to say of a search that was stopped: which comparison no index helps with."""
    suspects = [term for term in fiql.terms(tree) if isinstance(term.selector, Tag)]
    suspects.sort(key=lambda term: term.texts is not None)  # an index helps with whole texts
    slow = f"sortField={wanted.sort}"
    if suspects:
        slow = wanted.filter[suspects[0].at : suspects[0].end]
    seconds = region.limits.search_seconds
    return TooSlow(
        f"The search took longer than {seconds:g} s and was stopped: narrow it by createdTime, "
        f"or do without {slow[:64]!r}.",
        field="filter",
    )


def _sort_field(name: str, fields: Mapping[str, Field]) -> Field | Tag:
    try:
        return fiql.selector(name, fields)
    except BadFilter:
        raise BadInput(f"{name[:64]!r} is no field or tag to sort by.", field="sortField") from None


async def one(region: Region, claims: Claims, object_id: str) -> str:
    """An object's JSON; NotFound for unknown, foreign and out-of-scope ids alike."""
    must_live_here(region, claims)
    found = await store.document_by_id(
        region.db, object_id, customer=claims.customer, reach=claims.reach
    )
    if found is None:
        raise NotFound(NOTHING)
    return found


async def load(region: Region, objects: Iterable[StoredObject]) -> int:
    """Add rows whose bytes are in place already, a thousand at a time; how many there were."""
    remaining, total = iter(objects), 0
    while batch := list(itertools.islice(remaining, _LOAD_SIZE)):
        async with region.db.transaction() as tx:
            await ledger.hold_blobs(tx, batch)
            await store.add_objects(tx, batch)
            for customer in sorted({each.customer for each in batch}):
                sizes = [each.digests.size for each in batch if each.customer == customer]
                await ledger.add_usage(tx, Usage(len(sizes), sum(sizes)), customer=customer)
        total += len(batch)
    return total
