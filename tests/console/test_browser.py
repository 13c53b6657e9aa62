"""The console in a real browser: the whole procedure, by mouse, by keyboard and without script."""

from __future__ import annotations

import re

import pytest
from console_browser import BOSS, DEVELOPER, chromium, furnish, program, serving, watched
from console_world import PASSWORD

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(program() is None, reason="there is no Chromium here"),
]

SMALL = {"width": 360, "height": 740}
WIDE = {"width": 1280, "height": 860}
PAGES = (
    "/home",
    "/account",
    "/users",
    "/users/new",
    f"/users/{DEVELOPER}/password",
    f"/users/{DEVELOPER}/disable",
    "/sites",
    "/sites/new",
    "/sites/hq/rename",
    "/sites/hq/delete",
    "/sites/groups/new",
    "/roles",
    "/roles/new",
    "/roles/super-admin",
    "/roles/assignments",
    "/roles/assignments/new",
    "/audit",
)


@pytest.fixture(scope="module")
def engine():
    with chromium() as browser:
        yield browser


@pytest.fixture
def site(tmp_path):
    """A console with two companies; the developer holds nothing yet."""
    with serving(tmp_path) as served:
        served.run(furnish)
        yield served


def grant_storage_api(seen) -> None:
    """A Super Admin's part: give the developer the role Storage API for one site."""
    seen.sign_in(BOSS)
    seen.choose("Roles & Permissions")
    page = seen.page
    page.get_by_role("link", name="Assignments", exact=True).click()
    page.get_by_role("link", name="+ Create Assignment").click()
    page.get_by_label("Assign to").select_option(label=f"Dev ({DEVELOPER})")
    page.get_by_role("group", name="Role").get_by_label("Storage API", exact=True).check()
    page.get_by_role("group", name="Scope").get_by_label("Sites", exact=True).check()
    page.get_by_label("Headquarters, Utrecht").check()
    page.get_by_role("button", name="Save").click()
    page.get_by_text("The assignment is saved.").wait_for()
    row = page.get_by_role("row").filter(has_text="Dev").filter(has_text="Storage API")
    assert "Headquarters, Utrecht" in row.inner_text()


def make_key(seen, name: str) -> tuple[str, str]:
    """The developer's part: make an app and read its key and secret off the page."""
    seen.sign_in(DEVELOPER)
    seen.choose("API Keys")
    page = seen.page
    page.get_by_role("link", name="Create App", exact=True).click()
    page.get_by_label("Name").fill(name)
    page.get_by_label("Call Recordings & Storage").check()
    page.get_by_role("button", name="Save").click()
    key = page.locator("#key").inner_text()
    secret = page.locator("#secret").inner_text()
    assert re.fullmatch(r"sk_[A-Za-z0-9_-]{28}", key)
    assert re.fullmatch(r"sks_[A-Za-z0-9_-]{49}", secret)
    command = page.locator("#curl-user").inner_text()
    assert command == (
        f"curl -u '{key}:{secret}' -d grant_type=client_credentials {seen.base_url}/oauth/v2/token"
    )
    return key, secret


@pytest.mark.parametrize("viewport", [WIDE, SMALL], ids=["wide", "small"])
@pytest.mark.parametrize("script", [True, False], ids=["script", "no-script"])
def test_from_an_assignment_to_a_key_and_its_secret(engine, site, viewport, script):
    options = {"viewport": viewport, "java_script_enabled": script}
    with watched(engine, site.base_url, **options) as seen:
        grant_storage_api(seen)
    with watched(engine, site.base_url, **options) as seen:
        key, secret = make_key(seen, "export")
        seen.page.get_by_role("link", name="I have kept it").click()
        assert key in seen.page.content()
        assert secret not in seen.page.content()


def test_without_both_permissions_there_is_no_way_to_keys(engine, site):
    with watched(engine, site.base_url) as seen:
        seen.sign_in(DEVELOPER)
        assert seen.page.get_by_role("link", name="API Keys").count() == 0
        answer = seen.page.goto(f"{site.base_url}/console/keys")
        assert answer is not None
        assert answer.status == 403
        assert "Storage API" in seen.page.locator("main").inner_text()
        seen.complaints.clear()  # Chromium notes the 403 itself.


def test_signing_in_by_keyboard_alone(engine, site):
    with watched(engine, site.base_url, viewport=WIDE) as seen:
        page = seen.open("/signin")
        assert page.evaluate("document.activeElement.id") == "email"
        page.keyboard.type(BOSS)
        page.keyboard.press("Tab")
        page.keyboard.type(PASSWORD)
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_url("**/console/home")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"


def test_the_menu_button_opens_and_closes_by_keyboard(engine, site):
    with watched(engine, site.base_url, viewport=SMALL) as seen:
        seen.sign_in(BOSS)
        page = seen.page
        summary = page.locator("details.drawer > summary")
        place = summary.bounding_box()
        assert place is not None
        assert place["x"] < 40
        assert place["y"] < 40
        summary.focus()
        page.keyboard.press("Enter")
        users = page.get_by_role("navigation").get_by_role("link", name="Users", exact=True)
        users.wait_for()
        page.keyboard.press("Escape")
        assert not users.is_visible()
        assert page.evaluate("document.activeElement.tagName") == "SUMMARY"


def test_the_menu_moves_on_without_loading_everything_anew(engine, site):
    with watched(engine, site.base_url, viewport=WIDE) as seen:
        seen.sign_in(BOSS)
        page = seen.page
        page.evaluate("window.sameDocument = true")
        for item, heading in (("Users", "Users"), ("Audit events", "Audit events")):
            seen.choose(item)
            page.get_by_role("heading", level=1, name=heading).wait_for()
            page.wait_for_function("document.activeElement.id === 'main'")
        assert page.title() == "Audit events – Soundkeep"
        assert page.url.endswith("/console/audit")
        vendored = page.locator("script[src*=htmx]").count() == 1
        assert page.evaluate("window.sameDocument === true") == vendored
        page.go_back()
        page.get_by_role("heading", level=1, name="Users").wait_for()
        kept = page.evaluate("JSON.stringify([localStorage, sessionStorage])")
        assert "history-cache" not in kept
        assert "<" not in kept


@pytest.mark.parametrize("script", [True, False], ids=["dialog", "page"])
def test_disabling_asks_first(engine, site, script):
    with watched(engine, site.base_url, java_script_enabled=script) as seen:
        seen.sign_in(BOSS)
        page = seen.open("/users")
        page.get_by_role("link", name="Disable Dev", exact=True).click()
        page.get_by_role("heading", name="Disable Dev?").wait_for()
        assert page.locator("dialog").count() == int(script)
        page.get_by_role("link", name="Cancel").click()
        row = page.get_by_role("row").filter(has_text=DEVELOPER)
        row.get_by_text("Active").wait_for()
        page.get_by_role("link", name="Disable Dev", exact=True).click()
        page.get_by_role("button", name="Disable").click()
        row.get_by_text("Disabled").wait_for()


def test_a_refused_form_shows_why_beside_the_field(engine, site):
    with watched(engine, site.base_url) as seen:
        seen.sign_in(BOSS)
        page = seen.open("/users/new")
        page.get_by_label("Name").fill("Another Dev")
        page.get_by_label("E-mail").fill(DEVELOPER)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Save").click()
        field = page.get_by_label("E-mail")
        field.and_(page.locator("[aria-invalid=true]")).wait_for()
        assert "already" in page.locator("#email-wrong").inner_text()
        assert page.get_by_label("Name").input_value() == "Another Dev"
        assert page.get_by_label("Password").input_value() == ""
        seen.complaints.clear()  # Chromium notes the 409 itself.


def test_copying_the_secret(engine, site):
    with watched(engine, site.base_url) as seen:
        seen.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        seen.sign_in("keys@acme.example")
        page = seen.open("/keys/new")
        page.get_by_label("Name").fill("export")
        page.get_by_label("Call Recordings & Storage").check()
        page.get_by_role("button", name="Save").click()
        page.get_by_role("button", name="Copy the secret").click()
        page.get_by_text("Copied").wait_for()
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied == page.locator("#secret").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_is_wider_than_a_small_phone(engine, site, scheme):
    options = {"viewport": SMALL, "color_scheme": scheme}
    wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    with watched(engine, site.base_url, **options) as seen:
        seen.open("/signin")
        assert not seen.page.evaluate(wide)
        seen.sign_in(BOSS)
        for path in PAGES:
            seen.open(path)
            assert not seen.page.evaluate(wide), path
            for each in seen.page.locator("details > summary").all():
                if each.is_visible():
                    each.click()
                    assert not seen.page.evaluate(wide), path
                    each.click()
    with watched(engine, site.base_url, **options) as seen:
        seen.sign_in("keys@acme.example")
        page = seen.open("/keys/new")
        page.get_by_label("Name").fill("a-name-of-sixty-four-letters-" + "x" * 35)
        page.get_by_label("Call Recordings & Storage").check()
        page.get_by_role("button", name="Save").click()
        page.locator("#secret").wait_for()
        assert not page.evaluate(wide)
        seen.open("/keys")
        assert not page.evaluate(wide)
        page.get_by_role("link", name="Manage").click()
        page.get_by_role("heading", name="Secrets").wait_for()
        assert not page.evaluate(wide)
