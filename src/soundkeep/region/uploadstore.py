"""SQL of resumable uploads: who sends what, how far they came, and who is at it now."""

from __future__ import annotations

from collections.abc import Sequence

from soundkeep.foundation.database import Connection, Database
from soundkeep.foundation.sql import one_of
from soundkeep.region.blobs import Piece
from soundkeep.region.model import Resumable, Stage

_COLUMNS = "id, customer, client, size, position, wanted, metadata, state, object_id, expires_ms"


async def add(tx: Connection, upload: Resumable, *, customer: str) -> None:
    """A new upload."""
    await tx.run(
        f"""
        INSERT INTO uploads ({_COLUMNS}, holder, held_until_ms, contested)
        VALUES (:id, :customer, :client, :size, :position, :wanted, :metadata, :state, :object_id,
                :expires_ms, '', 0, 0)
        """,
        {
            "id": upload.id,
            "customer": customer,
            "client": upload.client,
            "size": upload.size,
            "position": upload.position,
            "wanted": upload.wanted,
            "metadata": upload.metadata,
            "state": upload.state,
            "object_id": upload.object_id,
            "expires_ms": upload.expires_ms,
        },
    )


async def by_id(db: Database, upload_id: str, *, customer: str, client: str) -> Resumable | None:
    """An upload; None when it is unknown, or another key's."""
    row = await db.one(
        f"""
        SELECT {_COLUMNS} FROM uploads
        WHERE id = :id AND customer = :customer AND client = :client
        """,
        {"id": upload_id, "customer": customer, "client": client},
    )
    if row is None:
        return None
    facts = dict(zip(_COLUMNS.split(", "), row, strict=True))
    return Resumable(**{**facts, "state": Stage(str(facts["state"]))})


async def pieces(db: Database, upload: Resumable, *, customer: str) -> list[Piece]:
    """What its store must remember of its bytes, in order."""
    rows = await db.scan(
        """
        SELECT name, start_at, end_at FROM upload_pieces
        WHERE upload = (SELECT id FROM uploads WHERE id = :id AND customer = :customer)
        ORDER BY start_at
        """,
        {"id": upload.id, "customer": customer},
    )
    return [Piece(name, start, end) for name, start, end in rows]


async def take(
    tx: Connection, upload_id: str, *, customer: str, holder: str, now_ms: int, until_ms: int
) -> bool:
    """Become the one who adds to an open upload; False, and they are told, where another does."""
    params = {"id": upload_id, "customer": customer, "now_ms": now_ms}
    taken = await tx.run(
        """
        UPDATE uploads SET holder = :holder, held_until_ms = :until_ms, contested = 0
        WHERE id = :id AND customer = :customer AND held_until_ms < :now_ms
        """,
        {**params, "holder": holder, "until_ms": until_ms},
    )
    if not taken:
        await tx.run(
            "UPDATE uploads SET contested = 1 WHERE id = :id AND customer = :customer",
            {"id": upload_id, "customer": customer},
        )
    return bool(taken)


async def hold_on(
    tx: Connection, upload_id: str, *, customer: str, holder: str, until_ms: int
) -> bool:
    """Hold an upload for longer; False where somebody else wants it or has it."""
    row = await tx.one(
        """
        UPDATE uploads SET held_until_ms = :until_ms
        WHERE id = :id AND customer = :customer AND holder = :holder RETURNING contested
        """,
        {"id": upload_id, "customer": customer, "holder": holder, "until_ms": until_ms},
    )
    return row is not None and not row[0]


async def let_go(tx: Connection, upload_id: str, *, customer: str, holder: str) -> None:
    """Let others add to it."""
    await tx.run(
        """
        UPDATE uploads SET holder = '', held_until_ms = 0
        WHERE id = :id AND customer = :customer AND holder = :holder
        """,
        {"id": upload_id, "customer": customer, "holder": holder},
    )


async def advance(
    tx: Connection,
    upload: Resumable,
    fresh: Sequence[Piece],
    *,
    customer: str,
    holder: str,
    position: int,
    expires_ms: int,
) -> bool:
    """So many bytes are safe now; False where the upload is not the holder's any more."""
    moved = await tx.run(
        """
        UPDATE uploads SET position = :position, expires_ms = :expires_ms
        WHERE id = :id AND customer = :customer AND holder = :holder AND state = 'open'
        """,
        {
            "id": upload.id,
            "customer": customer,
            "holder": holder,
            "position": position,
            "expires_ms": expires_ms,
        },
    )
    if moved and fresh:
        await tx.run(
            "DELETE FROM upload_pieces WHERE upload = :id AND start_at >= :start",
            {"id": upload.id, "start": fresh[0].start},
        )
        await tx.many(
            """
            INSERT INTO upload_pieces (upload, start_at, end_at, name)
            VALUES (:id, :start, :end, :name)
            """,
            [
                {"id": upload.id, "start": each.start, "end": each.end, "name": each.name}
                for each in fresh
            ],
        )
    return bool(moved)


async def close(
    tx: Connection, upload: Resumable, state: Stage, *, customer: str, object_id: str = ""
) -> None:
    """End an open upload, whether it became an object or not."""
    await tx.run(
        """
        UPDATE uploads SET state = :state, object_id = :object_id, holder = '', held_until_ms = 0,
            position = CASE WHEN :object_id = '' THEN position ELSE size END
        WHERE id = :id AND customer = :customer AND state = 'open'
        """,
        {"id": upload.id, "customer": customer, "state": state, "object_id": object_id},
    )
    await tx.run("DELETE FROM upload_pieces WHERE upload = :id", {"id": upload.id})


# ---- sweeps ---------------------------------------------------------------------------------


async def expired(db: Database, *, now_ms: int, limit: int) -> list[str]:  # every customer: a sweep
    """Open uploads whose time is over and to which nobody adds."""
    rows = await db.scan(
        """
        SELECT id FROM uploads
        WHERE expires_ms < :now_ms AND held_until_ms < :now_ms AND state = 'open'
        ORDER BY expires_ms LIMIT :limit
        """,
        {"now_ms": now_ms, "limit": limit},
    )
    return [row[0] for row in rows]


async def end_expired(
    tx: Connection, upload_id: str, *, now_ms: int
) -> bool:  # every customer: a sweep
    """End one of them; False where somebody went on with it meanwhile."""
    ended = await tx.run(
        """
        UPDATE uploads SET state = 'ended' WHERE id = :id AND state = 'open'
        AND expires_ms < :now_ms AND held_until_ms < :now_ms
        """,
        {"id": upload_id, "now_ms": now_ms},
    )
    await tx.run(
        """
        DELETE FROM upload_pieces
        WHERE upload IN (SELECT id FROM uploads WHERE id = :id AND state = 'ended')
        """,
        {"id": upload_id},
    )
    return bool(ended)


async def over(db: Database, *, before_ms: int, limit: int) -> list[str]:  # every customer: a sweep
    """Some of the uploads that ended or were kept, and expired before then."""
    rows = await db.scan(
        """
        SELECT id FROM uploads WHERE expires_ms < :before_ms AND state <> 'open'
        ORDER BY expires_ms LIMIT :limit
        """,
        {"before_ms": before_ms, "limit": limit},
    )
    return [row[0] for row in rows]


async def forget(tx: Connection, ids: Sequence[str]) -> None:  # every customer: a sweep
    """Forget uploads that are over."""
    wanted = one_of("id", "id", ids)
    await tx.run(f"DELETE FROM uploads WHERE {wanted.sql}", wanted.params)


async def release_all(tx: Connection) -> None:  # every customer: at start, when nobody adds
    """Let go of what was held by processes that are gone."""
    await tx.run("UPDATE uploads SET holder = '', held_until_ms = 0 WHERE holder <> ''")
