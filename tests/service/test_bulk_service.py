"""Archives over real sockets: cut, resumed, and served by another process after a crash."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import time
import zipfile
from pathlib import Path

import pytest

from service_world import Service, serving

pytestmark = pytest.mark.slow

STORAGE = "/storage/us-east/v3"
BULK = f"{STORAGE}/bulk/download"
CUTS = 50
MIB = 1024 * 1024


@pytest.fixture
def started(demo, service):
    """An archive of 40 MiB in members of all sizes: the demo, the service, where it is."""
    sizes = random.Random(11)
    with service.as_app(demo.edit, timeout=60) as client:
        ids = []
        for number in range(60):
            parts = {
                "metadata": (None, json.dumps({"type": "voicemail"})),
                "content": (
                    f"{number}.wav",
                    sizes.randbytes(sizes.randrange(2 * MIB)),
                    "audio/wav",
                ),
            }
            ids.append(client.post(f"{STORAGE}/objects", files=parts).json()["id"])
        name = client.post(f"{BULK}/start", json=ids).json()["zipName"]
    return demo, service, f"{BULK}/{name}"


def whole(service: Service, app: dict, path: str) -> bytes:
    with service.as_app(app, timeout=60) as client:
        answer = client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.content


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_a_download_that_is_cut_fifty_times_is_identical_in_the_end(started, tmp_path):
    demo, service, path = started
    expected = whole(service, demo.edit, path)
    target, places = tmp_path / "calls.zip", random.Random(13)
    cuts = sorted(places.sample(range(1, len(expected) - 4 * MIB), CUTS))
    for cut in cuts:
        with resuming(service, demo.edit, path, target, rate="40M") as curl:
            while size_of(target) < cut and curl.poll() is None:
                time.sleep(0.001)
            curl.kill()
    seen = size_of(target)
    with resuming(service, demo.edit, path, target) as curl:
        assert curl.wait(60) == 0

    assert 0 < seen <= len(expected)
    assert target.read_bytes() == expected
    assert zipfile.ZipFile(target).testzip() is None


def resuming(
    service: Service, app: dict, path: str, target: Path, *, rate: str = "10G"
) -> subprocess.Popen:
    """`curl -C -`, on its way."""
    return subprocess.Popen(
        ["curl", "-sf", "-C", "-", "--limit-rate", rate, "-o", str(target),
         "-H", f"Authorization: Bearer {service.token(app)}", f"{service.base_url}{path}"]
    )  # fmt: skip


def size_of(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def test_an_archive_is_the_same_after_a_crash(started):
    demo, service, path = started
    expected = whole(service, demo.edit, path)
    service.kill()

    with serving(demo.config) as again:
        assert whole(again, demo.edit, path) == expected
