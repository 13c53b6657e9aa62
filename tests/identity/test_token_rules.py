"""Who gets a token, for how long and how far it reaches (contract §3), and what ends it at once."""

from __future__ import annotations

import pytest
from identity_world import (
    COMPANY,
    HERE,
    OWN,
    START_MS,
    STRICT,
    HeldClock,
    World,
    basic,
    either_engine_will_do,
    group,
    new_identity,
    site,
)

from soundkeep.foundation.claims import Access, Reach
from soundkeep.foundation.errors import BadToken
from soundkeep.identity import accounts, apps, roles
from soundkeep.identity.model import Permission
from soundkeep.identity.tokens import Issuer

HOUR_MS = 3_600_000


async def refusal(world, shown, **more) -> tuple[int, str]:
    answer = await world.ask(shown, **more)
    return answer.status_code, answer.json()["error"]


async def assert_dead(world, token: str, verifier=None) -> None:
    with pytest.raises(BadToken, match="revoked"):
        await (verifier or world.verifier()).claims(token, address=HERE)


# ---- losing what a key stands on ------------------------------------------------------------


async def test_an_owner_without_storage_api_gets_no_token(world):
    user = await world.user("olga")
    assignment = await world.assign(user)
    shown = await world.app(await world.actor(user))
    await world.token(shown)
    await roles.unassign(world.identity, world.boss, assignment.id)

    assert await refusal(world, shown) == (400, "unauthorized_client")


async def test_losing_storage_api_kills_live_tokens(world):
    user = await world.user("olga")
    assignment = await world.assign(user)
    shown = await world.app(await world.actor(user))
    token, verifier = await world.token(shown), world.verifier()
    await verifier.claims(token, address=HERE)
    await roles.unassign(world.identity, world.boss, assignment.id)

    await assert_dead(world, token, verifier)


async def test_application_credentials_are_needed_too(world):
    user = await world.user("olga")
    role = await roles.create_role(
        world.identity, world.boss, name="Half", permissions=[Permission.STORAGE_API]
    )
    await world.assign(user, role=role.id)
    help_desk = await world.assign(user, role="it-admin")
    shown = await world.app(await world.actor(user))
    await world.token(shown)
    await roles.unassign(world.identity, world.boss, help_desk.id)

    assert await refusal(world, shown) == (400, "unauthorized_client")


async def test_a_role_that_loses_storage_api_ends_its_holders_tokens(world):
    user = await world.user("olga")
    role = await roles.copy_role(world.identity, world.boss, "storage-api")
    await world.assign(user, role=role.id)
    shown = await world.app(await world.actor(user))
    token = await world.token(shown)
    await roles.change_role(
        world.identity,
        world.boss,
        role.id,
        name=role.name,
        permissions=[Permission.APPLICATION_CREDENTIALS],
    )

    await assert_dead(world, token)
    assert await refusal(world, shown) == (400, "unauthorized_client")


async def test_storage_api_given_back_works_again(world):
    user = await world.user("olga")
    assignment = await world.assign(user)
    shown = await world.app(await world.actor(user))
    await roles.unassign(world.identity, world.boss, assignment.id)
    await refusal(world, shown)
    await world.assign(user)

    assert await world.claims(await world.token(shown))


async def test_a_disabled_owner_gets_no_token(world):
    shown = await world.key()
    token = await world.token(shown)
    await accounts.set_disabled(world.identity, world.boss, "olga", disabled=True)

    assert await refusal(world, shown) == (400, "unauthorized_client")
    await assert_dead(world, token)


async def test_an_owner_enabled_again_gets_new_tokens_only(world):
    shown = await world.key()
    old = await world.token(shown)
    for disabled in (True, False):
        await accounts.set_disabled(world.identity, world.boss, "olga", disabled=disabled)

    assert await world.claims(await world.token(shown))
    await assert_dead(world, old)


@either_engine_will_do
async def test_somebody_elses_troubles_end_no_tokens(world):
    shown = await world.key()
    token = await world.token(shown)
    await world.user("otto")
    await accounts.set_disabled(world.identity, world.boss, "otto", disabled=True)

    assert await world.claims(token)


async def test_a_namesake_in_another_company_ends_no_tokens(world):
    shown = await world.key()
    token = await world.token(shown)
    globex = await world.company("globex")
    await world.user("olga", globex)
    await accounts.set_disabled(world.identity, globex, "olga", disabled=True)

    assert await world.claims(token)


@either_engine_will_do
async def test_nobody_ends_tokens_by_naming_a_user_like_an_app(world):
    shown = await world.key()
    token = await world.token(shown)
    globex = await world.company("globex")
    await world.user(shown.app.id, globex)
    await accounts.set_disabled(world.identity, globex, shown.app.id, disabled=True)

    assert await world.claims(token)


async def test_a_deleted_app_is_unknown_and_its_tokens_are_dead(world):
    owner = await world.owner()
    shown = await world.app(owner)
    token, verifier = await world.token(shown), world.verifier()
    await verifier.claims(token, address=HERE)
    await apps.delete(world.identity, owner, shown.app.id)

    assert await refusal(world, shown) == (401, "invalid_client")
    await assert_dead(world, token, verifier)


async def test_deleting_one_app_leaves_the_others(world):
    owner = await world.owner()
    one, two = await world.app(owner, "one"), await world.app(owner, "two")
    token = await world.token(two)
    await apps.delete(world.identity, owner, one.app.id)

    assert await world.claims(token)
    assert await world.token(two)


async def test_a_token_made_while_its_app_is_deleted_is_dead(world):
    owner = await world.owner()
    shown = await world.app(owner)

    class Interrupted(Issuer):
        """Loses the app between looking it up and signing."""

        async def signer(self):
            if self.interrupted:
                self.interrupted = False
                await apps.delete(world.identity, owner, shown.app.id)
            return await super().signer()

        interrupted = True

    issuer = Interrupted(world.identity)
    token = await world.token(shown, issuer=issuer)

    await assert_dead(world, token, world.verifier(issuer))


# ---- secrets --------------------------------------------------------------------------------


async def test_two_secrets_are_good_while_clients_change_over(world):
    owner = await world.owner()
    first = await world.app(owner)
    second = await apps.rotate(world.identity, owner, first.app.id)

    assert await world.token(first)
    assert await world.token(second)
    assert first.secret != second.secret


@either_engine_will_do
async def test_a_third_secret_is_refused(world):
    owner = await world.owner()
    shown = await world.app(owner)
    await apps.rotate(world.identity, owner, shown.app.id)

    with pytest.raises(Exception, match="Two secrets"):
        await apps.rotate(world.identity, owner, shown.app.id)


async def test_a_removed_secret_is_wrong_and_its_tokens_are_dead(world):
    owner = await world.owner()
    first = await world.app(owner)
    [old] = (await apps.one(world.identity, owner, first.app.id)).secrets
    token = await world.token(first)
    second = await apps.rotate(world.identity, owner, first.app.id)
    await apps.remove_secret(world.identity, owner, first.app.id, old.id)

    assert await refusal(world, first) == (401, "invalid_client")
    await assert_dead(world, token)
    assert await world.claims(await world.token(second))


# ---- expiry ---------------------------------------------------------------------------------


@either_engine_will_do
async def test_an_expired_app_gets_no_token(world):
    shown = await world.key(expires_ms=START_MS + HOUR_MS)
    world.clock.advance(seconds=3600)

    assert await refusal(world, shown) == (400, "unauthorized_client")


async def test_a_token_ends_with_its_app(world):
    shown = await world.key(expires_ms=START_MS + 600_000)
    compatible, strict = await world.ask(shown), await world.ask(shown, STRICT)

    assert compatible.json()["expires_in"] == "599"
    assert strict.json()["expires_in"] == 600
    claims = await world.claims(strict.json()["access_token"])
    assert claims.expires == START_MS // 1000 + 600


async def test_a_token_ends_with_the_assignment_it_stands_on(world):
    user = await world.user("olga")
    await world.assign(user, expires_ms=START_MS + 600_000)
    shown = await world.app(await world.actor(user))

    assert (await world.ask(shown, STRICT)).json()["expires_in"] == 600


async def test_a_token_tells_when_its_rights_end_though_it_ends_sooner(world):
    """What is made with it and outlives it, like a presigned link, must end by then."""
    ends = START_MS + 24 * HOUR_MS
    user = await world.user("olga")
    await world.assign(user, expires_ms=ends)
    actor = await world.actor(user)
    first = await world.app(actor, "first", expires_ms=ends + HOUR_MS)
    second = await world.app(actor, "second", expires_ms=ends - HOUR_MS)
    claims = [await world.claims(await world.token(each)) for each in (first, second)]

    assert [each.until for each in claims] == [ends // 1000, (ends - HOUR_MS) // 1000]
    assert {each.expires for each in claims} == {START_MS // 1000 + 3600}


async def test_a_token_of_rights_without_an_end_tells_of_none(world):
    claims = await world.claims(await world.token(await world.key()))

    assert claims.until is None


async def test_a_token_ends_with_the_first_of_its_assignments(world):
    user = await world.user("olga")
    await accounts.create_site(world.identity, world.boss, site_id="berlin", name="Berlin")
    await world.assign(user, site("berlin"), expires_ms=START_MS + 600_000)
    await world.assign(user, OWN)
    shown = await world.app(await world.actor(user))
    assert (await world.ask(shown, STRICT)).json()["expires_in"] == 600
    world.clock.advance(seconds=600)

    later = (await world.ask(shown, STRICT)).json()
    assert later["expires_in"] == 3600
    assert (await world.claims(later["access_token"])).reach == Reach(users=frozenset({"olga"}))


async def test_an_assignment_that_ended_gives_no_token(world):
    user = await world.user("olga")
    await world.assign(user, expires_ms=START_MS + 600_000)
    shown = await world.app(await world.actor(user))
    await world.token(shown)
    world.clock.advance(seconds=600)

    assert await refusal(world, shown) == (400, "unauthorized_client")


@either_engine_will_do
async def test_a_lifetime_is_never_announced_below_zero(world):
    shown = await world.key(expires_ms=START_MS + 400)

    assert (await world.ask(shown)).json()["expires_in"] == "0"


@either_engine_will_do
async def test_the_lifetime_is_a_setting(database_url):
    clock = HeldClock()
    world = World(database_url, await new_identity(database_url, clock, token_seconds=300), clock)
    world.boss = await world.company("acme")
    shown = await world.key()

    assert (await world.ask(shown)).json()["expires_in"] == "299"
    await world.close()


# ---- network addresses ----------------------------------------------------------------------


@either_engine_will_do
@pytest.mark.parametrize("address", ["198.51.100.7", "2001:db8::1"])
async def test_an_address_inside_the_ranges_gets_a_token(world, address):
    shown = await world.key(networks=("198.51.100.0/24", "2001:db8::/32"))

    assert (await world.ask(shown, address=address)).status_code == 200


@either_engine_will_do
@pytest.mark.parametrize("address", ["198.51.101.7", "2001:db9::1", "", "nonsense"])
async def test_an_address_outside_the_ranges_gets_none(world, address):
    shown = await world.key(networks=("198.51.100.0/24", "2001:db8::/32"))

    answer = await world.ask(shown, address=address)
    assert (answer.status_code, answer.json()["error"]) == (400, "unauthorized_client")


@either_engine_will_do
async def test_a_wrong_secret_from_outside_learns_nothing_of_the_ranges(world):
    shown = await world.key(networks=("198.51.100.0/24",))
    answer = await world.client(address="192.0.2.1").post(
        "/oauth/v2/token",
        data={"grant_type": "client_credentials"},
        headers=basic(shown.app.key, "wrong"),
    )

    assert answer.json()["error"] == "invalid_client"


# ---- reach ----------------------------------------------------------------------------------


@pytest.fixture
async def places(world):
    """Two sites, and a user group `team` of Otto and Pia; its id."""
    for name in ("berlin", "oslo"):
        await accounts.create_site(world.identity, world.boss, site_id=name, name=name.title())
    for name in ("otto", "pia"):
        await world.user(name)
    return await accounts.create_group(
        world.identity, world.boss, name="Team", members=["otto", "pia"]
    )


async def reach_of(world, *assignments) -> Reach:
    user = await world.user("olga")
    for scopes in assignments:
        await world.assign(user, *scopes)
    shown = await world.app(await world.actor(user))
    return (await world.claims(await world.token(shown))).reach


async def test_company_reaches_everything(world):
    assert await reach_of(world, (COMPANY,)) == Reach(company=True)


async def test_a_site_reaches_itself(world, places):
    assert await reach_of(world, (site("berlin"),)) == Reach(sites=frozenset({"berlin"}))


async def test_own_reaches_the_owner(world):
    assert await reach_of(world, (OWN,)) == Reach(users=frozenset({"olga"}))


async def test_a_group_reaches_its_members(world, places):
    found = await reach_of(world, (group(places.id),))

    assert found == Reach(users=frozenset({"otto", "pia"}))


async def test_scopes_and_assignments_add_up(world, places):
    found = await reach_of(world, (site("berlin"), OWN), (site("oslo"),), (group(places.id),))

    assert found == Reach(
        sites=frozenset({"berlin", "oslo"}), users=frozenset({"olga", "otto", "pia"})
    )


@either_engine_will_do
async def test_company_swallows_the_rest(world, places):
    assert await reach_of(world, (site("berlin"), OWN), (COMPANY,)) == Reach(company=True)


@either_engine_will_do
async def test_other_roles_add_nothing_to_the_reach(world, places):
    user = await world.user("olga")
    await world.assign(user, site("berlin"))
    await world.assign(user, COMPANY, role="storage-admin")
    shown = await world.app(await world.actor(user))

    claims = await world.claims(await world.token(shown))
    assert claims.reach == Reach(sites=frozenset({"berlin"}))


async def test_an_empty_group_reaches_nothing(world, places):
    await accounts.set_members(world.identity, world.boss, places.id, [])

    assert not await reach_of(world, (group(places.id),))


async def test_a_changed_group_ends_the_tokens_that_reach_through_it(world, places):
    user = await world.user("olga")
    await world.assign(user, group(places.id))
    shown = await world.app(await world.actor(user))
    old = await world.token(shown)
    await accounts.set_members(world.identity, world.boss, places.id, ["pia"])

    await assert_dead(world, old)
    claims = await world.claims(await world.token(shown))
    assert claims.reach == Reach(users=frozenset({"pia"}))


async def test_a_new_assignment_shows_in_the_next_token(world, places):
    user = await world.user("olga")
    await world.assign(user, OWN)
    shown = await world.app(await world.actor(user))
    await world.token(shown)
    await world.assign(user, site("oslo"))

    claims = await world.claims(await world.token(shown))
    assert claims.reach == Reach(sites=frozenset({"oslo"}), users=frozenset({"olga"}))


@either_engine_will_do
@pytest.mark.parametrize("access", list(Access))
async def test_a_token_carries_the_access_class_of_its_key(world, access):
    shown = await world.key(access=access)

    assert (await world.claims(await world.token(shown))).access is access
