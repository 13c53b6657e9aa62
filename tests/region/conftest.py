from __future__ import annotations

import secrets

import pytest
from blob_stores import BucketStore, LocalStore
from region_world import opened
from structlog.testing import capture_logs

from soundkeep.region.localblobs import LocalBlobs
from soundkeep.region.s3blobs import S3Blobs


@pytest.fixture(autouse=True)
def logged():
    """What is logged, instead of long tracebacks on the screen."""
    with capture_logs() as lines:
        yield lines


@pytest.fixture
def folder(tmp_path):
    """A folder for blobs."""
    return tmp_path / "blobs"


@pytest.fixture(params=["local", "seaweedfs", "rclone"])
async def store(request, anyio_backend):
    """Every store of bytes, empty."""
    if request.param == "local":
        folder = request.getfixturevalue("folder")
        blobs = LocalBlobs(folder, min_free_bytes=0)
        yield LocalStore(blobs, folder)
    else:
        server = request.getfixturevalue(request.param)
        bucket = server.bucket()
        blobs = S3Blobs(bucket, entropy=secrets.token_bytes)
        yield BucketStore(blobs, server, bucket)
    await blobs.close()


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
