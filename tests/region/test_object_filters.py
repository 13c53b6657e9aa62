"""The `filter` parameter of `GET /objects`: the language as clients meet it."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from region_world import OBJECTS, START_MS, fault, names

from soundkeep.foundation.errors import BadFilter
from soundkeep.region import fiql, meaning
from soundkeep.region.catalog import FIELDS
from soundkeep.region.fiql import Pattern
from soundkeep.region.model import State


async def found_by(world, filters: list[str], **client) -> dict[str, list[str]]:
    """The names that each filter finds; a filter is what stands in the URL after `filter=`."""
    caller = world.client(**client)
    return {
        text: sorted(names(await caller.get(f"{OBJECTS}?filter={text}&limit=1000")))
        for text in filters
    }


async def test_every_content_field_can_be_filtered_by(world):
    wanted = await world.keep(
        id="1" * 8,
        type="meeting",
        mime_type="audio/wav",
        name="wanted",
        user_id="pete",
        bucket_id="standup",
        shared=True,
        created_ms=START_MS + 5000,
        updated_ms=START_MS + 9000,
    )
    await world.keep(name="other")
    await world.keep(name="archived", state=State.ARCHIVED)
    filters = {
        "id==11111111": ["wanted"],
        "type==meeting": ["wanted"],
        "mimeType==audio/wav": ["wanted"],
        "objectName==wanted": ["wanted"],
        "name==wanted": ["wanted"],
        f"checksum=={wanted.digests.md5}": ["other", "wanted"],
        "customerId==acme": ["other", "wanted"],
        "customerId==umbra": [],
        "userId==pete": ["wanted"],
        "storedBytes==0": ["other", "wanted"],
        "size==0": ["other", "wanted"],
        "size==1": [],
        "createdTime==1767225605000": ["wanted"],
        "updatedTime==1767225609000": ["wanted"],
        "objectState==AVAILABLE": ["other", "wanted"],
        "objectState==ARCHIVED": ["archived"],
        "bucketId==standup": ["wanted"],
        "shared==true": ["wanted"],
        "shared==false": ["other"],
        "": ["other", "wanted"],
    }

    assert await found_by(world, list(filters)) == filters


async def test_terms_are_joined_by_and(world):
    for name, kind, user in (
        ("a", "meeting", "pete"),
        ("b", "meeting", "olga"),
        ("c", "x", "pete"),
    ):
        await world.keep(name=name, type=kind, user_id=user)
    filters = {
        "type==meeting;userId==pete": ["a"],
        "userId==pete;type==meeting": ["a"],
        "type%3D%3Dmeeting%3BuserId%3D%3Dpete": ["a"],
        "type==meeting;type==x": [],
        "name==a;name==a": ["a"],
        "type==meeting;userId==pete;objectState==AVAILABLE": ["a"],
        "type==meeting;objectState==REVOKED": [],
    }

    assert await found_by(world, list(filters)) == filters


async def test_only_available_objects_are_found_unless_the_state_is_named(world):
    for state in State:
        await world.keep(name=state.value.lower(), state=state, type="call")
    filters = {
        "": ["available"],
        "type==call": ["available"],
        **{f"objectState=={state}": [state.lower()] for state in State},
        "type==call;objectState==PENDING": ["pending"],
    }

    assert await found_by(world, list(filters)) == filters


@pytest.mark.parametrize(
    "written",
    [
        "1767225605000",
        "1767225605999",
        "2026-01-01T00:00:05",
        "2026-01-01T00:00:05Z",
        "2026-01-01T00:00:05.000Z",
        "2026-01-01T00:00:05.999Z",
        "2026-01-01T02:00:05%2B02:00",
        "2026-01-01T02:00:05+02:00",
        "2026-01-01T02:00:05.000+0200",
        "2025-12-31T19:00:05-05:00",
        "2026-01-01%2000:00:05",
        "2026-01-01T00%253A00%253A05Z",
        "20260101T000005Z",
    ],
)
async def test_a_time_can_be_written_in_many_ways(local, written):
    await local.keep(name="then", created_ms=START_MS + 5000)
    await local.keep(name="later", created_ms=START_MS + 6000)

    assert await found_by(local, [f"createdTime=={written}"]) == {
        f"createdTime=={written}": ["then"]
    }


async def test_a_raw_plus_arrives_as_a_space_and_is_read_as_a_plus(world):
    await world.keep(name="+16692001234")
    await world.keep(name="Call 5 with Bob")
    await world.keep(name="a b")
    filters = {
        "name==+16692001234": ["+16692001234"],
        "name==%2B16692001234": ["+16692001234"],
        "name==%252B16692001234": ["+16692001234"],
        "name==%2016692001234": ["+16692001234"],
        "name==Call%205%20with%20Bob": ["Call 5 with Bob"],
        "name==Call+5+with+Bob": ["Call 5 with Bob"],
        "name==a+b": ["a b"],
        "name==%20a%20b": [],
    }

    assert await found_by(world, list(filters)) == filters


@pytest.mark.parametrize(
    "name",
    [
        "a;b==c.mp3",
        "100% sure",
        "50%20",
        "ünïcödé 録音 🎧",
        'it\'s "quoted"',
        "back\\slash",
        "a&b=c#d?e",
        "star*",
        "a,b(c)",
        "==",
    ],
)
async def test_a_doubly_encoded_value_may_hold_anything(world, name):
    await world.keep(name=name)
    await world.keep(name="another")
    text = f"name=={quote(quote(name, safe=''), safe='')};type==callrecording"

    assert await found_by(world, [text]) == {text: [name]}


async def test_comparison_is_exact(world):
    await world.keep(name="Call")
    filters = {"name==Call": ["Call"], "name==call": [], "name==Call%20": [], "name==": []}

    assert await found_by(world, list(filters)) == filters


CALLS = {
    "a": {"address": "+16692001234", "direction": "INBOUND", "duration": "9500", "queueName": "A"},
    "b": {"address": "+16692009999", "direction": "OUTBOUND", "duration": "120000"},
    "c": {"address": "+442079460300", "direction": "INBOUND", "duration": "", "queueName": "b (x)"},
    "d": {"duration": "soon", "type": "odd", "k.x-y": "1"},
}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("direction==INBOUND", "ac"),
        ("direction!=INBOUND", "bd"),
        ("direction=in=(INBOUND,OUTBOUND)", "abc"),
        ("direction=out=(INBOUND)", "bd"),
        ("address==+16692001234", "a"),
        ("address==%2B1669*", "ab"),
        ("address==*9*", "abc"),
        ("address!=*9*", "d"),
        ("address=in=(+16692001234,+442079460300)", "ac"),
        ("duration=gt=9500", "b"),
        ("duration>=9500", "ab"),
        ("duration<100000", "a"),
        ("duration=lt=1e9", "ab"),
        ("duration=gt=1.5e4", "b"),
        ("duration==", "c"),
        ("duration==*", "abcd"),
        ("queueName=gt=B", "c"),
        ("queueName=='b (x)'", "c"),
        ('queueName=="b (x)"', "c"),
        ("queueName==b*x*", "c"),
        ("none==x", ""),
        ("none!=x", "abcd"),
        ("none=out=(x)", "abcd"),
        ("none=gt=0", ""),
        ("tags.type==odd", "d"),
        ("type==odd", ""),
        ("k.x-y==1", "d"),
        ("direction==OUTBOUND,duration==soon", "bd"),
        ("direction==INBOUND;duration=gt=1,duration==soon", "ad"),
        ("direction==INBOUND;(duration=gt=1,queueName==b*)", "ac"),
        ("(direction==INBOUND)", "ac"),
        ("storedBytes=ge=0;name=in=(a,b)", "ab"),
        ("name=gt=b", "cd"),
        ("createdTime=ge=2026-01-01T00:00:00.000Z", "abcd"),
        ("createdTime=lt=1767225600000", ""),
        ("createdTime!=2026-01-01T00:00:00", ""),
        ("objectState=in=(AVAILABLE,ARCHIVED);name==a", "a"),
        ("objectState!=AVAILABLE", ""),
    ],
)
async def test_the_whole_language_is_understood(world, text, found):
    for name, tags in CALLS.items():
        await world.keep(name=name, tags=tags, created_ms=START_MS + 250)

    assert await found_by(world, [quote(text)]) == {quote(text): list(found)}


async def test_a_raw_plus_in_a_tag_arrives_as_a_space(world):
    await world.keep(name="a", tags={"address": "+16692001234"})

    assert await found_by(world, ["address==+1669*"]) == {"address==+1669*": ["a"]}


async def test_depth_and_lists_are_bounded(local):
    client = local.client()
    texts = {
        "deepest": "(" * 32 + "size==1" + ")" * 32,
        "too deep": "(" * 33 + "size==1" + ")" * 33,
        "parentheses": "(" * 8192,
        "longest list": f"size=in=({','.join(['1'] * 1000)})",
        "too long a list": f"size=in=({','.join(['1'] * 1001)})",
    }
    statuses = {
        name: (await client.get(OBJECTS, params={"filter": text})).status_code
        for name, text in texts.items()
    }

    assert statuses == {
        "deepest": 200,
        "too deep": 400,
        "parentheses": 400,
        "longest list": 200,
        "too long a list": 400,
    }


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("x", 1),
        ("==a", 0),
        ("name=a", 4),
        ("name=like=a", 4),
        ("name~a", 4),
        ("name=gt", 4),
        ("name==a;", 8),
        ("name==a,", 8),
        ("name==a;;type==b", 8),
        ("name==a)", 7),
        ("(name==a", 0),
        ("((name==a)", 0),
        ("()", 1),
        ("name=in=a", 8),
        ("name=in=(a", 8),
        ("name=in=(a;b)", 10),
        ("name=='a", 6),
        ("name=='a'b", 9),
        ("tags.==a", 5),
        ("name==a;size==big", 14),
        ("duration=gt=1e400", 12),
        ("size==1e400", 6),
        ("size==NaN", 6),
        ("size==1*", 6),
        ("size==", 6),
        ("size==9999999999999999999", 6),
        ("createdTime==yesterday", 13),
        ("createdTime==2024-02-30", 13),
        ("createdTime==2026-13-01T00:00:00Z", 13),
        ("createdTime=gt=", 15),
        ("shared==yes", 8),
        ("shared==TRUE", 8),
        ("shared=gt=true", 10),
        (" name==a", 0),
        ("1name==a", 0),
        ("name==a\0b", 6),
        ("name==%ff", 6),
        ("name==%ed%a0%80", 6),
        ("naïve==a", 2),
    ],
)
async def test_a_filter_that_cannot_be_understood_is_refused_with_the_position(local, text, at):
    answer = await local.client().get(OBJECTS, params={"filter": text})

    assert fault(answer) == (400, "bad_filter", "filter")
    assert answer.json()["at"] == at
    assert f"position {at}:" in answer.json()["detail"]


async def test_a_refusal_shows_the_place_with_a_caret(local):
    answer = await local.client().get(OBJECTS, params={"filter": "type==call;size==big"})

    assert answer.json()["detail"] == (
        "The filter cannot be understood at position 17: 'big' is not a number.\n"
        "type==call;size==big\n"
        "                 ^"
    )


async def test_length_and_number_of_terms_are_bounded(local):
    client = local.client()
    texts = {
        "longest": f"name=={'a' * (8192 - 6)}",
        "too long": f"name=={'a' * (8192 - 5)}",
        "most terms": ";".join(["size==1"] * 256),
        "too many terms": ";".join(["size==1"] * 257),
    }
    statuses = {
        name: (await client.get(OBJECTS, params={"filter": text})).status_code
        for name, text in texts.items()
    }

    assert statuses == {"longest": 200, "too long": 400, "most terms": 200, "too many terms": 400}


@given(st.text(alphabet="name=;,()*size%+ 0a1fé\0'\"T:-Z\\", max_size=40) | st.text(max_size=20))
def test_any_text_is_a_filter_or_a_bad_one_whose_position_lies_in_it(text):
    try:
        found = fiql.parse(text, FIELDS)
    except BadFilter as refused:
        at = refused.facts["at"]

        assert isinstance(at, int)
        assert 0 <= at <= len(text)
    else:
        for term in fiql.terms(found):
            assert text[term.at : term.end]


@given(st.text(max_size=20).filter(lambda each: "\0" not in each))
def test_what_was_encoded_is_what_is_searched_for(name):
    found = fiql.parse(f"name=={quote(name, safe='')}", FIELDS)
    plus = re.match(r" [0-9]", name)

    assert found.values == (Pattern((f"+{name[1:]}" if plus else name,)),)


@given(st.text(max_size=20).filter(lambda each: "\0" not in each))
def test_what_was_quoted_is_what_is_searched_for(name):
    quoted = name.replace("\\", "\\\\").replace("'", "\\'").replace("*", "\\*").replace("%", "%25")

    assert fiql.parse(f"name=='{quoted}'", FIELDS).values == (Pattern((name,)),)


LONGEST = {
    "a list of times": f"createdTime=in=({','.join(['1'] * 998)},1767225600000)",
    "no such times": f"updatedTime=out=({','.join(['1'] * 999)})",
    "no such times of an index": f"createdTime=out=({','.join(f'{each}000' for each in range(999))})",
    "a list and comparisons": f"(updatedTime=in=({','.join(['1'] * 740)}),{','.join(['a==b'] * 250)}),name==one",
    "all of many": ";".join(["a==b"] * 256),
    "any of many": ",".join(["a!=b"] * 256),
    "none of many": ";".join(["a!=b"] * 256),
    "wildcards": ",".join(["a!=*b*"] * 256),
    "a list of tags": f"a=in=({','.join(f'{number}' for number in range(999))},b)",
    "a list of states": f"objectState=in=({','.join(['AVAILABLE'] * 300)})",
    "many lists": ";".join([f"a=in=({','.join(['b'] * 30)})"] * 33),
    "deep": "(a==b;" * 31 + "a==b" + ")" * 31,
    "deep and wide": "(a==b,(c==d;" * 15 + "a==b" + "))" * 15,
}


@pytest.mark.parametrize("text", LONGEST.values(), ids=LONGEST)
async def test_the_longest_filters_are_answered(world, text):
    kept = [
        await world.keep(name=name, tags=tags, created_ms=created_ms, updated_ms=START_MS)
        for name, tags, created_ms in (
            ("one", {"a": "b", "c": "d"}, START_MS),
            ("two", {"a": "x"}, START_MS + 60_000),
        )
    ]
    tree = fiql.parse(text, FIELDS)
    wanted = [each.name for each in kept if meaning.matches(tree, each)]

    assert await found_by(world, [quote(text)]) == {quote(text): wanted}


async def test_the_lists_of_a_filter_have_a_thousand_values_together(local):
    parts = [f"a=in=({','.join(['b'] * 400)})"] * 3
    two, three = [
        await local.client().get(OBJECTS, params={"filter": ";".join(parts[:count])})
        for count in (2, 3)
    ]

    assert two.status_code == 200
    assert fault(three) == (400, "bad_filter", "filter")
