"""A region's public API under `/storage/{region}/v3`: one file for each segment after that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from starlette.routing import Route

from soundkeep.foundation.verify import Verifier
from soundkeep.region.http import buckets, bulk, objects, presigned, regions, tus
from soundkeep.region.http.guard import Door
from soundkeep.region.plane import Region


def routes(served: Mapping[str, Region], verifier: Verifier, known: Iterable[str]) -> list[Route]:
    """Every route; `known` are the regions that exist, here or elsewhere."""
    door = Door(served, frozenset(known) | served.keys(), verifier)
    return [
        *objects.routes(door),
        *tus.routes(door),
        *buckets.routes(door),
        *bulk.routes(door),
        *presigned.routes(door),
        *regions.routes(door),
    ]
