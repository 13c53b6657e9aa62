"""The audit chain: append, ask, and notice what was done to it behind our back."""

from __future__ import annotations

import asyncio
import secrets

import msgspec
import pytest

from soundkeep.foundation import audit
from soundkeep.foundation.audit import Deed, Event, Wanted
from soundkeep.foundation.database import connect


@pytest.fixture
def database_url(database_urls):
    return database_urls("foundation")


@pytest.fixture
def db(database):
    return database


def deed(**facts):
    usual = {
        "customer": "acme",
        "at_ms": 1000,
        "event": Event.CREATE,
        "service": "administration",
        "entity_type": "site",
        "entity_key": "hq",
        "display_name": "Head Quarters",
        "user_id": "ann",
    }
    return Deed(**(usual | facts))


async def append(db, *deeds):
    async with db.transaction() as tx:
        await audit.append(tx, deeds, entropy=secrets.token_bytes)


async def ask(db, customer="acme", **wanted):
    return await audit.query(db, customer=customer, wanted=Wanted(**wanted))


async def keys(db, **wanted):
    return [record.entity_key for record in (await ask(db, **wanted))[1]]


async def tamper(db, sql, **params):
    async with db.transaction() as tx:
        assert await tx.run(sql, params) > 0


# ---- append ---------------------------------------------------------------------------------


async def test_a_record_keeps_every_fact_of_the_deed(db):
    told = deed(
        new={"name": "Ünï"},
        old={"name": None},
        impersonator="root",
        correlation_type="job",
        correlation_id="7",
    )

    await append(db, told)

    record = (await ask(db))[1][0]
    kept = msgspec.structs.asdict(record)
    expected = msgspec.structs.asdict(told)
    new, old = expected.pop("new"), expected.pop("old")
    assert {name: kept[name] for name in expected} == expected
    assert msgspec.json.decode(record.details) == {"new": new, "old": old}


async def test_records_are_numbered_from_one_in_the_order_of_the_deeds(db):
    await append(db, deed(entity_key="a"), deed(entity_key="b"))
    await append(db, deed(entity_key="c"))

    records = (await ask(db))[1]

    assert [(record.seq, record.entity_key) for record in records] == [(3, "c"), (2, "b"), (1, "a")]


async def test_every_customer_has_a_chain_of_their_own(db):
    await append(db, deed(), deed(customer="globex", entity_key="theirs"), deed())

    assert [record.seq for record in (await ask(db))[1]] == [2, 1]
    assert [record.entity_key for record in (await ask(db, customer="globex"))[1]] == ["theirs"]


async def test_a_deed_that_is_rolled_back_leaves_no_record(db):
    with pytest.raises(ZeroDivisionError):
        async with db.transaction() as tx:
            await audit.append(tx, [deed()], entropy=secrets.token_bytes)
            raise ZeroDivisionError

    assert await ask(db) == (0, [])
    assert await audit.first_broken(db, customer="acme") is None


async def test_appending_nothing_is_nothing(db):
    await append(db)

    assert await ask(db) == (0, [])


async def test_two_processes_that_append_at_once_make_one_whole_chain(db, database_url):
    other = await connect(database_url)

    async def many(where, customer):
        for n in range(15):
            await append(where, deed(entity_key=f"{customer}{n}"), deed(customer=customer))

    await asyncio.gather(many(db, "globex"), many(other, "initech"))
    await other.close()

    assert (await ask(db))[0] == 30
    assert await audit.first_broken(db, customer="acme") is None


# ---- first_broken ---------------------------------------------------------------------------


@pytest.fixture
async def chain(db):
    """Five records of acme, beside one of globex."""
    await append(db, *(deed(entity_key=f"k{n}", at_ms=n) for n in range(1, 6)))
    await append(db, deed(customer="globex"))
    return db


async def test_a_whole_chain_is_not_broken(chain):
    assert await audit.first_broken(chain, customer="acme") is None


async def test_a_customer_without_records_is_not_broken(chain):
    assert await audit.first_broken(chain, customer="nobody") is None


COLUMNS = [name for name in audit.Record.__struct_fields__ if name not in ("customer", "seq")]


@pytest.mark.parametrize("column", COLUMNS)
async def test_a_record_altered_in_any_column_shows(chain, column):
    value = 999 if column == "at_ms" else "other"

    await tamper(
        chain,
        f"UPDATE audit SET {column} = :value WHERE customer = 'acme' AND seq = 3",
        value=value,
    )

    assert await audit.first_broken(chain, customer="acme") == 3


async def test_a_record_altered_with_a_hash_made_anew_shows_at_the_one_after_it(chain):
    kept = {record.seq: record for record in (await ask(chain))[1]}
    forged = msgspec.structs.replace(kept[3], user_id="eve")
    await tamper(
        chain,
        "UPDATE audit SET user_id = 'eve', hash = :hash WHERE customer = 'acme' AND seq = 3",
        hash=audit._hash(forged, kept[2].hash),
    )

    assert await audit.first_broken(chain, customer="acme") == 4


@pytest.mark.parametrize("seq", [1, 3, 5])
async def test_a_dropped_record_shows(chain, seq):
    await tamper(chain, "DELETE FROM audit WHERE customer = 'acme' AND seq = :seq", seq=seq)

    assert await audit.first_broken(chain, customer="acme") == seq


async def test_a_chain_that_was_wholly_dropped_shows(chain):
    await tamper(chain, "DELETE FROM audit WHERE customer = 'acme'")

    assert await audit.first_broken(chain, customer="acme") == 1


async def test_a_dropped_head_shows(chain):
    await tamper(chain, "DELETE FROM audit_heads WHERE customer = 'acme'")

    assert await audit.first_broken(chain, customer="acme") == 6


async def test_a_record_dropped_with_the_others_renumbered_shows(chain):
    await tamper(chain, "DELETE FROM audit WHERE customer = 'acme' AND seq = 3")
    await tamper(chain, "UPDATE audit SET seq = 3 WHERE customer = 'acme' AND seq = 4")

    assert await audit.first_broken(chain, customer="acme") == 3


async def test_a_record_inserted_at_the_end_shows(chain):
    await insert_copy(chain, of=5, as_seq=6)

    assert await audit.first_broken(chain, customer="acme") == 6


async def test_a_record_inserted_between_shows(chain):
    await tamper(chain, "UPDATE audit SET seq = 6 WHERE customer = 'acme' AND seq = 5")
    await insert_copy(chain, of=1, as_seq=5)

    assert await audit.first_broken(chain, customer="acme") == 5


async def test_records_that_changed_places_show(chain):
    for old, new in ((2, 99), (3, 2), (99, 3)):
        await tamper(
            chain,
            "UPDATE audit SET seq = :new WHERE customer = 'acme' AND seq = :old",
            old=old,
            new=new,
        )

    assert await audit.first_broken(chain, customer="acme") == 2


async def test_a_record_moved_to_another_customer_shows_there(chain):
    await tamper(chain, "DELETE FROM audit WHERE customer = 'globex'")
    await tamper(chain, "UPDATE audit SET customer = 'globex' WHERE customer = 'acme' AND seq = 1")

    assert await audit.first_broken(chain, customer="globex") == 1
    assert await audit.first_broken(chain, customer="acme") == 1


async def insert_copy(db, *, of, as_seq):
    rest = ", ".join(name for name in audit.Record.__struct_fields__ if name != "seq")
    await tamper(
        db,
        f"INSERT INTO audit (seq, {rest}) SELECT :as_seq, {rest} FROM audit "
        "WHERE customer = 'acme' AND seq = :of",
        of=of,
        as_seq=as_seq,
    )


async def test_a_chain_that_grows_while_it_is_checked_is_not_called_broken(db, database_url):
    other = await connect(database_url)

    async def grow():
        for _ in range(40):
            await append(other, deed())

    growing = asyncio.create_task(grow())
    found = set()
    while not growing.done():
        found.add(await audit.first_broken(db, customer="acme"))
        await asyncio.sleep(0)
    await growing
    await other.close()

    assert found == {None}


# ---- query ----------------------------------------------------------------------------------


@pytest.fixture
async def varied(db):
    await append(
        db,
        deed(entity_key="1", at_ms=100, service="administration", event=Event.CREATE),
        deed(entity_key="2", at_ms=200, service="storage", event=Event.VIEW, user_id="bob"),
        deed(entity_key="3", at_ms=300, event=Event.DELETE, entity_type="user_group"),
        deed(
            entity_key="4", at_ms=400, event=Event.UPDATE, entity_type="user", display_name="Ümit"
        ),
        deed(entity_key="x", at_ms=250, customer="globex"),
    )
    return db


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, ["4", "3", "2", "1"]),
        ({"start_ms": 200}, ["4", "3", "2"]),
        ({"end_ms": 200}, ["1"]),
        ({"start_ms": 200, "end_ms": 300}, ["2"]),
        ({"service": "storage"}, ["2"]),
        ({"user_id": "bob"}, ["2"]),
        ({"display_name": "Ümit"}, ["4"]),
        ({"events": ("create", "delete")}, ["3", "1"]),
        ({"entity_types": ("user_group",)}, ["3"]),
        ({"entity_types": ("user", "site")}, ["4", "2", "1"]),
        ({"events": ("create",), "user_id": "bob"}, []),
        ({"service": "storage", "events": ("view",), "user_id": "bob"}, ["2"]),
    ],
    ids=str,
)
async def test_a_query_narrows_by_what_is_given(varied, wanted, found):
    total, records = await ask(varied, **wanted)

    assert [record.entity_key for record in records] == found
    assert total == len(found)


@pytest.mark.parametrize(
    "wanted",
    [
        {"entity_types": ("userXgroup",)},
        {"entity_types": ("USER",)},
        {"entity_types": ("site,user",)},
        {"events": ("%",)},
        {"display_name": "ümit"},
        {"service": "' OR '1'='1"},
    ],
    ids=str,
)
async def test_a_query_matches_whole_words_as_they_are_written(varied, wanted):
    assert await ask(varied, **wanted) == (0, [])


async def test_pages_follow_each_other_without_gap_or_repeat(db):
    await append(db, *(deed(entity_key=str(n)) for n in range(1, 8)))
    pages, before = [], 2**62
    for _ in range(4):
        total, records = await ask(db, before_seq=before, limit=3)
        if not records:
            break
        pages.append([record.entity_key for record in records])
        before = records[-1].seq

    assert pages == [["7", "6", "5"], ["4", "3", "2"], ["1"]]
    assert total == 7


async def test_a_walk_is_not_disturbed_by_what_is_appended_meanwhile(db):
    await append(db, *(deed(entity_key=str(n)) for n in range(1, 5)))
    first = (await ask(db, limit=2))[1]
    await append(db, deed(entity_key="new"))

    assert await keys(db, before_seq=first[-1].seq, limit=2) == ["2", "1"]
