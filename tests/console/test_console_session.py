"""Signing in and out, cookies, forged forms, headers: what keeps a session its owner's."""

from __future__ import annotations

import re

import pytest
from console_world import PASSWORD, START_MS, World, new_identity, token_in

from soundkeep.console import pages, session
from soundkeep.foundation.clock import HOUR
from soundkeep.identity import accounts
from soundkeep.identity.accounts import NewUser

SETUP = {
    "company": "Acme Ltd",
    "customer_id": "",
    "name": "Ada",
    "email": "ada@acme.example",
    "password": PASSWORD,
}


# ---- set-up ---------------------------------------------------------------------------------


async def test_a_new_installation_leads_to_its_set_up(world):
    browser = world.browser()

    for path in ("/", "/home", "/signin", "/users"):
        assert (await browser.get(path)).headers["location"] == "/console/setup"
    assert "Set-up code" in (await browser.get("/setup")).text


async def test_set_up_makes_the_first_super_admin_and_goes_to_sign_in(world):
    code = await accounts.new_setup_code(world.identity)
    browser = world.browser()
    answer = await browser.post("/setup", {**SETUP, "code": code})

    assert answer.headers["location"] == "/console/signin?done=set-up"
    assert (await browser.sign_in("ada@acme.example")).status_code == 303
    page = (await browser.get("/home")).text
    assert "Super Admin" in page
    assert "Acme Ltd" in page


async def test_set_up_suggests_the_customer_id_from_the_name(world):
    code = await accounts.new_setup_code(world.identity)
    fields = {**SETUP, "company": "Bäcker & Söhne", "code": code}
    await world.browser().post("/setup", fields)

    actor = await world.actor("ada@acme.example")
    assert actor.customer == "backer-sohne"


async def test_set_up_with_a_wrong_code_keeps_what_was_typed_but_no_password(world):
    await accounts.new_setup_code(world.identity)
    answer = await world.browser().post("/setup", {**SETUP, "code": "wrong"})

    assert answer.status_code == 400
    assert 'value="Acme Ltd"' in answer.text
    assert PASSWORD not in answer.text
    assert re.search(
        r'id="code"[^>]*aria-invalid="true"[^>]*aria-describedby="code-wrong', answer.text
    )
    assert await accounts.needs_setup(world.identity)


async def test_set_up_happens_once_only(world):
    first, second = world.browser(), world.browser()
    csrf = token_in((await second.get("/setup")).text)
    code = await accounts.new_setup_code(world.identity)
    await first.post("/setup", {**SETUP, "code": code})
    again = {
        **SETUP,
        "email": "eve@evil.example",
        "code": await accounts.new_setup_code(world.identity),
    }

    assert (await second.post("/setup", again, csrf=csrf)).status_code == 403
    assert (await second.get("/setup")).headers["location"] == "/console/signin"
    assert (await second.sign_in("eve@evil.example")).status_code == 401


async def test_guessing_set_up_codes_is_slowed_down(world):
    await accounts.new_setup_code(world.identity)
    browser = world.browser()
    answers = [await browser.post("/setup", {**SETUP, "code": f"{n}"}) for n in range(12)]

    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) >= 1


# ---- signing in -----------------------------------------------------------------------------


async def test_signing_in_leads_home_and_signing_out_ends_the_session(world, boss):
    browser = world.browser()
    assert (await browser.sign_in("boss@acme.example")).headers["location"] == "/console/home"
    old = browser.client.cookies["soundkeep"]
    answer = await browser.post("/signout", at="/account")

    assert answer.headers["location"] == "/console/signin?done=signed-out"
    assert "soundkeep" not in browser.client.cookies
    assert await accounts.signed_in(world.identity, old) is None


async def test_a_wrong_password_and_an_unknown_address_look_the_same(world, boss):
    browser = world.browser()
    wrong = await browser.sign_in("boss@acme.example", "not the password")
    unknown = await browser.sign_in("nobody@acme.example", "not the password")

    assert wrong.status_code == unknown.status_code == 401
    assert wrong.text.replace("boss@", "nobody@") == unknown.text
    assert "not the password" not in wrong.text


async def test_every_sign_in_begins_a_new_session_and_ends_the_one_before(world, boss):
    browser = world.browser()
    browser.client.cookies.set("soundkeep", "A" * 43, domain="127.0.0.1", path="/")
    await browser.sign_in("boss@acme.example")
    first = browser.client.cookies["soundkeep"]
    # What the form needs is the cookie of the form, which outlives the session.
    csrf = browser.client.cookies["soundkeep-form"]
    await browser.post("/signin", {"email": "boss@acme.example", "password": PASSWORD}, csrf=csrf)
    second = browser.client.cookies["soundkeep"]

    assert len({"A" * 43, first, second}) == 3
    assert await accounts.signed_in(world.identity, first) is None
    assert await accounts.signed_in(world.identity, second) is not None


async def test_brute_force_is_slowed_down(world, boss):
    browser = world.browser()
    answers = [await browser.sign_in("boss@acme.example", f"guess {n}") for n in range(12)]

    assert [answer.status_code for answer in answers[:10]] == [401] * 10
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert (await browser.sign_in("boss@acme.example")).status_code == 429
    world.clock.advance(minutes=20)
    assert (await browser.sign_in("boss@acme.example")).status_code == 303


async def test_an_idle_session_ends_and_signing_in_goes_on_where_it_ended(world, admin):
    world.clock.advance(minutes=31)
    answer = await admin.get("/users?x=1&y=2")

    assert answer.status_code == 303
    location = answer.headers["location"]
    assert location == "/console/signin?next=%2Fconsole%2Fusers%3Fx%3D1%26y%3D2&done=expired"
    page = (await admin.client.get(location)).text
    assert "Your session has ended" in page
    fields = {"email": "boss@acme.example", "password": PASSWORD, "next": "/console/users?x=1&y=2"}
    again = await admin.post("/signin", fields, csrf=token_in(page))
    assert again.headers["location"] == "/console/users?x=1&y=2"


async def test_a_session_in_use_ends_after_twelve_hours(world, admin):
    for _ in range(12 * 3 - 1):
        world.clock.advance(minutes=20)
        assert (await admin.get("/home")).status_code == 200
    world.clock.advance(minutes=21)

    assert world.clock.now_ms > START_MS + 12 * HOUR
    assert (await admin.get("/home")).status_code == 303


async def test_a_form_after_the_end_of_the_session_changes_nothing(world, admin, boss):
    csrf = await admin.token()
    world.clock.advance(hours=13)
    fields = {"name": "Eve", "email": "eve@acme.example", "password": PASSWORD}
    answer = await admin.post("/users/new", fields, csrf=csrf)

    assert answer.headers["location"].startswith("/console/signin?next=%2Fconsole%2Fusers&")
    assert len(await accounts.users(world.identity, boss)) == 1


@pytest.mark.parametrize(
    "wanted",
    [
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example/",
        "/console//evil.example",
        "/console/../oauth/v2/token",
        "/console/\\evil.example",
        "/consoleevil",
        "javascript:alert(1)",
        "/console/home\r\nset-cookie: a=b",
        "/elsewhere",
        "",
    ],
)
async def test_signing_in_leads_nowhere_else(world, boss, wanted):
    browser = world.browser()
    answer = await browser.sign_in("boss@acme.example", next=wanted)

    assert answer.headers["location"] == "/console/home"
    shown = await browser.get("/signin", params={"next": wanted})
    assert shown.headers["location"] == "/console/home"


def test_a_local_path_with_a_query_is_kept():
    assert session.local_path("/console/audit?user=a%40b&from=2026-01-01") == (
        "/audit?user=a%40b&from=2026-01-01"
    )


async def test_words_in_the_address_are_never_shown(admin):
    page = (await admin.get("/home?done=You+won+a+prize")).text

    assert "prize" not in page


async def test_changing_the_password_ends_the_session(world, admin):
    fields = {"old": PASSWORD, "password": "a new long password", "again": "a new long password"}
    answer = await admin.post("/account", fields)

    assert answer.headers["location"] == "/console/signin?done=password-changed"
    assert (await world.browser().sign_in("boss@acme.example")).status_code == 401
    await world.signed_in("boss@acme.example", "a new long password")


@pytest.mark.parametrize(
    ("changed", "field"),
    [({"old": "wrong"}, "old"), ({"again": "different words"}, "again"), ({}, "password")],
)
async def test_a_refused_password_change_says_why_beside_the_field(admin, changed, field):
    fields = {"old": PASSWORD, "password": "short", "again": "short"} | changed
    answer = await admin.post("/account", fields)

    assert answer.status_code == 400
    assert f'id="{field}-wrong"' in answer.text
    assert "different words" not in answer.text


# ---- cookies --------------------------------------------------------------------------------


async def test_cookies_are_out_of_reach_of_scripts_and_other_sites(world, boss):
    answer = await world.browser().sign_in("boss@acme.example")

    [cookie] = answer.headers.get_list("set-cookie")
    assert cookie.startswith("soundkeep=")
    flags = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert flags == {"httponly", "path=/", "samesite=lax"}


async def test_over_https_cookies_are_secure_and_of_this_host_only(tmp_path, world):
    secure = World(await new_identity(tmp_path / "secure", world.clock), world.clock, secure=True)
    try:
        await secure.company("acme", "boss@acme.example")
        browser = secure.browser()
        page = await browser.get("/signin")
        answer = await browser.sign_in("boss@acme.example")
        home = await browser.get("/home")

        assert page.headers["set-cookie"].startswith("__Host-soundkeep-form=")
        assert answer.headers["set-cookie"].startswith("__Host-soundkeep=")
        for each in (page, answer):
            flags = {part.strip().lower() for part in each.headers["set-cookie"].split(";")[1:]}
            assert flags == {"httponly", "path=/", "samesite=lax", "secure"}
        assert home.headers["strict-transport-security"].startswith("max-age=")
    finally:
        await secure.close()


# ---- forged forms ---------------------------------------------------------------------------

NEW_USER = {"name": "Eve", "email": "eve@acme.example", "password": PASSWORD}


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
    ],
)
async def test_a_form_from_another_site_changes_nothing(world, admin, boss, headers):
    answer = await admin.post("/users/new", NEW_USER, headers=headers)

    assert answer.status_code == 403
    assert "another site" in answer.text
    assert len(await accounts.users(world.identity, boss)) == 1


@pytest.mark.parametrize("csrf", ["", "wrong", "ünïcode"])
async def test_a_form_without_the_sessions_token_changes_nothing(world, admin, boss, csrf):
    answer = await admin.post("/users/new", NEW_USER, csrf=csrf)

    assert answer.status_code == 403
    assert len(await accounts.users(world.identity, boss)) == 1


async def test_a_token_of_another_session_does_not_fit(world, admin, boss):
    await world.user(boss, "it@acme.example", "it-admin")
    other = await world.signed_in("it@acme.example")

    assert (await admin.post("/users/new", NEW_USER, csrf=await other.token())).status_code == 403
    assert len(await accounts.users(world.identity, boss)) == 2


async def test_a_form_named_twice_or_not_a_form_is_refused(admin):
    csrf = await admin.token()
    json = await admin.post(
        "/users/new", NEW_USER, csrf=csrf, headers={"content-type": "application/json"}
    )
    twice = await admin.post("/users/new", [*NEW_USER.items(), ("name", "Two")], csrf=csrf)
    large = await admin.post("/users/new", {**NEW_USER, "name": "x" * 70_000}, csrf=csrf)

    assert (json.status_code, twice.status_code, large.status_code) == (400, 400, 413)


@pytest.mark.parametrize("body", [b"csrf", b"a=%ff&csrf=x", "ü=1".encode(), b"&&&"])
async def test_a_broken_body_is_refused(admin, body):
    headers = {"content-type": "application/x-www-form-urlencoded"}
    answer = await admin.client.post("/console/users/new", content=body, headers=headers)

    assert answer.status_code == 400


async def test_signing_in_needs_the_cookie_of_the_form(world, boss):
    browser = world.browser()
    csrf = token_in((await browser.get("/signin")).text)
    fields = {"email": "boss@acme.example", "password": PASSWORD}
    bare = world.browser()

    assert (await bare.post("/signin", fields, csrf=csrf)).status_code == 403
    assert (await browser.post("/signin", fields, csrf="x" * 43)).status_code == 403
    cross = {"sec-fetch-site": "cross-site"}
    assert (await browser.post("/signin", fields, csrf=csrf, headers=cross)).status_code == 403
    assert (await browser.post("/signin", fields, csrf=csrf)).status_code == 303


async def test_set_up_needs_the_cookie_of_the_form(world):
    code = await accounts.new_setup_code(world.identity)
    answer = await world.browser().post("/setup", {**SETUP, "code": code}, csrf="x" * 43)

    assert answer.status_code == 403
    assert await accounts.needs_setup(world.identity)


async def test_nothing_changes_by_get(world, admin, boss):
    await world.user(boss, "it@acme.example", "it-admin")
    for path in ("/signout", "/users/it@acme.example/enable", "/roles/it-admin/copy"):
        assert (await admin.get(path)).status_code == 405

    await admin.get("/users/it@acme.example/disable")
    assert not any(user.disabled for user in await accounts.users(world.identity, boss))


# ---- headers --------------------------------------------------------------------------------

PAGES = (
    "/home",
    "/account",
    "/users",
    "/users/new",
    "/sites",
    "/sites/new",
    "/sites/groups/new",
    "/roles",
    "/roles/new",
    "/roles/it-admin",
    "/roles/assignments",
    "/roles/assignments/new",
    "/audit",
)


async def test_every_page_forbids_foreign_code_frames_and_caches(admin):
    answers = [await admin.get(path) for path in PAGES]
    answers += [await admin.get("/no-such-page"), await admin.get("/keys")]
    answers += [await admin.get("/"), await admin.post("/users/new", {"name": ""})]

    assert {answer.status_code for answer in answers} == {200, 303, 400, 403, 404}
    for answer in answers:
        headers = answer.headers
        assert headers["content-security-policy"] == pages.POLICY
        assert headers["cache-control"] == "no-store"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "same-origin"
        assert "geolocation=()" in headers["permissions-policy"]
        assert "strict-transport-security" not in headers


async def test_pages_hold_no_inline_code_style_or_foreign_address(admin):
    for path in PAGES:
        page = (await admin.get(path)).text
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|<script(?![^>]+src=)", page), (
            path
        )
        for address in re.findall(r'(?:src|href|action)="([^"]*)"', page):
            assert address.startswith(("/console/", "#")), (path, address)


async def test_every_page_has_a_title_a_main_part_and_labels(admin):
    for path in PAGES:
        page = (await admin.get(path)).text
        assert re.search(r"<title>[^<]+ – Soundkeep</title>", page), path
        assert page.count("<main ") == page.count("<h1") == 1, path
        labelled = set(re.findall(r'<label for="([^"]+)"', page))
        for field in re.findall(r'<(?:input|select|textarea) id="([^"]+)"', page):
            assert field in labelled, (path, field)


async def test_static_files_are_named_by_their_content(admin):
    page = (await admin.get("/home")).text
    found = set(re.findall(r'"(/console/static/[^"]+)"', page))

    assert {path.partition("?")[0].rpartition("/")[2] for path in found} >= {
        "console.css", "console.js", "logo.svg",
    }  # fmt: skip
    for path in found:
        answer = await admin.client.get(path)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
    unnamed = await admin.get("/static/console.css")
    assert unnamed.headers["cache-control"] == "no-cache"
    tag = {"if-none-match": unnamed.headers["etag"]}
    assert (await admin.get("/static/console.css", headers=tag)).status_code == 304


@pytest.mark.parametrize(
    "path", ["/static/../__init__.py", "/static/%2e%2e/pages.py", "/static/", "/static/nothing.css"]
)
async def test_static_leads_to_nothing_else(admin, path):
    assert (await admin.get(path)).status_code == 404


# ---- trouble --------------------------------------------------------------------------------


async def test_a_page_that_is_not_there_says_so_in_html(world, boss):
    answer = await world.browser().get("/nowhere")

    assert answer.status_code == 404
    assert "There is no such page." in answer.text
    assert answer.headers["content-type"].startswith("text/html")


async def test_a_fault_of_ours_shows_the_request_id_and_nothing_else(world, admin, monkeypatch):
    async def broken(*args, **kwargs):
        raise RuntimeError("the inside story")

    monkeypatch.setattr(accounts, "sites", broken)
    admin.client._transport.raise_app_exceptions = False
    answer = await admin.get("/sites")

    assert answer.status_code == 500
    assert answer.headers["x-request-id"] in answer.text
    assert "inside story" not in answer.text
    assert answer.headers["content-security-policy"] == pages.POLICY


async def test_a_disabled_user_is_out_at_once(world, boss):
    user = await world.user(boss, "it@acme.example", "it-admin")
    browser = await world.signed_in("it@acme.example")
    await accounts.set_disabled(world.identity, boss, user.id, disabled=True)

    assert (await browser.get("/home")).status_code == 303
    assert (await world.browser().sign_in("it@acme.example")).status_code == 401


async def test_a_password_is_never_in_an_answer(world, admin):
    fields = {"name": "", "email": "x", "password": "a secret of hers"}
    answer = await admin.post("/users/new", fields)

    assert answer.status_code == 400
    assert "a secret of hers" not in answer.text
    assert NewUser(email="", name="", password="").id == ""
