"""How a service ends: nothing works on after what it works with is closed."""

from __future__ import annotations

import asyncio

import pytest

from soundkeep import server
from soundkeep.cli import installation


@pytest.mark.parametrize("after", [0, 0.001, 0.005, 0.02])
async def test_a_service_that_stops_leaves_no_work_behind(tmp_path, after):
    """However soon: its chores may be in the middle of a transaction."""
    settings = installation.create(tmp_path / "made", port=8080, regions=["us-east", "uk"])
    await server.migrate_all(settings)
    before = asyncio.all_tasks()
    for _ in range(3):
        async with server.running(settings):
            await asyncio.sleep(after)
        assert asyncio.all_tasks() == before
