"""Adds and deletes objects of a region until its standard input ends: `busy_writer.py CONFIG ID`.

Prints "begun", and at its end how much it did.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import select
import sys
from collections.abc import Iterator
from pathlib import Path

from soundkeep import server
from soundkeep.cli import installation
from soundkeep.region import catalog
from soundkeep.region.model import Digests, State, StoredObject

START_MS = 1_767_225_600_000
NAMES = ("Nina", "Omar", "Pavel", "Ana")


def objects(customer: str, kind: str, seed: int = 0) -> Iterator[StoredObject]:
    """Without end; many of one moment, some without a duration or with one that is no number."""
    chance = random.Random(f"{kind} {seed}")
    for number in itertools.count():
        created_ms = START_MS + chance.choice((0, 1000, chance.randrange(60_000)))
        tags = {"direction": chance.choice(("INBOUND", "OUTBOUND"))}
        if chance.random() < 0.7:
            tags["duration"] = chance.choice(("5", "10", "long", str(chance.randrange(1000))))
        if chance.random() < 0.8:
            tags["agentName"] = chance.choice(NAMES)
        object_id = f"{chance.getrandbits(32):08x}-{kind}-{number}"
        yield StoredObject(
            id=object_id, customer=customer, type="callrecording", mime_type="audio/mpeg",
            name=kind, user_id="olga", created_ms=created_ms, updated_ms=created_ms,
            state=State.AVAILABLE, bucket_id="busy", tags=tags, shared=False, blob=object_id,
            digests=Digests(0, "", "", 0),
        )  # fmt: skip


async def main(config: str, customer: str) -> None:
    region = await server.open_region(installation.load(Path(config)), "us-east")
    fresh, chance = objects(customer, "added", seed=1), random.Random(2)
    rows = await region.db.scan("SELECT id FROM objects WHERE name = 'doomed'")
    doomed = [row[0] for row in rows]
    chance.shuffle(doomed)
    told = {"added": 0, "deleted": 0}
    print("begun", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        added = list(itertools.islice(fresh, 3))
        told["added"] += await catalog.load(region, added)
        doomed.insert(chance.randrange(len(doomed) + 1), added[0].id)
        for sql in (
            "UPDATE objects SET state = 'REVOKED' WHERE id = :id",
            "DELETE FROM objects WHERE id = :id",
        ):
            if doomed:
                async with region.db.transaction() as tx:
                    told["deleted"] += await tx.run(sql, {"id": doomed.pop()}) > 0
        await asyncio.sleep(0.02)
    await region.close()
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
