"""Many recordings as one ZIP, beside nginx with a finished file: `python benchmarks/bulk.py`.

Soundkeep starts a bulk download and sends it; nginx sends what `zip -0` made before, which counts
until its first byte; Python's zipfile makes a temporary file and sends that; zipstream-ng makes the
archive while it is sent. They take turns, each alone with one client, and medians are divided. Then
what an archive of 70,000 members adds to the memory of an idle service. Needs `zip` and `nginx`.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from load import (
    CONNECTIONS,
    KIB,
    MIB,
    OBJECTS,
    ROUNDS,
    STORAGE,
    Service,
    demo,
    free_port,
    keep,
    nginx,
    peak,
    resident,
    running,
)

SETS = {"1,000 members of 1 MB": (1000, MIB), "10,000 members of 28 KB": (10_000, 28 * KIB)}
MEMBERS = 70_000
APP = 2
FIRST_MS, SHARE, MEMORY_MB = 50, 0.8, 30
"""What is aimed at: first byte of 10,000 members, part of nginx at 1 MB, memory over idle."""

PIECE = bytearray(MIB)


class Sent(NamedTuple):
    """What a client saw of one archive; `made_ms` is what came before it could be asked for."""

    made_ms: float
    first_ms: float
    rate: float
    size: int

    @property
    def waited_ms(self) -> float:
        """From the wish to the first byte."""
        return self.made_ms + self.first_ms


@dataclass(frozen=True)
class Way:
    """How to come to an archive: what makes it gives its URL and the headers to ask with."""

    name: str
    make: Callable[[], tuple[str, Mapping[str, str]]]


def main() -> None:
    """Print the tables, and what was aimed at."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("send", "memory"), help="one part of it")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--part", type=int, default=1, help="divides the numbers of members")
    wanted = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)
    aims: list[str] = []
    if wanted.only in (None, "send"):
        aims += send(wanted.rounds, wanted.part)
    if wanted.only in (None, "memory"):
        aims += memory(MEMBERS // wanted.part)
    print("\n| aim | found | |\n|---|---:|---|")
    print("\n".join(aims))


def send(rounds: int, part: int) -> list[str]:
    """Every set in every way; the lines of what was aimed at."""
    aims = []
    for name, (count, size) in SETS.items():
        with ways(count // part, size) as found:
            print(f"\n### {name}" + (f", a {part}th of them" if part > 1 else ""))
            sent = in_turn(found, rounds)
        print(table(sent))
        ours, other = sent["soundkeep"], sent["zip -0, nginx"]
        if size == MIB:
            share = ours.rate / other.rate
            aims.append(aim(f"{SHARE} of nginx, {name}", f"{share:.2f}", met=share >= SHARE))
        else:
            text = f"first byte in {FIRST_MS} ms, {name}"
            aims.append(aim(text, f"{ours.first_ms:.0f} ms", met=ours.first_ms <= FIRST_MS))
    return aims


def memory(count: int) -> list[str]:
    """What an archive of so many members, all of the same bytes, adds to an idle service."""
    with (
        tempfile.TemporaryDirectory(prefix="soundkeep-bulk-") as folder,
        demo(place=Path(folder, "demo"), objects=count) as service,
    ):
        token = service.token(APP)
        wanted = ids(service, token, count)
        time.sleep(3)
        idle = resident(service)
        with peak(service) as starting:
            url, headers = start(service, token, wanted)
        with peak(service) as sending:
            sent = get(url, headers)
        time.sleep(3)
        print(f"\n### An archive of {count:,} members, {sent.size / MIB:,.0f} MB")
        print("\n| when | MB over idle |\n|---|---:|")
        print(f"| while it is started, at most | {starting() - idle:,.1f} |")
        print(f"| while it is sent, at most | {sending() - idle:,.1f} |")
        print(f"| after that | {resident(service) - idle:,.1f} |")
        print(f"\nFirst byte after {sent.first_ms:,.0f} ms, {sent.rate:,.0f} MB/s.")
    more = sending() - idle
    return [aim(f"{MEMORY_MB} MB over idle", f"{more:.1f} MB", met=more < MEMORY_MB)]


def aim(text: str, found: str, *, met: bool) -> str:
    """A line of what was aimed at."""
    return f"| {text} | {found} | {'met' if met else '**missed**'} |"


# ---- ways to an archive ---------------------------------------------------------------------


@contextmanager
def ways(count: int, size: int) -> Iterator[list[Way]]:
    """Every way to an archive of so many files of random bytes."""
    with tempfile.TemporaryDirectory(prefix="soundkeep-bulk-") as temporary:
        root, port = Path(temporary), free_port()
        files = root / "files"
        files.mkdir()
        for number in range(count):
            (files / f"{number:05}.mp3").write_bytes(os.urandom(size))
        script = [sys.executable, str(Path(__file__).with_name("zipservers.py"))]
        others = f"http://127.0.0.1:{port}"
        with (
            demo(place=root / "demo") as service,
            nginx(root) as static,
            running([*script, str(port), temporary], others, dict(os.environ)),
        ):
            token = service.token(APP)
            kept = plant(service, token, files)
            time.sleep(3)

            def zipped() -> tuple[str, Mapping[str, str]]:
                zip_before(files, root / "made.zip")
                return f"{static}/made.zip", {}

            yield [
                Way("zip -0, nginx", zipped),
                Way("soundkeep", lambda: start(service, token, kept)),
                Way("zipstream-ng", lambda: (f"{others}/zipstream/files", {})),
                Way("zipfile", lambda: (f"{others}/zipfile/files", {})),
            ]


def plant(service: Service, token: str, folder: Path) -> list[str]:
    """Upload every file of a folder; the ids, in the order of the files' names."""
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        files = sorted(folder.iterdir())
        return list(threads.map(lambda file: keep(service, token, file.read_bytes()), files))


def ids(service: Service, token: str, count: int) -> list[str]:
    """The ids of so many objects, newest first."""
    head, found = {"Authorization": f"Bearer {token}"}, list[str]()
    while len(found) < count:
        url = f"{service.base_url}{OBJECTS}?limit=1000&pageKey={len(found)}"
        with urllib.request.urlopen(urllib.request.Request(url, headers=head)) as answer:
            found += [each["id"] for each in json.load(answer)["content"]]
    return found[:count]


def start(service: Service, token: str, wanted: list[str]) -> tuple[str, Mapping[str, str]]:
    """A bulk download; where its archive is."""
    bulk = f"{service.base_url}{STORAGE}/bulk/download"
    head = {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"{bulk}/start", json.dumps(wanted).encode(), head)
    with urllib.request.urlopen(request) as answer:
        return f"{bulk}/{json.load(answer)['zipName']}", head


def zip_before(folder: Path, target: Path) -> None:
    """An archive of a folder's files as Info-ZIP makes it, without compression."""
    if shutil.which("zip") is None:
        sys.exit("zip is needed for this benchmark and was not found.")
    target.unlink(missing_ok=True)
    subprocess.run(["zip", "-0", "-q", "-r", str(target), "."], cwd=folder, check=True)


# ---- measuring ------------------------------------------------------------------------------


def in_turn(found: list[Way], rounds: int) -> dict[str, Sent]:
    """What came in each way, by its name: medians over alternating rounds, after one to warm up."""
    sent: dict[str, list[Sent]] = {way.name: [] for way in found}
    for number in range(rounds + 1):
        for way in found:
            started = time.perf_counter()
            url, headers = way.make()
            made_ms = (time.perf_counter() - started) * 1000
            seen = get(url, headers)._replace(made_ms=made_ms)
            if number:
                sent[way.name].append(seen)
    return {name: middle(each) for name, each in sent.items()}


def middle(sent: list[Sent]) -> Sent:
    """The median of each figure."""
    return Sent(*(statistics.median(figures) for figures in zip(*sent, strict=True)))


def get(url: str, headers: Mapping[str, str]) -> Sent:
    """Fetch an archive and forget it."""
    where = urlsplit(url)
    line = http.client.HTTPConnection(where.hostname or "", where.port)
    line.connect()
    started = time.perf_counter()
    line.request("GET", where.path, headers=dict(headers))
    answer = line.getresponse()
    size = len(answer.read(1))
    first = time.perf_counter() - started
    while read := answer.readinto(PIECE):
        size += read
    whole = time.perf_counter() - started
    line.close()
    if answer.status != 200 or size != int(answer.headers["Content-Length"]):
        sys.exit(f"{url}: {answer.status}, {size} bytes of {answer.headers['Content-Length']}")
    return Sent(0, first * 1000, size / MIB / whole, size)


def table(sent: Mapping[str, Sent]) -> str:
    """What came as Markdown, ready for docs/performance.md; ratios are to nginx."""
    other = sent["zip -0, nginx"]
    lines = [
        "",
        "| what | made before, ms | first byte, ms | both ÷ nginx | MB/s | MB/s ÷ nginx |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, each in sent.items():
        cells = [name, f"{each.made_ms:,.1f}", f"{each.first_ms:,.1f}"]
        cells += [f"{each.waited_ms / other.waited_ms:.4f}", f"{each.rate:,.0f}"]
        lines.append(f"| {' | '.join(cells)} | {each.rate / other.rate:.2f} |")
    lines += ["", "MB/s: of the GET, from its sending to its last byte."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
