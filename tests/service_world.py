"""The service as its users run it: the command line, real processes, real sockets."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

COMMAND = [sys.executable, "-m", "soundkeep"]


def soundkeep(*arguments, timeout: float = 60, **more) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True, text=True, timeout=timeout, check=False, **more,
    )  # fmt: skip


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@dataclass
class Demo:
    """A demo installation's folder and what its listing says."""

    folder: Path

    @property
    def listing(self) -> dict:
        return json.loads((self.folder / "demo.json").read_text())

    @property
    def config(self) -> Path:
        return self.folder / "soundkeep.toml"

    def app(self, number: int) -> dict:
        return self.listing["apps"][number]

    @property
    def read(self) -> dict:
        return self.app(0)

    @property
    def edit(self) -> dict:
        return self.app(2)

    @property
    def site(self) -> dict:
        return self.app(3)

    @property
    def globex(self) -> dict:
        return self.app(4)

    @property
    def password(self) -> str:
        return self.listing["users"][0]["password"]


@dataclass
class Service:
    """A running service."""

    process: subprocess.Popen
    base_url: str
    errors: Path

    def client(self, **more) -> httpx2.Client:
        return httpx2.Client(base_url=self.base_url, **more)

    def token(self, app: dict) -> str:
        answer = httpx2.post(
            f"{self.base_url}/oauth/v2/token",
            auth=(app["key"], app["secret"]),
            data={"grant_type": "client_credentials"},
        )
        assert answer.status_code == 200, answer.text
        return answer.json()["access_token"]

    def as_app(self, app: dict, **more) -> httpx2.Client:
        return self.client(headers={"authorization": f"Bearer {self.token(app)}"}, **more)

    def kill(self) -> None:
        """The whole process group at once, as the machine would."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(30)


@contextmanager
def serving(config: Path, *, port: int | None = None, env: dict[str, str] | None = None):
    """`soundkeep serve` in a process group of its own, ready to answer; killed at the end."""
    port = port or free_port()
    errors = config.parent / f"stderr-{port}.log"
    environment = {**os.environ, "SOUNDKEEP_SERVER__PORT": str(port), **(env or {})}
    with errors.open("ab") as log:
        process = subprocess.Popen(
            [*COMMAND, "serve", "--config", str(config)],
            stdout=log, stderr=log, env=environment, start_new_session=True,
        )  # fmt: skip
    service = Service(process, f"http://127.0.0.1:{port}", errors)
    try:
        wait_until_ready(service)
        yield service
    finally:
        if process.poll() is None:
            service.kill()


def wait_until_ready(service: Service) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if service.process.poll() is not None:
            break
        try:
            if httpx2.get(f"{service.base_url}/readyz").status_code == 200:
                return
        except httpx2.TransportError:
            time.sleep(0.05)
    raise AssertionError(service.errors.read_text())
