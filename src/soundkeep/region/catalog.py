"""Find objects and buckets. Contract §2."""

from __future__ import annotations

import itertools
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from soundkeep.foundation.claims import Claims
from soundkeep.foundation.errors import BadFilter, BadInput, NotFound, TooSlow
from soundkeep.foundation.sql import Where, all_of
from soundkeep.region import fiql, selection, store
from soundkeep.region.fiql import Field, Kind, Node, Tag
from soundkeep.region.model import NOTHING, State, StoredObject
from soundkeep.region.plane import Region, must_live_here
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
_STATE = FIELDS["objectState"]
_AVAILABLE = Where("state = :available", {"available": State.AVAILABLE})


@dataclass(frozen=True, slots=True)
class _Things:
    """What can be searched: a page of it, and its number, from the store."""

    page: Callable[..., Awaitable[list[str]]]
    count: Callable[..., Awaitable[int]]


_OBJECTS = _Things(store.page_of_documents, store.count)
_BUCKETS = _Things(store.page_of_buckets, store.count_buckets)


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What a client looks for; `offset` counts records, 0 first."""

    filter: str = ""
    offset: int = 0
    limit: int = DEFAULT_LIMIT
    sort: str = DEFAULT_SORT
    descending: bool = True


@dataclass(frozen=True, slots=True)
class Page:
    """Objects or buckets as JSON texts; `last` is true exactly when nothing follows."""

    documents: Sequence[str]
    last: bool
    total: int


async def search(region: Region, claims: Claims, wanted: Search) -> Page:
    """The caller's objects that match; only AVAILABLE ones unless the filter names the state."""
    must_live_here(region, claims)
    engine = region.db.engine
    tree = fiql.parse(wanted.filter, FIELDS)
    conditions = [store.within(claims.reach), selection.condition(tree, engine)]
    if all(term.selector != _STATE for term in fiql.terms(tree)):
        conditions.append(_AVAILABLE)
    where = all_of(*conditions)
    order = selection.order(_sort_field(wanted.sort, FIELDS), engine, descending=wanted.descending)
    return await _page(region, claims.customer, wanted, tree, where, order, _OBJECTS)


async def buckets(region: Region, claims: Claims, wanted: Search) -> Page:
    """The customer's buckets that match and hold an object within the caller's scope."""
    must_live_here(region, claims)
    engine = region.db.engine
    tree = fiql.parse(wanted.filter, BUCKET_FIELDS)
    condition = selection.condition(tree, engine, numbers={})
    where = all_of(store.bucket_within(claims.reach), condition)
    field = _sort_field(wanted.sort, BUCKET_FIELDS)
    order = selection.order(field, engine, descending=wanted.descending, numbers={})
    return await _page(region, claims.customer, wanted, tree, where, order, _BUCKETS)


async def bucket(region: Region, claims: Claims, bucket_id: str) -> str:
    """A bucket's JSON with its AVAILABLE objects within scope, oldest first, 1000 at most."""
    must_live_here(region, claims)
    found = await store.bucket_by_id(
        region.db, bucket_id, customer=claims.customer, reach=claims.reach
    )
    if found is None:
        raise NotFound(NOTHING)
    inside = Where("bucket_id = :bucket_id", {"bucket_id": bucket_id})
    order = selection.order(FIELDS[DEFAULT_SORT], region.db.engine, descending=False)
    documents = await store.page_of_documents(
        region.db,
        customer=claims.customer,
        where=all_of(store.within(claims.reach), _AVAILABLE, inside),
        order=order,
        offset=0,
        limit=MAX_LIMIT,
        seconds=region.search_seconds,
    )
    return bucket_document(found, documents)


async def _page(
    region: Region,
    customer: str,
    wanted: Search,
    tree: Node,
    where: Where,
    order: Where,
    things: _Things,
) -> Page:
    until = time.monotonic() + region.search_seconds
    try:
        documents = await things.page(
            region.db,
            customer=customer,
            where=where,
            order=order,
            offset=wanted.offset,
            limit=wanted.limit + 1,
            seconds=region.search_seconds,
        )
        page = documents[: wanted.limit]
        last = len(documents) <= wanted.limit
        if last and documents:
            return Page(page, last, wanted.offset + len(page))
        left = until - time.monotonic()
        total = await things.count(region.db, customer=customer, where=where, seconds=left)
        return Page(page, last, total)
    except TooSlow:
        raise _too_slow(region, wanted, tree) from None


def _too_slow(region: Region, wanted: Search, tree: Node) -> TooSlow:
    """What to say of a search that was stopped: which comparison no index helps with."""
    suspects = [term for term in fiql.terms(tree) if isinstance(term.selector, Tag)]
    slow = f"sortField={wanted.sort}"
    if suspects:
        slow = wanted.filter[suspects[0].at : suspects[0].end]
    return TooSlow(
        f"The search took longer than {region.search_seconds:g} s and was stopped: narrow it by "
        f"createdTime, or do without {slow[:64]!r}.",
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
            await store.add_objects(tx, batch)
        total += len(batch)
    return total
