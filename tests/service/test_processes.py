"""Real processes: two at once, killed ones, several workers, other machines' view."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from service_world import free_port, serving, soundkeep

OBJECTS = "/storage/us-east/v3/objects"
METADATA = '{"type": "callrecording", "tags": [{"key": "branchId", "value": "site-ny"}]}'


def upload(client, content, metadata=METADATA):
    parts = {"metadata": (None, metadata), "content": ("call.mp3", content, "audio/mpeg")}
    return client.post(OBJECTS, files=parts)


@pytest.mark.slow
def test_a_killed_service_keeps_every_upload_that_it_answered(demo):
    """kill -9 at some point of 200 uploads: what was answered 201 is whole, the rest is nowhere."""
    kept: dict[str, str] = {}
    enough = threading.Event()
    with serving(demo.config) as service:
        token = service.token(demo.edit)

        def send(number: int) -> None:
            content = os.urandom(20_000 + number * 97)
            headers = {"authorization": f"Bearer {token}"}
            try:
                with service.client(headers=headers) as client:
                    answer = upload(client, content)
            except httpx2.TransportError:
                return
            assert answer.status_code == 201, answer.text
            kept[answer.json()["id"]] = hashlib.md5(content).hexdigest()
            if len(kept) == 90:
                enough.set()

        with ThreadPoolExecutor(16) as pool:
            sent = [pool.submit(send, number) for number in range(200)]
            enough.wait(30)
            service.kill()
        for each in sent:
            each.result()
    with serving(demo.config) as service, service.as_app(demo.edit) as client:
        for object_id, md5 in kept.items():
            content = client.get(f"{OBJECTS}/{object_id}/content")
            assert hashlib.md5(content.content).hexdigest() == md5
        page = client.get(f"{OBJECTS}?limit=1000").json()
        for each in page["content"]:
            content = client.get(f"{OBJECTS}/{each['id']}/content").content
            assert hashlib.md5(content).hexdigest() == each["checksum"]
    blobs = demo.folder / "regions/us-east/blobs"
    files = {entry.name for entry in blobs.glob("kept/*/*")}

    assert 90 <= len(kept) < 200
    assert kept.keys() <= {each["id"] for each in page["content"]}
    assert len(files) == page["total"] + 2  # two of another customer
    assert list((blobs / "incoming").iterdir()) == []
    assert soundkeep("doctor", "--config", demo.config).returncode == 0


def test_workers_end_with_the_process_that_started_them(demo):
    with serving(demo.config) as service:
        os.kill(service.process.pid, signal.SIGKILL)
        service.process.wait(10)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            try:
                os.killpg(service.process.pid, 0)
            except ProcessLookupError:
                break
            time.sleep(0.1)
        with pytest.raises(ProcessLookupError):
            os.killpg(service.process.pid, 0)


def test_a_second_service_on_the_same_folder_is_refused(demo, service):
    env = {**os.environ, "SOUNDKEEP_SERVER__PORT": str(free_port())}
    second = soundkeep("serve", "--config", demo.config, env=env)

    assert second.returncode == 1
    assert second.stderr.endswith("another service uses this folder: stop it first.\n")
    assert httpx2.get(f"{service.base_url}/readyz").status_code == 200


def test_a_port_in_use_is_refused(demo, service, tmp_path):
    soundkeep("init", "--dir", tmp_path / "other", "--port", service.base_url.rpartition(":")[2])
    second = soundkeep("serve", "--config", tmp_path / "other/soundkeep.toml")

    assert second.returncode == 1
    assert "Address already in use" in second.stderr


def test_a_stop_lets_requests_finish(demo):
    with serving(demo.config) as service, service.as_app(demo.edit) as client:
        assert upload(client, b"x" * 1000).status_code == 201
        assert service.stop() == 0
        log = service.errors.read_text()

    assert '"event":"stop"' in log


def test_logs_hold_no_token_secret_or_phone_number(demo):
    with serving(demo.config) as service:
        token = service.token(demo.edit)
        with service.client(headers={"authorization": f"Bearer {token}"}) as client:
            client.get(f"{OBJECTS}?filter=address==%2B16695550123&limit=1")
            client.get(f"{OBJECTS}/+16695550123")
            client.get(f"{OBJECTS}/{token}")
            client.get(f"{OBJECTS}/{demo.edit['secret']}")
        service.stop()
        log = service.errors.read_text()

    assert log.count('"event":"request"') >= 5
    assert token not in log
    assert demo.edit["secret"] not in log
    assert "6695550123" not in log


def test_a_deleted_assignment_kills_tokens_on_every_worker_at_once(demo):
    """Connections spread over two workers; all must refuse within five seconds."""
    with serving(demo.config, env={"SOUNDKEEP_SERVER__WORKERS": "2"}) as service:
        token = service.token(demo.site)
        headers = {"authorization": f"Bearer {token}"}
        clients = [service.client(headers=headers) for _ in range(12)]
        before = {client.get(OBJECTS).status_code for client in clients}
        disable_user(service, demo, "nina@acme.test")
        answered_ms = time.monotonic()
        while (after := {client.get(OBJECTS).status_code for client in clients}) != {401}:
            assert time.monotonic() - answered_ms < 5
        refused = httpx2.post(
            f"{service.base_url}/oauth2/token",
            auth=(demo.site["key"], demo.site["secret"]),
            data={"grant_type": "client_credentials"},
        )
        for client in clients:
            client.close()

    assert (before, after) == ({200}, {401})
    assert (refused.status_code, refused.json()["error"]) == (400, "unauthorized_client")


def disable_user(service, demo, email):
    """Through the console, as a Super Admin does it."""
    import re

    with service.client(headers={"origin": service.base_url}) as browser:

        def csrf(path):
            return re.search(r'name="csrf" value="([^"]+)"', browser.get(path).text)[1]

        browser.post(
            "/console/signin",
            data={
                "csrf": csrf("/console/signin"),
                "email": "superadmin@acme.test",
                "password": demo.password,
            },
        )
        page = browser.get("/console/users").text
        row = next(row for row in page.split("<tr") if email in row)
        path = re.search(r'/console/users/[^"/]+/disable', row)[0]
        answer = browser.post(path, data={"csrf": csrf("/console/account")})
        assert answer.status_code == 303, answer.text
