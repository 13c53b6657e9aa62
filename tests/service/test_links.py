"""Presigned links over real sockets: two workers, and the end of the app that made them."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from service_world import serving
from soundkeep import server
from soundkeep.cli import installation
from soundkeep.identity import accounts, apps

OBJECTS = "/storage/us-east/v3/objects"
PRESIGNED = "/storage/us-east/v3/presigned"


@pytest.fixture
def workers(demo):
    """The demo, served by two workers."""
    with serving(demo.config, env={"SOUNDKEEP_SERVER__WORKERS": "2"}) as service:
        yield service


def recording(client):
    """Some call's recording."""
    page = client.get(OBJECTS, params={"filter": "type==callrecording", "limit": 1}).json()
    return page["content"][0]["id"]


def link(client, object_id, **params):
    wish = {"presignUrl": "true", **params}
    answer = client.get(f"{OBJECTS}/{object_id}/content", params=wish)
    assert answer.status_code == 200, answer.text
    return answer.json()["url"]


def fetch(url, **headers):
    """On a connection of its own, so that either worker may answer."""
    return httpx2.get(url, headers={"connection": "close", **headers})


async def delete_app(config, password, app):
    """As its owner does it, in a process that serves nothing."""
    identity = await server.open_identity(installation.load(config))
    try:
        cookie = await accounts.sign_in(
            identity, email=app["owner"], password=password, address="127.0.0.1"
        )
        signed_in = await accounts.signed_in(identity, cookie)
        mine = await apps.mine(identity, signed_in.actor)
        [one] = [each for each in mine if each.key == app["key"]]
        await apps.delete(identity, signed_in.actor, one.id)
    finally:
        await identity.db.close()


def test_a_link_works_on_every_worker_and_leaves_no_signature_in_the_log(demo, workers):
    with workers.as_app(demo.edit) as client:
        object_id = recording(client)
        whole = client.get(f"{OBJECTS}/{object_id}/content").content
        url = link(client, object_id)
        answers = [fetch(url) for _ in range(12)]
        part = fetch(url, range="bytes=10-99")
        head = httpx2.head(url)
        forged = fetch(url[:-1])
        [listed] = client.get(PRESIGNED).json()["content"]
    workers.stop()
    log = workers.errors.read_text()

    assert {(each.status_code, each.content) for each in answers} == {(200, whole)}
    assert (part.status_code, part.content) == (206, whole[10:100])
    assert (head.headers["content-length"], forged.status_code) == (str(len(whole)), 403)
    assert listed["uses"] == 13
    assert log.count(f"{OBJECTS}/{object_id}/content") >= 15
    assert parse_qs(urlsplit(url).query)["signature"][0] not in log
    assert "signature" not in log


def test_of_twenty_connections_one_gets_what_is_for_one_use(demo, workers):
    with workers.as_app(demo.edit) as client:
        url = link(client, recording(client), once="true")
    with ThreadPoolExecutor(20) as pool:
        statuses = [each.status_code for each in pool.map(fetch, [url] * 20)]

    assert sorted(statuses) == [200] + 19 * [410]


def test_links_end_within_seconds_of_the_app_that_made_them(demo, workers):
    with workers.as_app(demo.edit) as client:
        url = link(client, recording(client), expiresIn=604_800)
    before = {fetch(url).status_code for _ in range(12)}
    asyncio.run(delete_app(demo.config, demo.password, demo.edit))
    deleted = time.monotonic()
    while {fetch(url).status_code for _ in range(12)} != {410}:
        assert time.monotonic() - deleted < 5

    assert before == {200}
