"""A recording in a real browser: it plays and seeks in a page of the console's origin."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from dataclasses import dataclass

import httpx2
import pytest
from console_browser import chromium, program, watched

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(program() is None, reason="there is no Chromium here"),
]

COMMAND = [sys.executable, "-m", "soundkeep"]
OBJECTS = "/storage/us-east/v3/objects"
METADATA = '{"type": "callrecording", "objectName": "long.wav"}'
MINUTES = 10
RATE = 16_000


@pytest.fixture(scope="module")
def engine():
    with chromium() as browser:
        yield browser


@dataclass
class Served:
    """A running demo with one long recording, and a token that may read it."""

    base_url: str
    token: str
    content: str
    size: int


def recording() -> bytes:
    """Ten minutes of a soft saw tooth, in stereo: some 38 MB."""
    second = b"".join((number % 100).to_bytes(2, "little") * 2 for number in range(RATE))
    made = io.BytesIO()
    with wave.open(made, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(second * 60 * MINUTES)
    return made.getvalue()


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("playback") / "demo"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    made = [*COMMAND, "demo", "--dir", str(folder), "--port", str(port), "--no-serve"]
    subprocess.run(made, check=True, capture_output=True, timeout=60)
    process = subprocess.Popen(
        [*COMMAND, "serve", "--config", str(folder / "soundkeep.toml")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    base_url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(base_url)
        apps = {app["name"]: app for app in json.loads((folder / "demo.json").read_text())["apps"]}
        app = apps["acme-edit"]
        granted = httpx2.post(
            f"{base_url}/oauth/v2/token",
            auth=(app["key"], app["secret"]),
            data={"grant_type": "client_credentials"},
        )
        token = granted.json()["access_token"]
        sound = recording()
        kept = httpx2.post(
            f"{base_url}{OBJECTS}",
            headers={"authorization": f"Bearer {token}"},
            files={"metadata": (None, METADATA), "content": ("long.wav", sound, "audio/wav")},
            timeout=60,
        )
        assert kept.status_code == 201, kept.text
        yield Served(base_url, token, f"{OBJECTS}/{kept.json()['id']}/content", len(sound))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def wait_until_ready(base_url: str) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            if httpx2.get(f"{base_url}/readyz").status_code == 200:
                return
        except httpx2.TransportError:
            time.sleep(0.05)
    raise AssertionError("the demo never became ready")


@pytest.mark.parametrize("options", [{}, {"inline": "true"}])
@pytest.mark.parametrize("element", ["audio", "video"])
def test_a_long_recording_plays_from_its_middle(engine, served, element, options):
    with watched(engine, served.base_url) as seen:
        ranges = []
        link = httpx2.get(
            f"{served.base_url}{served.content}",
            params={"presignUrl": "true", **options},
            headers={"authorization": f"Bearer {served.token}"},
        ).json()["url"]

        def note(response) -> None:
            if served.content in response.url:
                ranges.append((response.status, response.headers["content-range"]))

        seen.page.on("response", note)
        page = seen.open("/signin")
        page.evaluate(
            """([element, address]) => {
                const player = document.createElement(element);
                player.id = "player";
                player.muted = true;
                player.controls = true;
                player.src = address;
                document.querySelector("main").append(player);
            }""",
            [element, link],
        )
        page.wait_for_function("() => player.readyState >= HTMLMediaElement.HAVE_METADATA")
        duration = page.evaluate("player.duration")
        page.evaluate("player.currentTime = player.duration / 2")
        page.evaluate("player.play()")
        page.wait_for_function("() => player.currentTime > player.duration / 2 + 0.2")
        error = page.evaluate("player.error && player.error.message")
    starts = [int(re.match(r"bytes (\d+)-", content_range)[1]) for _, content_range in ranges]

    assert duration == pytest.approx(60 * MINUTES, abs=0.01)
    assert error is None
    assert {status for status, _ in ranges} == {206}
    assert starts[0] == 0
    assert max(starts) > served.size // 3
