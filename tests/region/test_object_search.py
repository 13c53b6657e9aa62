"""`GET /objects`: pages, their order, and the parameters that ask for them."""

from __future__ import annotations

import pytest
from region_world import OBJECTS, START_MS, an_object, fault, names

from soundkeep.foundation.claims import Reach
from soundkeep.foundation.errors import TooSlow
from soundkeep.region import catalog
from soundkeep.region.catalog import Search
from soundkeep.region.model import State

# ---- pages


async def test_the_documented_walk_over_245_records(world):
    await world.keep_many(245)
    client = world.client()
    seen, steps, page_key = [], [], 0
    for _ in range(3):
        answer = await client.get(OBJECTS, params={"limit": 100, "pageKey": page_key})
        page = answer.json()
        page_key = page["pageKey"]
        seen += names(answer)
        steps.append((page["lastPage"], page["pageKey"], page["pageSize"], page["total"]))

    assert steps == [(False, 100, 100, 245), (False, 200, 100, 245), (True, 300, 45, 245)]
    assert seen == [f"call {number}" for number in reversed(range(245))]


async def test_a_page_has_its_members_in_the_documented_order(local):
    await local.keep_many(1)
    page = (await local.client().get(OBJECTS)).json()

    assert list(page) == ["content", "lastPage", "pageKey", "pageSize", "total"]


async def test_the_last_page_is_last_also_where_it_is_full(world):
    await world.keep_many(10)
    client = world.client()
    walks = {}
    for limit in (5, 9, 10, 11):
        pages = [
            (await client.get(OBJECTS, params={"limit": limit, "pageKey": key})).json()["lastPage"]
            for key in range(0, 10, limit)
        ]
        walks[limit] = pages

    assert walks == {5: [False, True], 9: [False, True], 10: [True], 11: [True]}


@pytest.mark.parametrize("page_key", [3, 4, 2**31, 2**53])
async def test_beyond_the_end_is_an_empty_last_page_with_the_true_total(world, page_key):
    await world.keep_many(3)
    page = (await world.client().get(OBJECTS, params={"pageKey": page_key})).json()

    assert page == {
        "content": [],
        "lastPage": True,
        "pageKey": page_key + 100,
        "pageSize": 0,
        "total": 3,
    }


async def test_nothing_at_all_is_an_empty_last_page(world):
    page = (await world.client().get(OBJECTS)).json()

    assert page == {"content": [], "lastPage": True, "pageKey": 100, "pageSize": 0, "total": 0}


async def test_the_limit_is_100_unless_asked_and_1000_at_most(local):
    await local.keep_many(1001)
    client = local.client()
    sizes = [
        (await client.get(OBJECTS, params=params)).json()["pageSize"]
        for params in ({}, {"limit": 1}, {"limit": 200}, {"limit": 1000})
    ]

    assert sizes == [100, 1, 200, 1000]


@pytest.mark.parametrize("name", ["limit", "pageKey"])
@pytest.mark.parametrize(
    "value", ["-1", "abc", "1e9", "", " ", "1.0", "+1", "0x10", "٣", "9" * 19, "9" * 5000, "1\0"]
)
async def test_what_is_no_number_in_bounds_is_refused_by_name(local, name, value):
    answer = await local.client().get(OBJECTS, params={name: value})

    assert fault(answer) == (400, "bad_input", name)


@pytest.mark.parametrize("limit", [0, 1001, 10**18])
async def test_a_limit_out_of_bounds_is_refused_by_name(local, limit):
    answer = await local.client().get(OBJECTS, params={"limit": limit})

    assert fault(answer) == (400, "bad_input", "limit")


@pytest.mark.parametrize("name", ["filter", "pageKey", "limit", "sortField", "sortDirection"])
async def test_a_repeated_parameter_is_refused_by_name(local, name):
    answer = await local.client().get(f"{OBJECTS}?{name}=1&{name}=1")

    assert fault(answer) == (400, "bad_input", name)


async def test_unknown_parameters_and_a_body_on_get_are_ignored(local):
    await local.keep_many(2)
    answer = await local.client().request(
        "GET",
        OBJECTS,
        params={"presign": "x", "_": "1"},
        content=b'{"limit": 1}',
        headers={"content-type": "application/json"},
    )

    assert names(answer) == ["call 1", "call 0"]


async def test_answers_are_not_to_be_stored_by_anyone(local):
    answer = await local.client().get(OBJECTS)

    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-request-id"]


async def test_head_gives_the_headers_of_a_page(local):
    answer = await local.client().head(OBJECTS)

    assert (answer.status_code, answer.content) == (200, b"")


# ---- order


async def test_the_newest_come_first_and_ties_are_broken_by_id(world):
    for object_id, seconds in (("b", 1), ("c", 1), ("a", 1), ("d", 2), ("e", 0)):
        created_ms = START_MS + seconds * 1000
        await world.keep(id=object_id * 8, name=object_id, created_ms=created_ms)
    client = world.client()

    assert names(await client.get(OBJECTS)) == ["d", "c", "b", "a", "e"]
    ascending = await client.get(OBJECTS, params={"sortDirection": "ASC"})
    assert names(ascending) == ["e", "a", "b", "c", "d"]


@pytest.mark.parametrize("direction", ["ASC", "asc", "Asc"])
async def test_the_sort_direction_may_be_in_any_case(local, direction):
    await local.keep_many(2)
    answer = await local.client().get(OBJECTS, params={"sortDirection": direction})

    assert names(answer) == ["call 0", "call 1"]


async def test_every_content_field_sorts(world):
    """Three objects whose order is another one for each field."""
    facts = {
        "type": ("c", "a", "b"),
        "mime_type": ("a/c", "a/a", "a/b"),
        "user_id": ("b", "c", "a"),
        "created_ms": (2000, 1000, 3000),
        "updated_ms": (3000, 1000, 2000),
        "bucket_id": ("a", "c", "b"),
        "shared": (True, False, True),
    }
    contents = (b"22", b"333", b"1")
    stored = [
        an_object(
            name, contents[number], name=name, **{key: each[number] for key, each in facts.items()}
        )
        for number, name in enumerate(("Z", "a", "b"))
    ]
    await catalog.load(world.region, stored)
    checksums = sorted((each.digests.md5, each.name) for each in stored)
    client = world.client()
    found = {}
    for field in catalog.FIELDS:
        if field == "objectState":
            continue
        up = names(await client.get(OBJECTS, params={"sortField": field, "sortDirection": "ASC"}))
        down = names(await client.get(OBJECTS, params={"sortField": field}))
        assert down == up[::-1], field
        found[field] = "".join(up)

    assert found == {
        "id": "Zab",
        "type": "abZ",
        "mimeType": "abZ",
        "objectName": "Zab",
        "name": "Zab",
        "checksum": "".join(name for _, name in checksums),
        "customerId": "Zab",
        "userId": "bZa",
        "storedBytes": "bZa",
        "size": "bZa",
        "createdTime": "aZb",
        "updatedTime": "abZ",
        "bucketId": "Zba",
        "shared": "aZb",
    }


async def test_objects_of_several_states_sort_by_state(world):
    for name, state in (("a", State.PENDING), ("b", State.ARCHIVED), ("c", State.FAILED)):
        await world.keep(id=name * 8, name=name, state=state)
    client = world.client()
    page = await client.get(OBJECTS, params={"sortField": "objectState"})
    found = [
        names(await client.get(OBJECTS, params={"filter": f"objectState=={each}"}))
        for each in ("PENDING", "ARCHIVED", "FAILED", "AVAILABLE")
    ]

    assert names(page) == []
    assert found == [["a"], ["b"], ["c"], []]


@pytest.mark.parametrize("field", ["1", "*", "a b", "tags.", "é", "id,doc", "a" * 5 + "\n"])
async def test_what_can_be_neither_field_nor_tag_is_no_sort_field(local, field):
    answer = await local.client().get(OBJECTS, params={"sortField": field})

    assert fault(answer) == (400, "bad_input", "sortField")


@pytest.mark.parametrize("direction", ["", "UP", "DESCENDING", "ASC ", "1"])
async def test_an_unknown_sort_direction_is_refused_by_name(local, direction):
    answer = await local.client().get(OBJECTS, params={"sortDirection": direction})

    assert fault(answer) == (400, "bad_input", "sortDirection")


async def test_a_search_that_takes_too_long_is_stopped_and_says_what_was_slow(world):
    await world.keep_many(3000)
    slow = world.limited(search_seconds=0.001)
    with pytest.raises(TooSlow, match="createdTime, or do without 'queue==\\*x\\*'"):
        for _ in range(20):
            await catalog.search(slow, world.claims(), Search(filter="type==call*;queue==*x*"))

    assert (await world.client().get(OBJECTS, params={"filter": "queue==*x*"})).status_code == 200


# ---- hostile input


INJECTIONS = [
    "' OR '1'='1",
    "x'; DROP TABLE objects; --",
    "1) UNION SELECT secret FROM apps --",
    "name; DELETE FROM objects",
    ":customer",
    "$1",
    "%s",
    "\\",
    '"',
    "TRUE",
    "id, (SELECT 1)",
]


@pytest.mark.parametrize("text", INJECTIONS)
async def test_sql_in_any_position_finds_nothing_and_changes_nothing(world, text):
    await world.keep(name="mine")
    await world.keep(name="theirs", customer="umbra")
    client = world.client()
    asked = [
        {"filter": f"{text}==a"},
        {"filter": f"name{text}a"},
        {"filter": f"name=={text}"},
        {"filter": f"size=={text}"},
        {"filter": f"createdTime=={text}"},
        {"filter": f"shared=={text}"},
        {"filter": f"tag=={text}"},
        {"filter": f"tag=gt={text}"},
        {"filter": f"tag=in=({text})"},
        {"filter": f"name=='{text}'"},
        {"sortField": f"tags.{text}"},
        {"sortDirection": text},
        {"limit": text},
        {"pageKey": text},
    ]
    answers = [await client.get(OBJECTS, params=params) for params in asked]
    answers += [await client.get(f"{OBJECTS}/{text.replace('/', '')}")]

    assert {each.status_code for each in answers} <= {200, 400, 404}
    sorted_by_tag = {"sortField": f"tags.{text}"}
    for params, answer in zip(asked, answers, strict=False):
        if answer.status_code == 200:
            assert names(answer) == (["mine"] if params == sorted_by_tag else [])
    assert await world.rows("SELECT name FROM objects ORDER BY name") == [("mine",), ("theirs",)]


async def test_totals_count_what_the_caller_may_see(world):
    for number in range(6):
        site = "ny" if number % 2 else "la"
        await world.keep(name=site, tags={"branchId": site}, customer="acme")
    await world.keep(name="ny", tags={"branchId": "ny"}, customer="umbra")
    client = world.client(reach=Reach(sites=frozenset({"ny"})))
    pages = [
        (await client.get(OBJECTS, params={"limit": 2, "pageKey": key})).json()
        for key in (0, 2, 4, 100)
    ]

    assert [page["total"] for page in pages] == [3, 3, 3, 3]
    assert [page["lastPage"] for page in pages] == [False, True, True, True]
