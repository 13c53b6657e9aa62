"""How a service ends: nothing works on after what it works with is closed."""

from __future__ import annotations

import asyncio
import threading

import httpx2
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


async def test_errors_leave_no_threads_that_would_keep_a_process_from_ending(tmp_path):
    settings = installation.create(tmp_path / "made", port=8080, regions=["us-east"])
    await server.migrate_all(settings)
    async with server.running(settings) as app:
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            found = [
                (await client.get(path)).status_code
                for path in ("/nothing", "/storage/us-east/v3/objects", "/console/nothing")
            ]
        names = {thread.name for thread in threading.enumerate()}

    assert found == [404, 401, 404]
    assert not {name for name in names if "AnyIO" in name}
