"""SQL of presigned links: what they stand on, what became of them, and the keys that sign them."""

from __future__ import annotations

import msgspec

from soundkeep.foundation.claims import Reach, lent
from soundkeep.foundation.database import Connection, Database, Row
from soundkeep.foundation.sql import Where
from soundkeep.region.model import Link, Opens

_COLUMNS = (
    "id, customer, kind, object_id, client, subject, owner, reach, networks, epoch, token_id, "
    "created_ms, expires_ms, once, network, inline, uses, last_used_ms, last_address, revoked_ms"
)


# ---- links ----------------------------------------------------------------------------------


async def add(tx: Connection, link: Link, *, customer: str) -> None:
    """A new link."""
    claims = link.claims
    await tx.run(
        f"""
        INSERT INTO links ({_COLUMNS})
        VALUES (:id, :customer, :kind, :object_id, :client, :subject, :owner, :reach, :networks,
                :epoch, :token_id, :created_ms, :expires_ms, :once, :network, :inline,
                0, NULL, '', NULL)
        """,
        {
            "id": link.id,
            "customer": customer,
            "kind": link.opens,
            "object_id": link.target,
            "client": claims.client,
            "subject": claims.subject,
            "owner": claims.owner,
            "reach": msgspec.json.encode(claims.reach).decode(),
            "networks": " ".join(claims.networks),
            "epoch": claims.epoch,
            "token_id": claims.token_id,
            "created_ms": link.created_ms,
            "expires_ms": link.expires_ms,
            "once": int(link.once),
            "network": link.network,
            "inline": int(link.inline),
        },
    )


async def by_id(
    db: Database | Connection, link_id: str, *, region: str
) -> Link | None:  # every customer: its signature was checked, and it names its customer itself
    """A link of this region; None where it is unknown."""
    row = await db.one(f"SELECT {_COLUMNS} FROM links WHERE id = :id", {"id": link_id})
    return None if row is None else _link(row, region)


async def newest(
    db: Database,
    *,
    customer: str,
    client: str | None,
    region: str,
    offset: int,
    limit: int,
    seconds: float,
) -> list[Link]:
    """Links of a customer, of one client or of all (None): newest first, some of them."""
    whose = _made_by(client)
    rows = await db.scan(
        f"""
        SELECT {_COLUMNS} FROM links WHERE customer = :customer AND {whose.sql}
        ORDER BY created_ms DESC, id DESC LIMIT :limit OFFSET :offset
        """,
        {**whose.params, "customer": customer, "limit": limit, "offset": offset},
        seconds=seconds,
    )
    return [_link(row, region) for row in rows]


async def count(db: Database, *, customer: str, client: str | None, seconds: float) -> int:
    """How many there are."""
    whose = _made_by(client)
    rows = await db.scan(
        f"SELECT count(*) FROM links WHERE customer = :customer AND {whose.sql}",
        {**whose.params, "customer": customer},
        seconds=seconds,
    )
    found: int = rows[0][0]
    return found


async def mark_used(
    tx: Connection, link_id: str, *, customer: str, at_ms: int, address: str
) -> bool:
    """Count a use; False where the link is not good any more, or was for one use and was used."""
    row = await tx.one(
        """
        UPDATE links SET uses = uses + 1, last_used_ms = :at_ms, last_address = :address
        WHERE id = :id AND customer = :customer AND revoked_ms IS NULL AND expires_ms > :at_ms
          AND (once = 0 OR uses = 0)
        RETURNING uses
        """,
        {"id": link_id, "customer": customer, "at_ms": at_ms, "address": address},
    )
    return row is not None


async def revoke(
    tx: Connection, link_id: str, *, customer: str, client: str | None, region: str, at_ms: int
) -> Link | None:
    """Take back a link of a customer, of one client or of any (None); None where that was done."""
    whose = _made_by(client)
    row = await tx.one(
        f"""
        UPDATE links SET revoked_ms = :at_ms
        WHERE id = :id AND customer = :customer AND {whose.sql} AND revoked_ms IS NULL
        RETURNING {_COLUMNS}
        """,
        {**whose.params, "id": link_id, "customer": customer, "at_ms": at_ms},
    )
    return None if row is None else _link(row, region)


async def is_known(tx: Connection, link_id: str, *, customer: str, client: str | None) -> bool:
    """Whether a customer, or one client of it, has such a link."""
    whose = _made_by(client)
    row = await tx.one(
        f"SELECT 1 FROM links WHERE id = :id AND customer = :customer AND {whose.sql}",
        {**whose.params, "id": link_id, "customer": customer},
    )
    return row is not None


async def forget(
    tx: Connection, *, before_ms: int, limit: int
) -> int:  # every customer: a sweep by age
    """Drop some of the links that expired before then: how many."""
    return await tx.run(
        """
        DELETE FROM links WHERE id IN (
            SELECT id FROM links WHERE expires_ms < :before_ms ORDER BY expires_ms LIMIT :limit
        )
        """,
        {"before_ms": before_ms, "limit": limit},
    )


def _made_by(client: str | None) -> Where:
    return Where() if client is None else Where("client = :client", {"client": client})


def _link(row: Row, region: str) -> Link:
    facts = dict(zip(_COLUMNS.split(", "), row, strict=True))
    claims = lent(
        facts["customer"],
        subject=facts["subject"],
        client=facts["client"],
        owner=facts["owner"],
        region=region,
        reach=msgspec.json.decode(facts["reach"], type=Reach),
        networks=tuple(facts["networks"].split()),
        epoch=facts["epoch"],
        token_id=facts["token_id"],
    )
    return Link(
        id=facts["id"],
        opens=Opens(facts["kind"]),
        target=facts["object_id"],
        claims=claims,
        created_ms=facts["created_ms"],
        expires_ms=facts["expires_ms"],
        once=bool(facts["once"]),
        network=facts["network"],
        inline=bool(facts["inline"]),
        uses=facts["uses"],
        last_used_ms=facts["last_used_ms"],
        last_address=facts["last_address"],
        revoked_ms=facts["revoked_ms"],
    )


# ---- keys -----------------------------------------------------------------------------------


async def take_key_turn(tx: Connection) -> None:  # every customer: the region's own
    """Let no other process make a key until the transaction ends."""
    if tx.engine == "postgresql":  # on SQLite there is one writer at a time as it is
        await tx.run("LOCK TABLE link_keys IN SHARE ROW EXCLUSIVE MODE")


async def newest_key(
    tx: Connection,
) -> tuple[str, str, int] | None:  # every customer: the region's own
    """(kid, sealed, created_ms) of the key that was made last."""
    row = await tx.one(
        "SELECT kid, sealed, created_ms FROM link_keys ORDER BY created_ms DESC, kid LIMIT 1"
    )
    return None if row is None else (row[0], row[1], row[2])


async def key_by_id(
    db: Database, kid: str
) -> tuple[str, str, int] | None:  # every customer: the region's own
    """(kid, sealed, created_ms) of a key; None where there is no such key."""
    row = await db.one(
        "SELECT kid, sealed, created_ms FROM link_keys WHERE kid = :kid", {"kid": kid}
    )
    return None if row is None else (row[0], row[1], row[2])


async def every_key(
    db: Database,
) -> list[tuple[str, str, int]]:  # every customer: the region's own
    """(kid, sealed, created_ms) of all keys, the oldest first."""
    rows = await db.all("SELECT kid, sealed, created_ms FROM link_keys ORDER BY created_ms, kid")
    return [(row[0], row[1], row[2]) for row in rows]


async def add_key(
    tx: Connection, *, kid: str, sealed: str, created_ms: int
) -> None:  # every customer: the region's own
    """A new key."""
    await tx.run(
        "INSERT INTO link_keys (kid, sealed, created_ms) VALUES (:kid, :sealed, :created_ms)",
        {"kid": kid, "sealed": sealed, "created_ms": created_ms},
    )


async def forget_keys(tx: Connection, *, before_ms: int) -> None:  # every customer: by age
    """Drop the keys that were made before then."""
    await tx.run("DELETE FROM link_keys WHERE created_ms < :before_ms", {"before_ms": before_ms})
