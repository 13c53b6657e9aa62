"""Searches among a million objects, and among a tenth of them: `python benchmarks/search.py`.

What is compared takes turns: the large installation and the small one, a deep page and the first
one, ours and the bare statement. `--keep DIR` leaves the filled installations for the next run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode

import apsw
import asyncpg

import load
from load import CONNECTIONS, OBJECTS, ROUNDS, SECONDS, Service, Shot, Timing

LIMIT, WALK_LIMIT, WALK_SECONDS = 100, 1000, 300
SLOW_MS, SLOW_REQUESTS = 200, 8
COMPANY, SITE = 2, 3
"""Apps of the demo: one that sees the company's objects, one that sees a site's."""

DOC, DOC_BESIDE = "doc", "(SELECT doc FROM documents WHERE documents.seq = objects.seq)"
_NEWEST = "SELECT {doc} FROM objects WHERE customer = $1 AND state = 'AVAILABLE'"
_FIRST = "ORDER BY created_ms DESC, id DESC LIMIT 100"
_DAY = "AND created_ms >= $3 AND created_ms < $4"
_AGENT = {
    "sqlite": "AND json_extract(tags, '$.agentId') = $2",
    "postgresql": "AND tags @> $2",
}
BARE = {
    engine: {
        "first page, newest first": f"{_NEWEST} {_FIRST}",
        "agent": f"{_NEWEST} {agent} {_FIRST}",
        "agent, one day": f"{_NEWEST} {agent} {_DAY} {_FIRST}",
    }
    for engine, agent in _AGENT.items()
}
"""The least that a search comes to: $1 customer, $2 agent as text or JSON, from $3 until $4."""


@dataclass(frozen=True)
class Place:
    """A filled installation that is being served."""

    service: Service
    database: str
    objects: int


@dataclass(frozen=True)
class Search:
    """What is asked of `/objects`, and with which of the demo's apps."""

    filter: str = ""
    sort: str = "createdTime"
    offset: int = 0
    app: int = COMPANY


def main() -> None:
    """Print the tables, row by row, so that a run that is stopped leaves what it found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--small", type=int, help="a tenth of --objects if left out")
    parser.add_argument("--engine", choices=("sqlite", "postgresql", "both"), default="both")
    parser.add_argument("--keep", type=Path, help="the folder of the filled installations")
    wanted = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)
    sizes = (wanted.objects, wanted.small or wanted.objects // 10)
    with tempfile.TemporaryDirectory(prefix="soundkeep-search-") as temporary:
        folder = (wanted.keep or Path(temporary)).absolute()
        for engine in ("sqlite", "postgresql") if wanted.engine == "both" else (wanted.engine,):
            with places(engine, folder, sizes) as both:
                print(f"\n### {engine}: {sizes[0]:,} objects, and {sizes[1]:,} (small)\n")
                compare_sizes(*both)
                compare_bare(engine, both[0])


def searches(place: Place) -> dict[str, Search]:
    """Every shape by its name, with values that occur at that place."""
    sample, day_ms = occurring(place)
    tags = {tag["key"]: tag["value"] for tag in sample["tags"]}
    within = "createdTime=ge={};createdTime=lt={}".format(*day_ms)
    return {
        "first page, newest first": Search(),
        "one day": Search(within),
        "type==callcenterrecording": Search("type==callcenterrecording"),
        "user": Search(f"userId=={sample['userId']}"),
        "call id": Search(f"callId=={tags['callId']}"),
        "agent": Search(f"agentId=={tags['agentId']}"),
        "caller": Search(f"callerId=={tags['callerId']}"),
        "agent, one day": Search(f"agentId=={tags['agentId']};{within}"),
        "direction==INBOUND;queueName==Claims": Search("direction==INBOUND;queueName==Claims"),
        "duration=gt=1500000 (1 in 4,000)": Search("duration=gt=1500000"),
        "sortField=duration": Search(sort="duration"),
        "sortField=agentName": Search(sort="agentName"),
        r"agentName==\*123\*": Search("agentName==*123*"),
        "agentId!= (all but 1 in 400)": Search(f"agentId!={tags['agentId']}"),
        "extensionNumber=gt=1398 (1 in 400)": Search("extensionNumber=gt=1398"),
        "checksum of nothing": Search(f"checksum=={'0' * 32}"),
        "object name": Search(f"objectName=={sample['objectName']}"),
        "first page, a site's key": Search(app=SITE),
    }


def occurring(place: Place) -> tuple[dict, list[int]]:
    """An object from behind the newest tenth, and when the day until it begins and ends."""
    shot = aimed(place, Search(offset=place.objects // 10))
    with urllib.request.urlopen(urllib.request.Request(shot.url, headers=shot.headers)) as answer:
        sample = json.load(answer)["content"][0]
    created = datetime.fromisoformat(sample["createdTime"]).replace(tzinfo=UTC)
    return sample, [int(created.timestamp() + add) * 1000 for add in (-86_400, 1)]


def aimed(place: Place, search: Search) -> Shot:
    """A search at a place, with a fresh token."""
    wanted = {"filter": search.filter, "sortField": search.sort, "pageKey": search.offset}
    url = f"{place.service.base_url}{OBJECTS}?{urlencode(wanted)}&limit={LIMIT}"
    return Shot(search.filter, url, {"Authorization": f"Bearer {place.service.token(search.app)}"})


def compare_sizes(*both: Place) -> None:
    """Every shape at the large place and the small one, and deep pages against first ones."""
    print("| search | p50 ms | p99 ms | requests/s | requests/s, small | ÷ small | ÷ first |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    shapes = [searches(place) for place in both]
    for name in shapes[0]:
        shots = [aimed(place, each[name]) for place, each in zip(both, shapes, strict=True)]
        print(row(name, *measure(shots)))
    for wanted, depth in (("", 0.9999), ("direction==INBOUND", 0.49)):
        pages = [Search(wanted, offset=int(at.objects * depth) // LIMIT * LIMIT) for at in both]
        turns = [*zip(both, pages, strict=True), *((place, Search(wanted)) for place in both)]
        name = f"{wanted or 'no filter'}, {depth:.2%} deep"
        rounds = [in_turn([aimed(*turn) for turn in turns], 1) for _ in range(ROUNDS)]
        print(row(f"jump: {name}", [*map(middle, zip(*rounds, strict=True))], slow=True))
        shots = [aimed(*turn) for turn in turns]
        came = [walk(shot, page.offset) for shot, page in zip(shots, pages, strict=False)]
        if came == [page.offset for page in pages]:
            print(row(f"walk: {name}", *measure(shots)))
        else:
            print(f"| walk: {name} | stopped (503 or too long) at {came} | | | | | |")
    print(f"\n÷: of p50. By wrk, {CONNECTIONS} connections; † one after the other.")


def row(name: str, timings: Sequence[Timing | None], slow: bool) -> str:  # noqa: FBT001
    """What was measured at the large place and the small one, and perhaps of first pages there."""
    large, small, first = (*timings, None)[:3]
    cells = [f"{name} †" if slow else name]
    cells += [f"{each:,.1f}" for each in large] if large else ["stopped (503)", "", ""]
    cells[2] = "" if slow else cells[2]  # so few requests have none
    cells.append(f"{small.rate:,.1f}" if small else "stopped (503)")
    cells += [f"{large.p50_ms / at.p50_ms:.2f}" if large and at else "" for at in (small, first)]
    return f"| {' | '.join(cells)} |"


def compare_bare(engine: str, place: Place) -> None:
    """Ours by one connection against a loop of the statement itself."""
    print("\n| search | ours, requests/s | bare SQL, requests/s | ours ÷ bare SQL |")
    print("|---|---:|---:|---:|")
    shapes, (sample, day_ms) = searches(place), occurring(place)
    agent = sample["userId"] if engine == "sqlite" else json.dumps({"agentId": sample["userId"]})
    params = [place.service.listing["customer_id"], agent, *day_ms]
    for name, sql in BARE[engine].items():
        shot, ours, bare = aimed(place, shapes[name]), [], []
        for _ in range(ROUNDS):
            ours.append(fire(shot, SECONDS, connections=1))
            bare.append(asyncio.run(loop(engine, place.database, sql, params)))
        own, theirs = middle(ours), statistics.median(bare)
        cells = [f"{own.rate:,.1f}" if own else "stopped (503)", f"{theirs:,.1f}"]
        print(f"| {name} | {' | '.join(cells)} | {f'{own.rate / theirs:.2f}' if own else ''} |")


def measure(shots: Sequence[Shot]) -> tuple[list[Timing | None], bool]:
    """Timings of shots that take turns; and whether one is slow, so that wrk was left out."""
    in_turn(shots, 1)  # warms caches
    if any(probe is None or probe.p50_ms > SLOW_MS for probe in in_turn(shots, 1)):
        return in_turn(shots, SLOW_REQUESTS), True
    for shot in shots:
        fire(shot, 1)
    rounds = [[fire(shot, SECONDS) for shot in shots] for _ in range(ROUNDS)]
    return [middle(each) for each in zip(*rounds, strict=True)], False


def in_turn(shots: Sequence[Shot], times: int) -> list[Timing | None]:
    """Timings of requests that follow each other; what was stopped is not asked again."""
    found = [[ask(shot)] for shot in shots]
    for _ in range(times - 1):
        for shot, timings in zip(shots, found, strict=True):
            timings.append(ask(shot) if timings[-1] else None)
    return [middle(timings) for timings in found]


def middle(timings: Sequence[Timing | None]) -> Timing | None:
    """The median of each figure; None where any search was stopped."""
    whole = [each for each in timings if each]
    if len(whole) < len(timings):
        return None
    return Timing(*(statistics.median(figures) for figures in zip(*whole, strict=True)))


def walk(shot: Shot, offset: int) -> int:
    """Ask for all pages before an offset; how far that came."""
    until, at = time.monotonic() + WALK_SECONDS, 0
    while at < offset and time.monotonic() < until:
        limit = WALK_LIMIT if at + WALK_LIMIT <= offset else LIMIT
        url = re.sub(r"pageKey=\d+&limit=\d+", f"pageKey={at}&limit={limit}", shot.url)
        if ask(Shot(shot.name, url, shot.headers)) is None:
            break
        at += limit
    return at


def ask(shot: Shot) -> Timing | None:
    """What a single request takes; None where the search was stopped."""
    started = time.perf_counter()
    try:
        with urllib.request.urlopen(urllib.request.Request(shot.url, headers=shot.headers)) as got:
            got.read()
    except urllib.error.HTTPError as error:
        if error.code != 503:
            sys.exit(f"{shot.url}: {error.code} {error.read().decode()}")
        return None
    seconds = time.perf_counter() - started
    return Timing(seconds * 1000, seconds * 1000, 1 / seconds)


def fire(shot: Shot, seconds: int, *, connections: int = CONNECTIONS) -> Timing | None:
    """What wrk measures, for longer where answers are few; None where searches were stopped."""
    told = load.wrk(shot, seconds, connections=connections)
    if "Socket errors" in told:
        sys.exit(f"{shot.url}: {told}")
    if "Non-2xx" in told:
        ask(shot)  # ends the benchmark if it is no 503
        return None
    found = load.timing(told)
    few = found.rate * seconds < 4 * connections
    return fire(shot, seconds * 2, connections=connections) if few else found


async def loop(engine: str, database: str, sql: str, params: Sequence[object]) -> float:
    """Executions a second of a statement, by one connection."""
    if engine == "sqlite":
        file = apsw.Connection(database, flags=apsw.SQLITE_OPEN_READONLY)
        beside = file.execute("SELECT 1 FROM sqlite_master WHERE name = 'documents'").get
        named = {str(number): value for number, value in enumerate(params, 1)}
    else:
        server = await asyncpg.connect(database)
        beside = await server.fetchval("SELECT to_regclass('documents')")
    sql, used = sql.format(doc=DOC_BESIDE if beside else DOC), params[: sql.count(" $")]
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        if engine == "sqlite":
            file.execute(sql, named).fetchall()
        else:
            await server.fetch(sql, *used)
        count += 1
    rate = count / (time.perf_counter() - started)
    if engine == "postgresql":
        await server.close()
    return rate


@contextmanager
def places(engine: str, folder: Path, sizes: Sequence[int]) -> Iterator[list[Place]]:
    """Installations of these sizes, filled unless they are there already, served side by side."""
    with ExitStack() as stack:
        if engine == "postgresql":
            url_of = stack.enter_context(load.postgres(folder / "postgres"))
        found = []
        for size in sizes:
            home, settings = folder / f"{engine}-{size}", {}
            database = f"{home}/regions/us-east/region.db"
            if engine == "postgresql":
                database = url_of(f"objects_{size}", fresh=not load.filled(home))
                settings["SOUNDKEEP_REGIONS__US_EAST__DATABASE"] = database
            running = load.demo(place=home, objects=size, settings=settings)
            found.append(Place(stack.enter_context(running), database, size))
            if engine == "postgresql":
                asyncio.run(load.execute(database, "VACUUM ANALYZE"))
        yield found


if __name__ == "__main__":
    main()
