"""Real S3 servers for tests, and a relay before them that can fail in the ways of a network."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import hmac
import itertools
import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlsplit

import httpx2

from soundkeep.region.blobs import Bucket

BUCKET = "recordings"
KEY_ID, SECRET = "AKSOUNDKEEP", "0123-s3cret-of-the-tests"
READER = {"access_key_id": "AKREADER", "secret_access_key": "4567-s3cret-of-a-reader"}
OWNER_ID, OWNER_SECRET = "AKOWNER", "89ab-s3cret-of-the-owner"
READY_SECONDS = 30


@dataclass
class S3Server:
    """A running server; buckets of it are reached directly or through a relay."""

    port: int
    owner: tuple[str, str] = (KEY_ID, SECRET)
    """Who may make buckets."""
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def bucket(self, **changes: object) -> Bucket:
        """The tests' bucket, below a prefix that nobody used before."""
        facts: dict = {
            "name": BUCKET,
            "prefix": f"test-{next(self.numbers)}/region",
            "endpoint": self.endpoint,
            "access_key_id": KEY_ID,
            "secret_access_key": SECRET,
        }
        return Bucket(**facts | changes)

    def ask(self, method: str, path: str, query: str = "", body: bytes = b"") -> httpx2.Response:
        """A request by hand, signed (AWS Signature Version 4)."""
        url = f"{self.endpoint}/{quote(path)}" + (f"?{query}" if query else "")
        return httpx2.request(
            method, url, headers=signed(method, url, body, *self.owner), content=body
        )

    def replace(self, path: str, body: bytes) -> None:
        """Put an object into the bucket, whoever put it there before."""
        answer = self.ask("PUT", f"{BUCKET}/{path}", body=body)
        assert answer.status_code == 200, answer.text

    def objects(self, prefix: str) -> dict[str, int]:
        """Every object below a prefix: its path there, and its size."""
        answer = self.ask("GET", BUCKET, f"list-type=2&prefix={quote(prefix, safe='')}")
        assert answer.status_code == 200, answer.text
        keys = re.findall(r"<Key>([^<]+)</Key>", answer.text)
        sizes = re.findall(r"<Size>(\d+)</Size>", answer.text)
        return {
            key.removeprefix(prefix).lstrip("/"): int(size)
            for key, size in zip(keys, sizes, strict=True)
        }

    def pending(self, prefix: str) -> list[str]:
        """Keys of the uploads in parts that were neither finished nor aborted."""
        answer = self.ask("GET", BUCKET, f"prefix={quote(prefix, safe='')}&uploads=")
        assert "ListMultipartUploadsResult" in answer.text or "NoSuchUpload" in answer.text
        uploads = re.findall(r"<Upload>(.*?)</Upload>", answer.text, re.DOTALL)
        keys = [re.search(r"<Key>([^<]+)</Key>", each)[1] for each in uploads]
        return [key for key in keys if key.startswith(prefix)]


def signed(method: str, url: str, body: bytes, key_id: str, secret: str) -> dict[str, str]:
    """The headers that make it a request of who has this key."""
    parts = urlsplit(url)
    now = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%SZ")
    digest, scope = hashlib.sha256(body).hexdigest(), f"{now[:8]}/us-east-1/s3/aws4_request"
    given = {"host": parts.netloc, "x-amz-content-sha256": digest, "x-amz-date": now}
    query = "&".join(
        f"{quote(name, safe='')}={quote(value, safe='')}"
        for name, value in sorted(parse_qsl(parts.query, keep_blank_values=True))
    )
    headers = "".join(f"{name}:{value}\n" for name, value in given.items())
    request = "\n".join([method, parts.path, query, headers, ";".join(given), digest])
    text = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(request.encode()).hexdigest()])
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.new(key, text.encode(), "sha256").hexdigest()
    return {
        **given,
        "authorization": f"AWS4-HMAC-SHA256 Credential={key_id}/{scope}, "
        f"SignedHeaders={';'.join(given)}, Signature={signature}",
    }


# ---- programs


@contextmanager
def seaweedfs(folder: Path) -> Iterator[S3Server]:
    """A SeaweedFS of one process: master, volumes, filer and S3."""
    identities = [
        ("owner", OWNER_ID, OWNER_SECRET, ["Admin"]),
        ("soundkeep", KEY_ID, SECRET, ["Read", "Write", "List"]),
        ("reader", *READER.values(), ["Read", "List"]),
    ]
    config = folder / "s3.json"
    config.write_text(
        json.dumps(
            {
                "identities": [
                    {
                        "name": name,
                        "credentials": [{"accessKey": key_id, "secretKey": secret}],
                        "actions": actions,
                    }
                    for name, key_id, secret, actions in identities
                ]
            }
        )
    )
    ports = iter(free_ports(8))
    command = [
        program("weed"),
        "-logtostderr=true",
        "server",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.volumeSizeLimitMB=256",
        "-master.telemetry=false",
        "-volume.max=40",
        "-s3",
        f"-s3.config={config}",
        "-s3.iam=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.localSocket={folder}/s3.sock",
        f"-filer.localSocket={folder}/filer.sock",
        f"-s3.port={(port := next(ports))}",
        f"-s3.port.grpc={next(ports)}",
        *(
            f"-{part}.port{kind}={next(ports)}"
            for part in ("master", "volume", "filer")
            for kind in ("", ".grpc")
        ),
    ]
    server = S3Server(port, (OWNER_ID, OWNER_SECRET))
    with running(command, folder / "log.txt", server):
        yield server


@contextmanager
def rclone(folder: Path, port: int = 0) -> Iterator[S3Server]:
    """An rclone that serves a folder."""
    (folder / "served" / BUCKET).mkdir(parents=True, exist_ok=True)
    port = port or free_ports(1)[0]
    command = [
        *(program("rclone"), "serve", "s3", "--config", str(folder / "rclone.conf")),
        *("--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY_ID},{SECRET}"),
        str(folder / "served"),
    ]
    server = S3Server(port)
    with running(command, folder / "log.txt", server):
        yield server


def program(name: str) -> str:
    """A program that came with the development dependencies."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    assert found, f"{name} is missing: it is among the development dependencies (make setup)"
    return found


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on."""
    with ExitStack() as stack:
        bound = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in bound]


@contextmanager
def running(command: list[str], log: Path, server: S3Server) -> Iterator[subprocess.Popen]:
    """A server process until the end, once it keeps objects."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=log.parent)
    try:
        until = time.monotonic() + READY_SECONDS
        while not _keeps_objects(server):
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < until, log.read_text()[-2000:]
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


def _keeps_objects(server: S3Server) -> bool:
    try:
        server.ask("PUT", BUCKET)  # the bucket itself: again is fine
        return server.ask("PUT", f"{BUCKET}/ready", body=b"yes").status_code == 200
    except httpx2.TransportError:
        return False


# ---- the network between


@dataclass
class Relay:
    """Hands requests on to a server, each over a connection of its own, and fails as it is told."""

    upstream: int
    port: int = 0
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Method and target of each request."""
    refusals: list[int] = field(default_factory=list)
    """Statuses with which the next requests are answered."""
    flips: int = 0
    """How many of the next bodies arrive with one bit changed."""
    silent: bool = False
    """Requests are taken and never answered."""
    gone: bool = False
    """Connections are cut at once."""
    slow_seconds: float = 0
    """Bodies take so long."""
    listening: asyncio.Server | None = None
    open: dict[asyncio.Task, asyncio.StreamWriter] = field(default_factory=dict)

    async def start(self) -> None:
        """Listen."""
        self.listening = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**20)
        self.port = self.listening.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Take no more connections."""
        self.listening.close()
        await self.down()

    async def down(self) -> None:
        """Cut every connection, and each new one at once."""
        self.gone = True
        self.cut()
        await asyncio.gather(*self.open)

    def cut(self) -> None:
        """Cut every connection."""
        for task, writer in self.open.items():
            writer.transport.abort()
            task.cancel()

    async def heal(self) -> None:
        """No more faults."""
        await self.down()
        self.asked.clear()
        self.refusals.clear()
        self.flips, self.slow_seconds, self.silent, self.gone = 0, 0, False, False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open[asyncio.current_task()] = writer
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while not self.gone and await self._exchange(reader, writer):
                pass
        del self.open[asyncio.current_task()]
        writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.decode("latin-1").split(" ", 2)
        body = await reader.readexactly(_length(head))
        self.asked.append((method, target))
        if self.silent:
            await asyncio.Event().wait()
        if self.refusals:
            status = self.refusals.pop(0)
            writer.write(b"HTTP/1.1 %d Fault\r\nContent-Length: 0\r\n\r\n" % status)
            await writer.drain()
            return True
        if body:
            await asyncio.sleep(self.slow_seconds)
        if body and self.flips:
            self.flips -= 1
            body = bytes([body[0] ^ 1]) + body[1:]
        answers, upstream = await asyncio.open_connection("127.0.0.1", self.upstream, limit=2**20)
        try:
            upstream.write(head + body)
            return await self._answer(method, answers, writer)
        finally:
            upstream.transport.abort()

    async def _answer(
        self, method: str, answers: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        head = await answers.readuntil(b"\r\n\r\n")
        if b"\r\ncontent-range: bytes " in head.lower():  # rclone answers a range with 200
            head = head.replace(b" 200 OK\r\n", b" 206 Partial Content\r\n", 1)
        writer.write(head)
        if method != "HEAD" and b"\r\ntransfer-encoding: chunked" in head.lower():
            while size := int((line := await answers.readline()).strip() or b"0", 16):
                writer.write(line + await answers.readexactly(size + 2))
                await writer.drain()
            writer.write(b"0\r\n\r\n")
        rest = 0 if method == "HEAD" else _length(head)
        while rest:
            piece = await answers.read(min(rest, 2**16))
            if not piece:
                return False
            rest -= len(piece)
            writer.write(piece)
            await writer.drain()
        await writer.drain()
        return True


def _length(head: bytes) -> int:
    found = re.search(rb"\r\ncontent-length: *(\d+)", head.lower())
    return int(found[1]) if found else 0
