"""Makers and users of presigned links, for tests."""

from __future__ import annotations

import json
import os
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import httpx2
from region_world import BASE, BASE_URL, OBJECTS, VAULT, fault

from soundkeep.foundation.claims import Reach
from soundkeep.region.plane import open_region

SOUND = bytes(range(256)) * 4
PRESIGNED = f"{BASE}/presigned"
HERE = "198.51.100.7"
DAY = 24 * 3600
NEW_YORK = Reach(sites=frozenset({"ny"}))
IN_NEW_YORK = {"type": "callrecording", "tags": [{"key": "branchId", "value": "ny"}]}
FORGED = "This link was not given out here as it is: ask for a new link."


def visitor(world, *regions, address=HERE):
    """Somebody without a token, at a network address."""
    transport = httpx2.ASGITransport(
        world.app(*regions), client=(address, 40_000), raise_app_exceptions=False
    )
    client = httpx2.AsyncClient(transport=transport, base_url=BASE_URL)
    world.clients.append(client)
    return client


async def asked(client, object_id, **params):
    """The answer to somebody who asks for a link."""
    return await client.get(
        f"{OBJECTS}/{object_id}/content", params={"presignUrl": "true", **params}
    )


async def url_of(client, made, **params) -> str:
    """A new link to an object."""
    answer = await asked(client, made["id"], **params)
    assert answer.status_code == 200, answer.text
    return answer.json()["url"]


@asynccontextmanager
async def another_process(world, *, vault=VAULT, name="us-east"):
    """The same region as another process opens it."""
    region = await open_region(
        name, database=world.url, blobs=world.folder, clock=world.clock,
        entropy=os.urandom, limits=world.region.limits, vault=vault, base_url=BASE_URL,
    )  # fmt: skip
    try:
        yield region
    finally:
        await region.close()


def changed(url, **changes):
    """The same link with other parameters; None takes one away."""
    params = {**dict(parse_qsl(urlsplit(url).query)), **changes}
    given = {name: value for name, value in params.items() if value is not None}
    return f"{url.partition('?')[0]}?{urlencode(given)}"


def id_of(url):
    return parse_qs(urlsplit(url).query)["link"][0]


async def deeds(world, *, about="object"):
    """What the audit says of links, or of objects but for their arrival, in order."""
    rows = await world.rows(
        """
        SELECT event, entity_key, display_name, user_id, details, correlation_id FROM audit
        WHERE customer = 'acme' AND entity_type = :about
          AND NOT (entity_type = 'object' AND event = 'create') ORDER BY seq
        """,
        about=about,
    )
    return [(*row[:4], json.loads(row[4])["new"], row[5]) for row in rows]


def said(answer):
    """A refusal's status, code and sentence."""
    status, code, _ = fault(answer)
    return status, code, answer.json()["detail"]


async def listing(client, **params):
    answer = await client.get(PRESIGNED, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def kid_of(url):
    return parse_qs(urlsplit(url).query)["kid"][0]
