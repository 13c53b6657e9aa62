"""SQL of bulk downloads: what was asked for, what the archive is made of, what was lost of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import msgspec

from soundkeep.foundation.claims import Reach
from soundkeep.foundation.database import Connection, Database, Row
from soundkeep.foundation.sql import one_of
from soundkeep.region.model import Job, JobState
from soundkeep.region.store import BY_ID, within
from soundkeep.region.zipstream import Layout, Member, Part

_COLUMNS = (
    "id, customer, client, owner, state, created_ms, touched_ms, expires_ms, ended_ms, cleared, "
    "members, missing, entries, directory, owners, own_blobs"
)
_PART = "entry_offset, directory_offset, members"
_members = msgspec.json.Decoder(list[Member])
_missing = msgspec.json.Decoder(list[tuple[str, str]])
_owners = msgspec.json.Decoder(frozenset[tuple[str, str]])


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a bulk download must know of an object that is asked for; `doc` is its JSON, or ''."""

    id: str
    name: str
    state: str
    size: int
    crc32: int
    sha256: str
    blob: str
    created_ms: int
    site: str
    user_id: str
    doc: str


@dataclass(frozen=True, slots=True)
class FilledPart:
    """A part to be written, and [object id, status] of what could not be taken into it."""

    place: int
    part: Part
    missing: Sequence[tuple[str, str]]


# ---- what is asked for ----------------------------------------------------------------------


async def candidates(
    db: Database, ids: Sequence[str], *, customer: str, reach: Reach, documents: bool
) -> dict[str, Candidate]:
    """Those of the objects that are the customer's and within reach, by id."""
    scope, wanted = within(reach), one_of("id", "id", ids)
    doc = "''"
    if documents:
        doc = "(SELECT doc FROM documents WHERE documents.seq = objects.seq)"
    rows = await db.scan(
        f"""
        SELECT id, name, state, size, crc32, sha256, blob, created_ms, site, user_id, {doc}
        FROM {BY_ID[db.engine]} WHERE {wanted.sql} AND customer = :customer AND {scope.sql}
        """,
        {**scope.params, **wanted.params, "customer": customer},
    )
    return {row[0]: Candidate(*row) for row in rows}


# ---- jobs -----------------------------------------------------------------------------------


async def add(tx: Connection, job: Job, *, customer: str) -> None:
    """A new job, with nothing in it."""
    await tx.run(
        f"""
        INSERT INTO bulk_jobs ({_COLUMNS}, kept)
        VALUES (:id, :customer, :client, :owner, :state, :created_ms, :touched_ms, :expires_ms,
                NULL, 0, 0, 0, 0, 0, '[]', '[]', 1)
        """,
        {
            "id": job.id,
            "customer": customer,
            "client": job.client,
            "owner": job.owner,
            "state": job.state,
            "created_ms": job.created_ms,
            "touched_ms": job.touched_ms,
            "expires_ms": job.expires_ms,
        },
    )


async def by_id(db: Database | Connection, job_id: str, *, customer: str) -> Job | None:
    """A job of this customer, whichever client's."""
    row = await db.one(
        f"SELECT {_COLUMNS} FROM bulk_jobs WHERE id = :id AND customer = :customer",
        {"id": job_id, "customer": customer},
    )
    return None if row is None else _job(row)


async def is_under_way(db: Database, job_id: str, *, customer: str) -> bool:
    """Whether a job is still to be made: nobody ended it."""
    row = await db.one(
        """
        SELECT 1 FROM bulk_jobs WHERE id = :id AND customer = :customer
          AND state IN ('NOT_STARTED', 'IN_PROGRESS')
        """,
        {"id": job_id, "customer": customer},
    )
    return row is not None


async def of_client(
    db: Database, *, customer: str, client: str, before: tuple[int, str], limit: int
) -> list[Job]:
    """Jobs of one client that it did not clear, newest first, from (created_ms, id) on."""
    rows = await db.all(
        f"""
        SELECT {_COLUMNS} FROM bulk_jobs
        WHERE customer = :customer AND client = :client AND cleared = 0
          AND (created_ms, id) < (:created_ms, :id)
        ORDER BY created_ms DESC, id DESC LIMIT :limit
        """,
        {
            "customer": customer,
            "client": client,
            "created_ms": before[0],
            "id": before[1],
            "limit": limit,
        },
    )
    return [_job(row) for row in rows]


async def under_way(tx: Connection, *, customer: str, client: str, since_ms: int) -> int:
    """How many of a client's jobs are being made, as far as was said since then.

    Nobody else counts them before the transaction ends.
    """
    if tx.engine == "postgresql":  # on SQLite there is one writer at a time as it is
        name = f"bulk {customer} {client}"
        await tx.all("SELECT pg_advisory_xact_lock(hashtext(:name))", {"name": name})
    row = await tx.one(
        """
        SELECT count(*) FROM bulk_jobs
        WHERE customer = :customer AND client = :client
          AND state IN ('NOT_STARTED', 'IN_PROGRESS') AND touched_ms > :since_ms
        """,
        {"customer": customer, "client": client, "since_ms": since_ms},
    )
    assert row is not None
    return int(row[0])


async def touch(tx: Connection, job_id: str, *, customer: str, at_ms: int, silent_ms: int) -> bool:
    """Say that a job is still being made; False where it was ended, or not touched since then."""
    changed = await tx.run(
        """
        UPDATE bulk_jobs SET touched_ms = :at_ms, state = 'IN_PROGRESS'
        WHERE id = :id AND customer = :customer AND state IN ('NOT_STARTED', 'IN_PROGRESS')
          AND touched_ms >= :silent_ms
        """,
        {"id": job_id, "customer": customer, "at_ms": at_ms, "silent_ms": silent_ms},
    )
    return bool(changed)


async def finish(tx: Connection, job: Job, *, customer: str, silent_ms: int) -> bool:
    """A job came to its end, with this archive; False as for `touch`."""
    owners = None if job.owners is None else msgspec.json.encode(sorted(job.owners)).decode()
    changed = await tx.run(
        """
        UPDATE bulk_jobs
        SET state = :state, touched_ms = :touched_ms, expires_ms = :expires_ms,
            members = :members, missing = :missing, entries = :entries, directory = :directory,
            owners = :owners, own_blobs = :own_blobs
        WHERE id = :id AND customer = :customer AND state IN ('NOT_STARTED', 'IN_PROGRESS')
          AND touched_ms >= :silent_ms
        """,
        {
            "id": job.id,
            "customer": customer,
            "silent_ms": silent_ms,
            "state": job.state,
            "touched_ms": job.touched_ms,
            "expires_ms": job.expires_ms,
            "members": job.members,
            "missing": job.missing,
            "entries": job.entries,
            "directory": job.directory,
            "owners": owners,
            "own_blobs": msgspec.json.encode(job.own_blobs).decode(),
        },
    )
    return bool(changed)


async def cancel(tx: Connection, job_id: str, *, customer: str, at_ms: int) -> bool:
    """End a job; False where it was cancelled before."""
    changed = await tx.run(
        """
        UPDATE bulk_jobs SET state = 'CANCELLED', ended_ms = :at_ms
        WHERE id = :id AND customer = :customer AND state <> 'CANCELLED'
        """,
        {"id": job_id, "customer": customer, "at_ms": at_ms},
    )
    return bool(changed)


async def clear(
    tx: Connection, *, customer: str, client: str, at_ms: int, silent_ms: int
) -> list[str]:
    """Take a client's jobs out of its list that are over, one way or another: their ids.

    Those that nobody touched since `silent_ms` are.
    """
    rows = await tx.all(
        """
        UPDATE bulk_jobs SET cleared = 1, ended_ms = coalesce(ended_ms, :at_ms)
        WHERE customer = :customer AND client = :client AND cleared = 0
          AND (state NOT IN ('NOT_STARTED', 'IN_PROGRESS') OR touched_ms < :silent_ms)
        RETURNING id
        """,
        {"customer": customer, "client": client, "at_ms": at_ms, "silent_ms": silent_ms},
    )
    return [row[0] for row in rows]


# ---- parts ----------------------------------------------------------------------------------


async def add_parts(
    tx: Connection, job_id: str, parts: Sequence[FilledPart], *, customer: str
) -> None:
    """More of what an archive is made of."""
    await tx.many(
        """
        INSERT INTO bulk_parts
            (job, place, customer, entry_offset, directory_offset, members, missing)
        VALUES (:job, :place, :customer, :entry_offset, :directory_offset, :members, :missing)
        """,
        [
            {
                "job": job_id,
                "place": each.place,
                "customer": customer,
                "entry_offset": each.part.offset,
                "directory_offset": each.part.directory_offset,
                "members": msgspec.json.encode(each.part.members).decode(),
                "missing": msgspec.json.encode(each.missing).decode(),
            }
            for each in parts
        ],
    )


async def part_at(
    db: Database, job_id: str, offset: int, *, customer: str, directory: bool
) -> tuple[int, Part] | None:
    """The place of the part that has this byte of the entries, or of the directory; and it."""
    column = "directory_offset" if directory else "entry_offset"
    row = await db.one(
        f"""
        SELECT place, {_PART} FROM bulk_parts
        WHERE job = :job AND customer = :customer AND {column} <= :offset
        ORDER BY {column} DESC, place DESC LIMIT 1
        """,
        {"job": job_id, "customer": customer, "offset": offset},
    )
    return None if row is None else (row[0], _part(row[1:]))


async def part(db: Database, job_id: str, place: int, *, customer: str) -> Part | None:
    """The part of this place, 0 first; None after the last."""
    row = await db.one(
        f"""
        SELECT {_PART} FROM bulk_parts
        WHERE job = :job AND customer = :customer AND place = :place
        """,
        {"job": job_id, "customer": customer, "place": place},
    )
    return None if row is None else _part(row)


async def outcome(
    db: Database, job_id: str, place: int, *, customer: str
) -> tuple[list[str], list[tuple[str, str]]] | None:
    """What became of what was asked for: ids of a part's objects, and [id, status] of the rest."""
    row = await db.one(
        """
        SELECT members, missing FROM bulk_parts
        WHERE job = :job AND customer = :customer AND place = :place
        """,
        {"job": job_id, "customer": customer, "place": place},
    )
    if row is None:
        return None
    members = [each.object_id for each in _members.decode(row[0]) if each.object_id]
    return members, _missing.decode(row[1])


# ---- what was lost --------------------------------------------------------------------------


async def add_lost(tx: Connection, job_id: str, member: Member, *, customer: str) -> None:
    """A member's bytes are not there."""
    await tx.run(
        """
        INSERT INTO bulk_lost (job, object_id, customer, blob, size)
        VALUES (:job, :object_id, :customer, :blob, :size) ON CONFLICT DO NOTHING
        """,
        {
            "job": job_id,
            "object_id": member.object_id,
            "customer": customer,
            "blob": member.blob,
            "size": member.size,
        },
    )


async def lost(db: Database, job_id: str, *, customer: str) -> dict[str, tuple[str, int]]:
    """(blob, size) of the members that were found lost, by object id."""
    rows = await db.all(
        """
        SELECT object_id, blob, size FROM bulk_lost WHERE job = :job AND customer = :customer
        """,
        {"job": job_id, "customer": customer},
    )
    return {row[0]: (row[1], row[2]) for row in rows}


async def forget_lost(tx: Connection, job_id: str, ids: Sequence[str], *, customer: str) -> None:
    """These are there again."""
    wanted = one_of("object_id", "object", ids)
    await tx.run(
        f"DELETE FROM bulk_lost WHERE job = :job AND customer = :customer AND {wanted.sql}",
        {"job": job_id, "customer": customer, **wanted.params},
    )


# ---- what time does -------------------------------------------------------------------------


async def holding(db: Database, *, customer: str, after: str, limit: int) -> list[Job]:
    """Some of the jobs whose archives hold bytes, in the order of their ids."""
    rows = await db.scan(
        f"""
        SELECT {_COLUMNS} FROM bulk_jobs WHERE customer = :customer AND kept = 1 AND id > :after
        ORDER BY id LIMIT :limit
        """,
        {"customer": customer, "after": after, "limit": limit},
    )
    return [_job(row) for row in rows]


async def kept(tx: Connection, ids: Collection[str], *, customer: str) -> set[str]:
    """Those of the jobs whose archives hold bytes, and go on to until the transaction ends."""
    wanted = one_of("id", "id", ids)
    lock = "FOR SHARE" if tx.engine == "postgresql" else ""
    rows = await tx.all(
        f"SELECT id FROM bulk_jobs WHERE {wanted.sql} AND customer = :customer AND kept = 1 {lock}",
        {**wanted.params, "customer": customer},
    )
    return {row[0] for row in rows}


async def held(db: Database, job_id: str, place: int, *, customer: str) -> set[str] | None:
    """The keys of the blobs that a part names; None after the last."""
    rows = await db.scan(
        """
        SELECT members FROM bulk_parts
        WHERE job = :job AND customer = :customer AND place = :place
        """,
        {"job": job_id, "customer": customer, "place": place},
    )
    return {each.blob for each in _members.decode(rows[0][0])} if rows else None


async def over(
    db: Database, *, before_ms: int, limit: int
) -> list[Job]:  # every customer: a sweep by age
    """Jobs that hold bytes and were over by then."""
    rows = await db.scan(
        f"""
        SELECT {_COLUMNS} FROM bulk_jobs
        WHERE kept = 1 AND (expires_ms < :before_ms OR ended_ms < :before_ms)
        ORDER BY id LIMIT :limit
        """,
        {"before_ms": before_ms, "limit": limit},
    )
    return [_job(row) for row in rows]


async def drop(tx: Connection, job_id: str, *, customer: str) -> bool:
    """Let go of what an archive is made of; False where that was done."""
    params = {"job": job_id, "customer": customer}
    dropped = await tx.run(
        "UPDATE bulk_jobs SET kept = 0 WHERE id = :job AND customer = :customer AND kept = 1",
        params,
    )
    await tx.run("DELETE FROM bulk_parts WHERE job = :job AND customer = :customer", params)
    await tx.run("DELETE FROM bulk_lost WHERE job = :job AND customer = :customer", params)
    return bool(dropped)


async def forget(tx: Connection, *, before_ms: int) -> None:  # every customer: a sweep by age
    """Drop what is known of jobs that expired before then."""
    await tx.run(
        "DELETE FROM bulk_jobs WHERE kept = 0 AND expires_ms < :before_ms",
        {"before_ms": before_ms},
    )


def layout(job: Job) -> Layout:  # every customer: a question about a job
    """What a job's archive amounts to."""
    return Layout(job.members, job.entries, job.directory)


def _part(row: Row) -> Part:
    return Part(row[0], row[1], _members.decode(row[2]))


def _job(row: Row) -> Job:
    facts = dict(zip(_COLUMNS.split(", "), row, strict=True))
    owners = facts["owners"]
    return Job(
        **facts
        | {
            "state": JobState(facts["state"]),
            "cleared": bool(facts["cleared"]),
            "owners": None if owners is None else _owners.decode(owners),
            "own_blobs": tuple(msgspec.json.decode(facts["own_blobs"], type=list[str])),
        }
    )
