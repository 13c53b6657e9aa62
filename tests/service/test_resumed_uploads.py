"""A foreign tus client, a long recording, and a service that is killed under it."""

from __future__ import annotations

import hashlib
import random
import threading
import time

import pytest
import requests
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError

from service_world import free_port, serving

MIB = 1024 * 1024
UPLOADS = "/storage/us-east/v3/uploads"


@pytest.fixture(scope="module")
def long_recording(tmp_path_factory):
    """200 MB that no compression and no repetition hides."""
    file, chance = tmp_path_factory.mktemp("long") / "long.wav", random.Random(3)
    with file.open("wb") as out:
        for _ in range(200):
            out.write(chance.randbytes(MIB))
    return file


def sha256(pieces) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


@pytest.mark.slow
def test_a_tus_client_brings_a_long_recording_through_four_kills(demo, long_recording):
    port, chance, offsets, url = free_port(), random.Random(5), [], None
    for kills_left in range(4, -1, -1):
        with serving(demo.config, port=port) as service, long_recording.open("rb") as stream:
            bearer = {"Authorization": f"Bearer {service.token(demo.edit)}"}
            client = TusClient(f"{service.base_url}{UPLOADS}", headers=bearer)
            uploader = client.uploader(
                file_stream=stream,
                url=url,
                chunk_size=24 * MIB,
                metadata={"type": "callrecording", "filename": "long.wav"},
            )
            offsets.append(uploader.offset)
            broken: list[BaseException] = []

            def upload(uploader=uploader, broken=broken) -> None:
                try:
                    uploader.upload()
                except (TusCommunicationError, requests.RequestException) as error:
                    broken.append(error)

            running = threading.Thread(target=upload)
            running.start()
            if kills_left:
                until = time.monotonic() + 60
                reached = offsets[-1] + chance.randrange(8, 40) * MIB
                while uploader.offset < reached and time.monotonic() < until:
                    time.sleep(0.005)
                time.sleep(chance.random() / 20)
                service.kill()
            running.join(120)
            url = uploader.url
            assert bool(broken) == bool(kills_left), broken
            if not kills_left:
                with service.as_app(demo.edit) as reader:
                    headers = {"Tus-Resumable": "1.0.0"}
                    where = reader.head(url, headers=headers).headers["content-location"]
                    made = reader.get(where).json()
                    with reader.stream("GET", f"{where}/content") as answer:
                        found = sha256(answer.iter_bytes())

    assert offsets == sorted(offsets)
    assert offsets[-1] > offsets[0] == 0
    assert made["storedBytes"] == long_recording.stat().st_size
    assert found == sha256([long_recording.read_bytes()])
    assert list((demo.folder / "regions/us-east/blobs/staged").iterdir()) == []
