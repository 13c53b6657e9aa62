"""Made-up call records in any number, for measuring: rich in metadata, sharing one sound."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

from soundkeep.foundation.clock import SECOND
from soundkeep.region import catalog, content
from soundkeep.region.arrivals import Upload, Wanted
from soundkeep.region.blobs import Sums
from soundkeep.region.model import Digests, State, StoredObject
from soundkeep.region.plane import Region
from soundkeep.sample.planting import uploader

_SOUND = "call-001.mp3"
_EVERY_MS = 20 * SECOND
_AGENTS = 400
_BILLED = "+12125550131"
_QUEUES = ("Parcel Support", "Card Services", "Broadband Support", "Claims", "Reservations")


async def load(region: Region, *, customer: str, count: int, seed: int = 0) -> int:
    """Add `count` objects, one every twenty seconds back from now; how many there were."""
    claims = uploader(customer, "agent-0001", [region.name])
    sums, raw = Sums(), (files("soundkeep.sample") / _SOUND).read_bytes()
    sums.add(raw)
    async with Upload(region, claims) as upload:
        await upload.write(raw)
        kept = await upload.finish(Wanted(type="callrecording", mime_type="audio/mpeg"))
    found = await content.readable(region, claims, kept.id)
    sound = _Sound(customer, kept.id, found.blob, sums.digests())
    return await catalog.load(region, _objects(sound, count, region.clock(), random.Random(seed)))  # noqa: S311  made-up data


@dataclass(frozen=True, slots=True)
class _Sound:
    """What all these records share."""

    customer: str
    bucket_id: str
    blob: str
    digests: Digests


def _objects(
    sound: _Sound, count: int, now_ms: int, chance: random.Random
) -> Iterator[StoredObject]:
    for number in range(count):
        ended_ms = (now_ms - number * _EVERY_MS) // SECOND * SECOND
        object_id = str(uuid.UUID(int=ended_ms << 80 | 7 << 76 | 2 << 62 | chance.getrandbits(62)))
        agent = f"agent-{chance.randrange(_AGENTS):04d}"
        yield StoredObject(
            id=object_id,
            customer=sound.customer,
            type=chance.choices(("callrecording", "callcenterrecording"), (2, 1))[0],
            mime_type="audio/mpeg",
            name=f"{object_id}.mp3",
            user_id=agent,
            created_ms=ended_ms,
            updated_ms=ended_ms,
            state=State.AVAILABLE,
            bucket_id=sound.bucket_id,
            tags=_tags(chance, agent, ended_ms),
            shared=False,
            blob=sound.blob,
            digests=sound.digests,
        )


def _tags(chance: random.Random, agent: str, ended_ms: int) -> dict[str, str]:
    duration_ms = min(int(chance.expovariate(1 / 180_000)) + 2_000, 7_200_000)
    caller = f"+1{chance.choice((408, 646, 669))}555{chance.randrange(10_000):04d}"
    queue = chance.choice(_QUEUES)
    return {
        "callId": str(chance.getrandbits(48)),
        "address": caller,
        "agentId": agent,
        "agentName": agent.replace("-", " ").title(),
        "agentEmail": f"{agent}@acme.test",
        "branchId": chance.choice(("site-sj", "site-ny")),
        "callerId": caller,
        "calleeId": _BILLED,
        "direction": chance.choice(("INBOUND", "OUTBOUND")),
        "startTime": str(ended_ms - duration_ms),
        "endTime": str(ended_ms),
        "duration": str(duration_ms),
        "queueName": queue,
        "channelName": f"{queue} phone",
        "transactionId": str(chance.getrandbits(31)),
        "extensionNumber": str(1000 + int(agent[-4:])),
    }
