from __future__ import annotations

import pytest
from region_world import opened
from structlog.testing import capture_logs


@pytest.fixture(autouse=True)
def logged():
    """What is logged, instead of long tracebacks on the screen."""
    with capture_logs() as lines:
        yield lines


@pytest.fixture(scope="session")
def one_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("region") / "blobs"


@pytest.fixture
def folder(one_folder):
    """A folder for blobs; used again and again, since its 256 folders take long to make."""
    yield one_folder
    for each in (
        *one_folder.glob("incoming/*"),
        *one_folder.glob("staged/*"),
        *one_folder.glob("kept/*/*"),
    ):
        if each.is_dir():
            each.rmdir()
        else:
            each.unlink()


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
