"""Who may do what to whom: the use cases of roles and accounts, on real databases."""

from __future__ import annotations

import asyncio

import pytest
from rules_world import COMPANY, HERE, OWN, PASSWORD, START_MS, group, site

from soundkeep.foundation import audit
from soundkeep.foundation.errors import (
    BadInput,
    Conflict,
    NotAllowed,
    NotFound,
    NotSignedIn,
    TooMany,
)
from soundkeep.identity import accounts, roles, store
from soundkeep.identity.accounts import NewUser
from soundkeep.identity.model import (
    BUILT_IN,
    SUPER_ADMIN,
    Actor,
    Assignment,
    Permission,
    ScopeItem,
    ScopeKind,
)
from soundkeep.identity.plane import digest

P = Permission
NEW_PASSWORD = "another horse battery"
HOUR_MS = 3_600_000


def newcomer(who="ann", /, **facts):
    usual = {"email": f"{who}@acme.example", "name": who.title(), "password": PASSWORD, "id": who}
    return NewUser(**(usual | facts))


# ---- the first set-up -----------------------------------------------------------------------


async def set_up(world, code, **facts):
    usual = {"company": "Acme", "customer_id": "acme", "user": newcomer("root")}
    return await accounts.set_up(world.identity, code=code, address=HERE, **(usual | facts))


async def test_an_installation_without_users_needs_set_up(world):
    assert await accounts.needs_setup(world.identity)


async def test_the_set_up_code_makes_the_first_super_admin(world):
    user = await set_up(world, await accounts.new_setup_code(world.identity))

    assert (await world.rights(user)).super_admin
    assert not await accounts.needs_setup(world.identity)
    assert await world.is_signed_in(await world.sign_in(user))


async def test_the_first_company_is_in_every_region(world):
    await set_up(world, await accounts.new_setup_code(world.identity))

    customer = await store.customer_by_id(world.identity.db, customer="acme")
    assert customer.regions == world.identity.regions


async def test_a_wrong_set_up_code_makes_nobody(world):
    await accounts.new_setup_code(world.identity)

    with pytest.raises(BadInput, match="set-up code"):
        await set_up(world, "wrong")

    assert await accounts.needs_setup(world.identity)


async def test_without_a_code_nobody_sets_up(world):
    with pytest.raises(BadInput):
        await set_up(world, "")


async def test_a_newer_code_replaces_the_one_before(world):
    old = await accounts.new_setup_code(world.identity)
    new = await accounts.new_setup_code(world.identity)

    with pytest.raises(BadInput):
        await set_up(world, old)

    assert await set_up(world, f" {new} ")


async def test_a_code_works_once(world):
    code = await accounts.new_setup_code(world.identity)
    await set_up(world, code)

    with pytest.raises(NotAllowed, match="set up already"):
        await set_up(world, code, customer_id="globex", user=newcomer("eve"))


async def test_two_who_hold_the_code_at_once_make_one_company(world):
    code = await accounts.new_setup_code(world.identity)

    outcomes = await asyncio.gather(
        set_up(world, code),
        set_up(world, code, customer_id="globex", user=newcomer("eve")),
        return_exceptions=True,
    )

    kept = await world.everything()
    assert len([each for each in outcomes if isinstance(each, Exception)]) == 1
    assert len(kept["customers"]) == len(kept["users"]) == 1


@pytest.mark.parametrize(
    "facts",
    [
        {"customer_id": "ACME!"},
        {"customer_id": ""},
        {"company": " "},
        {"user": newcomer(email="nobody")},
        {"user": newcomer(password="short")},
        {"user": newcomer(id="a b")},
    ],
    ids=str,
)
async def test_a_mistake_does_not_use_the_code_up(world, facts):
    code = await accounts.new_setup_code(world.identity)

    with pytest.raises(BadInput):
        await set_up(world, code, **facts)

    assert await set_up(world, code)


async def test_who_keeps_guessing_the_code_has_to_wait(world):
    code = await accounts.new_setup_code(world.identity)
    for _ in range(world.identity.policy.failures_per_key):
        with pytest.raises(BadInput):
            await set_up(world, "guess")

    with pytest.raises(TooMany):
        await set_up(world, code)


async def test_a_customer_id_is_given_once(world, boss):
    with pytest.raises(Conflict):
        await accounts.add_customer(
            world.identity, company="Acme", customer_id="acme", admin=newcomer("eve")
        )

    assert (await store.user_by_email(world.identity.db, "eve@acme.example")) is None


async def test_a_customer_whose_admin_cannot_be_made_is_not_made_either(world, boss):
    with pytest.raises(Conflict):
        await accounts.add_customer(
            world.identity,
            company="Globex",
            customer_id="globex",
            admin=newcomer("eve", email=boss.user.email),
        )

    assert await store.customer_by_id(world.identity.db, customer="globex") is None


# ---- who grants what ------------------------------------------------------------------------

ROLE_IDS = sorted(BUILT_IN)


@pytest.mark.parametrize("role_id", ROLE_IDS)
async def test_a_super_admin_grants_every_role(world, boss, role_id):
    user = await world.user(boss, "ann", role_id)

    assert (await world.rights(user)).company_permissions == BUILT_IN[role_id].permissions


@pytest.mark.parametrize("role_id", ["super-admin", "storage-api"])
@pytest.mark.parametrize("by", ["company-admin", "company-admin storage-admin storage-api"])
async def test_nobody_else_grants_super_admin_or_storage_api(world, boss, role_id, by):
    admin = await world.admin(boss, "adam", *by.split())
    user = await world.user(boss, "ann")

    with pytest.raises(NotAllowed, match="Only a Super Admin"):
        await world.assign(admin, user, role_id)

    assert (await world.rights(user)).grants == ()


async def test_nobody_else_grants_a_custom_role_with_storage_api(world, boss):
    role = await roles.create_role(
        world.identity, boss, name="Integrator", permissions={P.STORAGE_API}
    )
    admin = await world.admin(boss, "adam", "company-admin", role.id)
    user = await world.user(boss, "ann")

    with pytest.raises(NotAllowed, match="Only a Super Admin may grant Integrator"):
        await world.assign(admin, user, role.id)


async def test_nobody_else_grants_it_among_other_roles(world, boss):
    admin = await world.admin(boss, "adam", "company-admin", "storage-api")
    user = await world.user(boss, "ann")

    with pytest.raises(NotAllowed):
        await world.assign(admin, user, "basic-user", "storage-api")

    assert (await world.rights(user)).grants == ()


async def test_nobody_else_takes_storage_api_away(world, boss):
    admin = await world.admin(boss, "adam", "company-admin", "storage-api")
    user = await world.user(boss, "ann")
    assignment = await world.assign(boss, user, "storage-api")

    with pytest.raises(NotAllowed):
        await roles.unassign(world.identity, admin, assignment.id)

    assert (await world.rights(user)).may_make_keys


@pytest.mark.parametrize("role_id", ["storage-admin", "super-admin"])
async def test_nobody_grants_more_than_they_hold(world, boss, role_id):
    admin = await world.admin(boss, "adam", "company-admin")
    user = await world.user(boss, "ann")

    with pytest.raises(NotAllowed):
        await world.assign(admin, user, role_id)


async def test_what_one_holds_for_a_site_is_not_held_for_granting(world, boss):
    await accounts.create_site(world.identity, boss, site_id="hq", name="HQ")
    user = await world.user(boss, "adam", "company-admin")
    await world.assign(boss, user, "storage-admin", scopes=[site("hq")])

    with pytest.raises(NotAllowed, match="more than you hold"):
        await world.assign(await world.actor(user), await world.user(boss, "ann"), "storage-admin")


async def test_one_grants_what_one_holds(world, boss):
    admin = await world.admin(boss, "adam", "company-admin")
    user = await world.user(boss, "ann")

    await world.assign(admin, user, "it-admin")

    assert (await world.rights(user)).company_permissions == BUILT_IN["it-admin"].permissions


@pytest.mark.parametrize("role_id", ROLE_IDS)
async def test_not_even_a_super_admin_grants_to_themselves(world, boss, role_id):
    with pytest.raises(NotAllowed, match="to themselves"):
        await world.assign(boss, boss.user, role_id)


async def test_grantable_is_what_assign_lets_through(world, boss):
    admin = await world.admin(boss, "adam", "company-admin")
    user = await world.user(boss, "ann")
    granted = set()
    for role_id in ROLE_IDS:
        try:
            await world.assign(admin, user, role_id)
        except NotAllowed:
            continue
        granted.add(role_id)

    offered = {role.id for role in roles.grantable(admin, BUILT_IN.values())}

    assert offered == granted == {"company-admin", "it-admin", "audit-admin", "basic-user"}


@pytest.mark.parametrize(
    "role_id", [each for each in ROLE_IDS if P.ROLES not in BUILT_IN[each].permissions]
)
async def test_without_the_roles_permission_nobody_sees_or_touches_roles(world, boss, role_id):
    actor = await world.admin(boss, "adam", role_id)
    user = await world.user(boss, "ann")

    for attempt in (
        roles.all_roles(world.identity, actor),
        roles.all_assignments(world.identity, actor),
        roles.role_by_id(world.identity, actor, "basic-user"),
        roles.copy_role(world.identity, actor, "basic-user"),
        roles.create_role(world.identity, actor, name="x", permissions=()),
        roles.change_role(world.identity, actor, "x", name="x", permissions=()),
        roles.delete_role(world.identity, actor, "x"),
        world.assign(actor, user, "basic-user"),
        roles.unassign(world.identity, actor, "x"),
    ):
        with pytest.raises(NotAllowed):
            await attempt


async def test_the_roles_permission_for_a_site_administers_nothing(world, boss):
    await accounts.create_site(world.identity, boss, site_id="hq", name="HQ")
    user = await world.user(boss, "adam", "company-admin", scopes=[site("hq")])

    with pytest.raises(NotAllowed, match="for the company"):
        await roles.all_roles(world.identity, await world.actor(user))


# ---- assignments ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "field"),
    [
        ({"user_id": "nobody"}, "user"),
        ({"role_ids": []}, "role"),
        ({"role_ids": ["nothing"]}, "role"),
        ({"role_ids": ["basic-user", "nothing"]}, "role"),
        ({"scopes": []}, "scope"),
        ({"scopes": [site("nowhere")]}, "scope"),
        ({"scopes": [group("none")]}, "scope"),
        ({"scopes": [site("")]}, "scope"),
        ({"scopes": [ScopeItem(ScopeKind.COMPANY, "x")]}, "scope"),
        ({"scopes": [ScopeItem(ScopeKind.OWN, "ann")]}, "scope"),
        ({"role_ids": ["super-admin"], "scopes": [OWN]}, "scope"),
        ({"expires_ms": START_MS}, "expires"),
        ({"expires_ms": START_MS - 1}, "expires"),
    ],
    ids=str,
)
async def test_an_assignment_that_makes_no_sense_is_refused_at_its_field(world, boss, facts, field):
    await world.user(boss, "ann")
    usual = {"user_id": "ann", "role_ids": ["basic-user"], "scopes": [COMPANY]}

    with pytest.raises(BadInput) as refused:
        await roles.assign(world.identity, boss, **(usual | facts))

    assert refused.value.facts == {"field": field}
    assert len(await roles.all_assignments(world.identity, boss)) == 1  # the boss's own


async def test_an_assignment_is_kept_with_all_its_roles_and_scopes(world, boss):
    await accounts.create_site(world.identity, boss, site_id="hq", name="HQ")
    user = await world.user(boss, "ann")
    made = await world.assign(
        boss, user, "storage-admin", "basic-user", scopes=[site("hq"), OWN, OWN],
        expires_ms=START_MS + 5,
    )  # fmt: skip

    assert made == Assignment(
        made.id, "ann", ("basic-user", "storage-admin"), (OWN, site("hq")), START_MS + 5
    )
    found = await roles.all_assignments(world.identity, boss)
    assert [each for each in found if each.user_id == "ann"] == [made]


async def test_an_assignment_ends_at_its_time(world, boss):
    user = await world.user(boss, "ann", "it-admin", expires_ms=START_MS + HOUR_MS)

    world.clock.now_ms = START_MS + HOUR_MS - 1
    before = await world.rights(user)
    world.clock.now_ms = START_MS + HOUR_MS
    after = await world.rights(user)

    assert before.allow_company(P.USERS)
    assert after.grants == ()


async def test_a_signed_in_user_loses_what_expired_without_signing_in_again(world, boss):
    user = await world.user(boss, "ann", "it-admin", expires_ms=START_MS + 60_000)
    cookie = await world.sign_in(user)
    world.clock.advance(minutes=1)

    assert (await accounts.signed_in(world.identity, cookie)).actor.rights.grants == ()


async def test_an_expired_assignment_leaves_the_others(world, boss):
    user = await world.user(boss, "ann", "it-admin", expires_ms=START_MS + 1)
    await world.assign(boss, user, "audit-admin")
    world.clock.advance(seconds=1)

    assert (await world.rights(user)).company_permissions == {P.AUDIT_EVENTS}


async def test_taking_an_assignment_away_takes_its_rights_and_tokens(world, boss):
    user = await world.user(boss, "ann")
    assignment = await world.assign(boss, user, "storage-api")

    await roles.unassign(world.identity, boss, assignment.id)

    assert (await world.rights(user)).grants == ()
    assert await world.revoked("acme") == {"ann"}


async def test_an_assignment_can_be_taken_away_once(world, boss):
    user = await world.user(boss, "ann")
    assignment = await world.assign(boss, user, "basic-user")
    await roles.unassign(world.identity, boss, assignment.id)

    with pytest.raises(NotFound):
        await roles.unassign(world.identity, boss, assignment.id)


# ---- the last Super Admin -------------------------------------------------------------------


async def assignment_of(world, boss, user_id):
    found = await roles.all_assignments(world.identity, boss)
    return next(each.id for each in found if each.user_id == user_id)


async def test_the_last_super_admin_cannot_be_removed(world, boss):
    with pytest.raises(Conflict, match="last Super Admin"):
        await roles.unassign(world.identity, boss, await assignment_of(world, boss, "boss"))

    assert (await world.rights(boss.user)).super_admin


async def test_nobody_disables_themselves(world, boss):
    await world.user(boss, "ann", "super-admin")

    with pytest.raises(NotAllowed, match="yourself"):
        await accounts.set_disabled(world.identity, boss, "boss", disabled=True)


async def test_the_last_super_admin_cannot_be_disabled(world, boss):
    second = await world.admin(boss, "ann", "super-admin")
    await roles.unassign(world.identity, boss, await assignment_of(world, boss, "ann"))

    with pytest.raises(Conflict, match="last Super Admin"):  # by rights that just ended
        await accounts.set_disabled(world.identity, second, "boss", disabled=True)

    assert await world.is_signed_in(await world.sign_in(boss.user))


async def test_a_super_admin_beside_another_can_go(world, boss):
    second = await world.admin(boss, "ann", "super-admin")

    await roles.unassign(world.identity, second, await assignment_of(world, boss, "boss"))

    assert not (await world.rights(boss.user)).super_admin


async def test_a_super_admin_for_a_time_does_not_count_as_the_last(world, boss):
    await world.user(boss, "ann", "super-admin", expires_ms=START_MS + HOUR_MS)

    with pytest.raises(Conflict):
        await roles.unassign(world.identity, boss, await assignment_of(world, boss, "boss"))


async def test_a_disabled_super_admin_does_not_count_as_the_last(world, boss):
    await world.user(boss, "ann", "super-admin")
    await accounts.set_disabled(world.identity, boss, "ann", disabled=True)

    with pytest.raises(Conflict):
        await roles.unassign(world.identity, boss, await assignment_of(world, boss, "boss"))


async def test_a_super_admin_of_another_company_does_not_count_as_the_last(world, boss, other_boss):
    with pytest.raises(Conflict):
        await roles.unassign(world.identity, boss, await assignment_of(world, boss, "boss"))


async def test_two_super_admins_who_remove_each_other_leave_one(world, boss):
    second = await world.admin(boss, "ann", "super-admin")
    mine, hers = [await assignment_of(world, boss, each) for each in ("boss", "ann")]

    outcomes = await asyncio.gather(
        roles.unassign(world.identity, boss, hers),
        roles.unassign(await world.beside(), second, mine),
        return_exceptions=True,
    )

    holders = await store.lasting_holders(
        world.identity.db, customer="acme", role_id=SUPER_ADMIN.id
    )
    assert sorted(type(each) for each in outcomes if each) == [Conflict]
    assert len(holders) == 1


async def test_two_super_admins_who_disable_each_other_leave_one(world, boss):
    second = await world.admin(boss, "ann", "super-admin")

    outcomes = await asyncio.gather(
        accounts.set_disabled(world.identity, boss, "ann", disabled=True),
        accounts.set_disabled(await world.beside(), second, "boss", disabled=True),
        return_exceptions=True,
    )

    found = await accounts.users(world.identity, boss)
    assert sorted(type(each) for each in outcomes if each) == [Conflict]
    assert sorted(user.disabled for user in found) == [False, True]


# ---- custom roles ---------------------------------------------------------------------------


@pytest.fixture
async def listener(world, boss):
    """A custom role."""
    return await roles.create_role(
        world.identity, boss, name="Listener", permissions={P.VIEW, P.DOWNLOAD}
    )


async def test_a_custom_role_is_kept_after_the_built_in_ones(world, boss, listener):
    found = await roles.all_roles(world.identity, boss)

    assert found == [*BUILT_IN.values(), listener]
    assert listener.permissions == {P.VIEW, P.DOWNLOAD}


async def test_a_custom_role_gives_what_it_says(world, boss, listener):
    user = await world.user(boss, "ann", listener.id)

    assert (await world.rights(user)).company_permissions == {P.VIEW, P.DOWNLOAD}


@pytest.mark.parametrize(
    "name", ["Listener", "listener", " LISTENER ", "Super Admin", "super admin"]
)
async def test_a_roles_name_is_given_once(world, boss, listener, name):
    with pytest.raises(Conflict):
        await roles.create_role(world.identity, boss, name=name, permissions=())


async def test_the_same_name_may_be_given_by_another_company(world, listener, other_boss):
    made = await roles.create_role(world.identity, other_boss, name="Listener", permissions=())

    assert made.name == "Listener"


@pytest.mark.parametrize("name", ["", "  ", "x" * 65, "a\x00b", "a\u202eb"])
async def test_a_role_needs_a_name_one_can_read(world, boss, name):
    with pytest.raises(BadInput):
        await roles.create_role(world.identity, boss, name=name, permissions=())


async def test_white_space_in_a_name_is_made_plain(world, boss):
    made = await roles.create_role(world.identity, boss, name="  Call \n  Desk ", permissions=())

    assert made.name == "Call Desk"


async def test_copies_get_names_that_are_free(world, boss, listener):
    names = [(await roles.copy_role(world.identity, boss, listener.id)).name for _ in range(3)]

    assert names == ["Copy of Listener", "Copy of Listener (2)", "Copy of Listener (3)"]


async def test_a_copy_of_a_long_name_is_not_too_long(world, boss):
    made = await roles.create_role(world.identity, boss, name="x" * 64, permissions=())

    names = [(await roles.copy_role(world.identity, boss, made.id)).name for _ in range(2)]

    assert names == ["Copy of " + "x" * 56, "Copy of " + "x" * 52 + " (2)"]


async def test_a_copy_of_a_built_in_role_can_be_changed(world, boss):
    copy = await roles.copy_role(world.identity, boss, "it-admin")

    changed = await roles.change_role(
        world.identity, boss, copy.id, name="Help Desk", permissions=copy.permissions
    )

    assert (changed.name, changed.permissions) == ("Help Desk", BUILT_IN["it-admin"].permissions)


@pytest.mark.parametrize("role_id", ROLE_IDS)
async def test_a_built_in_role_cannot_be_changed_or_deleted(world, boss, role_id):
    with pytest.raises(NotAllowed, match="built-in"):
        await roles.change_role(world.identity, boss, role_id, name="x", permissions=())
    with pytest.raises(NotAllowed, match="built-in"):
        await roles.delete_role(world.identity, boss, role_id)


async def test_a_role_keeps_its_own_name_when_its_permissions_change(world, boss, listener):
    changed = await roles.change_role(
        world.identity, boss, listener.id, name="LISTENER", permissions={P.VIEW}
    )

    assert await roles.role_by_id(world.identity, boss, listener.id) == changed


async def test_a_role_cannot_take_anothers_name(world, boss, listener):
    made = await roles.create_role(world.identity, boss, name="Viewer", permissions=())

    with pytest.raises(Conflict):
        await roles.change_role(world.identity, boss, made.id, name="listener", permissions=())


async def test_changed_permissions_hold_for_everybody_who_has_the_role(world, boss, listener):
    user = await world.user(boss, "ann", listener.id)

    await roles.change_role(
        world.identity, boss, listener.id, name="Listener", permissions={P.RESTORE}
    )

    assert (await world.rights(user)).company_permissions == {P.RESTORE}


async def test_changed_permissions_end_the_tokens_of_all_holders(world, boss, listener):
    for name in ("ann", "bob"):
        await world.user(boss, name, listener.id)
    await world.user(boss, "cyd", "basic-user")

    await roles.change_role(
        world.identity, boss, listener.id, name="Listener", permissions={P.VIEW}
    )

    assert await world.revoked("acme") == {"ann", "bob"}


async def test_a_new_name_alone_ends_no_tokens(world, boss, listener):
    await world.user(boss, "ann", listener.id)

    await roles.change_role(
        world.identity, boss, listener.id, name="Hearer", permissions=listener.permissions
    )

    assert await world.revoked("acme") == set()


async def test_a_role_in_use_cannot_be_deleted(world, boss, listener):
    await world.user(boss, "ann", listener.id)

    with pytest.raises(Conflict, match="Listener is assigned"):
        await roles.delete_role(world.identity, boss, listener.id)

    assert listener in await roles.all_roles(world.identity, boss)


async def test_a_role_out_of_use_can_be_deleted(world, boss, listener):
    await world.user(boss, "ann", listener.id)
    await roles.unassign(world.identity, boss, await assignment_of(world, boss, "ann"))

    await roles.delete_role(world.identity, boss, listener.id)

    with pytest.raises(NotFound):
        await roles.role_by_id(world.identity, boss, listener.id)


async def test_a_role_assigned_while_it_is_deleted_is_one_or_the_other(world, boss, listener):
    user = await world.user(boss, "ann")

    outcomes = await asyncio.gather(
        roles.delete_role(world.identity, boss, listener.id),
        roles.assign(
            await world.beside(), boss, user_id="ann", role_ids=[listener.id], scopes=[COMPANY]
        ),
        return_exceptions=True,
    )

    held = (await world.rights(user)).company_permissions
    assert [type(each) for each in outcomes if isinstance(each, Exception)] in (
        [Conflict],
        [BadInput],
    )
    assert held == (listener.permissions if isinstance(outcomes[0], Conflict) else set())


@pytest.mark.parametrize("permission", [P.STORAGE_API, P.VIEW, P.STORAGE_POLICY])
async def test_nobody_makes_a_role_with_more_than_they_hold(world, boss, permission):
    admin = await world.admin(boss, "adam", "company-admin")

    with pytest.raises(NotAllowed):
        await roles.create_role(world.identity, admin, name="Mine", permissions={permission})


async def test_nobody_copies_a_role_with_more_than_they_hold(world, boss):
    admin = await world.admin(boss, "adam", "company-admin")

    with pytest.raises(NotAllowed):
        await roles.copy_role(world.identity, admin, "super-admin")


async def test_who_holds_storage_api_still_makes_no_role_of_it(world, boss):
    admin = await world.admin(boss, "adam", "company-admin", "storage-api")

    with pytest.raises(NotAllowed, match="Only a Super Admin"):
        await roles.create_role(world.identity, admin, name="Mine", permissions={P.STORAGE_API})


@pytest.mark.parametrize("permissions", [{P.USERS, P.VIEW}, set()], ids=["more", "less"])
async def test_nobody_adds_or_removes_what_they_do_not_hold(world, boss, permissions):
    admin = await world.admin(boss, "adam", "company-admin")
    start = {P.USERS} if permissions else {P.VIEW}
    role = await roles.create_role(world.identity, boss, name="Desk", permissions=start)

    with pytest.raises(NotAllowed):
        await roles.change_role(
            world.identity, admin, role.id, name="Desk", permissions=permissions
        )


@pytest.mark.parametrize(
    ("name", "permissions"),
    [("Renamed", {P.STORAGE_API}), ("Keys", set()), ("Keys", {P.STORAGE_API, P.USERS})],
    ids=["rename", "remove", "add"],
)
async def test_a_role_with_storage_api_is_a_super_admins_to_change(world, boss, name, permissions):
    admin = await world.admin(boss, "adam", "company-admin", "storage-api")
    role = await roles.create_role(world.identity, boss, name="Keys", permissions={P.STORAGE_API})

    with pytest.raises(NotAllowed, match="Only a Super Admin"):
        await roles.change_role(world.identity, admin, role.id, name=name, permissions=permissions)
    with pytest.raises(NotAllowed, match="Only a Super Admin"):
        await roles.delete_role(world.identity, admin, role.id)


async def test_nobody_adds_permissions_to_a_role_they_hold(world, boss):
    role = await roles.create_role(
        world.identity, boss, name="Desk", permissions={P.ROLES, P.USERS}
    )
    holder = await world.admin(boss, "adam", role.id, "company-admin")

    with pytest.raises(NotAllowed, match="You hold this role"):
        await roles.change_role(
            world.identity, holder, role.id, name="Desk",
            permissions={P.ROLES, P.USERS, P.AUDIT_EVENTS},
        )  # fmt: skip


async def test_one_may_take_permissions_from_a_role_one_holds(world, boss):
    role = await roles.create_role(
        world.identity, boss, name="Desk", permissions={P.ROLES, P.USERS}
    )
    holder = await world.admin(boss, "adam", role.id)

    await roles.change_role(world.identity, holder, role.id, name="Desk", permissions={P.ROLES})

    assert (await world.rights(holder.user)).company_permissions == {P.ROLES}


# ---- users ----------------------------------------------------------------------------------


async def test_a_new_user_may_sign_in_and_nothing_else(world, boss):
    user = await accounts.create_user(world.identity, boss, newcomer())

    signed_in = await accounts.signed_in(world.identity, await world.sign_in(user))
    assert signed_in.actor == Actor(user)


async def test_a_user_without_an_id_gets_one_that_recordings_can_carry(world, boss):
    user = await accounts.create_user(world.identity, boss, newcomer(id=""))

    assert user.id.isalnum()
    assert len(user.id) == 16


async def test_an_email_address_is_the_same_in_any_case(world, boss):
    await accounts.create_user(world.identity, boss, newcomer(email=" Ann@ACME.example "))

    cookie = await accounts.sign_in(
        world.identity, email="aNN@acme.EXAMPLE", password=PASSWORD, address=HERE
    )

    assert (await accounts.signed_in(world.identity, cookie)).actor.user.email == "ann@acme.example"


@pytest.mark.parametrize("email", ["ann@acme.example", "ANN@ACME.EXAMPLE", " ann@acme.example"])
async def test_an_email_address_is_given_once(world, boss, email):
    await accounts.create_user(world.identity, boss, newcomer("ann"))

    with pytest.raises(Conflict):
        await accounts.create_user(world.identity, boss, newcomer("bob", email=email))


async def test_an_email_address_is_given_once_over_all_companies(world, boss, other_boss):
    await accounts.create_user(world.identity, boss, newcomer("ann"))

    with pytest.raises(Conflict):
        await accounts.create_user(world.identity, other_boss, newcomer("ann"))


async def test_an_id_is_given_once_in_a_company(world, boss):
    await accounts.create_user(world.identity, boss, newcomer("ann"))

    with pytest.raises(Conflict):
        await accounts.create_user(
            world.identity, boss, newcomer("ann", email="other@acme.example")
        )


@pytest.mark.parametrize(
    ("facts", "field"),
    [
        ({"email": ""}, "email"),
        ({"email": "ann"}, "email"),
        ({"email": "ann@"}, "email"),
        ({"email": "a b@acme.example"}, "email"),
        ({"email": "ann@acme@example"}, "email"),
        ({"email": "ann@acme\x00.example"}, "email"),
        ({"email": "x" * 65 + "@acme.example"}, "email"),
        ({"name": ""}, "name"),
        ({"name": "x" * 121}, "name"),
        ({"name": "a\x07b"}, "name"),
        ({"id": "a b"}, "id"),
        ({"id": "-a"}, "id"),
        ({"id": "a/b"}, "id"),
        ({"id": "x" * 65}, "id"),
        ({"password": "elevenchars"}, "password"),
        ({"password": ""}, "password"),
        ({"password": "x" * 1025}, "password"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_user_that_makes_no_sense_is_refused_at_its_field(world, boss, facts, field):
    with pytest.raises(BadInput) as refused:
        await accounts.create_user(world.identity, boss, newcomer(**facts))

    assert refused.value.facts == {"field": field}
    assert [user.id for user in await accounts.users(world.identity, boss)] == ["boss"]


@pytest.mark.parametrize("length", [12, 1024])
async def test_the_shortest_and_the_longest_password_work(world, boss, length):
    user = await accounts.create_user(world.identity, boss, newcomer(password="ü" * length))

    assert await world.is_signed_in(await world.sign_in(user, "ü" * length))


async def test_a_password_is_kept_as_an_argon2id_hash_only(world, boss):
    await accounts.create_user(world.identity, boss, newcomer(password="unmistakable words"))

    kept = await world.everything()
    assert "unmistakable" not in str(kept)
    assert str(kept["users"]).count("$argon2id$") == 2


@pytest.mark.parametrize(
    "role_id", [each for each in ROLE_IDS if P.USERS not in BUILT_IN[each].permissions]
)
async def test_without_the_users_permission_nobody_touches_people_and_sites(world, boss, role_id):
    actor = await world.admin(boss, "adam", role_id)
    await world.user(boss, "ann")

    for attempt in (
        accounts.create_user(world.identity, actor, newcomer("eve")),
        accounts.set_disabled(world.identity, actor, "ann", disabled=True),
        accounts.reset_password(world.identity, actor, "ann", NEW_PASSWORD),
        accounts.create_site(world.identity, actor, site_id="hq", name="HQ"),
        accounts.rename_site(world.identity, actor, site_id="hq", name="HQ"),
        accounts.delete_site(world.identity, actor, "hq"),
        accounts.create_group(world.identity, actor, name="Desk", members=[]),
        accounts.set_members(world.identity, actor, "x", []),
        accounts.delete_group(world.identity, actor, "x"),
        accounts.users(world.identity, actor),
        accounts.sites(world.identity, actor),
        accounts.groups(world.identity, actor),
    ):
        with pytest.raises(NotAllowed):
            await attempt


async def test_who_assigns_roles_sees_whom_and_where_without_the_users_permission(world, boss):
    role = await roles.create_role(world.identity, boss, name="Granter", permissions={P.ROLES})
    actor = await world.admin(boss, "adam", role.id)

    assert {user.id for user in await accounts.users(world.identity, actor)} == {"adam", "boss"}
    assert await accounts.sites(world.identity, actor) == []
    assert await accounts.groups(world.identity, actor) == []


@pytest.mark.parametrize(
    "role_id", [each for each in ROLE_IDS if P.AUDIT_EVENTS not in BUILT_IN[each].permissions]
)
async def test_without_the_audit_permission_nobody_reads_the_audit(world, boss, role_id):
    actor = await world.admin(boss, "adam", role_id)

    with pytest.raises(NotAllowed):
        await accounts.audits(world.identity, actor, audit.Wanted())


# ---- taking over accounts -------------------------------------------------------------------


async def take_over(world, actor, user_id):
    await accounts.reset_password(world.identity, actor, user_id, NEW_PASSWORD)


async def disable(world, actor, user_id):
    await accounts.set_disabled(world.identity, actor, user_id, disabled=True)


@pytest.mark.parametrize("deed", [take_over, disable])
async def test_nobody_takes_over_or_stops_who_holds_more(world, boss, deed):
    admin = await world.admin(boss, "adam", "it-admin")
    await world.user(boss, "ann", "company-admin")

    with pytest.raises(NotAllowed, match="holds more than you do"):
        await deed(world, admin, "ann")


@pytest.mark.parametrize("deed", [take_over, disable])
async def test_nobody_takes_over_or_stops_who_holds_more_for_a_site_only(world, boss, deed):
    admin = await world.admin(boss, "adam", "it-admin")
    await world.user(boss, "ann", "storage-api", scopes=[OWN])

    with pytest.raises(NotAllowed):
        await deed(world, admin, "ann")


@pytest.mark.parametrize("deed", [take_over, disable])
async def test_all_permissions_together_do_not_reach_a_super_admin(world, boss, deed):
    """A Super Admin's account is worth more than its permissions: it grants Storage API."""
    admin = await world.admin(boss, "adam", "company-admin", "storage-admin", "storage-api")
    await world.user(boss, "ann", "super-admin")

    with pytest.raises(NotAllowed):
        await deed(world, admin, "ann")


async def test_an_admin_resets_the_password_of_who_holds_no_more(world, boss):
    admin = await world.admin(boss, "adam", "company-admin")
    user = await world.user(boss, "ann", "it-admin")

    await take_over(world, admin, "ann")

    assert await world.is_signed_in(await world.sign_in(user, NEW_PASSWORD))
    with pytest.raises(NotSignedIn):
        await world.sign_in(user, PASSWORD)


async def test_a_reset_password_follows_the_rules(world, boss):
    await world.user(boss, "ann")

    with pytest.raises(BadInput, match="12 to 1024"):
        await accounts.reset_password(world.identity, boss, "ann", "short")


# ---- sites and groups -----------------------------------------------------------------------


async def test_sites_are_kept_by_name(world, boss):
    for site_id, name in (("z", "Aachen"), ("a", "Zwolle")):
        await accounts.create_site(world.identity, boss, site_id=site_id, name=name)

    assert [each.name for each in await accounts.sites(world.identity, boss)] == [
        "Aachen",
        "Zwolle",
    ]


async def test_a_sites_id_is_given_once(world, boss):
    await accounts.create_site(world.identity, boss, site_id="hq", name="HQ")

    with pytest.raises(Conflict):
        await accounts.create_site(world.identity, boss, site_id="hq", name="Other")


async def test_a_site_can_be_renamed(world, boss):
    await accounts.create_site(world.identity, boss, site_id="hq", name="HQ")

    await accounts.rename_site(world.identity, boss, site_id="hq", name="Head Quarters")

    assert [each.name for each in await accounts.sites(world.identity, boss)] == ["Head Quarters"]


async def test_a_site_in_use_cannot_be_deleted(world, boss):
    await accounts.create_site(world.identity, boss, site_id="hq", name="HQ")
    await world.user(boss, "ann", "basic-user", scopes=[site("hq"), OWN])

    with pytest.raises(Conflict, match="assignment"):
        await accounts.delete_site(world.identity, boss, "hq")

    assert len(await accounts.sites(world.identity, boss)) == 1


async def test_a_site_out_of_use_can_be_deleted(world, boss):
    await accounts.create_site(world.identity, boss, site_id="hq", name="HQ")

    await accounts.delete_site(world.identity, boss, "hq")

    assert await accounts.sites(world.identity, boss) == []


@pytest.mark.parametrize("deed", ["rename", "delete"])
async def test_a_site_that_is_not_there_is_not_found(world, boss, deed):
    with pytest.raises(NotFound):
        if deed == "rename":
            await accounts.rename_site(world.identity, boss, site_id="none", name="x")
        else:
            await accounts.delete_site(world.identity, boss, "none")


@pytest.fixture
async def desk(world, boss):
    """A user group with ann in it; bob and cyd are not."""
    for name in ("ann", "bob", "cyd"):
        await world.user(boss, name)
    return await accounts.create_group(world.identity, boss, name="Desk", members=["ann", "ann"])


async def test_a_group_is_kept_with_its_members(world, boss, desk):
    assert await accounts.groups(world.identity, boss) == [desk]
    assert desk.members == ("ann",)


async def test_new_members_replace_the_old(world, boss, desk):
    await accounts.set_members(world.identity, boss, desk.id, ["cyd", "bob"])

    assert (await accounts.groups(world.identity, boss))[0].members == ("bob", "cyd")


async def test_a_group_can_be_emptied(world, boss, desk):
    await accounts.set_members(world.identity, boss, desk.id, [])

    assert (await accounts.groups(world.identity, boss))[0].members == ()


async def test_new_members_end_the_tokens_that_reach_through_the_group(world, boss, desk):
    await world.user(boss, "dan", "storage-api", scopes=[group(desk.id)])
    await world.user(boss, "eve", "storage-api", scopes=[COMPANY])

    await accounts.set_members(world.identity, boss, desk.id, ["bob"])

    assert await world.revoked("acme") == {"dan"}


async def test_a_member_that_is_no_user_is_refused_and_nothing_changes(world, boss, desk):
    with pytest.raises(BadInput):
        await accounts.set_members(world.identity, boss, desk.id, ["bob", "nobody"])
    with pytest.raises(BadInput):
        await accounts.create_group(world.identity, boss, name="Other", members=["nobody"])

    assert await accounts.groups(world.identity, boss) == [desk]


async def test_nobody_widens_their_own_reach_by_new_members(world, boss, desk):
    user = await world.user(boss, "dan", "it-admin")
    await world.assign(boss, user, "storage-api", scopes=[group(desk.id)])

    with pytest.raises(NotAllowed, match="Your own roles"):
        await accounts.set_members(world.identity, await world.actor(user), desk.id, ["ann", "bob"])

    assert await accounts.groups(world.identity, boss) == [desk]


async def test_one_may_narrow_ones_own_reach(world, boss, desk):
    user = await world.user(boss, "dan", "it-admin")
    await world.assign(boss, user, "storage-api", scopes=[group(desk.id)])

    await accounts.set_members(world.identity, await world.actor(user), desk.id, [])

    assert (await accounts.groups(world.identity, boss))[0].members == ()


async def test_a_group_in_use_cannot_be_deleted(world, boss, desk):
    await world.user(boss, "dan", "storage-admin", scopes=[group(desk.id)])

    with pytest.raises(Conflict):
        await accounts.delete_group(world.identity, boss, desk.id)

    assert await accounts.groups(world.identity, boss) == [desk]


async def test_a_group_out_of_use_can_be_deleted_with_its_members_in_it(world, boss, desk):
    await accounts.delete_group(world.identity, boss, desk.id)

    assert await accounts.groups(world.identity, boss) == []
    assert len(await accounts.users(world.identity, boss)) == 4


@pytest.mark.parametrize(
    "deed", [accounts.delete_group, lambda *all_: accounts.set_members(*all_, [])]
)
async def test_a_group_that_is_not_there_is_not_found(world, boss, deed):
    with pytest.raises(NotFound):
        await deed(world.identity, boss, "none")


# ---- sessions -------------------------------------------------------------------------------


async def test_a_session_is_kept_as_a_hash_only(world, boss):
    cookie = await world.sign_in(boss.user)

    assert cookie not in str(await world.everything())


@pytest.mark.parametrize("cookie", ["", "made-up", "x" * 5000])
async def test_a_made_up_cookie_is_nobodys(world, boss, cookie):
    assert not await world.is_signed_in(cookie)


@pytest.mark.parametrize(
    ("email", "password"),
    [
        ("boss@acme.example", "wrong horse battery"),
        ("boss@acme.example", ""),
        ("boss@acme.example", "x" * 2000),
        ("nobody@acme.example", PASSWORD),
        ("", PASSWORD),
        ("boss@acme.example' OR '1'='1", PASSWORD),
        ("lazy@acme.example", PASSWORD),
    ],
    ids=lambda value: value[:30],
)
async def test_whatever_is_wrong_the_refusal_is_the_same(world, boss, email, password):
    await world.user(boss, "lazy")
    await disable(world, boss, "lazy")

    with pytest.raises(NotSignedIn, match=r"^The e-mail address or the password is wrong\.$"):
        await accounts.sign_in(world.identity, email=email, password=password, address=HERE)


async def test_a_session_ends_after_half_an_hour_without_use(world, boss):
    cookie = await world.sign_in(boss.user)
    world.clock.advance(minutes=30)
    just_in_time = await world.is_signed_in(cookie)
    world.clock.advance(minutes=30, seconds=1)

    assert just_in_time
    assert not await world.is_signed_in(cookie)


async def test_a_session_in_use_ends_after_half_a_day_all_the_same(world, boss):
    cookie = await world.sign_in(boss.user)
    for _ in range(24):
        world.clock.advance(minutes=30)
        alive = await world.is_signed_in(cookie)
    world.clock.advance(seconds=1)

    assert alive
    assert not await world.is_signed_in(cookie)


async def test_signing_in_ends_the_session_of_the_cookie_one_came_with(world, boss):
    planted = await world.sign_in(await world.user(boss, "eve"))

    new = await world.sign_in(boss.user, old_cookie=planted)

    assert new != planted
    assert not await world.is_signed_in(planted)
    assert await world.is_signed_in(new)


async def test_a_failed_sign_in_leaves_the_session_one_came_with(world, boss):
    cookie = await world.sign_in(boss.user)

    with pytest.raises(NotSignedIn):
        await world.sign_in(boss.user, "wrong horse battery", old_cookie=cookie)

    assert await world.is_signed_in(cookie)


async def test_signing_in_elsewhere_leaves_other_sessions(world, boss):
    one, two = await world.sign_in(boss.user), await world.sign_in(boss.user)

    assert await world.is_signed_in(one)
    assert await world.is_signed_in(two)


async def test_signing_out_ends_one_session(world, boss):
    one, two = await world.sign_in(boss.user), await world.sign_in(boss.user)

    await accounts.sign_out(world.identity, one)

    assert not await world.is_signed_in(one)
    assert await world.is_signed_in(two)


async def test_every_session_has_a_form_token_of_its_own(world, boss):
    found = [
        await accounts.signed_in(world.identity, await world.sign_in(boss.user)) for _ in range(2)
    ]

    assert found[0].csrf != found[1].csrf


async def test_old_sessions_are_forgotten_when_somebody_signs_in(world, boss):
    await world.sign_in(boss.user)
    world.clock.advance(hours=13)

    await world.sign_in(boss.user)

    assert len((await world.everything())["sessions"]) == 1


async def test_disabling_a_user_ends_their_sessions_and_tokens(world, boss):
    user = await world.user(boss, "ann")
    cookie, mine = await world.sign_in(user), await world.sign_in(boss.user)

    await disable(world, boss, "ann")

    assert not await world.is_signed_in(cookie)
    assert await world.is_signed_in(mine)
    assert await world.revoked("acme") == {"ann"}


async def test_a_session_that_slipped_in_while_its_user_was_disabled_is_nobodys(world, boss):
    user = await world.user(boss, "ann")
    cookie = await world.sign_in(user)
    slipped_in = await store.session_by_hash(world.identity.db, digest(cookie))
    await disable(world, boss, "ann")
    async with world.identity.db.transaction() as tx:
        await store.add_session(tx, customer="acme", digest=digest(cookie), session=slipped_in)

    assert not await world.is_signed_in(cookie)


async def test_enabling_a_user_again_brings_no_session_back(world, boss):
    user = await world.user(boss, "ann")
    cookie = await world.sign_in(user)
    await disable(world, boss, "ann")

    await accounts.set_disabled(world.identity, boss, "ann", disabled=False)

    assert not await world.is_signed_in(cookie)
    assert await world.is_signed_in(await world.sign_in(user))


async def test_a_reset_password_ends_the_users_sessions(world, boss):
    cookie = await world.sign_in(await world.user(boss, "ann"))

    await take_over(world, boss, "ann")

    assert not await world.is_signed_in(cookie)


async def change_password(world, actor, old=PASSWORD, new=NEW_PASSWORD):
    await accounts.change_password(world.identity, actor, old=old, new=new, address=HERE)


async def test_a_changed_password_ends_every_session_and_works(world, boss):
    cookies = [await world.sign_in(boss.user) for _ in range(2)]

    await change_password(world, boss)

    assert [await world.is_signed_in(cookie) for cookie in cookies] == [False, False]
    assert await world.is_signed_in(await world.sign_in(boss.user, NEW_PASSWORD))
    with pytest.raises(NotSignedIn):
        await world.sign_in(boss.user, PASSWORD)


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [("wrong horse battery", NEW_PASSWORD, "old"), (PASSWORD, "short", "password")],
)
async def test_a_password_that_is_not_changed_stays(world, boss, old, new, field):
    cookie = await world.sign_in(boss.user)

    with pytest.raises(BadInput) as refused:
        await change_password(world, boss, old, new)

    assert refused.value.facts == {"field": field}
    assert await world.is_signed_in(cookie)


async def fail_to_sign_in(world, email, address=HERE):
    with pytest.raises(NotSignedIn):
        await accounts.sign_in(world.identity, email=email, password="wrong", address=address)


async def test_after_ten_failures_an_email_address_has_to_wait_from_anywhere(world, boss):
    for n in range(10):
        await fail_to_sign_in(world, "BOSS@acme.example", address=f"192.0.2.{n}")

    with pytest.raises(TooMany) as refused:
        await world.sign_in(boss.user)
    world.clock.advance(seconds=refused.value.facts["retry_after"])

    assert await world.is_signed_in(await world.sign_in(boss.user))


async def test_after_fifty_failures_a_network_address_has_to_wait_for_anybody(world, boss):
    for n in range(50):
        await fail_to_sign_in(world, f"guess{n}@acme.example")

    with pytest.raises(TooMany):
        await world.sign_in(boss.user)


async def test_guessing_the_old_password_has_to_wait_too(world, boss):
    for _ in range(10):
        with pytest.raises(BadInput):
            await change_password(world, boss, old="wrong horse battery")

    with pytest.raises(TooMany):
        await change_password(world, boss)


# ---- one company and another ----------------------------------------------------------------


@pytest.fixture
async def theirs(world, other_boss):
    """What globex has: a user, a site, a group, a role, and an assignment of all of them."""
    await accounts.create_site(world.identity, other_boss, site_id="their-site", name="Theirs")
    user = await world.user(other_boss, "their-user")
    members = await accounts.create_group(
        world.identity, other_boss, name="Their group", members=[user.id]
    )
    role = await roles.create_role(
        world.identity, other_boss, name="Their role", permissions={P.VIEW}
    )
    assignment = await world.assign(
        other_boss, user, role.id, scopes=[site("their-site"), group(members.id)]
    )
    return {
        "user": user.id,
        "site": "their-site",
        "group": members.id,
        "role": role.id,
        "assignment": assignment.id,
    }


def granting(identity, actor, **facts):
    usual = {"user_id": "mine", "role_ids": ["basic-user"], "scopes": [COMPANY]}
    return roles.assign(identity, actor, **(usual | facts))


REACHES = {
    "see a role": lambda i, a, x: roles.role_by_id(i, a, x["role"]),
    "copy a role": lambda i, a, x: roles.copy_role(i, a, x["role"]),
    "change a role": lambda i, a, x: roles.change_role(i, a, x["role"], name="x", permissions=()),
    "delete a role": lambda i, a, x: roles.delete_role(i, a, x["role"]),
    "assign to a user": lambda i, a, x: granting(i, a, user_id=x["user"]),
    "assign a role": lambda i, a, x: granting(i, a, role_ids=[x["role"]]),
    "assign for a site": lambda i, a, x: granting(i, a, scopes=[site(x["site"])]),
    "assign for a group": lambda i, a, x: granting(i, a, scopes=[group(x["group"])]),
    "take an assignment": lambda i, a, x: roles.unassign(i, a, x["assignment"]),
    "disable a user": lambda i, a, x: accounts.set_disabled(i, a, x["user"], disabled=True),
    "enable a user": lambda i, a, x: accounts.set_disabled(i, a, x["user"], disabled=False),
    "reset a password": lambda i, a, x: accounts.reset_password(i, a, x["user"], NEW_PASSWORD),
    "rename a site": lambda i, a, x: accounts.rename_site(i, a, site_id=x["site"], name="x"),
    "delete a site": lambda i, a, x: accounts.delete_site(i, a, x["site"]),
    "group a user": lambda i, a, x: accounts.create_group(i, a, name="x", members=[x["user"]]),
    "set the members": lambda i, a, x: accounts.set_members(i, a, x["group"], ["mine"]),
    "delete a group": lambda i, a, x: accounts.delete_group(i, a, x["group"]),
}


@pytest.mark.parametrize("reach", REACHES.values(), ids=REACHES)
async def test_an_id_of_another_company_is_as_good_as_none(world, boss, theirs, reach):
    await world.user(boss, "mine")
    before = await world.everything()

    with pytest.raises((NotFound, BadInput)):
        await reach(world.identity, boss, theirs)

    assert await world.everything() == before


@pytest.mark.parametrize("reach", REACHES.values(), ids=REACHES)
async def test_the_refusal_is_the_one_for_an_id_that_nobody_has(world, boss, theirs, reach):
    await world.user(boss, "mine")
    nobodys = dict.fromkeys(theirs, "nobodys")

    with pytest.raises((NotFound, BadInput)) as one:
        await reach(world.identity, boss, theirs)
    with pytest.raises((NotFound, BadInput)) as other:
        await reach(world.identity, boss, nobodys)

    assert (type(one.value), one.value.message) == (type(other.value), other.value.message)


async def test_a_list_holds_nothing_of_another_company(world, boss, theirs):
    lists = {
        "users": await accounts.users(world.identity, boss),
        "sites": await accounts.sites(world.identity, boss),
        "groups": await accounts.groups(world.identity, boss),
        "roles": [
            each for each in await roles.all_roles(world.identity, boss) if not each.built_in
        ],
        "assignments": await roles.all_assignments(world.identity, boss),
        "audits": (await accounts.audits(world.identity, boss, audit.Wanted()))[1],
    }

    assert {name: len(found) for name, found in lists.items()} == {
        "users": 1, "sites": 0, "groups": 0, "roles": 0, "assignments": 1, "audits": 1,
    }  # fmt: skip


async def test_the_same_ids_in_two_companies_are_different_things(world, boss, other_boss):
    for each in (boss, other_boss):
        await world.user(each, "ann", "basic-user")
        await accounts.create_site(world.identity, each, site_id="hq", name=each.customer)
    cookie = await world.sign_in((await accounts.users(world.identity, other_boss))[0])

    await disable(world, boss, "ann")
    await take_over(world, boss, "ann")
    await accounts.delete_site(world.identity, boss, "hq")

    ann = (await accounts.users(world.identity, other_boss))[0]
    assert not ann.disabled
    assert await world.is_signed_in(cookie)
    assert await world.is_signed_in(await world.sign_in(ann))
    assert [each.id for each in await accounts.sites(world.identity, other_boss)] == ["hq"]
    assert await world.revoked("globex") == set()


# ---- the audit ------------------------------------------------------------------------------


@pytest.fixture
async def own(world, boss):
    """What acme has, for every deed to be done to."""
    await accounts.create_site(world.identity, boss, site_id="hq", name="HQ")
    await accounts.create_site(world.identity, boss, site_id="old", name="Old")
    user = await world.user(boss, "ann")
    members = await accounts.create_group(world.identity, boss, name="Desk", members=["ann"])
    role = await roles.create_role(world.identity, boss, name="Listener", permissions={P.VIEW})
    assignment = await world.assign(boss, user, "basic-user", scopes=[site("hq")])
    return {"user": "ann", "group": members.id, "role": role.id, "assignment": assignment.id}


DEEDS = {
    "create a role": ("create", "role", lambda i, a, x: roles.create_role(i, a, name="New", permissions={P.VIEW})),
    "copy a role": ("create", "role", lambda i, a, x: roles.copy_role(i, a, x["role"])),
    "change a role": ("update", "role", lambda i, a, x: roles.change_role(i, a, x["role"], name="New", permissions=())),
    "delete a role": ("delete", "role", lambda i, a, x: roles.delete_role(i, a, x["role"])),
    "assign": ("create", "assignment", lambda i, a, x: granting(i, a, user_id="ann")),
    "unassign": ("delete", "assignment", lambda i, a, x: roles.unassign(i, a, x["assignment"])),
    "create a user": ("create", "user", lambda i, a, x: accounts.create_user(i, a, newcomer("new"))),
    "disable a user": ("update", "user", lambda i, a, x: accounts.set_disabled(i, a, "ann", disabled=True)),
    "reset a password": ("update", "user", lambda i, a, x: accounts.reset_password(i, a, "ann", NEW_PASSWORD)),
    "change a password": ("update", "user", lambda i, a, x: accounts.change_password(i, a, old=PASSWORD, new=NEW_PASSWORD, address=HERE)),
    "create a site": ("create", "site", lambda i, a, x: accounts.create_site(i, a, site_id="new", name="New")),
    "rename a site": ("update", "site", lambda i, a, x: accounts.rename_site(i, a, site_id="hq", name="New")),
    "delete a site": ("delete", "site", lambda i, a, x: accounts.delete_site(i, a, "old")),
    "create a group": ("create", "group", lambda i, a, x: accounts.create_group(i, a, name="New", members=["ann"])),
    "set the members": ("update", "group", lambda i, a, x: accounts.set_members(i, a, x["group"], [])),
    "delete a group": ("delete", "group", lambda i, a, x: accounts.delete_group(i, a, x["group"])),
    "sign in": ("create", "session", lambda i, a, x: accounts.sign_in(i, email=a.user.email, password=PASSWORD, address=HERE)),
}  # fmt: skip


@pytest.mark.parametrize(("event", "entity", "deed"), DEEDS.values(), ids=DEEDS)
async def test_every_deed_leaves_one_record_of_who_did_it(world, boss, own, event, entity, deed):
    before = await world.records("acme")
    world.clock.advance(seconds=1)

    await deed(world.identity, boss, own)

    newest, *rest = await world.records("acme")
    assert rest == before
    assert (newest.event, newest.entity_type, newest.user_id) == (event, entity, "boss")
    assert (newest.service, newest.at_ms) == ("administration", world.clock())
    assert await world.broken("acme") is None


@pytest.mark.parametrize("deed", [each[2] for each in DEEDS.values()], ids=DEEDS)
async def test_no_record_holds_a_password_or_its_hash(world, boss, own, deed):
    await deed(world.identity, boss, own)

    text = str(await world.records("acme"))
    assert not [secret for secret in (PASSWORD, NEW_PASSWORD, "argon2") if secret in text]


async def test_what_is_refused_leaves_no_record(world, boss, own):
    before = await world.records("acme")
    eve = await world.actor((await accounts.users(world.identity, boss))[0])

    for deed in [
        each[2] for name, each in DEEDS.items() if name not in ("sign in", "change a password")
    ]:
        with pytest.raises(NotAllowed):
            await deed(world.identity, eve, own)

    assert await world.records("acme") == before


async def test_administrators_at_once_make_one_whole_chain(world, boss):
    there = await world.beside()

    await asyncio.gather(
        *(accounts.create_site(world.identity, boss, site_id=f"a{n}", name="A") for n in range(8)),
        *(accounts.create_site(there, boss, site_id=f"b{n}", name="B") for n in range(8)),
    )

    assert len(await world.records("acme")) == 17
    assert await world.broken("acme") is None
