"""Clients that read slowly, or leave: what they cost the service, seen through /proc."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from service_world import Demo, Service, serving

pytestmark = pytest.mark.slow

OBJECTS = "/storage/us-east/v3/objects"
METADATA = '{"type": "callrecording", "tags": [{"key": "branchId", "value": "site-ny"}]}'
MIB = 1024 * 1024
SIZE = 64 * MIB
READERS = 50
MOST = 40 * MIB
"""The first sixteen of each worker are handed large pieces, the others small ones."""


def processes(service: Service) -> list[Path]:
    """Every process of the service."""
    group = str(service.process.pid)
    return [each.parent for each in Path("/proc").glob("[0-9]*/stat") if _group(each) == group]


def _group(stat: Path) -> str:
    try:
        return stat.read_text().rpartition(")")[2].split()[2]
    except OSError:
        return ""  # it ended meanwhile


def memory(service: Service) -> int:
    """Bytes that the service's processes hold in memory, together."""
    lines = [
        line for each in processes(service) for line in (each / "status").read_text().splitlines()
    ]
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def open_files(service: Service, folder: Path) -> int:
    """How many open files of the service lie below the folder."""
    return sum(
        _target(link).startswith(f"{folder}/")
        for each in processes(service)
        for link in (each / "fd").iterdir()
    )


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""  # it was closed meanwhile


def until(holds: Callable[[], bool], what: str, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def settled(measured: Callable[[], int]) -> int:
    """A quantity once it has stopped growing."""
    last = -1
    while (now := measured()) > last:
        last = now
        time.sleep(0.5)
    return last


def stalled(service: Service, path: str, token: str, header: str) -> tuple[socket.socket, bytes]:
    """A connection whose client has read 100 kB of the answer, and reads no more; its head."""
    where = urlsplit(service.base_url)
    line = socket.create_connection((where.hostname, where.port), timeout=20)
    head = f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n{header}\r\n"
    line.sendall(head.encode())
    got = b""
    while len(got) < 100_000:
        piece = line.recv(100_000 - len(got))
        assert piece, got[:1000]
        got += piece
    return line, got


@pytest.fixture(scope="module")
def recorded(demo_made, tmp_path_factory) -> tuple[Demo, str]:
    """A demo with a recording of 64 MiB, and its content's path; no service runs yet."""
    demo = Demo(shutil.copytree(demo_made.folder, tmp_path_factory.mktemp("slow") / "demo"))
    with serving(demo.config) as service, service.as_app(demo.edit, timeout=60) as client:
        parts = {"metadata": (None, METADATA), "content": ("a.wav", os.urandom(SIZE), "audio/wav")}
        made = client.post(OBJECTS, files=parts)
        assert made.status_code == 201, made.text
    return demo, f"{OBJECTS}/{made.json()['id']}/content"


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("range: bytes=1-\r\n", b"206"),
        ("range: bytes=1-60000000,60000002-\r\n", b"206"),
        ("", b"200"),
    ],
    ids=["range", "ranges", "whole"],
)
def test_fifty_stalled_readers_cost_little_and_leave_nothing_open(recorded, header, status):
    demo, path = recorded
    kept = demo.folder / "regions/us-east/blobs/kept"
    with (
        serving(demo.config, env={"SOUNDKEEP_SERVER__WORKERS": "2"}) as service,
        ExitStack() as stack,
    ):
        token = service.token(demo.edit)
        before = settled(lambda: memory(service))
        for _ in range(READERS):
            line, got = stalled(service, path, token, header)
            stack.enter_context(line)
            assert got.split(b" ", 2)[1] == status
        grown = settled(lambda: memory(service)) - before
        opened = open_files(service, kept)
        stack.close()
        until(lambda: open_files(service, kept) == 0, "the files of readers that left stay open")

    assert opened == READERS
    assert grown < MOST


def test_a_service_allows_itself_as_many_open_files_as_it_may_have(recorded):
    """Each stalled reader takes two."""
    demo, _ = recorded
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with serving(demo.config) as service:
            limits = [
                resource.prlimit(int(each.name), resource.RLIMIT_NOFILE)
                for each in processes(service)
            ]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert set(limits) == {(min(hard, 65_536), hard)}
