from __future__ import annotations

import pytest
from region_world import opened
from structlog.testing import capture_logs


@pytest.fixture(autouse=True)
def logged():
    """What is logged, instead of long tracebacks on the screen."""
    with capture_logs() as lines:
        yield lines


@pytest.fixture
def folder(tmp_path):
    """A folder for blobs."""
    return tmp_path / "blobs"


@pytest.fixture
async def world(database_url, folder, anyio_backend):
    """A region, on either engine."""
    async with opened(database_url, folder) as world:
        yield world


@pytest.fixture
async def local(tmp_path, folder, anyio_backend):
    """A region on SQLite, for what does not depend on the engine."""
    async with opened(str(tmp_path / "region.sqlite"), folder) as world:
        yield world
