"""Bytes in and out beside nginx, SeaweedFS and the bare disk: `python benchmarks/content.py`.

Whole and ranged downloads against nginx with sendfile and SeaweedFS' S3 gateway; durable uploads of
bytes that differ each time against the gateway (which syncs nothing) and against files that are
written, synced and renamed by sixteen threads. Then what stalled readers and a long upload add to
the memory of an idle service.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import os
import socket
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from load import (
    CONNECTIONS,
    KIB,
    MARK,
    MIB,
    OBJECTS,
    ROUNDS,
    SECONDS,
    Service,
    Shot,
    compare,
    demo,
    free_port,
    keep,
    multipart,
    nginx,
    peak,
    program,
    resident,
    running,
    table,
)

SIZES = {"28 KB": 28 * KIB, "1 MB": MIB, "5 MB": 5 * MIB, "200 MB": 200 * MIB}
RANGES = {"28 KB of 5 MB": ("5 MB", 28 * KIB), "1 MB of 200 MB": ("200 MB", MIB)}
PUTS = {"28 KB": 28 * KIB, "5 MB": 5 * MIB}
READERS = 500
LONG = 2 * 1024 * MIB


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("get", "put", "memory"), help="one part of it")
    parser.add_argument("--seconds", type=int, default=SECONDS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    wanted = parser.parse_args()
    if wanted.only in (None, "get"):
        gets(wanted.seconds, wanted.rounds)
    if wanted.only in (None, "put"):
        puts(wanted.seconds, wanted.rounds)
    if wanted.only in (None, "memory"):
        memory()


def gets(seconds: int, rounds: int) -> None:
    """Downloads, one size after the other."""
    with (
        tempfile.TemporaryDirectory(prefix="soundkeep-static-") as static,
        demo() as service,
        nginx(Path(static)) as plain,
        seaweedfs() as gateway,
    ):
        token = service.token(2)
        bearer = {"Authorization": f"Bearer {token}"}
        shots: list[Shot] = []
        against: dict[str, str] = {}

        def add(what: str, urls: dict[str, str], **headers: str) -> None:
            for whose, url in urls.items():
                own = bearer if whose == "soundkeep" else {}
                shots.append(Shot(f"{whose} GET {what}", url, {**own, **headers}))
            against[f"soundkeep GET {what}"] = f"nginx GET {what}"
            against[f"seaweedfs GET {what}"] = f"nginx GET {what}"

        places: dict[str, dict[str, str]] = {}
        for name, size in SIZES.items():
            content = os.urandom(size)
            Path(static, str(size)).write_bytes(content)
            put(f"{gateway}/bench/{size}", content)
            places[name] = {
                "nginx": f"{plain}/{size}",
                "soundkeep": f"{service.base_url}{OBJECTS}/{keep(service, token, content)}/content",
                "seaweedfs": f"{gateway}/bench/{size}",
            }
            add(name, places[name])
        for name, (whole, length) in RANGES.items():
            start = SIZES[whole] // 2
            add(name, places[whole], Range=f"bytes={start}-{start + length - 1}")
        print(table(compare(shots, seconds=seconds, rounds=rounds), against))


def puts(seconds: int, rounds: int) -> None:
    """Uploads; each request has bytes that were never sent before."""
    rates: dict[str, float] = {}
    against: dict[str, str] = {}
    for name, size in PUTS.items():
        raw = MARK + os.urandom(size // 2).hex()[len(MARK) :]
        with demo() as service, seaweedfs() as gateway:
            body, headers = multipart(service.token(2), raw.encode())
            ours, theirs = f"soundkeep PUT {name}", f"seaweedfs PUT {name}"
            where = service.base_url + OBJECTS
            shots = [
                Shot(ours, where, headers, body.decode(), "POST", unique=True),
                Shot(theirs, f"{gateway}/bench/{MARK}", {}, raw, "PUT", unique=True),
            ]
            rates |= compare(shots, seconds=seconds, rounds=rounds)
        bare = f"bare disk PUT {name}"
        rates[bare] = disk(raw.encode(), seconds)
        against |= {ours: theirs, bare: theirs}
    print(table(rates, against))


def memory() -> None:
    """What stalled readers and a long upload add to an idle service."""
    with demo() as service, ExitStack() as lines:
        token = service.token(2)
        head = {"Authorization": f"Bearer {token}"}
        path = f"{OBJECTS}/{keep(service, token, os.urandom(200 * MIB))}/content"
        time.sleep(3)
        idle = resident(service)
        print("| what | MB over idle |\n|---|---:|")
        for name, headers in {"whole": {}, "range": {"Range": "bytes=1-"}}.items():
            for _ in range(READERS):
                lines.enter_context(stalled(service, path, {**head, **headers}))
            time.sleep(2)
            print(
                f"| {READERS} stalled readers of 200 MB, {name} | {resident(service) - idle:,.0f} |"
            )
            lines.close()
            time.sleep(2)
        print(f"| after they left | {resident(service) - idle:,.0f} |")
        with peak(service) as highest:
            send_long(service, head)
        print(f"| an upload of 2 GB, at most | {highest() - idle:,.0f} |")


# ---- the service ----------------------------------------------------------------------------


def send_long(service: Service, head: dict[str, str]) -> None:
    """One upload of 2 GB, as fast as it is taken."""
    where = urlsplit(service.base_url)
    before, after = multipart(service.token(2), b"\n")[0].split(b"\n\r\n--cut--")
    after = b"\r\n--cut--" + after
    line = http.client.HTTPConnection(where.hostname or "", where.port)
    line.putrequest("POST", OBJECTS)
    for name, value in {**head, "Content-Type": "multipart/form-data; boundary=cut"}.items():
        line.putheader(name, value)
    line.putheader("Content-Length", str(len(before) + LONG + len(after)))
    line.endheaders(before)
    piece = os.urandom(MIB)
    for number in range(LONG // MIB):
        line.send(number.to_bytes(8) + piece[8:])
    line.send(after)
    answer = line.getresponse()
    assert answer.status == 201, answer.read()
    line.close()


@contextmanager
def stalled(service: Service, path: str, headers: dict[str, str]) -> Iterator[None]:
    """A reader that takes the first bytes and then nothing."""
    where = urlsplit(service.base_url)
    with socket.create_connection((where.hostname or "", where.port or 0)) as line:
        lines = [f"GET {path} HTTP/1.1", "Host: x", *(f"{k}: {v}" for k, v in headers.items())]
        line.sendall("\r\n".join([*lines, "", ""]).encode())
        assert line.recv(1000).startswith(b"HTTP/1.1 20")
        yield


# ---- what it is compared with ---------------------------------------------------------------


@contextmanager
def seaweedfs() -> Iterator[str]:
    """SeaweedFS' S3 gateway with a bucket `bench` that anybody may use; its URL."""
    ports = [free_port() for _ in range(8)]
    parts = [(part, kind) for part in ("master", "volume", "filer") for kind in ("", ".grpc")]
    with tempfile.TemporaryDirectory(prefix="soundkeep-weed-") as folder:
        command = [program("weed"), "server", f"-dir={folder}", "-ip=127.0.0.1", "-s3"]
        command += ["-master.volumeSizeLimitMB=1024", "-master.telemetry=false", "-volume.max=40"]
        command += ["-s3.iam=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
        command += [f"-s3.localSocket={folder}/s3", f"-filer.localSocket={folder}/filer"]
        command += [f"-s3.port={ports[6]}", f"-s3.port.grpc={ports[7]}"]
        command += [
            f"-{part}.port{kind}={port}" for (part, kind), port in zip(parts, ports, strict=False)
        ]
        url = f"http://127.0.0.1:{ports[6]}"
        with running(command, url, dict(os.environ)):
            for _ in range(100):
                try:
                    put(f"{url}/bench", b"")
                    put(f"{url}/bench/ready", b"x")
                    break
                except OSError:
                    time.sleep(0.2)
            yield url


def put(url: str, content: bytes) -> None:
    """One PUT."""
    with urllib.request.urlopen(urllib.request.Request(url, content, method="PUT")):
        pass


def disk(content: bytes, seconds: int) -> float:
    """Files a second that sixteen threads hash, write, sync and rename."""
    with tempfile.TemporaryDirectory(prefix="soundkeep-disk-") as folder:
        until, counts = time.monotonic() + seconds, [0] * CONNECTIONS

        def work(thread: int) -> None:
            while time.monotonic() < until:
                counts[thread] += 1
                hashlib.sha256(content).digest()
                fresh = Path(folder, f"{thread}-{counts[thread]}.new")
                with fresh.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                fresh.rename(fresh.with_suffix(""))
                holder = os.open(folder, os.O_RDONLY)
                os.fsync(holder)
                os.close(holder)

        threads = [threading.Thread(target=work, args=(each,)) for each in range(CONNECTIONS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts) / seconds


if __name__ == "__main__":
    main()
