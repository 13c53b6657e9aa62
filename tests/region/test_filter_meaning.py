"""SQL on both engines finds exactly what `meaning` says a filter means."""

from __future__ import annotations

import itertools
import random
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from region_world import START_MS, an_object

from soundkeep.foundation.sql import all_of
from soundkeep.region import catalog, fiql, meaning, pages, selection
from soundkeep.region.catalog import FIELDS
from soundkeep.region.fiql import Tag
from soundkeep.region.model import State
from soundkeep.region.pages import Plan, Source
from soundkeep.region.selection import Order

TEXTS = [
    "", "a", "A", "b", "ab", "a b", "a*b", "a%b", "a_b", "a?b", "a[b]", "a\\b", "é", "😀", "'", '"',
    "+16692001234", "16692001234", "true", "1e5", "NaN", "-", "+", ".5", "5.", "1.2.3", "--5", "+-5",
    "0", "5", "05", "5.0", "-5", "+5", "10", "9", "1" * 18, "1" * 19, "0." + "3" * 18, "0." + "3" * 19,
    "x;y,z(w)", "100%", "\n", "٣",
]  # fmt: skip
KEYS = ["duration", "startTime", "queue", "k.x-y", "type", "_", "tags.a"]
TIMES = [START_MS, START_MS + 1, START_MS + 999, START_MS + 1000, START_MS - 1]


def some_objects(count=150):
    chance = random.Random(7)
    for number in range(count):
        yield an_object(
            f"{number:08d}",
            b"x" * chance.choice([0, 5, 9, 10]),
            type=chance.choice(["callrecording", "meeting"]),
            name=chance.choice([text for text in TEXTS if text]),
            created_ms=chance.choice(TIMES),
            shared=chance.random() < 0.5,
            state=chance.choice(list(State)),
            tags={key: chance.choice(TEXTS) for key in KEYS if chance.random() < 0.7},
        )


OBJECTS = list(some_objects())


@pytest.fixture
async def filled(world):
    await catalog.load(world.region, OBJECTS)
    return world.region


# ---- filters as text ------------------------------------------------------------------------

quoted = st.sampled_from(TEXTS).map(
    lambda text: "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("%", "%25") + "'"
)
wild = st.lists(st.sampled_from([*"ab*5+é?[]_\\", "%25", ""]), max_size=4).map("".join)
numbers = st.sampled_from(["0", "5", "-5", "+5", "5.0", "9", "10", "1" * 18, "0.5"])
texts = quoted | wild | numbers
order = st.sampled_from(["=gt=", "=ge=", "=lt=", "=le=", "<", "<=", ">", ">="])
equality = st.sampled_from(["==", "!="])
lists = st.sampled_from(["=in=", "=out="])


def a_list(values):
    return st.lists(values, min_size=1, max_size=4).map(lambda each: f"({','.join(each)})")


def term(selectors, values):
    selector = st.sampled_from(selectors)
    return (
        st.tuples(selector, equality | order, values) | st.tuples(selector, lists, a_list(values))
    ).map("".join)


times = st.sampled_from(TIMES).map(str) | st.sampled_from(["2026-01-01T00:00:00Z", "2025-12-31"])
plain_numbers = numbers.filter(lambda text: True)
terms = st.one_of(
    term(["name", "type", "id", "objectState"], texts),
    term(["duration", "startTime", "queue", "k.x-y", "tags.type", "_", "tags.a", "none"], texts),
    term(["storedBytes", "size"], plain_numbers),
    term(["createdTime"], times),
    st.sampled_from(
        ["shared==true", "shared!=true", "shared=in=(true,false)", "shared=out=(true)"]
    ),
)
filters = st.recursive(
    terms,
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"({','.join(parts)})"),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"({';'.join(parts)})"),
    ),
    max_leaves=6,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=filters)
async def test_both_engines_find_what_a_filter_means(filled, text):
    tree = fiql.parse(text, FIELDS)

    expected = [each.id for each in OBJECTS if meaning.matches(tree, each)]
    assert await matching(filled, text) == expected, text


async def matching(region, text):
    """The ids that the engine finds."""
    where = selection.condition(fiql.parse(text, FIELDS), region.db.engine)
    return await listed(region, where, Order(FIELDS["id"], region.db.engine, descending=False))


async def listed(region, where, order):
    """The ids of all rows that pass a test, in an order, whatever their state."""
    plan = Plan(source=Source.TABLE, where=where, order=order)
    found = await pages.page(region.db, plan, customer="acme", after=None, limit=1000, seconds=60)
    return [row[1] for row in found.rows]


async def test_wildcards_stand_next_to_every_special_character(filled):
    for pattern in itertools.product("ab*?[]_\\%", repeat=3):
        text = f"name=={quote(''.join(pattern), safe='*?[]_')}"
        tree = fiql.parse(text, FIELDS)

        expected = [each.id for each in OBJECTS if meaning.matches(tree, each)]
        assert await matching(filled, text) == expected, text


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("key", KEYS)
async def test_a_tag_sorts_by_number_then_by_text_and_those_without_come_last(
    filled, key, descending
):
    order = Order(Tag(key), filled.db.engine, descending=descending)
    found = await listed(filled, all_of(), order)
    numbers, words, without = [], [], []
    for each in OBJECTS:
        value = each.tags.get(key)
        if value is None:
            without.append(each.id)
        elif fiql.number(value) is not None:
            numbers.append((fiql.number(value), each.id))
        else:
            words.append((value, each.id))
    sorts = [sorted(part, reverse=descending) for part in (numbers, words)]

    assert found == [
        *(each[1] for part in sorts for each in part),
        *sorted(without, reverse=descending),
    ]
