"""Walks over pages while another process adds and deletes: what lasts comes exactly once.

Two services on one database answer a walk's pages by turns.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import busy_writer
import pytest
from test_two_nodes import furnish

from service_world import serving, soundkeep
from soundkeep import server
from soundkeep.cli import installation
from soundkeep.region import catalog, fiql

CUSTOMER = "acme"
OBJECTS = "/storage/us-east/v3/objects"
WRITER = Path(__file__).with_name("busy_writer.py")
COUNT = 120

FILTERS = {
    "direction==INBOUND": lambda tags: tags["direction"] == "INBOUND",
    "direction!=INBOUND;agentName==*a*": lambda tags: (
        tags["direction"] != "INBOUND" and "a" in tags.get("agentName", "")
    ),
    "duration=ge=9": lambda tags: (fiql.number(tags.get("duration", "")) or 0) >= 9,
}
WALKS = [
    {},
    {"sortDirection": "ASC"},
    {"sortField": "duration"},
    {"sortField": "duration", "sortDirection": "ASC"},
    {"sortField": "agentName"},
    {"sortField": "agentName", "sortDirection": "ASC", "filter": "direction==INBOUND"},
    *({"filter": each} for each in FILTERS),
]


# ---- what takes part ------------------------------------------------------------------------


@pytest.fixture
def configs(database_urls, monkeypatch, tmp_path):
    """Two installations of one region: the same databases and secret, folders of their own."""
    monkeypatch.setenv("SOUNDKEEP_IDENTITY__DATABASE", database_urls())
    monkeypatch.setenv("SOUNDKEEP_REGIONS__US_EAST__DATABASE", database_urls())
    monkeypatch.setenv("SOUNDKEEP_SERVER__WORKERS", "1")
    # A token is bound to who issued it: every node has to have the same name for that.
    monkeypatch.setenv("SOUNDKEEP_SERVER__PUBLIC_URL", "https://recordings.example.com")
    made = soundkeep("init", "--dir", tmp_path / "first", "--region", "us-east")
    assert made.returncode == 0, made.stderr
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    return [tmp_path / node / "soundkeep.toml" for node in ("first", "second")]


@contextmanager
def two_services(configs):
    """Clients of both, with one token."""
    key, secret = asyncio.run(furnish(configs[0]))
    with serving(configs[0]) as first, serving(configs[1]) as second:
        token = first.token({"key": key, "secret": secret})
        headers = {"authorization": f"Bearer {token}"}
        with first.client(headers=headers) as one, second.client(headers=headers) as other:
            yield one, other


def fill(config):
    """Objects that last, and others for the writer to delete; all of them by id."""

    async def load(objects):
        region = await server.open_region(installation.load(config), "us-east")
        try:
            await catalog.load(region, objects)
        finally:
            await region.close()

    lasting, doomed = some("lasting", COUNT), some("doomed", COUNT // 2)
    asyncio.run(load([*lasting.values(), *doomed.values()]))
    return lasting, doomed


def some(kind, count):
    return {each.id: each for each in itertools.islice(busy_writer.objects(CUSTOMER, kind), count)}


@contextmanager
def writing(config):
    """Another process that adds and deletes as fast as it can; at its end, how much it did."""
    told = {}
    command = [sys.executable, str(WRITER), str(config), CUSTOMER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "begun\n"
        try:
            yield told
        finally:
            process.stdin.close()
            told.update(json.loads(process.stdout.readline()))


def walk(clients, **params):
    """The ids on every page, each asked of the other service than the one before; the last total."""
    seen, page, turns = [], {"pageKey": 0, "lastPage": False}, itertools.cycle(clients)
    while not page["lastPage"]:
        asked = page["pageKey"]
        answer = next(turns).get(OBJECTS, params={**params, "pageKey": asked})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert page["pageKey"] == asked + params["limit"]
        assert page["pageSize"] == len(page["content"]) <= params["limit"]
        assert page["lastPage"] or page["pageSize"] == params["limit"]
        seen += [each["id"] for each in page["content"]]
        assert len(seen) < 50 * COUNT, "the walk does not end"
    return seen, page["total"]


def in_order(objects, params):
    """Their ids as a walk has to give them."""
    descending = params.get("sortDirection") != "ASC"
    sort = params.get("sortField")
    if sort is None:
        found = sorted(((each.created_ms, each.id) for each in objects), reverse=descending)
        return [object_id for _, object_id in found]
    zones = [], [], []  # numbers, texts, and what lacks the tag
    for each in objects:
        value = each.tags.get(sort)
        number = fiql.number(value or "")
        zone = 2 if value is None else int(number is None)
        zones[zone].append(((number, value, "")[zone], each.id))
    return [found[1] for zone in zones for found in sorted(zone, reverse=descending)]


# ---- the walks ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_walk_gives_what_lasts_exactly_once_while_another_process_writes(configs):
    lasting, known = fill(configs[0])
    known |= lasting
    taken = []
    with two_services(configs) as clients:
        with writing(configs[0]) as told:
            for limit, params in itertools.product((7, 100), WALKS):
                taken.append((params, walk(clients, limit=limit, **params)[0]))
        after, total = walk(clients, limit=100)

    assert min(told["added"], told["revoked"], told["deleted"]) > 20
    known |= some("added", told["added"])
    for params, seen in taken:
        passes = FILTERS.get(params.get("filter"), lambda _: True)
        wanted = {each.id for each in lasting.values() if passes(each.tags)}
        assert [each for each, times in Counter(seen).items() if times > 1] == [], params
        assert wanted - set(seen) == set(), params
        assert [each for each in seen if not passes(known[each].tags)] == [], params
        assert seen == in_order([known[each] for each in seen], params), params
    rest = [known[each] for each in (*lasting, *told["left"])]
    assert after == in_order(rest, {})
    assert total == len(after)


def test_many_objects_are_of_one_moment_and_their_tags_are_of_every_sort():
    lasting = some("lasting", COUNT).values()
    durations = [each.tags.get("duration") for each in lasting]

    assert Counter(each.created_ms for each in lasting).most_common(2)[1][1] > 5 * 7
    assert durations.count(None) > 15
    assert sum(fiql.number(each or "") is not None for each in durations) > 15
    assert sum(fiql.number(each or "0") is None for each in durations) > 15
