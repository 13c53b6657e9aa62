from __future__ import annotations

import pytest
from rules_world import HeldClock, World, new_identity

from soundkeep.identity.plane import PACKAGES


@pytest.fixture
async def world(database_urls, anyio_backend):
    clock, url = HeldClock(), database_urls(*PACKAGES)
    world = World(url, await new_identity(url, clock), clock)
    yield world
    await world.close()


@pytest.fixture
async def boss(world):
    """The Super Admin of the company `acme`."""
    return await world.company("acme")


@pytest.fixture
async def other_boss(world):
    """The Super Admin of another company, `globex`."""
    return await world.company("globex")
