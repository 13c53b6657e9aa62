"""The audit chain: who did what to which thing, appended in the transaction that did it.

Each plane keeps its own chain in its own database. A record's hash is SHA-256 over the hash
before it and the record's canonical JSON, per customer, so a record that is altered, dropped or
slipped in later shows (`first_broken`). Contract §3, "Audit record".
"""

from __future__ import annotations

import hashlib
import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from soundkeep.foundation.clock import Entropy
from soundkeep.foundation.database import Connection, Database, Row
from soundkeep.foundation.sql import Where, all_of, one_of


class Event(StrEnum):
    """What was done."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    VIEW = "view"
    EXPORT = "export"


class Deed(msgspec.Struct, frozen=True, kw_only=True):
    """One thing done, as the use case tells it; `new` and `old` never hold secrets."""

    customer: str
    at_ms: int
    event: Event
    service: str
    entity_type: str
    entity_key: str
    display_name: str
    user_id: str
    new: dict[str, object] = {}
    old: dict[str, object] = {}
    impersonator: str = ""
    correlation_type: str = ""
    correlation_id: str = ""


class Record(msgspec.Struct, frozen=True):
    """A deed as it is kept; `details` is the JSON of `{"new": {}, "old": {}}`."""

    customer: str
    seq: int
    id: str
    at_ms: int
    event: str
    service: str
    entity_type: str
    entity_key: str
    display_name: str
    user_id: str
    impersonator: str
    details: str
    correlation_type: str
    correlation_id: str
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which records: empty members do not narrow. `before_seq` continues a walk."""

    start_ms: int = 0
    end_ms: int = 2**62
    service: str = ""
    display_name: str = ""
    user_id: str = ""
    events: tuple[str, ...] = ()
    entity_types: tuple[str, ...] = ()
    before_seq: int = 2**62
    limit: int = 20


GENESIS = "0" * 64
_COLUMNS = ", ".join(Record.__struct_fields__)
_VALUES = ", ".join(f":{name}" for name in Record.__struct_fields__)


async def append(tx: Connection, deeds: Sequence[Deed], *, entropy: Entropy) -> None:
    """Add deeds to their customers' chains, in order, inside the transaction of the deed."""
    by_customer: dict[str, list[Deed]] = defaultdict(list)
    for deed in deeds:
        by_customer[deed.customer].append(deed)
    for customer, theirs in sorted(by_customer.items()):
        seq, before = await _head(tx, customer)
        records = []
        for deed in theirs:
            seq += 1
            record = _record(deed, seq, before, uuid.UUID(bytes=entropy(16), version=4))
            before = record.hash
            records.append(msgspec.structs.asdict(record))
        await tx.many(f"INSERT INTO audit ({_COLUMNS}) VALUES ({_VALUES})", records)
        await tx.run(
            "UPDATE audit_heads SET seq = :seq, hash = :hash WHERE customer = :customer",
            {"customer": customer, "seq": seq, "hash": before},
        )


async def query(db: Database, *, customer: str, wanted: Wanted) -> tuple[int, list[Record]]:
    """How many records match in all, and the newest `limit` of them before `before_seq`."""
    where = all_of(
        Where(
            "customer = :customer AND at_ms >= :start_ms AND at_ms < :end_ms",
            {"customer": customer, "start_ms": wanted.start_ms, "end_ms": wanted.end_ms},
        ),
        *_narrowed("service", filter(None, [wanted.service])),
        *_narrowed("display_name", filter(None, [wanted.display_name])),
        *_narrowed("user_id", filter(None, [wanted.user_id])),
        *_narrowed("event", wanted.events),
        *_narrowed("entity_type", wanted.entity_types),
    )
    total = (await db.scan(f"SELECT count(*) FROM audit WHERE {where.sql}", where.params))[0][0]
    rows = await db.scan(
        f"""
        SELECT {_COLUMNS} FROM audit WHERE {where.sql} AND seq < :before_seq
        ORDER BY seq DESC LIMIT :limit
        """,
        {**where.params, "before_seq": wanted.before_seq, "limit": wanted.limit},
    )
    return total, [Record(*row) for row in rows]


async def customers(db: Database) -> list[str]:
    """Whoever has a chain here."""
    return [row[0] for row in await db.scan("SELECT customer FROM audit_heads ORDER BY customer")]


async def first_broken(db: Database, *, customer: str) -> int | None:
    """The number of the first record that does not fit the chain; None where all is well."""
    # One statement, so that what is appended meanwhile is wholly in it or not at all.
    sql = f"""
        SELECT h.seq, h.hash, {", ".join(f"a.{name}" for name in Record.__struct_fields__)}
        FROM (SELECT CAST(:customer AS TEXT) AS customer) c
        LEFT JOIN audit_heads h ON h.customer = c.customer
        LEFT JOIN audit a ON a.customer = c.customer
        ORDER BY a.seq
    """
    before, expected = GENESIS, 1
    for row in await db.scan(sql, {"customer": customer}):
        head = (row[0] or 0, row[1] or GENESIS)
        if row[2] is None:  # no record at all
            continue
        record = Record(*row[2:])
        if record.seq != expected or record.hash != _hash(record, before):
            return expected
        before, expected = record.hash, expected + 1
    return None if head == (expected - 1, before) else expected


async def _head(tx: Connection, customer: str) -> tuple[int, str]:
    """The chain's last number and hash, locked until the transaction ends."""
    await tx.run(
        """
        INSERT INTO audit_heads (customer, seq, hash) VALUES (:customer, 0, :genesis)
        ON CONFLICT (customer) DO NOTHING
        """,
        {"customer": customer, "genesis": GENESIS},
    )
    head: Row | None = await tx.one(
        "UPDATE audit_heads SET seq = seq WHERE customer = :customer RETURNING seq, hash",
        {"customer": customer},
    )
    assert head is not None
    return head[0], head[1]


def _record(deed: Deed, seq: int, before: str, new_id: uuid.UUID) -> Record:
    details = msgspec.json.encode({"new": deed.new, "old": deed.old}, order="sorted").decode()
    record = Record(
        customer=deed.customer,
        seq=seq,
        id=str(new_id),
        at_ms=deed.at_ms,
        event=deed.event,
        service=deed.service,
        entity_type=deed.entity_type,
        entity_key=deed.entity_key,
        display_name=deed.display_name,
        user_id=deed.user_id,
        impersonator=deed.impersonator,
        details=details,
        correlation_type=deed.correlation_type,
        correlation_id=deed.correlation_id,
        hash="",
    )
    return msgspec.structs.replace(record, hash=_hash(record, before))


def _hash(record: Record, before: str) -> str:
    unsigned = msgspec.structs.replace(record, hash=before)
    return hashlib.sha256(msgspec.json.encode(unsigned)).hexdigest()


def _narrowed(column: str, values: Iterable[str]) -> list[Where]:
    wanted = list(values)
    return [one_of(column, column, wanted)] if wanted else []
