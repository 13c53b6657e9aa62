"""Whichever way a search is carried out, its pages are what the filter and the order mean."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from region_world import an_object
from test_filter_meaning import KEYS, OBJECTS, TEXTS, filters

from soundkeep.foundation.claims import Reach
from soundkeep.region import catalog, fiql, meaning, planning, tagindex
from soundkeep.region.catalog import FIELDS, Search
from soundkeep.region.fiql import Tag
from soundkeep.region.model import State

SORTS = ["createdTime", "updatedTime", "name", "id", "size", "shared", *KEYS, "none", "tags.type"]
SOME = [
    replace(each, user_id=("olga", "pavel")[number % 2], tags={**each.tags, **site})
    for number, each in enumerate(OBJECTS)
    for site in [{"branchId": ("ny", "la", "")[number % 3]} if number % 4 else {}]
]
REACHES = [
    Reach(company=True),
    Reach(sites=frozenset({"ny"})),
    Reach(sites=frozenset({"ny", "la"}), users=frozenset({"pavel"})),
    Reach(users=frozenset({"olga", "nobody"})),
]
equal = st.sampled_from([f"queue=='{each}'" for each in ("a", "ab", "5", "é")]) | st.sampled_from(
    ["queue!=a", "queue=out=(a,b,é)", "duration==5", "type==meeting", "duration=gt=4.5",
     "startTime=le=9", "createdTime=ge=1767225600000", "createdTime=lt=1767225600999",
     "createdTime==2026-01-01T00:00:00Z", "objectState=in=(ARCHIVED,REVOKED)", "objectState!=FAILED",
     "objectState==NOTHING", "objectState==AVAILABLE", "mimeType==audio/mpeg", "userId==olga"]
)  # fmt: skip
joined = st.lists(equal | filters, min_size=1, max_size=4).map(";".join)


@pytest.fixture
async def filled(world):
    shuffled = random.Random(3).sample(SOME, len(SOME))
    await catalog.load(world.region, shuffled)
    await catalog.load(world.region, [replace(SOME[0], id="foreign0", customer="umbra")])
    return world


def place(selector, stored):
    """What an object is sorted by, before its id."""
    if not isinstance(selector, Tag):
        return meaning._value_of(selector, stored)
    value = stored.tags.get(selector.key)
    number = None if value is None else fiql.number(value)
    return value is None, number is None, number or 0.0, "" if number is not None else value or ""


def expected(text, sort, descending, reach):
    tree = fiql.parse(text, FIELDS)
    states = tagindex.states(tree)
    found = [
        each.id
        for each in SOME
        if meaning.matches(tree, each)
        and each.state in states
        and reach.covers(site=each.site, user=each.user_id)
    ]
    selector = fiql.selector(sort, FIELDS)
    ordered = sorted(
        (each for each in SOME if each.id in found),
        key=lambda each: (place(selector, each), each.id),
        reverse=descending,
    )
    if isinstance(selector, Tag) and descending:  # numbers first and missing last, in both
        ordered.sort(key=lambda each: place(selector, each)[:2])
    return [each.id for each in ordered]


@pytest.mark.parametrize("few", [0, 10, 5000])
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    text=st.just("") | joined | filters,
    sort=st.sampled_from(SORTS) | st.just("createdTime"),
    descending=st.booleans(),
    reach=st.sampled_from(REACHES),
    limit=st.sampled_from([1, 3, 40, 1000]),
)
async def test_pages_and_jumps_give_what_the_filter_means(
    filled, few, text, sort, descending, reach, limit
):
    planning.FEW, kept = few, planning.FEW
    try:
        wanted = expected(text, sort, descending, reach)
        claims = filled.claims(reach=reach)
        search = Search(filter=text, sort=sort, descending=descending, limit=limit)
        found, page, offset = [], None, 0
        while (page is None or not page.last) and offset < 12 * limit:
            page = await catalog.search(filled.region, claims, replace(search, offset=offset))
            found += [document[7:15] for document in page.documents]
            assert (page.total.rows, page.total.exact) == (len(wanted), True), text
            offset += limit
        assert found == wanted[:offset], (text, sort)
        for jump in {len(wanted) // 2, len(wanted) - 1, len(wanted), len(wanted) + 1} - {-1}:
            stranger = filled.claims(reach=reach, client=f"sk_{jump}")
            page = await catalog.search(filled.region, stranger, replace(search, offset=jump))
            assert [each[7:15] for each in page.documents] == wanted[jump : jump + limit]
            assert (page.total.rows, page.last) == (len(wanted), jump + limit >= len(wanted))
    finally:
        planning.FEW = kept


async def test_more_objects_of_one_moment_than_fit_a_page_are_walked_by_id(world):
    ids = [f"{number:08d}" for number in range(2500)]
    some = [an_object(each, tags={"queue": "a"}) for each in ids]
    await catalog.load(world.region, random.Random(5).sample(some, len(some)))
    found = []
    for offset in range(0, 2500, 700):
        search = Search(filter="queue==a", limit=700, offset=offset)
        page = await catalog.search(world.region, world.claims(), search)
        found += [document[7:15] for document in page.documents]

    assert found == ids[::-1]


def test_the_objects_cover_what_plans_are_about():
    assert {each.state for each in SOME} == set(State)
    assert len({each.created_ms for each in SOME}) < len(SOME) / 10  # many ties
    assert all(any(each.tags.get("queue") == text for each in SOME) for text in TEXTS[:3])
