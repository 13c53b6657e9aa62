"""Adds and deletes objects of a region until its standard input ends: `busy_writer.py CONFIG ID`.

Prints "begun", and at its end how much it did and what it left.
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
SPAN_MS = 60_000
NAMES = ("Nina", "Omar", "Pavel", "Ana", "nina", "Åsa", "")
DURATIONS = ("5", "05", "10", "9", "-3", "7.5", "long", "", "1e3", "10 s")
REVOKE = "UPDATE objects SET state = 'REVOKED' WHERE customer = :customer AND id = :id"
DELETE = "DELETE FROM objects WHERE customer = :customer AND id = :id"


def objects(customer: str, kind: str) -> Iterator[StoredObject]:
    """Without end; many of one moment, some without a duration or with one that is no number.

    Those added later are of the same moments, of moments between, before all, and after all.
    """
    chance = random.Random(kind)
    for number in itertools.count():
        moments = [0, 1000, 1000, chance.randrange(SPAN_MS)]
        if kind == "added":
            moments += [-number, SPAN_MS + number]
        created_ms = START_MS + chance.choice(moments)
        tags = {"direction": chance.choice(("INBOUND", "OUTBOUND"))}
        if chance.random() < 0.7:
            tags["duration"] = chance.choice((*DURATIONS, str(chance.randrange(1000))))
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
    rows = await region.db.scan("SELECT id FROM objects WHERE name = 'doomed'")
    left, fresh, chance = [row[0] for row in rows], objects(customer, "added"), random.Random(2)
    told = {"added": 0, "revoked": 0, "deleted": 0}
    print("begun", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        added = list(itertools.islice(fresh, 2))
        told["added"] += await catalog.load(region, added)
        left += [each.id for each in added]
        for word, sql in (("revoked", REVOKE), ("deleted", DELETE)):
            object_id = left.pop(chance.randrange(len(left)))
            async with region.db.transaction() as tx:
                told[word] += await tx.run(sql, {"customer": customer, "id": object_id}) > 0
        await asyncio.sleep(0.01)  # else it would hold a database of one writer all the time
    await region.close()
    print(json.dumps({**told, "left": left}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
