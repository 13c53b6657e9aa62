"""SQL of one region: facts in, frozen rows out. Every statement is held to its customer and reach.

`Reader` is a database or an open transaction; what changes something takes the transaction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Protocol

import msgspec

from soundkeep.foundation.claims import Reach
from soundkeep.foundation.database import Connection, Database, Params, Row
from soundkeep.foundation.sql import Where, all_of, any_of, one_of
from soundkeep.region.fiql import number
from soundkeep.region.model import REVOCABLE, Bucket, Digests, Readable, State, StoredObject
from soundkeep.region.selection import NUMERIC_TAGS
from soundkeep.region.tagindex import MOMENT_BITS
from soundkeep.region.wire import document, moved

_COLUMNS = (
    "customer, id, type, mime_type, name, checksum, user_id, site, size, created_ms, updated_ms, "
    "state, bucket_id, shared, duration_number, start_number, end_number, blob, sha256, crc32, tags"
)
_VALUES = ", ".join(f":{name}" for name in _COLUMNS.removesuffix(", tags").split(", "))
_INSERT = {
    "sqlite": f"""
        INSERT INTO objects ({_COLUMNS}, seq) VALUES ({_VALUES}, jsonb(:tags), (
            SELECT coalesce(max(seq) + 1, :created_ms << {MOMENT_BITS}) FROM objects
            WHERE seq >= :created_ms << {MOMENT_BITS} AND seq < :created_ms + 1 << {MOMENT_BITS}
        ))
    """,
    "postgresql": f"INSERT INTO objects ({_COLUMNS}) VALUES ({_VALUES}, :tags)",
}
BY_ID = {"sqlite": "objects INDEXED BY sqlite_autoindex_objects_1", "postgresql": "objects"}
"""Objects, looked for by several ids: SQLite alone would read all of the customer's."""

_EVERYTHING = Reach(company=True)
_THERE = frozenset(State) - {State.DELETED}
_REVOCABLE = one_of("state", "state", REVOCABLE)
_READABLE = "id, name, mime_type, state, size, sha256, blob, updated_ms"


class Reader(Protocol):
    """What rows are read from."""

    engine: str

    async def one(self, sql: str, params: Params = ...) -> Row | None:
        """The first row, or None."""

    async def all(self, sql: str, params: Params = ...) -> list[Row]:
        """Every row."""


def within(reach: Reach) -> Where:  # every customer: a condition, not a statement
    """The condition that an object lies within reach (contract §3)."""
    if reach.company:
        return Where()
    return any_of(
        one_of("site", "site", reach.sites - {""}), one_of("user_id", "member", reach.users)
    )


# ---- objects --------------------------------------------------------------------------------


async def document_by_id(
    db: Reader, object_id: str, *, customer: str, reach: Reach = _EVERYTHING
) -> str | None:
    """An object's JSON; None when it is unknown, another customer's, or out of reach."""
    scope = within(reach)
    row = await db.one(
        f"""
        SELECT doc FROM objects JOIN documents ON documents.seq = objects.seq
        WHERE id = :id AND customer = :customer AND {scope.sql}
        """,
        {"id": object_id, "customer": customer, **scope.params},
    )
    return None if row is None else row[0]


async def readable_by_id(
    db: Reader, object_id: str, *, customer: str, reach: Reach = _EVERYTHING
) -> Readable | None:
    """What it takes to send an object's bytes; None as for `document_by_id`."""
    scope = within(reach)
    row = await db.one(
        f"""
        SELECT {_READABLE} FROM objects
        WHERE id = :id AND customer = :customer AND {scope.sql}
        """,
        {"id": object_id, "customer": customer, **scope.params},
    )
    return None if row is None else _readable(row)


# ---- buckets --------------------------------------------------------------------------------

BUCKET = "customer, id, user_id, name, created_ms, updated_ms, tags"
"""A bucket's columns, for `bucket_of`."""


def bucket_within(reach: Reach) -> Where:  # every customer: a condition, not a statement
    """The condition that a bucket holds an object within reach."""
    if reach.company:
        return Where()
    scope = within(reach)
    sql = f"""
        EXISTS (
            SELECT 1 FROM objects
            WHERE objects.customer = buckets.customer AND objects.bucket_id = buckets.id
              AND {scope.sql}
        )
    """
    return Where(sql, scope.params)


async def bucket_by_id(db: Reader, bucket_id: str, *, customer: str, reach: Reach) -> Bucket | None:
    """A bucket; None when it is unknown, another customer's, or holds nothing within reach."""
    scope = bucket_within(reach)
    row = await db.one(
        f"SELECT {BUCKET} FROM buckets WHERE id = :id AND customer = :customer AND {scope.sql}",
        {"id": bucket_id, "customer": customer, **scope.params},
    )
    return None if row is None else bucket_of(row)


def bucket_of(row: Row) -> Bucket:  # every customer: a row that was found already
    """The bucket of a row of `BUCKET`."""
    customer, bucket_id, user_id, name, created_ms, updated_ms, tags = row
    kept = msgspec.json.decode(tags, type=dict[str, str])
    return Bucket(customer, bucket_id, user_id, name, created_ms, updated_ms, kept)


# ---- what changes ---------------------------------------------------------------------------


async def add_objects(
    tx: Connection, objects: Sequence[StoredObject]
) -> None:  # every customer: each row names its own
    """New objects; the buckets they name come into being where there are none."""
    buckets = {(each.customer, each.bucket_id): each for each in objects}
    await tx.many(
        """
        INSERT INTO buckets (customer, id, user_id, name, created_ms, updated_ms, tags)
        VALUES (:customer, :id, :user_id, :id, :created_ms, :created_ms, '{}')
        ON CONFLICT (customer, id) DO NOTHING
        """,
        [
            {
                "customer": customer,
                "id": bucket_id,
                "user_id": each.user_id,
                "created_ms": each.created_ms,
            }
            for (customer, bucket_id), each in sorted(buckets.items())
        ],
    )
    rows = [_row(each) for each in sorted(objects, key=lambda each: each.created_ms)]
    await tx.many(_INSERT[tx.engine], rows)
    await tx.many(
        """
        INSERT INTO documents (seq, doc)
        SELECT seq, :doc FROM objects WHERE id = :id AND customer = :customer
        """,
        [{"doc": document(each), "id": each.id, "customer": each.customer} for each in objects],
    )


async def delete_objects(
    tx: Connection,
    ids: Sequence[str],
    *,
    customer: str,
    reach: Reach,
    at_ms: int,
    states: Collection[State] = _THERE,
) -> list[Readable]:
    """Put objects into state DELETED: those that were in one of these, as they were."""
    found = await _locked(tx, ids, customer=customer, reach=reach, states=states)
    gone = [each.id for each in found]
    await _move(tx, gone, State.DELETED, customer=customer, at_ms=at_ms)
    wanted = one_of("object_id", "object", gone)
    await tx.run(
        f"DELETE FROM revocations WHERE {wanted.sql} AND customer = :customer",
        {**wanted.params, "customer": customer},
    )
    return found


async def revocable(db: Reader, ids: Sequence[str], *, customer: str, reach: Reach) -> list[str]:
    """Those of the objects that `revoke_objects` would put into state REVOKED."""
    scope, wanted = within(reach), one_of("id", "id", ids)
    rows = await db.all(
        f"""
        SELECT id FROM {BY_ID[db.engine]}
        WHERE {wanted.sql} AND customer = :customer AND {scope.sql} AND {_REVOCABLE.sql}
        """,
        {**scope.params, **wanted.params, **_REVOCABLE.params, "customer": customer},
    )
    return [row[0] for row in rows]


async def revoke_objects(
    tx: Connection,
    ids: Sequence[str],
    *,
    customer: str,
    reach: Reach,
    at_ms: int,
    until_ms: int,
) -> list[Readable]:
    """Put objects into state REVOKED, to be taken back until then: those that were, as they were.

    Those that nobody deleted yet, that is.
    """
    found = await _locked(tx, ids, customer=customer, reach=reach, states=REVOCABLE)
    await tx.many(
        """
        INSERT INTO revocations (object_id, customer, state, until_ms)
        VALUES (:object_id, :customer, :state, :until_ms)
        """,
        [
            {
                "object_id": each.id,
                "customer": customer,
                "state": each.state,
                "until_ms": until_ms,
            }
            for each in found
        ],
    )
    ids = [each.id for each in found]
    await _move(tx, ids, State.REVOKED, customer=customer, at_ms=at_ms)
    return found


async def reinstate_objects(
    tx: Connection, ids: Sequence[str], *, customer: str, reach: Reach, at_ms: int
) -> list[tuple[Readable, State]]:
    """Put REVOKED objects back into the state that they were in: as they were, and that state.

    Those whose time to be taken back is not over.
    """
    found = await _locked(tx, ids, customer=customer, reach=reach, states={State.REVOKED})
    wanted = one_of("object_id", "object", [each.id for each in found])
    rows = await tx.all(
        f"""
        DELETE FROM revocations
        WHERE {wanted.sql} AND customer = :customer AND until_ms > :at_ms
        RETURNING object_id, state
        """,
        {**wanted.params, "customer": customer, "at_ms": at_ms},
    )
    before = {row[0]: State(row[1]) for row in rows}
    for state in sorted(set(before.values())):
        back = [each for each in before if before[each] is state]
        await _move(tx, back, state, customer=customer, at_ms=at_ms)
    return [(each, before[each.id]) for each in found if each.id in before]


async def revoked_before(
    db: Database, *, at_ms: int, limit: int
) -> dict[str, list[str]]:  # every customer: a sweep by age
    """Ids of objects whose time to be taken back is over, by customer."""
    rows = await db.scan(
        """
        SELECT customer, object_id FROM revocations WHERE until_ms <= :at_ms
        ORDER BY until_ms, object_id LIMIT :limit
        """,
        {"at_ms": at_ms, "limit": limit},
    )
    found: dict[str, list[str]] = defaultdict(list)
    for customer, object_id in rows:
        found[customer].append(object_id)
    return found


async def _locked(
    tx: Connection,
    ids: Sequence[str],
    *,
    customer: str,
    reach: Reach,
    states: Collection[State],
) -> list[Readable]:
    """Objects within reach in one of these states; nobody else moves them meanwhile."""
    conditions = all_of(within(reach), one_of("id", "id", ids), one_of("state", "state", states))
    lock = "FOR UPDATE" if tx.engine == "postgresql" else ""
    rows = await tx.all(
        f"""
        SELECT {_READABLE} FROM {BY_ID[tx.engine]}
        WHERE customer = :customer AND {conditions.sql} ORDER BY id {lock}
        """,
        {**conditions.params, "customer": customer},
    )
    return [_readable(row) for row in rows]


async def ids_of_blob(
    db: Database, blob: str, *, customer: str, states: Collection[State]
) -> list[str]:
    """The objects in these states that hold a blob: all of the customer's rows are looked at."""
    within_states = one_of("state", "state", states)
    rows = await db.scan(
        f"""
        SELECT id FROM objects WHERE customer = :customer AND {within_states.sql} AND blob = :blob
        """,
        {**within_states.params, "customer": customer, "blob": blob},
    )
    return [row[0] for row in rows]


async def move_objects(
    tx: Connection, ids: Sequence[str], before: State, after: State, *, customer: str, at_ms: int
) -> tuple[list[Readable], list[str]]:
    """Put objects from one state into another: those that were in it, as they were.

    And the ids of those that were deleted in it: when they are taken back, they are in the other.
    """
    found = await _locked(
        tx, ids, customer=customer, reach=_EVERYTHING, states={before, State.REVOKED}
    )
    there = [each for each in found if each.state is before]
    await _move(tx, [each.id for each in there], after, customer=customer, at_ms=at_ms)
    deleted = [each.id for each in found if each.state is State.REVOKED]
    wanted = one_of("object_id", "object", deleted)
    rows = await tx.all(
        f"""
        UPDATE revocations SET state = :after
        WHERE {wanted.sql} AND customer = :customer AND state = :before
        RETURNING object_id
        """,
        {**wanted.params, "customer": customer, "before": before, "after": after},
    )
    return there, [row[0] for row in rows]


async def _move(
    tx: Connection, ids: Sequence[str], state: State, *, customer: str, at_ms: int
) -> None:
    """Put objects into a state, in their rows and in their JSON."""
    wanted = one_of("id", "id", ids)
    params = {**wanted.params, "customer": customer}
    await tx.run(
        f"""
        UPDATE {BY_ID[tx.engine]} SET state = :state, updated_ms = :at_ms
        WHERE {wanted.sql} AND customer = :customer
        """,
        {**params, "state": state, "at_ms": at_ms},
    )
    rows = await tx.all(
        f"""
        SELECT documents.seq, doc FROM {BY_ID[tx.engine]}
        JOIN documents ON documents.seq = objects.seq
        WHERE {wanted.sql} AND customer = :customer
        """,
        params,
    )
    await tx.many(
        "UPDATE documents SET doc = :doc WHERE seq = :seq",
        [{"seq": seq, "doc": moved(doc, state, at_ms)} for seq, doc in rows],
    )


async def blobs_after(
    db: Database, seq: int, *, limit: int
) -> list[tuple[int, str, str, int]]:  # every customer: the operator's check of the whole store
    """(seq, id, blob, size) of the next objects whose bytes should be there."""
    rows = await db.scan(
        """
        SELECT seq, id, blob, size FROM objects
        WHERE seq > :seq AND state IN ('AVAILABLE', 'REVOKED') ORDER BY seq LIMIT :limit
        """,
        {"seq": seq, "limit": limit},
    )
    return [(row[0], row[1], row[2], row[3]) for row in rows]


def _readable(row: Row) -> Readable:
    found, name, mime_type, state, size, sha256, blob, updated_ms = row
    return Readable(found, name, mime_type, State(state), size, sha256, blob, updated_ms)


def _row(stored: StoredObject) -> Params:
    digests: Digests = stored.digests
    return {
        "customer": stored.customer,
        "id": stored.id,
        "type": stored.type,
        "mime_type": stored.mime_type,
        "name": stored.name,
        "checksum": digests.md5,
        "user_id": stored.user_id,
        "site": stored.site,
        "size": digests.size,
        "created_ms": stored.created_ms,
        "updated_ms": stored.updated_ms,
        "state": stored.state,
        "bucket_id": stored.bucket_id,
        "shared": int(stored.shared),
        "tags": msgspec.json.encode(stored.tags).decode(),
        **{column: number(stored.tags.get(key, "")) for key, column in NUMERIC_TAGS.items()},
        "blob": stored.blob,
        "sha256": digests.sha256,
        "crc32": digests.crc32,
    }
