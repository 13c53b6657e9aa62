"""The whole way, by hand, as the reference's documentation describes it: from a role to a file."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess

import pytest
from playwright.sync_api import Page, expect, sync_playwright

BROWSER = os.environ.get("SOUNDKEEP_BROWSER") or shutil.which("chromium")


@pytest.fixture
def page():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser.new_page()
        browser.close()


def sign_in(page: Page, base_url: str, email: str, password: str) -> None:
    page.goto(f"{base_url}/console/")
    page.get_by_label("E-mail").fill(email)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", level=1)).to_be_visible()


def open_from_menu(page: Page, item: str) -> None:
    page.get_by_role("navigation", name="Menu", exact=True).get_by_role("link", name=item).click()


def curl(*arguments: str) -> bytes:
    ran = subprocess.run(["curl", "-sS", "--fail", *arguments], capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.browser
def test_from_role_to_recording(demo, service, page, tmp_path):
    base_url, password = service.base_url, demo.password

    sign_in(page, base_url, "superadmin@acme.test", password)
    open_from_menu(page, "Roles & Permissions")
    page.get_by_role("link", name="Assignments").click()
    page.get_by_role("link", name="+ Create Assignment").click()
    page.get_by_label("Assign to").select_option(label="Ben Marsh (basic@acme.test)")
    page.get_by_label("Storage API").check()
    page.get_by_role("radio", name="Company").check()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("row", name=re.compile("Ben Marsh.*Storage API"))).to_be_visible()
    page.context.clear_cookies()

    sign_in(page, base_url, "basic@acme.test", password)
    open_from_menu(page, "API Keys")
    page.get_by_role("link", name="Create App").first.click()
    page.get_by_label("Name").fill("my-integration")
    page.get_by_label("Call Recordings & Storage").check()
    page.get_by_role("radio", name=re.compile("^Download")).check()
    page.get_by_role("button", name="Save").click()
    key, secret = page.locator("#key").inner_text(), page.locator("#secret").inner_text()
    by_user = page.locator("#curl-user").inner_text()
    by_header = page.locator("#curl-basic").inner_text()

    assert re.fullmatch(r"sk_[A-Za-z0-9_-]+", key)
    assert key in by_user
    assert secret in by_user
    tokens = [
        json.loads(subprocess.run(["bash", "-c", line], capture_output=True, check=True).stdout)
        for line in (by_user, by_header)
    ]
    assert [token["status"] for token in tokens] == ["approved", "approved"]
    for token in tokens:
        bearer = ("-H", f"Authorization: Bearer {token['access_token']}")
        listed = json.loads(curl(*bearer, f"{base_url}/storage/us-east/v3/objects"))
        assert listed["total"] == 62
        recording = next(each for each in listed["content"] if each["type"] == "callrecording")
        file = tmp_path / "recording.mp3"
        curl(*bearer, "-o", str(file), f"{base_url}/storage/us-east/v3/objects/{recording['id']}/content")  # fmt: skip
        assert hashlib.md5(file.read_bytes()).hexdigest() == recording["checksum"]

    page.goto(f"{base_url}/console/keys")
    expect(page.get_by_role("row", name=re.compile("my-integration"))).to_contain_text("used 20")
    assert secret not in page.content()
