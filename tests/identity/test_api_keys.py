"""API keys: what they look like, where they are kept, who may make them."""

from __future__ import annotations

import asyncio
import re
import string
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from identity_world import COMPANY, HERE, START_MS, either_engine_will_do, group

from soundkeep.foundation.errors import (
    BadInput,
    Conflict,
    NotAllowed,
    NotFound,
    UnauthorizedClient,
)
from soundkeep.identity import accounts, apps, tokens
from soundkeep.identity.apps import Wanted, is_well_formed, with_checksum
from soundkeep.identity.model import Permission
from soundkeep.identity.plane import digest
from soundkeep.identity.tokens import Credentials

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
BODIES = st.text(ALPHABET, min_size=1, max_size=60)
PREFIXES = st.sampled_from(["sk_", "sks_"])


# ---- how they look --------------------------------------------------------------------------


@either_engine_will_do
async def test_keys_and_secrets_have_their_shapes(world):
    shown = await world.key()

    assert re.fullmatch(r"sk_[A-Za-z0-9_-]{22}[A-Za-z0-9]{6}", shown.app.key)
    assert re.fullmatch(r"sks_[A-Za-z0-9_-]{43}[A-Za-z0-9]{6}", shown.secret)
    assert is_well_formed(shown.app.key)
    assert is_well_formed(shown.secret)


def test_the_checksum_is_crc_32_in_base_62():
    digits = string.digits + string.ascii_letters
    tail = with_checksum("123456789").removeprefix("123456789")

    number = sum(digits.index(digit) * 62**at for at, digit in enumerate(reversed(tail)))
    assert number == 0xCBF43926  # the published check value of CRC-32


@given(PREFIXES, BODIES)
def test_what_has_its_checksum_is_well_formed(prefix, body):
    assert is_well_formed(with_checksum(prefix + body))


@given(PREFIXES, BODIES, st.data())
def test_one_wrong_letter_is_noticed(prefix, body, data):
    good = with_checksum(prefix + body)
    at = data.draw(st.integers(0, len(good) - 1))
    letter = data.draw(st.sampled_from(sorted(set(ALPHABET) - {good[at]})))

    assert not is_well_formed(good[:at] + letter + good[at + 1 :])


@given(st.text())
def test_any_text_may_be_asked_about(text):
    assert is_well_formed(text) in {True, False}


@pytest.mark.parametrize("text", ["", "sk_", "sk_123456", "sks_", "pk_" + "x" * 28])
def test_what_is_none_of_ours_is_not_well_formed(text):
    assert not is_well_formed(text)


# ---- where they are kept --------------------------------------------------------------------


async def everything(db) -> str:
    """All that the database holds, as text."""
    if db.engine == "sqlite":
        sql = "SELECT name FROM sqlite_master WHERE type = 'table'"
    else:
        sql = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    tables = [row[0] for row in await db.all(sql)]
    assert "app_secrets" in tables
    rows = [await db.all(f"SELECT * FROM {table}") for table in tables]
    return repr([tuple(row) for table in rows for row in table])


async def test_no_secret_is_kept_in_clear(world):
    owner = await world.owner()
    first = await world.app(owner)
    second = await apps.rotate(world.identity, owner, first.app.id)
    token = await world.token(first)
    await world.ask(first, "/oauth2/revoke", {"token": token})
    kept = await everything(world.identity.db)

    assert first.app.key in kept
    assert digest(first.secret) in kept
    for clear in (first.secret, second.secret, first.secret[4:-6], token):
        assert clear not in kept


async def test_the_secret_is_not_to_be_had_again(world):
    owner = await world.owner()
    shown = await world.app(owner)

    assert shown.secret not in repr(await apps.one(world.identity, owner, shown.app.id))


# ---- who may make them ----------------------------------------------------------------------


async def test_a_super_admin_alone_makes_no_keys(world):
    with pytest.raises(NotAllowed, match="Storage API"):
        await world.app(world.boss)


@either_engine_will_do
@pytest.mark.parametrize("missing", [Permission.STORAGE_API, Permission.APPLICATION_CREDENTIALS])
async def test_both_permissions_are_needed(world, missing):
    owner = await world.owner()
    kept = {Permission.STORAGE_API, Permission.APPLICATION_CREDENTIALS} - {missing}
    role = replace(owner.rights.grants[0].role, permissions=frozenset(kept))
    rights = replace(owner.rights, grants=(replace(owner.rights.grants[0], role=role),))

    with pytest.raises(NotAllowed):
        await world.app(replace(owner, rights=rights))


@either_engine_will_do
@pytest.mark.parametrize("name", ["my app", "", "-x", "x" * 65, "a\tb", "ä", "a/b"])
async def test_a_name_has_no_spaces(world, name):
    with pytest.raises(BadInput, match="name"):
        await world.app(await world.owner(), name)


@either_engine_will_do
@pytest.mark.parametrize(
    "wanted",
    [
        {"products": ()},
        {"products": ("telephone",)},
        {"expires_ms": START_MS},
        {"networks": ("198.51.100.7/24",)},
        {"networks": ("anywhere",)},
        {"networks": ("198.51.100.0/24",) * 33},
    ],
)
async def test_what_cannot_be_is_refused(world, wanted):
    facts = {"name": "archive", "products": ("storage",)} | wanted

    with pytest.raises(BadInput):
        await apps.create(world.identity, await world.owner(), Wanted(**facts))


async def test_names_are_unique_within_a_company(world):
    globex = await world.company("globex")
    await world.key()
    await world.app(await world.owner("gina", boss=globex))

    with pytest.raises(Conflict, match="archive"):
        await world.app(await world.owner("otto"))


async def test_nobody_sees_or_touches_anothers_apps(world):
    shown = await world.key()
    other = await world.owner("otto")
    identity, app_id = world.identity, shown.app.id

    assert await apps.mine(identity, other) == []
    for touch in (apps.one, apps.rotate, apps.delete):
        with pytest.raises(NotFound):
            await touch(identity, other, app_id)
    with pytest.raises(NotFound):
        await apps.remove_secret(identity, other, app_id, "any")


async def test_the_only_secret_stays(world):
    owner = await world.owner()
    shown = await world.app(owner)
    [secret] = (await apps.one(world.identity, owner, shown.app.id)).secrets

    with pytest.raises(Conflict, match="only secret"):
        await apps.remove_secret(world.identity, owner, shown.app.id, secret.id)


async def test_many_changes_at_once_all_come_to_an_end(world):
    """More than the database has connections: none may wait for one while it holds another."""
    owner = await world.owner()
    made = [await world.app(owner, f"app-{number}") for number in range(12)]
    async with asyncio.timeout(20):
        await asyncio.gather(*(apps.rotate(world.identity, owner, each.app.id) for each in made))
        await asyncio.gather(*(apps.delete(world.identity, owner, each.app.id) for each in made))

    assert await apps.mine(world.identity, owner) == []


@either_engine_will_do
async def test_a_reach_too_long_for_a_token_is_refused_when_it_is_asked_for(world):
    """A token that no server would take is worse than none."""
    owner = await world.user("olga")
    team = await accounts.create_group(world.identity, world.boss, name="All", members=[])
    await world.assign(owner, group(team.id))
    shown = await world.app(await world.actor(owner))
    await _crowd(world, team.id, 3_000)

    with pytest.raises(UnauthorizedClient, match="members"):
        await tokens.issue(
            world.issuer,
            Credentials(shown.app.key, shown.secret),
            grant_type="client_credentials",
            scope=None,
            address=HERE,
        )


async def _crowd(world, team: str, count: int) -> None:
    facts = [{"id": f"user-number-{number:05}"} for number in range(count)]
    async with world.identity.db.transaction() as tx:
        await tx.many(
            """
            INSERT INTO users (customer, id, email, name, password_hash, disabled, created_ms)
            VALUES ('acme', :id, :id, :id, '', 0, 0)
            """,
            facts,
        )
        await tx.many(
            f"""
            INSERT INTO group_members (customer, group_id, user_id)
            VALUES ('acme', '{team}', :id)
            """,
            facts,
        )


async def test_company_scope_needs_no_names(world):
    shown = await world.key(COMPANY)
    await world.user("otto")

    assert "otto" not in repr(await world.claims(await world.token(shown)))
