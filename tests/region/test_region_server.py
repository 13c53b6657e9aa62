"""Uploads and downloads over real sockets: the service itself, behind Granian."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from region_world import CALL, CONTENT, FORM, METADATA, MIB, OBJECTS, multipart

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "soundkeep"]
LARGEST = 64 * MIB
SETTINGS = {
    "SOUNDKEEP_SERVER__WORKERS": "1",
    "SOUNDKEEP_REGIONS__US_EAST__MAX_UPLOAD_BYTES": str(LARGEST),
    "SOUNDKEEP_REGIONS__US_EAST__MIN_FREE_BYTES": "0",
}


@dataclass
class Service:
    """A running demo: where it is, its keys' tokens, its folder of bytes."""

    port: int
    blobs: Path
    tokens: dict[str, str]

    def client(self, key: str = "acme-edit") -> httpx2.Client:
        headers = {"authorization": f"Bearer {self.tokens[key]}"}
        return httpx2.Client(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=20)

    def upload(self, content: bytes) -> dict:
        with self.client() as client:
            body = multipart((METADATA, json.dumps(CALL)), (CONTENT, content))
            answer = client.post(OBJECTS, content=body, headers=FORM)
        assert answer.status_code == 201, answer.text
        return answer.json()

    def dial(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def head(self, key: str = "acme-edit", **headers: object) -> bytes:
        """The head of an upload, as it stands on the wire."""
        given = {"host": "127.0.0.1", "authorization": f"Bearer {self.tokens[key]}", **FORM}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        return f"POST {OBJECTS} HTTP/1.1\r\n{lines}\r\n".encode()

    def incoming(self) -> list[str]:
        return sorted(each.name for each in (self.blobs / "incoming").iterdir())

    def kept(self) -> int:
        return sum(1 for each in (self.blobs / "kept").glob("*/*"))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def _until(holds: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[Service]:
    folder, port = tmp_path_factory.mktemp("served") / "demo", _free_port()
    made = [*COMMAND, "demo", "--dir", str(folder), "--port", str(port), "--no-serve"]
    subprocess.run(made, check=True, capture_output=True, timeout=60)
    process = subprocess.Popen(
        [*COMMAND, "serve", "--config", str(folder / "soundkeep.toml")],
        env={**os.environ, **SETTINGS},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        base_url = f"http://127.0.0.1:{port}"
        _until(lambda: _answers(f"{base_url}/readyz"), 30)
        tokens = {}
        for app in json.loads((folder / "demo.json").read_text())["apps"]:
            answer = httpx2.post(
                f"{base_url}/oauth/v2/token",
                auth=(app["key"], app["secret"]),
                data={"grant_type": "client_credentials"},
            )
            tokens[app["name"]] = answer.json()["access_token"]
        yield Service(port, folder / "regions/us-east/blobs", tokens)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


def _answers(url: str) -> bool:
    try:
        return httpx2.get(url).status_code == 200
    except httpx2.TransportError:
        return False


# ---- downloads


@pytest.mark.parametrize("size", [0, 1, 256 * 1024, 256 * 1024 + 1, 5_000_000])
def test_a_whole_download_is_what_was_uploaded(service, size):
    content = os.urandom(size)
    made = service.upload(content)
    with service.client() as client:
        answer = client.get(f"{OBJECTS}/{made['id']}/content")

    assert hashlib.md5(answer.content).hexdigest() == made["checksum"]
    assert answer.headers["content-length"] == str(size)
    assert "transfer-encoding" not in answer.headers
    assert answer.headers["etag"] == f'"{hashlib.sha256(content).hexdigest()}"'


def test_parts_heads_and_refusals_leave_the_connection_usable(service):
    content = os.urandom(3 * MIB)
    path = f"{OBJECTS}/{service.upload(content)['id']}/content"
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=20)
    bearer = {"authorization": f"Bearer {service.tokens['acme-edit']}"}
    found = []
    for method, headers in (
        ("HEAD", {}),
        ("HEAD", {"range": "bytes=0-1"}),
        ("GET", {"range": "bytes=100-2000000"}),
        ("GET", {"range": f"bytes={3 * MIB}-"}),
        ("GET", {"if-none-match": f'"{hashlib.sha256(content).hexdigest()}"'}),
        ("GET", {"if-match": '"x"'}),
        ("GET", {"range": "bytes=-1"}),
        ("GET", {}),
    ):
        connection.request(method, path, headers={**bearer, **headers})
        answer = connection.getresponse()
        body = answer.read()
        if answer.headers["content-type"] == "application/problem+json":
            body = json.loads(body)["type"]
        found.append((answer.status, answer.headers["content-range"], body))
    connection.close()

    whole, end = len(content), len(content) - 1
    assert found == [
        (200, None, b""),
        (200, None, b""),
        (206, f"bytes 100-2000000/{whole}", content[100:2_000_001]),
        (416, f"bytes */{whole}", "urn:soundkeep:error:range_not_satisfiable"),
        (304, None, b""),
        (412, None, "urn:soundkeep:error:precondition_failed"),
        (206, f"bytes {end}-{end}/{whole}", content[-1:]),
        (200, None, content),
    ]


def test_an_answer_in_parts_is_as_long_as_it_says_and_leaves_the_connection_usable(service):
    content = os.urandom(3 * MIB)
    path = f"{OBJECTS}/{service.upload(content)['id']}/content"
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=20)
    bearer = {"authorization": f"Bearer {service.tokens['acme-edit']}"}
    for last in (5, 3 * MIB - 10):
        ranges = f"bytes={last - 1}-{last},0-1,-2"
        connection.request("GET", path, headers={**bearer, "range": ranges})
        answer = connection.getresponse()
        body = answer.read()

        assert (answer.status, answer.headers["transfer-encoding"]) == (206, None)
        assert len(body) == int(answer.headers["content-length"])
        assert body.endswith(f"--{answer.headers.get_boundary()}--\r\n".encode())
    connection.request("GET", path, headers=bearer)
    whole = connection.getresponse().read()
    connection.close()

    assert whole == content


def test_a_client_that_leaves_a_download_disturbs_nobody(service):
    made = service.upload(os.urandom(5_000_000))
    for _ in range(20):
        with (
            service.client() as client,
            client.stream("GET", f"{OBJECTS}/{made['id']}/content") as part,
        ):
            next(part.iter_raw())
    with service.client() as client:
        answer = client.get(f"{OBJECTS}/{made['id']}/content")

    assert hashlib.md5(answer.content).hexdigest() == made["checksum"]


@pytest.mark.parametrize("object_id", ["%00", "%FF", "%ED%A0%80", "%2e%2e", "a%2Fb", "%C3%A9", "é"])
def test_odd_bytes_in_a_path_are_an_unknown_object(service, object_id):
    head = f"GET {OBJECTS}/{object_id}/content HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
    bearer = f"authorization: Bearer {service.tokens['acme-edit']}\r\n\r\n"
    with service.dial() as line:
        line.sendall(head.encode() + bearer.encode())
        answer = b"".join(iter(lambda: line.recv(65536), b""))

    assert answer.split(b" ", 2)[1] == b"404"


# ---- uploads


@pytest.mark.parametrize("size", [0, 5_000_000])
def test_a_chunked_upload_needs_no_length(service, size):
    content = os.urandom(size)
    body = multipart((METADATA, json.dumps(CALL)), (CONTENT, content))
    with service.client() as client:
        pieces = (body[start : start + 100_000] for start in range(0, len(body), 100_000))
        answer = client.post(OBJECTS, content=pieces, headers=FORM)

    assert answer.request.headers["transfer-encoding"] == "chunked"
    assert answer.status_code == 201
    assert answer.json()["checksum"] == hashlib.md5(content).hexdigest()


def test_a_body_that_comes_byte_by_byte_is_whole(service):
    body = multipart((METADATA, json.dumps(CALL)), (CONTENT, b"sound"))
    with service.dial() as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line.sendall(service.head(content_length=len(body)))
        line.sendall(body[:-8])
        for byte in body[-8:]:
            time.sleep(0.02)
            line.sendall(bytes([byte]))
        answer = http.client.HTTPResponse(line)
        answer.begin()

        assert (answer.status, json.loads(answer.read())["storedBytes"]) == (201, 5)


def test_a_client_that_asks_first_is_told_to_go_on(service):
    """curl sends `Expect: 100-continue` with large bodies."""
    body = multipart((METADATA, json.dumps(CALL)), (CONTENT, bytes(100_000)))
    with service.dial() as line:
        line.sendall(service.head(content_length=len(body), expect="100-continue"))
        first = line.recv(100)
        line.sendall(body)
        answer = http.client.HTTPResponse(line)
        answer.begin()

    assert first.startswith(b"HTTP/1.1 100 ")
    assert answer.status == 201


def test_a_client_that_asks_first_is_refused_without_sending(service):
    with service.dial() as line:
        line.sendall(service.head("acme-read", content_length=50 * MIB, expect="100-continue"))
        answer = http.client.HTTPResponse(line)
        answer.begin()

    assert answer.status == 403


REFUSALS = {
    "a key that may not": ("acme-read", CALL, 30 * MIB, 403),
    "metadata that is wrong": ("acme-edit", {"type": 1}, 30 * MIB, 400),
    "more than is allowed": ("acme-edit", CALL, LARGEST + 2 * MIB, 413),
}


@pytest.mark.parametrize("case", REFUSALS)
@pytest.mark.parametrize("how", ["declared", "chunked"])
def test_a_refusal_during_a_large_upload_does_not_hang_the_client(service, case, how):
    """The client either reads the refusal or finds the connection closed: soon, in any case."""
    key, metadata, size, expected = REFUSALS[case]
    before = service.kept()
    body = multipart((METADATA, json.dumps(metadata)), (CONTENT, bytes(size)))
    content = body if how == "declared" else (body[n : n + MIB] for n in range(0, len(body), MIB))
    started = time.monotonic()
    with service.client(key) as client:
        try:
            status = client.post(OBJECTS, content=content, headers=FORM).status_code
        except httpx2.TransportError:
            status = None

    assert status in (expected, None)
    assert time.monotonic() - started < 10
    _until(lambda: service.incoming() == [])
    assert service.kept() == before


@pytest.mark.parametrize("size", [1000, 20 * MIB], ids=["small", "large"])
@pytest.mark.parametrize("how", ["closed", "reset", "chunked"])
def test_a_body_that_stops_leaves_nothing_once_the_connection_drops(service, how, size):
    before = service.kept()
    body = multipart((METADATA, json.dumps(CALL)), (CONTENT, bytes(size)))
    half = body[: len(body) // 2]
    with service.dial() as line:
        if how == "chunked":
            line.sendall(service.head(transfer_encoding="chunked"))
            line.sendall(f"{len(half):x}\r\n".encode() + half + b"\r\n")
        else:
            line.sendall(service.head(content_length=len(body)) + half)
        if size > MIB:
            _until(lambda: len(service.incoming()) == 1)
        time.sleep(0.2)
        if how == "reset":
            linger = (1).to_bytes(4, "little") + bytes(4)
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    _until(lambda: service.incoming() == [])
    time.sleep(0.1)

    assert (service.kept(), service.incoming()) == (before, [])
