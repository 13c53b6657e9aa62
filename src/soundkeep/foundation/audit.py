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
    where = """
        FROM audit
        WHERE customer = :customer AND at_ms >= :start_ms AND at_ms < :end_ms
          AND (:service = '' OR service = :service)
          AND (:display_name = '' OR display_name = :display_name)
          AND (:user_id = '' OR user_id = :user_id)
          AND (:events = '' OR :events LIKE '%,' || event || ',%')
          AND (:entity_types = '' OR :entity_types LIKE '%,' || entity_type || ',%')
    """
    params = {
        "customer": customer,
        "start_ms": wanted.start_ms,
        "end_ms": wanted.end_ms,
        "service": wanted.service,
        "display_name": wanted.display_name,
        "user_id": wanted.user_id,
        "events": _set(wanted.events),
        "entity_types": _set(wanted.entity_types),
    }
    total = (await db.scan(f"SELECT count(*) {where}", params))[0][0]
    rows = await db.scan(
        f"SELECT {_COLUMNS} {where} AND seq < :before_seq ORDER BY seq DESC LIMIT :limit",
        {**params, "before_seq": wanted.before_seq, "limit": wanted.limit},
    )
    return total, [Record(*row) for row in rows]


async def customers(db: Database) -> list[str]:
    """Whoever has a chain here."""
    return [row[0] for row in await db.scan("SELECT customer FROM audit_heads ORDER BY customer")]


async def first_broken(db: Database, *, customer: str) -> int | None:
    """The number of the first record that does not fit the chain; None where all is well."""
    before, expected = GENESIS, 1
    sql = f"SELECT {_COLUMNS} FROM audit WHERE customer = :customer ORDER BY seq"
    for row in await db.scan(sql, {"customer": customer}):
        record = Record(*row)
        if record.seq != expected or record.hash != _hash(record, before):
            return expected
        before, expected = record.hash, expected + 1
    head = await db.one(
        "SELECT seq, hash FROM audit_heads WHERE customer = :customer", {"customer": customer}
    )
    return None if head is None or tuple(head) == (expected - 1, before) else expected


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


def _set(names: Iterable[str]) -> str:
    joined = ",".join(names)
    return f",{joined}," if joined else ""
