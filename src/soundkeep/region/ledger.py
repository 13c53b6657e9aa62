"""SQL of what is held: who holds which bytes, how much that is, and which uploads are repeats."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from soundkeep.foundation.database import Connection, Database, Row
from soundkeep.foundation.sql import all_of, one_of
from soundkeep.region.model import Arrival, Digests, StoredObject

_BY_KEY = {"sqlite": "blobs INDEXED BY sqlite_autoindex_blobs_1", "postgresql": "blobs"}
"""Blobs, looked for by several keys: SQLite alone would read all of the customer's."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a customer's objects amount to, whether or not they share bytes."""

    objects: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Blob:
    """The bytes that objects hold.

    `rotten` where they were lost or changed when they were read last, and objects wait for them.
    """

    key: str
    customer: str
    sha256: str
    size: int
    refs: int
    rotten: bool


# ---- blobs ----------------------------------------------------------------------------------


async def share_blobs(
    tx: Connection, objects: Sequence[StoredObject]
) -> dict[str, str]:  # every customer: each row names its own
    """Let each object hold the blob of its bytes: object id to the key, its own or an older one."""
    ordered = sorted(objects, key=lambda each: (each.customer, each.digests.sha256, each.id))
    await tx.many(
        """
        INSERT INTO blobs (key, customer, sha256, edition, size, refs, verified_ms)
        VALUES (:key, :customer, :sha256, '', :size, 1, :at_ms)
        ON CONFLICT (customer, sha256, edition) DO UPDATE SET refs = blobs.refs + 1
        """,
        [
            {
                "key": each.blob,
                "customer": each.customer,
                "sha256": each.digests.sha256,
                "size": each.digests.size,
                "at_ms": each.updated_ms,
            }
            for each in ordered
        ],
    )
    found = await shared_blobs(tx, objects)
    return {each.id: found[each.customer, each.digests.sha256][0] for each in objects}


async def shared_blobs(
    db: Database | Connection, objects: Sequence[StoredObject]
) -> dict[tuple[str, str], tuple[str, int]]:  # every customer: each row names its own
    """(customer, SHA-256) to (key, size) of the blobs that objects of these bytes share."""
    wanted = all_of(
        one_of("customer", "customer", {each.customer for each in objects}),
        one_of("sha256", "sha256", {each.digests.sha256 for each in objects}),
    )
    rows = await db.all(
        f"SELECT customer, sha256, key, size FROM blobs WHERE {wanted.sql} AND edition = ''",
        wanted.params,
    )
    return {(customer, sha256): (key, size) for customer, sha256, key, size in rows}


async def hold_blobs(
    tx: Connection, objects: Sequence[StoredObject]
) -> None:  # every customer: each row names its own
    """Let each object hold the blob that it names, whose bytes are in place."""
    await tx.many(
        """
        INSERT INTO blobs (key, customer, sha256, edition, size, refs, verified_ms)
        VALUES (:key, :customer, :sha256, :key, :size, 1, 0)
        ON CONFLICT (key) DO UPDATE SET refs = blobs.refs + 1
        """,
        [
            {
                "key": each.blob,
                "customer": each.customer,
                "sha256": each.digests.sha256,
                "size": each.digests.size,
            }
            for each in objects
        ],
    )


async def release_blobs(
    tx: Connection, keys: Sequence[str], *, customer: str
) -> None:  # one holder for each time a key is named
    """Let one holder go of each key; what nobody holds any more is to be removed."""
    await tx.many(
        "UPDATE blobs SET refs = refs - 1 WHERE key = :key AND customer = :customer",
        [{"key": key, "customer": customer} for key in sorted(keys)],
    )
    wanted, by_key = one_of("key", "key", set(keys)), _BY_KEY[tx.engine]
    params = {**wanted.params, "customer": customer}
    await tx.run(
        f"""
        INSERT INTO discarded (key, customer, until_ms)
        SELECT key, customer, 0 FROM {by_key}
        WHERE {wanted.sql} AND customer = :customer AND refs = 0
        """,
        params,
    )
    await tx.run(
        f"DELETE FROM {by_key} WHERE {wanted.sql} AND customer = :customer AND refs = 0", params
    )


async def known_keys(
    db: Database, keys: Iterable[str]
) -> set[str]:  # every customer: a sweep of unfinished uploads
    """Those of the keys whose blob somebody holds, or held until it was to be removed."""
    wanted = one_of("key", "key", keys)
    rows = await db.scan(
        f"""
        SELECT key FROM blobs WHERE {wanted.sql}
        UNION SELECT key FROM discarded WHERE {wanted.sql}
        """,
        wanted.params,
    )
    return {row[0] for row in rows}


async def wait_for_commits(tx: Connection) -> None:  # every customer: before a sweep
    """Until PostgreSQL is through with what it was sent, also by who is gone or lost the line."""
    if tx.engine == "postgresql":
        await tx.run("LOCK TABLE blobs IN SHARE MODE")


async def hold_made(tx: Connection, key: str, digests: Digests, *, customer: str) -> None:
    """Hold bytes that were made for one holder: no object may share them."""
    await tx.run(
        """
        INSERT INTO blobs (key, customer, sha256, edition, size, refs, verified_ms)
        VALUES (:key, :customer, :sha256, :key, :size, 1, 0)
        """,
        {"key": key, "customer": customer, "sha256": digests.sha256, "size": digests.size},
    )


async def discarded_keys(
    db: Database, *, now_ms: int, limit: int
) -> dict[str, set[str]]:  # every customer: a sweep
    """Keys of blobs that no object holds any more, by whose they were; not those put off."""
    rows = await db.scan(
        """
        SELECT key, customer FROM discarded WHERE until_ms <= :now_ms
        ORDER BY until_ms, key LIMIT :limit
        """,
        {"now_ms": now_ms, "limit": limit},
    )
    found: dict[str, set[str]] = defaultdict(set)
    for key, customer in rows:
        found[customer].add(key)
    return found


async def put_off(tx: Connection, until: Mapping[str, int], *, customer: str) -> None:
    """Let blobs be looked at again at their times, and not before."""
    await tx.many(
        "UPDATE discarded SET until_ms = :until_ms WHERE key = :key AND customer = :customer",
        [
            {"key": key, "until_ms": until_ms, "customer": customer}
            for key, until_ms in sorted(until.items())
        ],
    )


async def look_again(tx: Connection, *, customer: str) -> None:
    """What was put off may be looked at now: something that held it let go."""
    await tx.run(
        "UPDATE discarded SET until_ms = 0 WHERE customer = :customer AND until_ms > 0",
        {"customer": customer},
    )


async def forget_discarded(
    tx: Connection, keys: Sequence[str]
) -> None:  # every customer: as `discarded_keys`
    """Their bytes are gone."""
    wanted = one_of("key", "key", keys)
    await tx.run(f"DELETE FROM discarded WHERE {wanted.sql}", wanted.params)


async def blobs_to_verify(
    db: Database, *, before_ms: int, limit: int
) -> list[Blob]:  # every customer: the operator's check of the whole store
    """Blobs that were not read since then, longest ago first."""
    rows = await db.scan(
        """
        SELECT key, customer, sha256, size, refs, EXISTS (
            SELECT 1 FROM failures
            WHERE failures.customer = blobs.customer AND failures.blob = blobs.key
        )
        FROM blobs WHERE verified_ms < :before_ms ORDER BY verified_ms, key LIMIT :limit
        """,
        {"before_ms": before_ms, "limit": limit},
    )
    return [_blob(row) for row in rows]


async def rotten_blobs(
    db: Database, *, before_ms: int, limit: int
) -> list[Blob]:  # every customer: as `blobs_to_verify`
    """Those of them that were rotten then, longest ago first."""
    rows = await db.scan(
        """
        SELECT key, blobs.customer, sha256, size, refs, TRUE
        FROM (SELECT DISTINCT blob FROM failures) AS waiting CROSS JOIN blobs
        WHERE key = blob AND verified_ms < :before_ms ORDER BY verified_ms, key LIMIT :limit
        """,
        {"before_ms": before_ms, "limit": limit},
    )
    return [_blob(row) for row in rows]


def _blob(row: Row) -> Blob:
    key, customer, sha256, size, refs, rotten = row
    return Blob(key, customer, sha256, size, refs, bool(rotten))


async def blobs_before(
    db: Database, *, before_ms: int
) -> tuple[int, int]:  # every customer: as `blobs_to_verify`
    """How many blobs were not read since then, and how many bytes they have."""
    rows = await db.scan(
        """
        SELECT count(*), CAST(coalesce(sum(size), 0) AS BIGINT) FROM blobs
        WHERE verified_ms < :before_ms
        """,
        {"before_ms": before_ms},
    )
    return rows[0][0], rows[0][1]


async def other_blobs(
    db: Database, key: str, *, limit: int
) -> list[tuple[str, int]]:  # every customer: as `blobs_to_verify`
    """(key, size) of some blobs beside one, the newest."""
    rows = await db.scan(
        "SELECT key, size FROM blobs WHERE key <> :key ORDER BY key DESC LIMIT :limit",
        {"key": key, "limit": limit},
    )
    return [(row[0], row[1]) for row in rows]


async def mark_verified(tx: Connection, key: str, *, customer: str, at_ms: int) -> None:
    """Its bytes were read, and what was found is settled."""
    await tx.run(
        """
        UPDATE blobs SET verified_ms = :at_ms WHERE key = :key AND customer = :customer
        """,
        {"key": key, "customer": customer, "at_ms": at_ms},
    )


async def retire_blob(tx: Connection, key: str, *, customer: str) -> bool:
    """Its bytes are rotten: no new object may share them. False where nothing holds it."""
    retired = await tx.run(
        "UPDATE blobs SET edition = key WHERE key = :key AND customer = :customer",
        {"key": key, "customer": customer},
    )
    return bool(retired)


async def share_again(tx: Connection, key: str, *, customer: str) -> bool:
    """Let new objects share a retired blob; False where they share another one of the same bytes.

    To be the transaction's first statement: uploads wait for it.
    """
    if tx.engine == "postgresql":  # on SQLite there is one writer at a time as it is
        await tx.run("LOCK TABLE blobs IN SHARE ROW EXCLUSIVE MODE")
    shared = await tx.run(
        """
        UPDATE blobs SET edition = '' WHERE key = :key AND customer = :customer AND NOT EXISTS (
            SELECT 1 FROM blobs AS other
            WHERE other.customer = :customer AND other.sha256 = blobs.sha256 AND other.edition = ''
        )
        """,
        {"key": key, "customer": customer},
    )
    return bool(shared)


# ---- failures -------------------------------------------------------------------------------


async def add_failures(tx: Connection, ids: Sequence[str], blob: str, *, customer: str) -> None:
    """These objects are FAILED, or will be when they are taken back, until the bytes return."""
    await tx.many(
        """
        INSERT INTO failures (object_id, customer, blob) VALUES (:object_id, :customer, :blob)
        ON CONFLICT (object_id) DO NOTHING
        """,
        [{"object_id": each, "customer": customer, "blob": blob} for each in ids],
    )


async def failures_of_blob(db: Database, blob: str, *, customer: str) -> list[str]:
    """Ids of the objects that wait for a blob's bytes."""
    rows = await db.all(
        "SELECT object_id FROM failures WHERE customer = :customer AND blob = :blob",
        {"customer": customer, "blob": blob},
    )
    return [row[0] for row in rows]


async def forget_failures(tx: Connection, ids: Sequence[str], *, customer: str) -> None:
    """These objects wait for no bytes any more."""
    wanted = one_of("object_id", "object", ids)
    await tx.run(
        f"DELETE FROM failures WHERE {wanted.sql} AND customer = :customer",
        {**wanted.params, "customer": customer},
    )


# ---- usage ----------------------------------------------------------------------------------


async def usage(db: Database, *, customer: str) -> Usage:
    """What a customer's objects amount to now."""
    row = await db.one(
        "SELECT objects, bytes FROM usage WHERE customer = :customer", {"customer": customer}
    )
    return Usage() if row is None else Usage(row[0], row[1])


async def add_usage(tx: Connection, more: Usage, *, customer: str) -> Usage:
    """Count what comes (or, below zero, what goes); what it amounts to then."""
    row = await tx.one(
        """
        INSERT INTO usage (customer, objects, bytes) VALUES (:customer, :objects, :bytes)
        ON CONFLICT (customer) DO UPDATE
        SET objects = usage.objects + excluded.objects, bytes = usage.bytes + excluded.bytes
        RETURNING objects, bytes
        """,
        {"customer": customer, "objects": more.objects, "bytes": more.bytes},
    )
    assert row is not None
    return Usage(row[0], row[1])


# ---- repeats --------------------------------------------------------------------------------


async def claim_names(
    tx: Connection, arrivals: Sequence[Arrival]
) -> Mapping[str, str]:  # every customer: each row names its own
    """Let each arrival have its repeat name unless another has it: object id to who has it."""
    named = sorted(
        (each for each in arrivals if each.repeat), key=lambda each: (each.repeat, each.stored.id)
    )
    if not named:
        return {}
    await tx.many(
        """
        INSERT INTO repeats (customer, name, object_id, fingerprint)
        VALUES (:customer, :name, :object_id, :fingerprint)
        ON CONFLICT (customer, name) DO NOTHING
        """,
        [
            {
                "customer": each.stored.customer,
                "name": each.repeat,
                "object_id": each.stored.id,
                "fingerprint": each.fingerprint,
            }
            for each in named
        ],
    )
    wanted = all_of(
        one_of("customer", "customer", {each.stored.customer for each in named}),
        one_of("name", "name", {each.repeat for each in named}),
    )
    rows = await tx.all(
        f"SELECT customer, name, object_id FROM repeats WHERE {wanted.sql}", wanted.params
    )
    owners = {(customer, name): object_id for customer, name, object_id in rows}
    return {each.stored.id: owners[each.stored.customer, each.repeat] for each in named}


async def repeated(db: Database, name: str, *, customer: str) -> tuple[str, str] | None:
    """(object id, fingerprint) of the upload that has this name."""
    row = await db.one(
        """
        SELECT object_id, fingerprint FROM repeats WHERE customer = :customer AND name = :name
        """,
        {"customer": customer, "name": name},
    )
    return None if row is None else (row[0], row[1])


async def forget_repeats(tx: Connection, ids: Sequence[str], *, customer: str) -> None:
    """These objects are gone for good: what made them may be sent anew."""
    wanted = one_of("object_id", "object", ids)
    await tx.run(
        f"DELETE FROM repeats WHERE customer = :customer AND {wanted.sql}",
        {"customer": customer, **wanted.params},
    )


# ---- leases ---------------------------------------------------------------------------------


async def lease(
    tx: Connection, name: str, *, holder: str, now_ms: int, until_ms: int
) -> bool:  # every customer: work for all of them
    """Take a lease, or hold it for longer; False where another has it."""
    params = {"name": name, "holder": holder, "now_ms": now_ms, "until_ms": until_ms}
    await tx.run(
        "INSERT INTO leases (name, holder, until_ms) VALUES (:name, '', 0) ON CONFLICT DO NOTHING",
        {"name": name},
    )
    taken = await tx.run(
        """
        UPDATE leases SET holder = :holder, until_ms = :until_ms
        WHERE name = :name AND (holder = :holder OR until_ms < :now_ms)
        """,
        params,
    )
    return bool(taken)
