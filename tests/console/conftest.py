from __future__ import annotations

import pytest
from console_world import HeldClock, World, new_identity


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
async def world(tmp_path, anyio_backend):
    clock = HeldClock()
    world = World(await new_identity(tmp_path, clock), clock)
    yield world
    await world.close()


@pytest.fixture
async def boss(world):
    """The Super Admin of the company `acme`."""
    return await world.company("acme", "boss@acme.example")


@pytest.fixture
async def admin(world, boss):
    """The Super Admin's browser, signed in."""
    return await world.signed_in("boss@acme.example")


@pytest.fixture
async def other(world, boss):
    """The Super Admin of another company."""
    return await world.company("globex", "boss@globex.example")
