"""Walks over pages while another process adds and deletes: what lasts comes exactly once."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from service_world import serving

from soundkeep import server
from soundkeep.cli import installation
from soundkeep.region import catalog

OBJECTS = "/storage/us-east/v3/objects"
WRITER = Path(__file__).with_name("busy_writer.py")


@pytest.fixture
def env(database_urls, monkeypatch):
    """What gives the demo's region an empty database on the engine under test, and two workers."""
    monkeypatch.setenv(
        "SOUNDKEEP_REGIONS__US_EAST__DATABASE", database_urls("foundation", "region")
    )
    monkeypatch.setenv("SOUNDKEEP_SERVER__WORKERS", "2")
    return dict(os.environ)


def fill(demo, count):
    """Objects that last, and as many that are going to be deleted; their ids."""
    import busy_writer

    async def work():
        region = await server.open_region(installation.load(demo.config), "us-east")
        try:
            customer = demo.listing["customer_id"]
            lasting = list(itertools.islice(busy_writer.objects(customer, "lasting"), count))
            doomed = itertools.islice(busy_writer.objects(customer, "doomed"), count)
            await catalog.load(region, [*lasting, *doomed])
            return lasting
        finally:
            await region.close()

    return asyncio.run(work())


@contextmanager
def writing(demo, env):
    """Another process that adds and deletes as fast as it can; at its end, how much it did."""
    told = {}
    command = [sys.executable, str(WRITER), str(demo.config), demo.listing["customer_id"]]
    with subprocess.Popen(
        command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "begun\n"
        try:
            yield told
        finally:
            process.stdin.close()
            told.update(json.loads(process.stdout.readline()))


def walk(service, token, **params):
    """Every page, each asked for on a connection of its own, so that both workers answer."""
    seen, page = [], {"pageKey": 0, "lastPage": False}
    while not page["lastPage"]:
        params["pageKey"] = page["pageKey"]
        headers = {"authorization": f"Bearer {token}", "connection": "close"}
        answer = httpx2.get(service.base_url + OBJECTS, params=params, headers=headers)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        seen += page["content"]
    return seen


def value_of(each, key):
    return next((tag["value"] for tag in each["tags"] if tag["key"] == key), None)


WALKS = [
    {"limit": 37},
    {"limit": 37, "sortDirection": "ASC"},
    {"limit": 23, "filter": "direction==INBOUND"},
    {"limit": 23, "filter": "direction!=INBOUND;agentName==*a*"},
    {"limit": 61, "sortField": "duration"},
    {"limit": 61, "sortField": "agentName", "sortDirection": "ASC"},
]


@pytest.mark.slow
def test_a_walk_gives_what_lasts_exactly_once_while_another_process_writes(demo, env):
    lasting = fill(demo, 250)
    with serving(demo.config, env=env) as service:
        token = service.token(demo.read)
        with writing(demo, env) as told:
            walks = [walk(service, token, **params) for params in WALKS]

    assert told["added"] > 50
    assert told["deleted"] > 50
    tests = {
        "direction==INBOUND": lambda tags: tags["direction"] == "INBOUND",
        "direction!=INBOUND;agentName==*a*": lambda tags: (
            tags["direction"] != "INBOUND" and "a" in tags.get("agentName", "")
        ),
    }
    for params, seen in zip(WALKS, walks, strict=True):
        counts = Counter(each["id"] for each in seen)
        passes = tests.get(params.get("filter"), lambda tags: True)
        expected = {each.id for each in lasting if passes(each.tags)}
        assert [each for each, times in counts.items() if times > 1] == [], params
        assert expected - counts.keys() == set(), params
    newest = [each["createdTime"] for each in walks[0]]
    assert newest == sorted(newest, reverse=True)
    oldest = [each["createdTime"] for each in walks[1]]
    assert oldest == sorted(oldest)
    names = [value_of(each, "agentName") for each in walks[5]]
    assert names == sorted(names, key=lambda name: (name is None, name or ""))
