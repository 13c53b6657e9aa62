"""The event loop stays free while searches are at their worst."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import pytest
from region_world import OBJECTS, START_MS, an_object

from soundkeep.region import catalog
from soundkeep.region.fiql import MAX_BYTES

MANY = 20_000
LONGEST = 0.05
ATTEMPTS = 4
ARRIVAL = 0.002  # seconds between requests: what begins in the same turn of the loop adds up
TURNS = Path("/proc/thread-self/schedstat")
ENOUGH = 1.0  # seconds of a search; the loop has to stay free while it is stopped, too


def several(count, each, glue=","):
    return glue.join(each.format(number=number) for number in range(count))


def slow_to_carry_out(attempt):
    """Searches over everything there is; never the same, so that nothing of them is remembered."""
    values, terms = 1000 - attempt, 250 - attempt
    light = [
        {"filter": f"agent==*x*y*{attempt},queue==*q*w*e*,note==*[*"},
        {"filter": f"note=gt={attempt}5,duration=lt=-1"},
    ]
    return {
        kind: [heavy, *light]
        for kind, heavy in {
            "wildcards": {"filter": several(terms, "note==*{number}*{number}*x*")},
            "unwanted wildcards": {
                "filter": several(terms, "t{number}!=*{number}*", ";") + ";a==b"
            },
            "equalities": {"filter": several(terms, "t{number}==a")},
            "bounds": {"filter": several(terms, "note=gt=5.{number}")},
            "=in=": {"filter": f"agent=in=({several(values, 'b{number}')})"},
            "=out=": {"filter": f"agent=out=({several(values, 'a{number}')})"},
            "order by a tag": {"sortField": "note", "limit": values},
            "order by a name": {"sortField": "objectName", "limit": values, "filter": "agent!=a1"},
            "the end": {"pageKey": MANY - 500 - attempt, "limit": values, "filter": "agent!=a1"},
            "a long page": {"limit": values},
        }.items()
    }


def slow_to_read(attempt):
    """Filters as long as they may be, of as many values and comparisons as they may have."""
    values, terms = 1000 - attempt, 250 - attempt
    return {
        kind: [{"filter": each}]
        for kind, each in {
            "a list of texts": f"note=in=({several(values, 'x{number:05d}')})",
            "a list of escapes": f"note=out=({several(values, '%25%2a')})",
            "a list of moments": f"createdTime=in=({several(values, '1{number:06d}')})",
            "lists": several(terms, "note=in=('{number}a','{number}b','')", ";"),
            "comparisons": several(terms // 2, "(t{number}=='*{number:018d}*';a=gt={number}.5)"),
            "wildcards": "note==" + "*a" * (4000 - attempt),
            "escapes": "note=='" + "\\a" * (4000 - attempt) + "'",
            "percent signs": "note==" + "%25" * (2600 - attempt),
        }.items()
    }


@pytest.fixture
async def full(world):
    chance = random.Random(1)
    await catalog.load(
        world.region,
        (
            an_object(
                f"{number:08d}",
                name=f"{chance.random()}",
                created_ms=START_MS + number,
                bucket_id="calls",
                tags={
                    "agent": f"a{chance.randrange(50)}",
                    "note": f"{chance.random()}",
                    "duration": f"{chance.randrange(10_000)}",
                },
            )
            for number in range(MANY)
        ),
    )
    return world


def own_time() -> float:
    """A clock that stands still while other processes have this thread's turn, where that is known."""
    waited = int(TURNS.read_text().split()[1]) / 1e9 if TURNS.exists() else 0.0
    return time.perf_counter() - waited


async def longest_pause(work) -> float:
    """How long the event loop was busy with one thing, at most, while some work was done."""
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            asleep = own_time()
            await asyncio.sleep(0.001)
            longest = max(longest, own_time() - asleep - 0.001)

    watcher = asyncio.create_task(watch())
    await asyncio.sleep(0.01)
    await work()
    await asyncio.sleep(0.01)
    watcher.cancel()
    return longest


async def pauses(world, kinds):
    """Each kind of searches that holds the loop up in every attempt, and how long at its best.

    What else the machine does may be in the way of one; a search that blocks always does.
    """
    client, best = world.client(world.limited(search_seconds=ENOUGH)), {}
    for attempt in range(ATTEMPTS):
        for kind, searches in kinds(attempt).items():
            if best.get(kind, LONGEST) < LONGEST:
                continue
            requests = [client.build_request("GET", OBJECTS, params=each) for each in searches]

            async def all_at_once(requests=requests) -> None:
                asked = []
                for each in requests:
                    asked.append(asyncio.create_task(client.send(each)))
                    await asyncio.sleep(ARRIVAL)
                answers = await asyncio.gather(*asked)
                assert {each.status_code for each in answers} <= {200, 503}, answers

            pause = await longest_pause(all_at_once)
            best[kind] = min(pause, best.get(kind, pause))
    return {kind: pause for kind, pause in best.items() if pause >= LONGEST}


async def test_the_worst_searches_leave_the_event_loop_free(full):
    assert await pauses(full, slow_to_carry_out) == {}


async def test_the_longest_filters_leave_the_event_loop_free(world):
    await world.keep_many(3)

    assert await pauses(world, slow_to_read) == {}


async def test_the_watcher_sees_a_loop_that_is_held_up():
    async def block() -> None:
        time.sleep(2 * LONGEST)  # noqa: ASYNC251  that is the point

    assert await longest_pause(block) > LONGEST


async def test_the_longest_filters_are_within_the_limits():
    lengths = [len(each["filter"]) for kind in slow_to_read(0).values() for each in kind]

    assert all(MAX_BYTES * 0.6 < length <= MAX_BYTES for length in lengths)
