from __future__ import annotations

import pytest
from identity_world import HeldClock, World, new_identity


@pytest.fixture
async def world(database_url, anyio_backend):
    """The company `acme`, on either engine."""
    clock = HeldClock()
    world = World(database_url, await new_identity(database_url, clock), clock)
    world.boss = await world.company("acme")
    yield world
    await world.close()
