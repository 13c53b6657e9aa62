"""The rules of contract §3 as a browser meets them: menus, doors, grants, roles, other companies."""

from __future__ import annotations

import html
import re

import pytest
from console_world import COMPANY, PASSWORD, text_of, token_in

from soundkeep.foundation.errors import NotFound
from soundkeep.identity import accounts, apps, roles
from soundkeep.identity.apps import Wanted
from soundkeep.identity.model import Permission, ScopeItem, ScopeKind

APP = Wanted(name="export", products=("storage",))


def menu_of(page: str) -> list[str]:
    side = page.partition('<aside class="side">')[2].partition("</aside>")[0]
    return [html.unescape(each) for each in re.findall(r">([^<>]+)</a>", side)]


async def browser_of(world, boss, email, *role_ids):
    await world.user(boss, email, *role_ids)
    return await world.signed_in(email)


# ---- menu and doors -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role_ids", "expected"),
    [
        (["super-admin"], ["Home", "Users", "Sites", "Roles & Permissions", "Audit events"]),
        (["company-admin"], ["Home", "Users", "Sites", "Roles & Permissions", "Audit events"]),
        (["it-admin"], ["Home", "Users", "Sites"]),
        (["storage-admin"], ["Home"]),
        (["storage-api"], ["Home", "API Keys"]),
        (["audit-admin"], ["Home", "Audit events"]),
        (["basic-user"], ["Home"]),
        ([], ["Home"]),
    ],
)
async def test_the_menu_shows_what_may_be_opened(world, boss, role_ids, expected):
    browser = await browser_of(world, boss, "dev@acme.example", *role_ids)

    assert expected == menu_of((await browser.get("/home")).text)


@pytest.mark.parametrize(
    ("path", "needed"),
    [
        ("/users", "permission Users"),
        ("/users/new", "permission Users"),
        ("/sites", "permission Users"),
        ("/roles", "permission Roles"),
        ("/roles/assignments", "permission Roles"),
        ("/roles/assignments/new", "permission Roles"),
        ("/keys", "Application Credentials and Storage API"),
        ("/keys/new", "Application Credentials and Storage API"),
        ("/audit", "permission Audit events"),
    ],
)
async def test_an_address_without_the_right_says_what_is_missing_and_who_gives_it(
    world, boss, path, needed
):
    browser = await browser_of(world, boss, "dev@acme.example", "basic-user")
    answer = await browser.get(path)

    assert answer.status_code == 403
    assert needed in text_of(answer.text)
    assert "Super Admin" in answer.text


@pytest.mark.parametrize("permission", ["console.application-credentials", "storage.api"])
async def test_one_of_the_two_permissions_makes_no_keys(world, boss, permission):
    half = await roles.create_role(
        world.identity, boss, name="Half", permissions=[Permission(permission)]
    )
    browser = await browser_of(world, boss, "dev@acme.example", half.id)
    csrf = await browser.token()

    assert "API Keys" not in menu_of((await browser.get("/home")).text)
    assert (await browser.get("/keys")).status_code == 403
    fields = {"name": "x", "products": "storage", "access": "read"}
    assert (await browser.post("/keys/new", fields, csrf=csrf)).status_code == 403


async def test_a_right_for_a_site_does_not_open_the_companys_pages(world, boss):
    await accounts.create_site(world.identity, boss, site_id="hq", name="HQ")
    user = await world.user(boss, "dev@acme.example")
    await world.assign(
        boss, user, "it-admin", "audit-admin", scopes=(ScopeItem(ScopeKind.SITE, "hq"),)
    )
    browser = await world.signed_in("dev@acme.example")

    assert menu_of((await browser.get("/home")).text) == ["Home"]
    assert (await browser.get("/users")).status_code == 403


async def test_a_post_without_the_right_changes_nothing(world, boss):
    browser = await browser_of(world, boss, "dev@acme.example", "audit-admin")
    csrf = await browser.token()
    tries = {
        "/users/new": {"name": "Eve", "email": "eve@acme.example", "password": PASSWORD},
        "/sites/new": {"name": "Site", "id": "s"},
        "/sites/groups/new": {"name": "Group"},
        "/roles/new": {"name": "Role"},
        "/roles/it-admin/copy": {},
        "/roles/assignments/new": {"user": boss.user.id, "role": "it-admin", "scope": "company"},
    }
    for path, fields in tries.items():
        assert (await browser.post(path, fields, csrf=csrf)).status_code == 403, path

    assert len(await accounts.users(world.identity, boss)) == 2
    assert await accounts.sites(world.identity, boss) == []
    assert await accounts.groups(world.identity, boss) == []
    assert all(role.built_in for role in await roles.all_roles(world.identity, boss))


# ---- users ----------------------------------------------------------------------------------


async def test_a_user_is_created_disabled_enabled_and_given_a_password(world, admin, boss):
    fields = {"name": "Dev", "email": "Dev@Acme.example", "password": PASSWORD, "id": "u-17"}
    created = await admin.post("/users/new", fields)
    page = text_of((await admin.get("/users")).text)

    assert created.headers["location"] == "/console/users?done=user-created"
    assert "dev@acme.example" in page
    assert "u-17" in page
    await admin.post("/users/u-17/disable")
    assert "Disabled" in (await admin.get("/users")).text
    await admin.post("/users/u-17/enable", at="/users")
    await admin.post("/users/u-17/password", {"password": "another long password"})
    await world.signed_in("dev@acme.example", "another long password")


@pytest.mark.parametrize(
    ("changed", "field", "status"),
    [
        ({"name": " "}, "name", 400),
        ({"email": "no address"}, "email", 400),
        ({"email": "boss@acme.example"}, "email", 409),
        ({"password": "short"}, "password", 400),
        ({"id": "has space"}, "id", 400),
    ],
)
async def test_a_refused_user_keeps_what_was_typed(admin, changed, field, status):
    fields = {"name": "Dev", "email": "dev@acme.example", "password": PASSWORD, "id": "u-17"}
    answer = await admin.post("/users/new", fields | changed)

    assert answer.status_code == status
    assert f'id="{field}-wrong"' in answer.text
    assert re.search(rf'id="{field}"[^>]*aria-invalid="true"[^>]*{field}-wrong', answer.text)
    kept = {name: value for name, value in (fields | changed).items() if name != "password"}
    for name, value in kept.items():
        assert f'name="{name}"' in answer.text
        assert f'value="{value}"' in answer.text
    assert PASSWORD not in answer.text


async def test_the_last_super_admin_cannot_be_disabled_or_removed(world, admin, boss):
    second = await world.user(boss, "second@acme.example", "super-admin")
    other = await world.signed_in("second@acme.example")
    await accounts.set_disabled(world.identity, boss, second.id, disabled=True)
    [mine] = [
        each
        for each in await roles.all_assignments(world.identity, boss)
        if each.user_id == boss.user.id
    ]
    own = await admin.post(f"/roles/assignments/{mine.id}/remove")
    await accounts.set_disabled(world.identity, boss, second.id, disabled=False)
    other = await world.signed_in("second@acme.example")
    await other.post(f"/users/{boss.user.id}/disable")
    await other.post(f"/users/{second.id}/disable", csrf=await other.token())
    held = await roles.all_assignments(world.identity, await world.actor(second.email))
    last = next(each for each in held if each.user_id == second.id)
    answer = await other.post(f"/roles/assignments/{last.id}/remove")

    assert (own.status_code, answer.status_code) == (409, 409)
    assert "last Super Admin" in answer.text
    assert (await other.get("/roles")).status_code == 200


async def test_nobody_disables_themselves(admin, boss, world):
    answer = await admin.post(f"/users/{boss.user.id}/disable")

    assert answer.status_code == 403
    assert not (await accounts.users(world.identity, boss))[0].disabled


async def test_an_it_admin_cannot_take_over_a_super_admin(world, boss):
    browser = await browser_of(world, boss, "it@acme.example", "it-admin")
    answer = await browser.post(
        f"/users/{boss.user.id}/password", {"password": "now it is mine, surely"}
    )

    assert answer.status_code == 403
    await world.signed_in("boss@acme.example")


# ---- sites and groups -----------------------------------------------------------------------


async def test_a_site_is_created_renamed_and_deleted(world, admin, boss):
    await admin.post("/sites/new", {"id": "hq", "name": "Head office"})
    await admin.post("/sites/hq/rename", {"name": "Headquarters"})
    assert "Headquarters" in (await admin.get("/sites")).text
    user = await world.user(boss, "dev@acme.example")
    held = await world.assign(boss, user, "storage-api", scopes=(ScopeItem(ScopeKind.SITE, "hq"),))

    assert (await admin.post("/sites/hq/delete")).status_code == 409
    await roles.unassign(world.identity, boss, held.id)
    assert (await admin.post("/sites/hq/delete")).status_code == 303
    assert await accounts.sites(world.identity, boss) == []


async def test_a_second_site_with_an_id_is_refused_beside_the_field(admin):
    await admin.post("/sites/new", {"id": "hq", "name": "Head office"})
    answer = await admin.post("/sites/new", {"id": "hq", "name": "Another"})

    assert answer.status_code == 409
    assert 'id="id-wrong"' in answer.text
    assert 'value="Another"' in answer.text


async def test_a_user_group_is_created_changed_and_deleted(world, admin, boss):
    user = await world.user(boss, "dev@acme.example")
    await admin.post("/sites/groups/new", {"name": "Night", "members": user.id})
    [group] = await accounts.groups(world.identity, boss)
    assert group.members == (user.id,)
    page = (await admin.get(f"/sites/groups/{group.id}/members")).text
    assert re.search(rf'value="{user.id}" checked', page)
    both = [("members", user.id), ("members", boss.user.id)]
    await admin.post(f"/sites/groups/{group.id}/members", both)

    [group] = await accounts.groups(world.identity, boss)
    assert set(group.members) == {user.id, boss.user.id}
    await admin.post(f"/sites/groups/{group.id}/delete")
    assert await accounts.groups(world.identity, boss) == []


# ---- roles ----------------------------------------------------------------------------------


async def test_a_role_is_created_copied_renamed_and_deleted(world, admin, boss):
    fields = [("name", "Listener"), ("permission", "storage.view"), ("permission", "storage.api")]
    assert (await admin.post("/roles/new", fields)).headers["location"].endswith("role-created")
    [mine] = [each for each in await roles.all_roles(world.identity, boss) if not each.built_in]
    assert mine.permissions == {Permission.VIEW, Permission.STORAGE_API}

    copied = await admin.post(f"/roles/{mine.id}/copy", at="/roles")
    form = await admin.client.get(copied.headers["location"])
    assert 'value="Copy of Listener"' in form.text
    copy_id = re.search(r"/roles/([^?]+)", copied.headers["location"])[1]
    await admin.post(f"/roles/{copy_id}", {"name": "Viewer", "permission": "storage.view"})
    found = await roles.role_by_id(world.identity, boss, copy_id)
    assert (found.name, found.permissions) == ("Viewer", {Permission.VIEW})

    user = await world.user(boss, "dev@acme.example", copy_id)
    refused = await admin.post(f"/roles/{copy_id}/delete")
    assert refused.status_code == 409
    assert "assigned" in refused.text
    [held] = [
        each
        for each in await roles.all_assignments(world.identity, boss)
        if each.user_id == user.id
    ]
    await admin.post(f"/roles/assignments/{held.id}/remove")
    assert (await admin.post(f"/roles/{copy_id}/delete")).status_code == 303
    with pytest.raises(NotFound):
        await roles.role_by_id(world.identity, boss, copy_id)


async def test_a_built_in_role_can_be_copied_and_not_changed(world, admin, boss):
    page = (await admin.get("/roles/storage-api")).text
    csrf = token_in(page)

    assert "disabled" in page
    assert (await admin.post("/roles/storage-api", {"name": "Mine"}, csrf=csrf)).status_code == 403
    assert (await admin.get("/roles/storage-api/delete")).status_code == 403
    assert (await admin.post("/roles/storage-api/copy", csrf=csrf)).status_code == 303


async def test_a_role_with_a_taken_name_or_unknown_permission_is_refused(admin):
    taken = await admin.post("/roles/new", {"name": "it admin", "permission": "storage.view"})
    unknown = await admin.post("/roles/new", {"name": "New", "permission": "storage.everything"})

    assert (taken.status_code, unknown.status_code) == (409, 400)
    assert 'id="name-wrong"' in taken.text
    assert re.search(r'value="storage.view" checked', taken.text)


async def test_only_a_super_admin_puts_storage_api_into_a_role(world, boss):
    browser = await browser_of(world, boss, "company@acme.example", "company-admin")
    page = (await browser.get("/roles/new")).text
    fields = {"name": "Sneaky", "permission": "storage.api"}
    answer = await browser.post("/roles/new", fields)

    assert re.search(r'value="storage.api" disabled', page)
    assert "only a Super Admin decides over it" in page
    assert answer.status_code == 403
    assert all(role.built_in for role in await roles.all_roles(world.identity, boss))


# ---- assignments ----------------------------------------------------------------------------


async def test_an_assignment_is_made_for_sites_with_an_expiry_and_removed(world, admin, boss):
    user = await world.user(boss, "dev@acme.example")
    for site_id in ("hq", "north", "south"):
        await accounts.create_site(world.identity, boss, site_id=site_id, name=site_id.title())
    fields = [
        ("user", user.id),
        ("role", "storage-api"),
        ("role", "basic-user"),
        ("scope", "site"),
        ("site", "hq"),
        ("site", "north"),
        ("group", "left over from another choice"),
        ("expires", "2026-01-31"),
    ]
    answer = await admin.post("/roles/assignments/new", fields)
    page = text_of((await admin.get("/roles/assignments")).text)
    [made] = [
        each
        for each in await roles.all_assignments(world.identity, boss)
        if each.user_id == user.id
    ]

    assert answer.headers["location"] == "/console/roles/assignments?done=assigned"
    assert made.roles == ("basic-user", "storage-api")
    assert made.scopes == (ScopeItem(ScopeKind.SITE, "hq"), ScopeItem(ScopeKind.SITE, "north"))
    assert "Dev Basic User, Storage API Hq, North 2026-01-31 23:59:59 UTC" in page
    assert (await admin.post(f"/roles/assignments/{made.id}/remove")).status_code == 303
    assert len(await roles.all_assignments(world.identity, boss)) == 1


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"user": ""}, "user"),
        ({"role": "no-such-role"}, "role"),
        ({"scope": "planet"}, "scope"),
        ({"scope": "site"}, "scope"),
        ({"scope": "site", "site": "nowhere"}, "scope"),
        ({"role": "super-admin", "scope": "own"}, "scope"),
        ({"expires": "2025-12-31"}, "expires"),
        ({"expires": "soon"}, "expires"),
    ],
)
async def test_a_refused_assignment_says_why_and_keeps_the_choices(
    world, admin, boss, changed, field
):
    user = await world.user(boss, "dev@acme.example")
    fields = {"user": user.id, "role": "storage-api", "scope": "company", "expires": ""} | changed
    answer = await admin.post("/roles/assignments/new", fields)

    assert answer.status_code == 400
    assert f'id="{field}-wrong"' in answer.text
    if "user" not in changed:
        assert f'value="{user.id}" selected' in answer.text
    assert len(await roles.all_assignments(world.identity, boss)) == 1


async def test_only_a_super_admin_grants_storage_api(world, boss):
    browser = await browser_of(world, boss, "company@acme.example", "company-admin")
    user = await world.user(boss, "dev@acme.example")
    page = (await browser.get("/roles/assignments/new")).text
    fields = {"user": user.id, "role": "storage-api", "scope": "company"}
    refused = await browser.post("/roles/assignments/new", fields)
    allowed = await browser.post("/roles/assignments/new", fields | {"role": "it-admin"})

    assert re.search(r'value="storage-api" disabled', page)
    assert "Only a Super Admin may grant it." in page
    assert refused.status_code == 403
    assert "Only a Super Admin may grant Storage API." in refused.text
    assert allowed.status_code == 303


async def test_nobody_grants_to_themselves(world, admin, boss):
    page = (await admin.get("/roles/assignments/new")).text
    fields = {"user": boss.user.id, "role": "storage-api", "scope": "company"}
    answer = await admin.post("/roles/assignments/new", fields)

    assert f'value="{boss.user.id}"' not in page
    assert answer.status_code == 403
    assert "Nobody grants roles to themselves" in answer.text
    assert (await admin.get("/keys")).status_code == 403


async def test_a_role_named_in_another_script_is_refused_in_plain_words(world, boss):
    special = await roles.create_role(
        world.identity, boss, name="Söüńd “キー”", permissions=[Permission.STORAGE_API]
    )
    browser = await browser_of(world, boss, "company@acme.example", "company-admin")
    user = await world.user(boss, "dev@acme.example")
    fields = {"user": user.id, "role": special.id, "scope": "company"}
    answer = await browser.post("/roles/assignments/new", fields)

    assert answer.status_code == 403
    assert "Söüńd “キー”" in answer.text


# ---- API keys -------------------------------------------------------------------------------


async def test_the_secret_is_shown_once_and_never_again(world, boss):
    browser = await browser_of(world, boss, "dev@acme.example", "storage-api")
    fields = {"name": "export", "products": "storage", "access": "download"}
    answer = await browser.post("/keys/new", fields)
    secret = re.search(r'id="secret">([^<]+)<', answer.text)[1]
    key = re.search(r'id="key">([^<]+)<', answer.text)[1]
    text = html.unescape(answer.text)

    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert (
        f"curl -u '{key}:{secret}' -d grant_type=client_credentials http://127.0.0.1:8080/oauth/v2/token"
        in text
    )
    assert re.search(
        r"curl -H 'Authorization: Basic [A-Za-z0-9+/=]+' -d grant_type=client_credentials "
        r"http://127\.0\.0\.1:8080/oauth/v2/token", text,
    )  # fmt: skip
    assert (
        'curl -H "Authorization: Bearer $TOKEN" http://127.0.0.1:8080/storage/us-west/v3/objects'
        in text
    )
    [app] = await apps.mine(world.identity, await world.actor("dev@acme.example"))
    assert (app.name, app.key, app.access) == ("export", key, "download")
    for path in ("/keys", f"/keys/{app.id}", "/home", "/keys/new"):
        assert secret not in (await browser.get(path)).text
    audit = await (await browser_of(world, boss, "audit@acme.example", "audit-admin")).get("/audit")
    assert key in audit.text
    assert secret not in audit.text


async def test_a_secret_is_rotated_removed_and_the_app_deleted(world, boss):
    browser = await browser_of(world, boss, "dev@acme.example", "storage-api")
    dev = await world.actor("dev@acme.example")
    app = (await apps.create(world.identity, dev, APP)).app
    rotated = await browser.post(f"/keys/{app.id}/rotate", at=f"/keys/{app.id}")
    again = await browser.post(f"/keys/{app.id}/rotate", at=f"/keys/{app.id}")
    [now] = await apps.mine(world.identity, dev)
    old = app.secrets or now.secrets[:1]

    assert 'id="secret">sks_' in rotated.text
    assert again.status_code == 409
    assert "sks_" not in again.text
    removed = await browser.post(f"/keys/{app.id}/secrets/{old[0].id}/remove")
    assert removed.headers["location"] == f"/console/keys/{app.id}?done=secret-removed"
    only = await browser.post(
        f"/keys/{app.id}/secrets/{now.secrets[1].id}/remove", at=f"/keys/{app.id}"
    )
    assert only.status_code == 409
    assert (await browser.post(f"/keys/{app.id}/delete")).status_code == 303
    assert await apps.mine(world.identity, dev) == []


@pytest.mark.parametrize(
    ("changed", "field", "status"),
    [
        ({"name": "has space"}, "name", 400),
        ({"name": ""}, "name", 400),
        ({"name": "taken"}, "name", 409),
        ({"products": "video"}, "products", 400),
        ({"access": "everything"}, "access", 400),
        ({"expires": "2020-01-01"}, "expires", 400),
        ({"networks": "10.0.0.0/8 not-a-network"}, "networks", 400),
    ],
)
async def test_a_refused_app_says_why_and_shows_no_secret(world, boss, changed, field, status):
    browser = await browser_of(world, boss, "dev@acme.example", "storage-api")
    dev = await world.actor("dev@acme.example")
    await apps.create(world.identity, dev, Wanted(name="taken", products=("storage",)))
    fields = {"name": "export", "products": "storage", "access": "edit", "networks": "10.0.0.0/8"}
    answer = await browser.post("/keys/new", fields | changed)

    assert answer.status_code == status
    assert f'id="{field}-wrong"' in answer.text
    assert "sks_" not in answer.text
    assert len(await apps.mine(world.identity, dev)) == 1


async def test_expiry_and_ip_ranges_are_kept(world, boss):
    browser = await browser_of(world, boss, "dev@acme.example", "storage-api")
    fields = {
        "name": "export",
        "products": "storage",
        "access": "edit",
        "expires": "2026-06-30",
        "networks": "203.0.113.0/24\r\n2001:db8::/32, 10.0.0.0/8",
    }
    await browser.post("/keys/new", fields)
    [app] = await apps.mine(world.identity, await world.actor("dev@acme.example"))
    page = text_of((await browser.get(f"/keys/{app.id}")).text)

    assert app.networks == ("203.0.113.0/24", "2001:db8::/32", "10.0.0.0/8")
    assert "Expires 2026-06-30 23:59:59 UTC" in page
    assert "Never used" in page


async def test_keys_close_when_the_assignment_goes(world, boss):
    user = await world.user(boss, "dev@acme.example")
    held = await world.assign(boss, user, "storage-api")
    browser = await world.signed_in("dev@acme.example")
    assert (await browser.get("/keys")).status_code == 200
    await roles.unassign(world.identity, boss, held.id)

    assert (await browser.get("/keys")).status_code == 403


# ---- audit ----------------------------------------------------------------------------------


async def test_audit_events_are_filtered(world, admin, boss):
    user = await world.user(boss, "dev@acme.example", "it-admin")
    await accounts.set_disabled(world.identity, boss, user.id, disabled=True)
    updates = text_of((await admin.get("/audit?event=update")).text)
    of_sites = text_of((await admin.get("/audit?entity=site")).text)
    of_user = (await admin.get(f"/audit?user={boss.user.id}&from=2026-01-01&to=2026-01-01")).text
    before = text_of((await admin.get("/audit?to=2025-12-31")).text)

    assert "Update" in updates.partition("Details")[2]
    assert "Create" not in updates.partition("Details")[2]
    assert "No events match." in of_sites
    assert "dev@acme.example" in of_user
    assert "No events match." in before


@pytest.mark.parametrize("query", ["from=yesterday", "to=2026-13-01", "before=x", "before=-1"])
async def test_a_broken_audit_filter_is_refused_kindly(admin, query):
    answer = await admin.get(f"/audit?{query}")

    assert answer.status_code == 400
    assert "<table" not in answer.text


async def test_audit_events_are_paged_from_new_to_old(world, admin, boss):
    for number in range(60):
        await accounts.create_site(
            world.identity, boss, site_id=f"s{number}", name=f"Site-{number}"
        )
    first = (await admin.get("/audit?entity=site")).text
    older = html.unescape(re.search(r'href="/console(/audit\?[^"]+)" rel="next"', first)[1])
    second = (await admin.get(older)).text
    seen = re.findall(r">Site-(\d+)<span", first + second)

    assert [str(number) for number in reversed(range(60))] == seen
    assert 'rel="next"' not in second


# ---- other companies ------------------------------------------------------------------------


async def test_another_companys_things_are_not_there(world, admin, boss, other):
    theirs = await world.user(other, "dev@globex.example")
    site = await accounts.create_site(world.identity, other, site_id="lab", name="Lab")
    group = await accounts.create_group(world.identity, other, name="Theirs", members=[theirs.id])
    role = await roles.create_role(
        world.identity, other, name="Their role", permissions=[Permission.VIEW]
    )
    held = await world.assign(other, theirs, "storage-api", scopes=(COMPANY,))
    their_dev = await world.actor("dev@globex.example")
    app = (await apps.create(world.identity, their_dev, APP)).app
    mine = await browser_of(world, boss, "dev@acme.example", "storage-api")
    csrf, mine_csrf = await admin.token(), await mine.token()
    long = {"password": "a password of ours"}
    name = {"name": "Ours now", "permission": "storage.view", "members": boss.user.id}
    secret_id = (await apps.mine(world.identity, their_dev))[0].secrets[0].id

    for path, fields in {
        f"/users/{theirs.id}/password": long,
        f"/users/{theirs.id}/disable": {},
        f"/sites/{site.id}/rename": name,
        f"/sites/{site.id}/delete": {},
        f"/sites/groups/{group.id}/members": name,
        f"/sites/groups/{group.id}/delete": {},
        f"/roles/{role.id}": name,
        f"/roles/{role.id}/delete": {},
        f"/roles/assignments/{held.id}/remove": {},
    }.items():
        assert (await admin.get(path)).status_code == 404, path
        assert (await admin.post(path, fields, csrf=csrf)).status_code == 404, path
    for path in (f"/users/{theirs.id}/enable", f"/roles/{role.id}/copy"):
        assert (await admin.post(path, csrf=csrf)).status_code == 404, path
    for path in (f"/keys/{app.id}", f"/keys/{app.id}/delete"):
        assert (await mine.get(path)).status_code == 404, path
    for path in (
        f"/keys/{app.id}/rotate",
        f"/keys/{app.id}/delete",
        f"/keys/{app.id}/secrets/{secret_id}/remove",
    ):
        assert (await mine.post(path, csrf=mine_csrf)).status_code == 404, path
    wishes = [
        {"user": theirs.id, "role": "it-admin", "scope": "company"},
        {"user": "dev@acme.example", "role": role.id, "scope": "company"},
        {"user": "dev@acme.example", "role": "it-admin", "scope": "site", "site": site.id},
        {"user": "dev@acme.example", "role": "it-admin", "scope": "group", "group": group.id},
    ]
    for wish in wishes:
        assert (await admin.post("/roles/assignments/new", wish, csrf=csrf)).status_code == 400
    members = {"name": "Mixed", "members": theirs.id}
    assert (await admin.post("/sites/groups/new", members, csrf=csrf)).status_code == 400

    await world.actor("dev@globex.example")
    assert not any(user.disabled for user in await accounts.users(world.identity, other))
    assert await accounts.sites(world.identity, other) == [site]
    assert await accounts.groups(world.identity, other) == [group]
    assert await roles.role_by_id(world.identity, other, role.id) == role
    assert held in await roles.all_assignments(world.identity, other)
    assert [each.id for each in await apps.mine(world.identity, their_dev)] == [app.id]
    assert await accounts.groups(world.identity, boss) == []
    page = (await admin.get("/users")).text + (await admin.get("/audit")).text
    assert "globex" not in page.lower()


async def test_a_colleagues_app_is_not_there_either(world, boss):
    await world.user(boss, "one@acme.example", "storage-api")
    app = (await apps.create(world.identity, await world.actor("one@acme.example"), APP)).app
    browser = await browser_of(world, boss, "two@acme.example", "storage-api")

    assert (await browser.get(f"/keys/{app.id}")).status_code == 404
    assert app.key not in (await browser.get("/keys")).text


# ---- markup in every text -------------------------------------------------------------------

ATTACK = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{7*7}}"
LETHAL = ("<script>alert", "<img src=x", "\"'><img", "49")


async def test_markup_in_what_people_type_stays_text(world, admin, boss):
    user = await world.user(boss, "dev@acme.example")
    name = ATTACK[:64]
    await admin.post(
        "/users/new", {"name": ATTACK, "email": "<b>@acme.example", "password": PASSWORD}
    )
    await admin.post("/sites/new", {"id": "hq", "name": ATTACK})
    await admin.post("/sites/groups/new", {"name": ATTACK, "members": user.id})
    await admin.post("/roles/new", {"name": name, "permission": "storage.view"})
    [site], [group] = (
        await accounts.sites(world.identity, boss),
        await accounts.groups(world.identity, boss),
    )
    [role] = [each for each in await roles.all_roles(world.identity, boss) if not each.built_in]
    [villain] = [each for each in await accounts.users(world.identity, boss) if each.name == ATTACK]
    assert (site.name, group.name, role.name) == (ATTACK, ATTACK, name)
    held = await world.assign(boss, villain, role.id, scopes=(ScopeItem(ScopeKind.SITE, "hq"),))

    for path in (
        "/users",
        f"/users/{villain.id}/password",
        f"/users/{villain.id}/disable",
        "/sites",
        "/sites/hq/rename",
        "/sites/hq/delete",
        f"/sites/groups/{group.id}/members",
        f"/sites/groups/{group.id}/delete",
        "/roles",
        f"/roles/{role.id}",
        f"/roles/{role.id}/delete",
        "/roles/assignments",
        "/roles/assignments/new",
        f"/roles/assignments/{held.id}/remove",
        "/audit",
    ):
        answer = await admin.get(path)
        assert answer.status_code == 200, path
        page = re.sub(r'name="csrf" value="[^"]+"', "", answer.text)
        assert "&lt;script&gt;" in page, path
        for each in LETHAL[:3]:
            assert each not in page, (path, each)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/users/new", {"name": ATTACK, "email": ATTACK, "id": ATTACK, "password": "short"}),
        ("/sites/new", {"name": ATTACK, "id": ATTACK}),
        ("/roles/assignments/new", {"user": ATTACK, "expires": ATTACK, "scope": ATTACK}),
        ("/roles/new", {"name": ATTACK * 3, "permission": ATTACK}),
        ("/sites/groups/new", {"name": ATTACK, "members": ATTACK}),
    ],
)
async def test_markup_in_a_refused_form_stays_text(admin, path, fields):
    answer = await admin.post(path, fields)

    assert answer.status_code == 400
    for each in LETHAL[:3]:
        assert each not in answer.text


async def test_markup_in_addresses_and_open_forms_stays_text(world, admin, boss):
    keys = await browser_of(world, boss, "dev@acme.example", "storage-api")
    fields = {
        "name": ATTACK,
        "products": ATTACK,
        "access": "read",
        "networks": "</textarea>" + ATTACK,
    }
    answers = [
        await keys.post("/keys/new", fields),
        await world.browser().sign_in(ATTACK, next=ATTACK),
        await world.browser().get("/signin", params={"next": ATTACK, "done": ATTACK}),
        await admin.get("/audit", params={"user": ATTACK, "event": ATTACK, "from": ATTACK}),
        await admin.get(f"/{ATTACK}"),
        await admin.get("/roles/assignments/new", params={"user": ATTACK}),
    ]

    for answer in answers:
        assert "</textarea><" not in answer.text
        for each in LETHAL[:3]:
            assert each not in answer.text
