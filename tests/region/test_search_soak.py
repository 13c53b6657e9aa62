"""Searches of every kind for minutes: never a 500, and never a wrong answer. `make soak` runs it.

SOUNDKEEP_SOAK_SECONDS says for how long, 600 if left out, shared by what is here;
SOUNDKEEP_SOAK_SEED begins where a run before began, whose seed it said.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, quote

import httpx2
import pytest
from hypothesis import HealthCheck, Phase, given, note, seed, settings
from hypothesis import strategies as st
from region_world import BASE, OBJECTS, World, opened
from test_filter_meaning import KEYS, TEXTS, filters, some_objects
from test_search_plans import REACHES, SORTS, joined, place

from soundkeep.foundation.errors import BadFilter
from soundkeep.region import catalog, fiql, meaning, tagindex
from soundkeep.region.catalog import BUCKET_FIELDS, FIELDS
from soundkeep.region.fiql import Tag
from soundkeep.region.model import Bucket, State

pytestmark = [
    pytest.mark.soak,
    pytest.mark.filterwarnings("ignore:Generating overly large repr"),  # filters may be long
]

SECONDS = float(os.environ.get("SOUNDKEEP_SOAK_SECONDS", "600"))
SEED = int(os.environ.get("SOUNDKEEP_SOAK_SEED") or secrets.randbits(32))
SHARES = 5
"""One for the parser, and two on each engine."""

BUCKETS = f"{BASE}/buckets"
LONGEST = fiql.MAX_BYTES + 100
PAGE = ["content", "lastPage", "pageKey", "pageSize", "total"]
OBJECT = [
    "id", "type", "mimeType", "objectName", "checksumType", "checksum", "customerId", "userId",
    "storedBytes", "createdTime", "updatedTime", "objectState", "bucketId", "tags", "shared",
]  # fmt: skip
BUCKET = ["bucketId", "customerId", "userId", "name", "createdTime", "updatedTime", "tags"]
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")

SQL = [
    "' OR '1'='1", "x'; DROP TABLE objects; --", '"; DROP TABLE objects; --', "1) UNION SELECT 1 --",
    "0 OR 1=1", "1; DELETE FROM objects", ":customer", ":filter_0", ":limit", "$1", "$$", "?", "?1",
    "@x", "%s", "{key}", "{0}", "\\", "\\'", '"', "'", "''", "/*", "--", "TRUE", "NULL", "id DESC",
    "id, (SELECT 1)", "(SELECT doc FROM documents)", "CASE WHEN 1 THEN 1 END", "tags->>'a'",
    "tags ->> 'queue'", "$.queue", '$."queue"', "$[0]", "tagindex MATCH 'a'", 'a" OR "b', "a* OR b",
    "NEAR(a b)", "{a} : b", "^a", "pg_sleep(9)", "1::int", "CAST(1 AS INT)", "E'\\x00'", "\x1f",
    "customer", "seq", "rowid", "doc", "sort_value", "created_ms", "SELECT", "x--", "DROP.TABLE",
]  # fmt: skip
LONG = ["x" * 63, "x" * 64, "x" * 65, "x" * 64 + "y", "é" * 65, "😀" * 64 + "a", "😀" * 64 + "b"]
MOMENTS = [
    "0", "-1", "9" * 18, "-" + "9" * 18, "1767225600000", "2026-01-01T00:00:00.999Z", "0001-01-01",
    "9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59",
    "2026-W01-4", "20260101", "8796093022207", "8796093022208", "-62135596800001", "2026-02-30", "",
]  # fmt: skip
NUMBERS = [
    "0", "-0", "5", "05", "5.0", "-5", "1e3", "1e-400", "1e308", "-1e308", "1e309", "1e9999", "NaN",
    "inf", "9" * 18, "9" * 19, "9" * 400, "0." + "3" * 18, "0." + "3" * 19, "9" * 18 + "." + "9" * 18,
    "0x10", "٣", "1_0",
]  # fmt: skip
SPLICES = [
    *SQL, *KEYS, *NUMBERS, ";", ",", "(", ")", "'", '"', "*", "%", "%00", "%ED%A0%80", "%2", "%zz",
    "%25", "%2500", "%FF", "\0", "\ud800", "\udfff", "\ufeff", "\u202e", "\x1f", "😀", "==", "!=", "=",
    "=gt=", "=in=", "=out=", "=in=()", "=in=(", "<", ">=", "=~", " ", "+", "&", "#", "\r\n", "-" * 40,
    "createdTime", "objectState", "tags.", "tags.tags.", "(" * 40, "a" * 300, ";;", ",,", "a==b;" * 60,
]  # fmt: skip


# ---- what there is --------------------------------------------------------------------------


def an_assortment():
    """Two hundred objects of `acme`, oddly tagged, some of one bucket."""
    chance = random.Random(11)
    odd = [*TEXTS, *SQL, *LONG]
    for number, each in enumerate(some_objects(200)):
        tags = {
            key: chance.choice(odd) for key in ("note", "select", "x--") if chance.random() < 0.6
        }
        tags |= {"long": chance.choice(LONG)} if chance.random() < 0.6 else {}
        site = {"branchId": chance.choice(["ny", "la", ""])} if chance.random() < 0.7 else {}
        yield replace(
            each,
            user_id=chance.choice(["olga", "pavel"]),
            name=chance.choice([text for text in odd if text]),
            updated_ms=each.created_ms + chance.choice([0, 1, 5000]),
            bucket_id=f"b-{number % 23}",
            tags={**each.tags, **tags, **site},
        )


def buckets_of(objects):
    """The buckets that objects make when they are loaded one by one, in this order."""
    found = {}
    for each in objects:
        made = Bucket(
            each.customer, each.bucket_id, each.user_id, each.bucket_id,
            each.created_ms, each.created_ms, {},
        )  # fmt: skip
        found.setdefault(each.bucket_id, made)
    return list(found.values())


HAD = list(an_assortment())
FOREIGN = [replace(each, id=f"f{each.id[1:]}", customer="umbra") for each in HAD[:20]]
GROUPS = buckets_of(HAD)


# ---- what is asked --------------------------------------------------------------------------

splices = st.sampled_from(SPLICES) | st.text(max_size=6)
keys = st.sampled_from(
    [*KEYS, "note", "select", "x--", "none", "tags.id", "tags.tags.a", "DROP.TABLE", "a" * 200]
)
selectors = keys | st.sampled_from([*FIELDS, *BUCKET_FIELDS])
orders = st.sampled_from(["=gt=", "=ge=", "=lt=", "=le=", "<", "<=", ">", ">="])
operators = orders | st.sampled_from(["==", "!="])
lists = st.sampled_from(["=in=", "=out="])


def inside(text: str) -> str:
    """What means this text between quotation marks, whatever is in it."""
    return text.replace("%", "%25").replace("\\", "\\\\").replace("'", "\\'").replace("*", "\\*")


def quoted(text: str) -> str:
    """A value that means this text."""
    return f"'{inside(text)}'"


def repeated(each: str, glue: str, count: int) -> str:
    return glue.join([each] * count)


odd_values = st.sampled_from([*TEXTS, *SQL, *LONG]).map(quoted)
values = odd_values | st.sampled_from([*MOMENTS, *NUMBERS]) | st.just("*") | st.sampled_from(LONG)
extreme_terms = st.one_of(
    st.tuples(selectors, operators, values),
    st.tuples(
        selectors, lists, st.lists(values, max_size=3).map(lambda each: f"({','.join(each)})")
    ),
    st.tuples(st.sampled_from(["createdTime", "updatedTime"]), operators, st.sampled_from(MOMENTS)),
    st.tuples(st.sampled_from(["size", "duration", "note"]), operators, st.sampled_from(NUMBERS)),
).map("".join)
THERE = sorted(
    {(key, value) for each in HAD for key, value in each.tags.items()}
    | {("objectName", each.name) for each in HAD}
    | {("id", each.id) for each in HAD}
    | {("bucketId", each.bucket_id) for each in HAD}
)


ALIKE = [
    "*", "*", "**", "?*", "*?", "_*", "*_", "%25*", "*[", "[*]", "]*", "\\\\*", "?", "_", "[", "",
]  # fmt: skip
"""What stands for a part of a value: wildcards, and what is one elsewhere."""


@st.composite
def near(draw) -> str:
    """A comparison with a value that is there, or with one that is almost there."""
    key, text = draw(st.sampled_from(THERE))
    start = draw(st.integers(0, len(text)))
    end = draw(st.integers(start, min(len(text), start + 2)))
    like = inside(text[:start]) + draw(st.sampled_from(ALIKE)) + inside(text[end:])
    key = "tags.type" if key == "type" else key
    kind = draw(st.sampled_from(["==", "==", "!=", "order", "list"]))
    if kind != "list":
        operator = draw(orders) if kind == "order" else kind
        return f"{key}{operator}'{draw(st.sampled_from([like, like, inside(text)]))}'"
    wanted = "','".join([inside(draw(st.sampled_from(THERE))[1]), inside(text), like])
    return f"{key}{draw(lists)}('{wanted}')"


fitting = st.sampled_from(
    [("createdTime", "1"), ("updatedTime", "0"), ("size", "1"), ("shared", "true"), ("note", "'a'"),
     ("objectState", "ARCHIVED"), ("objectName", ""), ("bucketId", "b-1"), ("duration", "5")]
)  # fmt: skip
long_lists = st.builds(
    lambda term, operator, count: f"{term[0]}{operator}({repeated(term[1], ',', count)})",
    fitting | st.tuples(selectors, st.sampled_from(["", "1"])),
    lists,
    st.sampled_from([20, 300, 990, 1000, 1001]),
)
large = st.one_of(
    long_lists,
    st.lists(long_lists, min_size=2, max_size=4).map(";".join),
    st.builds(repeated, extreme_terms, st.sampled_from(";,"), st.sampled_from([60, 255, 256, 257])),
    st.builds(
        lambda inner, depth: "(" * depth + inner + ")" * depth,
        extreme_terms,
        st.sampled_from([5, 31, 32, 33]),
    ),
)
right = st.one_of(
    joined,
    filters,
    near(),
    st.lists(near(), min_size=2, max_size=4).map(",".join),
    st.lists(near() | extreme_terms, min_size=1, max_size=4).map(";".join),
)


@st.composite
def mutated(draw) -> str:
    """A filter that was right until somebody cut it up."""
    text = draw(right)
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 5)))
        text = text[:start] + draw(splices) + text[end:]
    return text


texts = st.one_of(
    right, mutated(), large, st.text(max_size=60), st.lists(splices, max_size=8).map("".join)
)
sorts = st.sampled_from([*SORTS, *BUCKET_FIELDS, "note", "select", "x--", "checksum", "type"])
whole = st.sampled_from(["0", "1", "2", "3", "7", "1000"]) | st.integers(0, 250).map(str)
wrong = st.sampled_from(["-1", "1001", "1e9", "x", "", " 1", "+1", "٣", "9" * 30, str(2**53 + 1)])


def asked(filters, sorts, numbers):
    """Parameters of a search, any of them left out."""
    return st.fixed_dictionaries(
        {},
        optional={
            "filter": filters,
            "sortField": sorts,
            "sortDirection": st.sampled_from(["ASC", "desc", "DESC"]),
            "limit": numbers,
            "pageKey": numbers,
            "explain": st.sampled_from(["true", "false"]),
        },
    )


@st.composite
def injected(draw) -> dict[str, str]:
    """A search with SQL in one of its places."""
    sql, key, operator = draw(st.sampled_from(SQL)), draw(keys), draw(operators)
    where = draw(
        st.sampled_from(
            [
                {"filter": f"{key}{operator}{quoted(sql)}"},
                {"filter": f"{key}{operator}{sql}"},
                {"filter": f"{key}=={quoted(sql)[:-1]}*'"},
                {"filter": f"objectName{operator}{quoted(sql)}"},
                {"filter": f"{key}{draw(lists)}({quoted(sql)},{sql})"},
                {
                    "filter": f"{key}{draw(lists)}({quoted(sql)},{quoted(draw(st.sampled_from(SQL)))})"
                },
                {"filter": f"{sql}{operator}1"},
                {"filter": f"tags.{sql}{operator}1"},
                {"filter": f"{key}{sql}1"},
                {"filter": f"type==callrecording{sql}"},
                {"filter": sql},
                {"sortField": sql},
                {"sortField": f"tags.{sql}"},
                {"sortField": f"createdTime {sql}"},
                {"sortDirection": sql},
                {"sortDirection": f"ASC {sql}"},
                {"limit": sql},
                {"pageKey": f"1{sql}"},
            ]
        )
    )
    return {**draw(asked(joined, sorts, whole)), **where}


@st.composite
def queries(draw, params) -> str:
    """A query string; what need not be is not always percent-encoded, and too long is cut."""
    loose = draw(st.sampled_from(["", "", "=;,()'*!<>", "%", "%+&=;,()"]))
    return "&".join(
        f"{name}={quote(value.encode(errors='surrogatepass')[:LONGEST], safe=loose)}"
        for name, value in draw(params).items()
    )


searches = st.tuples(
    st.sampled_from([OBJECTS, OBJECTS, BUCKETS]),
    st.integers(0, len(REACHES) - 1),
    st.one_of(
        queries(asked(texts, sorts, whole)),
        queries(asked(right, sorts, whole)),
        queries(asked(near(), sorts, whole)),
        queries(asked(texts, sorts | splices, whole | wrong)),
    ),
)
injections = st.tuples(
    st.sampled_from([OBJECTS, OBJECTS, BUCKETS]),
    st.integers(0, len(REACHES) - 1),
    queries(injected()),
)


# ---- what is right --------------------------------------------------------------------------


@dataclass(frozen=True)
class Wish:
    """A search that has to be answered, as its query string means it."""

    tree: fiql.Node
    sort: fiql.Field | Tag
    descending: bool
    offset: int
    limit: int


def wish(query: str, fields) -> Wish | None:
    """What a query string asks for; None if it has to be refused."""
    pairs = parse_qsl(query, keep_blank_values=True)
    params = dict(pairs)
    direction = params.get("sortDirection", "DESC").upper()
    offset = whole_number(params.get("pageKey", "0"), 0, 2**53)
    limit = whole_number(params.get("limit", "100"), 1, 1000)
    known = {"filter", "sortField", "sortDirection", "limit", "pageKey", "explain"}
    if (
        any(
            times > 1 for name, times in Counter(name for name, _ in pairs).items() if name in known
        )
        or direction not in ("ASC", "DESC")
        or params.get("explain", "false").lower() not in ("true", "false")
        or None in (offset, limit)
    ):
        return None
    try:
        tree = fiql.parse(params.get("filter", ""), fields)
        sort = fiql.selector(params.get("sortField") or "createdTime", fields)
    except BadFilter:
        return None
    return Wish(tree, sort, direction == "DESC", offset, limit)


def whole_number(text: str, least: int, most: int) -> int | None:
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        return None
    return int(text) if least <= int(text) <= most else None


def meant(path: str, reach, wanted: Wish) -> list[str]:
    """The ids of all that a search is about, in order."""
    if path == BUCKETS:
        near = {each.bucket_id for each in HAD if covers(reach, each)}
        found = [each for each in GROUPS if each.id in near and meaning.matches(wanted.tree, each)]
    else:
        named = any(term.selector == FIELDS["objectState"] for term in fiql.terms(wanted.tree))
        found = [
            each
            for each in HAD
            if covers(reach, each)
            and (named or each.state is State.AVAILABLE)
            and meaning.matches(wanted.tree, each)
        ]

    def key(each):
        return place(wanted.sort, each), each.id

    found.sort(key=key, reverse=wanted.descending)
    if isinstance(wanted.sort, Tag) and wanted.descending:  # numbers first, missing last, in both
        found.sort(key=lambda each: place(wanted.sort, each)[:2])
    return [each.id for each in found]


def covers(reach, stored) -> bool:
    return reach.covers(site=stored.site, user=stored.user_id)


def well_formed(path: str, wanted: Wish, page: dict) -> None:
    """Contract §2: the page and everything on it."""
    assert [name for name in page if name in PAGE] == PAGE
    assert set(page) - {*PAGE} <= {"explanation", "totalIsExact"}
    assert page["pageKey"] == wanted.offset + wanted.limit
    assert page["pageSize"] == len(page["content"]) <= wanted.limit
    assert type(page["lastPage"]) is bool
    for each in page["content"]:
        assert list(each) == (OBJECT if path == OBJECTS else BUCKET)
        assert each["customerId"] == "acme"
        assert all(list(tag) == ["key", "value"] for tag in each["tags"])
        assert TIME.fullmatch(each["createdTime"])
        assert TIME.fullmatch(each["updatedTime"])


@dataclass
class Asking:
    """A region full of things, asked one search after the other."""

    world: World
    runner: asyncio.Runner
    outcomes: Counter = field(default_factory=Counter)
    clients: dict[int, httpx2.AsyncClient] = field(default_factory=dict)

    def __call__(self, example: tuple[str, int, str]) -> None:
        """Ask, and hold the answer to what the search means."""
        path, number, written = example
        client = self.clients.setdefault(number, self.world.client(reach=REACHES[number]))
        request = client.build_request("GET", f"{path}?{written}")
        query = request.url.query.decode()
        answer = self.runner.run(client.send(request))
        note(f"{path}?{query}\n{parse_qsl(query)}\n{answer.status_code}: {answer.text[:2000]}")
        self.outcomes[answer.status_code] += 1
        wanted = wish(query, FIELDS if path == OBJECTS else BUCKET_FIELDS)
        if answer.status_code == 503:
            assert answer.json()["errors"][0]["code"] == "too_slow"
        elif wanted is None:
            assert answer.status_code == 400
            assert answer.json()["errors"][0]["message"]
        else:
            assert answer.status_code == 200
            self.agrees(path, REACHES[number], wanted, answer.json())

    def agrees(self, path: str, reach, wanted: Wish, page: dict) -> None:
        """The page is what its search means."""
        ids, end = meant(path, reach, wanted), wanted.offset + wanted.limit
        well_formed(path, wanted, page)
        name = "id" if path == OBJECTS else "bucketId"
        assert [each[name] for each in page["content"]] == ids[wanted.offset : end]
        assert page["lastPage"] == (end >= len(ids))
        if page.get("totalIsExact", True):
            assert page["total"] == len(ids)
        else:
            assert page["total"] <= len(ids)
        self.outcomes["not empty"] += bool(page["content"])


@contextmanager
def asking(url, folder):
    """A region with all that there is."""
    with asyncio.Runner() as runner:
        context = opened(url, folder)
        world = runner.run(context.__aenter__())
        try:
            for each in HAD:  # one by one, so that each makes its bucket
                runner.run(catalog.load(world.region, [each]))
            runner.run(catalog.load(world.region, FOREIGN))
            yield Asking(world, runner)
        finally:
            runner.run(context.__aexit__(None, None, None))


# ---- for as long as there is time -----------------------------------------------------------


@pytest.fixture
def keep_at_it(capsys, request):
    """Checks fresh examples until the time is up; a failure is made small, and told with its seed."""

    def tell(*what) -> None:
        with capsys.disabled():
            print(f"\n{request.node.name}:", *what, flush=True)

    def work(strategy: st.SearchStrategy, check: Callable) -> None:
        until, rounds, cases = time.monotonic() + SECONDS / SHARES, 0, 0
        failed = []

        def once(example) -> None:
            nonlocal cases
            cases += 1
            try:
                check(example)
            except BaseException:
                if not failed:  # what hypothesis tells is smaller, if it fails again
                    failed.append(example)
                    tell(f"failed with SOUNDKEEP_SOAK_SEED={SEED + rounds}: {example}")
                raise

        while rounds == 0 or time.monotonic() < until:
            this = seed(SEED + rounds)
            limits = settings(
                max_examples=100,
                database=None,
                deadline=None,
                report_multiple_bugs=False,
                phases=[Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
            )
            this(limits(given(strategy)(once)))()
            rounds += 1
        tell(f"{cases} cases, SOUNDKEEP_SOAK_SEED={SEED}")

    work.tell = tell
    return work


def test_the_parser_gives_a_tree_or_says_what_is_wrong(keep_at_it):
    outcomes = Counter()

    def check(text: str) -> None:
        for fields in (FIELDS, BUCKET_FIELDS):
            try:
                tree = fiql.parse(text, fields)
            except BadFilter as error:
                outcomes["misplaced"] += not 0 <= error.facts["at"] <= len(text)
                outcomes["refused"] += 1
            else:
                assert all(term.values for term in fiql.terms(tree))
                outcomes["understood"] += 1

    keep_at_it(texts, check)
    keep_at_it.tell(dict(outcomes))
    assert outcomes["misplaced"] == 0
    assert min(outcomes["refused"], outcomes["understood"]) > 0


def test_every_search_is_answered_right_or_refused(database_urls, tmp_path, keep_at_it):
    with asking(database_urls("foundation", "region"), tmp_path) as ask:
        keep_at_it(searches, ask)
        keep_at_it.tell(dict(ask.outcomes))

    assert min(ask.outcomes["not empty"], ask.outcomes[200], ask.outcomes[400]) > 0


def test_sql_is_a_text_like_any_other(database_urls, tmp_path, keep_at_it):
    with asking(database_urls("foundation", "region"), tmp_path) as ask:
        before = ask.runner.run(ask.world.everything())
        keep_at_it(injections, ask)
        keep_at_it.tell(dict(ask.outcomes))
        after = ask.runner.run(ask.world.everything())

    assert after == before
    assert min(ask.outcomes["not empty"], ask.outcomes[200], ask.outcomes[400]) > 0


def test_what_there_is_covers_what_is_asked():
    buckets = Counter(each.bucket_id for each in HAD)
    notes = {each.tags.get("note") for each in HAD}

    assert max(buckets.values()) > 5
    assert notes & set(SQL)
    assert notes & set(LONG)
    assert {each.state for each in HAD} == set(State)
    assert tagindex.states(fiql.EVERYTHING) == (State.AVAILABLE,)
