"""Searches of every kind for minutes: never a 500, and never a wrong answer. `make soak` runs it.

SOUNDKEEP_SOAK_SECONDS says for how long, 600 if left out, shared by what is here.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from region_world import BASE, OBJECTS, opened
from test_filter_meaning import KEYS, filters
from test_search_plans import REACHES, SOME, SORTS, expected, joined

from soundkeep.foundation.errors import BadFilter
from soundkeep.region import catalog, fiql
from soundkeep.region.catalog import BUCKET_FIELDS, FIELDS

SECONDS = float(os.environ.get("SOUNDKEEP_SOAK_SECONDS", "600"))
SHARES = 3
PAGE = {"content", "lastPage", "pageKey", "pageSize", "total"}

SQL = [
    "' OR '1'='1", "x'; DROP TABLE objects; --", "1) UNION SELECT 1 --", ":customer", "$1", "%s",
    "\\", '"', "TRUE", "id, (SELECT 1)", "tags->>'a'", "NULL", "tagindex MATCH 'a'", 'a" OR "b',
]  # fmt: skip
splices = st.sampled_from(
    [*SQL, *KEYS, ";", ",", "(", ")", "'", '"', "\\", "*", "%", "%00", "%ED%A0%80", "%2", "\0",
     "\ud800", "😀", "==", "!=", "=gt=", "=in=", "=out=", "=in=()", "<", ">=", " ", "+", "1e400",
     "NaN", "inf", "-" * 40, "9" * 400, "2024-02-30", "createdTime", "objectState", "tags.", "(" * 40,
     "a" * 300, ";;", ",,", "a==b;" * 60]
) | st.text(max_size=6)  # fmt: skip


@st.composite
def mutated(draw) -> str:
    """A filter that was right until somebody cut it up."""
    text = draw(joined | filters)
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 5)))
        text = text[:start] + draw(splices) + text[end:]
    return text


texts = mutated() | st.text(max_size=60) | st.lists(splices, max_size=8).map("".join)
numbers = st.sampled_from(["0", "1", "7", "100", "1000", "-1", "1001", "1e9", "x", "9" * 30])
asked = st.fixed_dictionaries(
    {},
    optional={
        "filter": texts,
        "sortField": st.sampled_from([*SORTS, *SQL]) | st.text(max_size=12),
        "sortDirection": st.sampled_from(["ASC", "desc", "up", "'"]),
        "limit": numbers,
        "pageKey": numbers | st.sampled_from([str(2**53), str(2**53 + 1), str(2**63)]),
        "explain": st.sampled_from(["true", "false", "1"]),
    },
)


def keep_at_it(name: str, strategy: st.SearchStrategy, check: Callable) -> None:
    """Check fresh examples until the time is up; a failure is made small, and told with its seed."""
    until, rounds = time.monotonic() + SECONDS / SHARES, 0
    while time.monotonic() < until:
        chosen = secrets.randbits(32)

        @seed(chosen)
        @settings(
            max_examples=100,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def round_of_examples(example) -> None:
            check(example)

        try:
            round_of_examples()
        except BaseException:
            print(f"{name}: seed {chosen}")
            raise
        rounds += 1
    print(f"{name}: {rounds * 100} examples")


@pytest.mark.soak
def test_the_parser_gives_a_tree_or_says_what_is_wrong():
    outcomes = Counter()

    def check(text: str) -> None:
        for fields in (FIELDS, BUCKET_FIELDS):
            try:
                fiql.parse(text, fields)
            except BadFilter:
                outcomes["refused"] += 1
            else:
                outcomes["understood"] += 1

    keep_at_it("parser", texts, check)
    print(dict(outcomes))
    assert min(outcomes["refused"], outcomes["understood"]) > 0


@pytest.mark.soak
def test_every_search_is_answered_right_or_refused(database_urls, engine, tmp_path):
    outcomes = Counter()
    url = database_urls("foundation", "region")
    with asyncio.Runner() as runner:
        context = opened(url, tmp_path)
        world = runner.run(context.__aenter__())
        runner.run(catalog.load(world.region, random.Random(9).sample(SOME, len(SOME))))

        async def ask(reach, params, path):
            client = world.client(reach=reach)
            query = "&".join(
                f"{name}={quote(value.encode(errors='surrogatepass'))}"
                for name, value in params.items()
            )
            answer = await client.get(f"{path}?{query}")
            world.clients.remove(client)
            await client.aclose()
            return answer

        def check(example) -> None:
            path, reach, params, right = example
            wanted = {**params, "filter": right} if right is not None else params
            answer = runner.run(ask(reach, wanted, path))
            outcomes[answer.status_code] += 1
            assert answer.status_code in (200, 400), answer.text
            if answer.status_code == 400:
                assert answer.json()["errors"][0]["message"]
                return
            page = answer.json()
            assert set(page) - {"explanation"} == PAGE
            assert page["pageSize"] == len(page["content"])
            if path == OBJECTS:
                agrees(reach, wanted, page)
                outcomes["agreed"] += 1

        keep_at_it(
            f"search on {engine}",
            st.tuples(
                st.sampled_from([OBJECTS, OBJECTS, f"{BASE}/buckets"]),
                st.sampled_from(REACHES),
                asked,
                st.none() | joined,
            ),
            check,
        )
        runner.run(context.__aexit__(None, None, None))
    print(dict(outcomes))
    assert min(outcomes["agreed"], outcomes[400]) > 0


def agrees(reach, params, page) -> None:
    """The page is what its filter and order mean."""
    descending = params.get("sortDirection", "DESC").upper() == "DESC"
    sort = params.get("sortField") or "createdTime"
    wanted = expected(params.get("filter", ""), sort, descending, reach)
    start, limit = int(params.get("pageKey", 0)), int(params.get("limit", 100))
    assert [each["id"] for each in page["content"]] == wanted[start : start + limit]
    assert page["total"] == len(wanted)
    assert page["lastPage"] == (start + limit >= len(wanted))
