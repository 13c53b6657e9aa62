"""The whole service with a region in S3: real processes, a real store."""

from __future__ import annotations

import json
import os
import time

import httpx2
import pytest

import s3_servers
from service_world import serving, soundkeep

OBJECTS = "/storage/us-east/v3/objects"


@pytest.fixture
def in_s3(seaweedfs):
    def in_s3(**changes):
        """The environment that puts us-east into a bucket nobody used before."""
        bucket = seaweedfs.bucket(**changes)
        table = "SOUNDKEEP_REGIONS__US_EAST__"
        return {
            f"{table}BLOBS": f"s3://{bucket.name}/{bucket.prefix}",
            f"{table}S3__ENDPOINT": bucket.endpoint,
            f"{table}S3__ACCESS_KEY_ID": bucket.access_key_id,
            f"{table}S3__SECRET_ACCESS_KEY": bucket.secret_access_key,
        }

    return in_s3


def test_what_is_uploaded_survives_a_kill_and_a_restart(demo, in_s3):
    """Through workers that each have connections of their own."""
    content, env = os.urandom(9_000_000), in_s3()
    parts = {
        "metadata": (None, json.dumps({"type": "callrecording"})),
        "content": ("long.mp3", content, "audio/mpeg"),
    }
    with serving(demo.config, env=env) as service, service.as_app(demo.edit) as client:
        kept = client.post(OBJECTS, files=parts)
        assert kept.status_code == 201, kept.text
        whole = client.get(f"{OBJECTS}/{kept.json()['id']}/content")
        service.kill()
    env["SOUNDKEEP_SERVER__WORKERS"] = "1"
    with serving(demo.config, env=env) as service, service.as_app(demo.edit) as client:
        part = client.get(
            f"{OBJECTS}/{kept.json()['id']}/content", headers={"range": "bytes=1000000-8000000"}
        )
        code = service.stop()

    assert whole.content == content
    assert (part.status_code, part.content) == (206, content[1_000_000:8_000_001])
    assert code == 0
    assert s3_servers.SECRET not in service.errors.read_text()


def test_a_direct_link_is_the_stores_own_and_a_folder_has_none(demo, in_s3):
    """The recordings of the other region are files."""
    content = os.urandom(1_000_000)
    parts = {
        "metadata": (None, json.dumps({"type": "callrecording"})),
        "content": ("call.mp3", content, "audio/mpeg"),
    }
    wish = {"presignUrl": "true", "direct": "true"}
    with serving(demo.config, env=in_s3()) as service, service.as_app(demo.edit) as client:
        kept = client.post(OBJECTS, files=parts).json()
        where = f"{OBJECTS}/{kept['id']}/content"
        short = client.get(where, params={**wish, "expiresIn": 1}).json()
        link = client.get(where, params={**wish, "expiresIn": 600}).json()
        others = client.get("/storage/uk/v3/objects?limit=1").json()["content"]
        refused = client.get(f"/storage/uk/v3/objects/{others[0]['id']}/content", params=wish)
    url = link["url"]
    whole = httpx2.get(url)
    part = httpx2.get(url, headers={"range": "bytes=1000-1999"})
    forged = httpx2.get(url[:-1] + ("0" if url[-1] != "0" else "1"))
    time.sleep(2.1)
    late = httpx2.get(short["url"])

    assert (short["expiresIn"], link["expiresIn"]) == (1, 600)
    assert (whole.status_code, whole.content) == (200, content)
    assert (part.status_code, part.content) == (206, content[1000:2000])
    assert (forged.status_code, late.status_code) == (403, 403)
    assert refused.status_code == 400
    assert refused.json()["errors"][0]["field"] == "direct"
    assert "keeps its recordings in files" in refused.json()["detail"]
    assert "X-Amz-Signature" not in service.errors.read_text()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"secret_access_key": "wrong-s3cret"}, "should look at the keys in the settings"),
        ({"name": "no-such-bucket"}, "should look at `blobs` in the settings"),
    ],
)
def test_serve_refuses_to_start_on_a_store_that_cannot_be_used(demo, in_s3, changes, says):
    env = in_s3(**changes)
    found = soundkeep("serve", "--config", demo.config, env={**os.environ, **env})

    assert found.returncode == 1
    (line,) = [each for each in found.stderr.splitlines() if not each.startswith("{")]
    assert line.startswith(f"soundkeep: {env['SOUNDKEEP_REGIONS__US_EAST__BLOBS']}: ")
    assert says in line
    assert env["SOUNDKEEP_REGIONS__US_EAST__S3__SECRET_ACCESS_KEY"] not in found.stderr


def test_doctor_finds_a_store_that_cannot_be_used_and_an_open_secret(demo, in_s3, tmp_path):
    env = in_s3(secret_access_key="")
    secret = tmp_path / "s3.secret"
    secret.write_text("wrong-s3cret")
    secret.chmod(0o644)
    env["SOUNDKEEP_REGIONS__US_EAST__S3__SECRET_ACCESS_KEY_FILE"] = str(secret)
    found = soundkeep("doctor", "--config", demo.config, env={**os.environ, **env})

    assert found.returncode == 1
    assert "AMISS recordings      us-east, s3://" in found.stdout
    assert f"AMISS secret of S3    us-east, {secret}: chmod 600 {secret}" in found.stdout
    assert "ok    recordings      uk" in found.stdout
    assert "wrong-s3cret" not in found.stdout + found.stderr
