"""A real browser before a real server: helpers that work against any console by its base URL."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from console_world import COMPANY, PASSWORD, HeldClock, World, new_identity, served
from granian.constants import Interfaces
from granian.server.embed import Server
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from soundkeep.identity import accounts
from soundkeep.identity.model import ScopeItem, ScopeKind

ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
BOSS = "boss@acme.example"
DEVELOPER = "dev@acme.example"


def program() -> str | None:
    """The Chromium to drive."""
    return os.environ.get("SOUNDKEEP_BROWSER") or shutil.which("chromium")


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program(), args=list(ARGUMENTS))
        yield browser
        browser.close()


@dataclass
class Served:
    """A console on 127.0.0.1, with a loop of its own in which `run` asks its use cases."""

    base_url: str
    world: World
    loop: asyncio.AbstractEventLoop

    def run(self, asked: Callable[[World], Awaitable[Any]]) -> Any:
        async def work() -> Any:
            return await asked(self.world)

        return asyncio.run_coroutine_threadsafe(work(), self.loop).result(30)


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    """A server thread that holds one installation with two companies."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ready, stop, found = threading.Event(), [], []
    base_url = f"http://127.0.0.1:{port}"

    async def main() -> None:
        clock = HeldClock(time.time_ns() // 1_000_000)
        world = World(await new_identity(folder, clock), clock)
        app = served(world.identity, base_url=base_url)
        server = Server(app, "127.0.0.1", port, interface=Interfaces.ASGINL, log_enabled=False)
        found.append(Served(base_url, world, asyncio.get_running_loop()))
        stop.append(server.stop)
        ready.set()
        await server.serve()
        await world.close()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert ready.wait(20)
    _wait_for(port)
    try:
        yield found[0]
    finally:
        found[0].loop.call_soon_threadsafe(stop[0])
        thread.join(20)
        assert not thread.is_alive()


def _wait_for(port: int) -> None:
    until = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.05)
        else:
            return


async def furnish(world: World) -> None:
    """A company with something on every page."""
    boss = await world.company("acme", BOSS)
    await world.company("globex", "boss@globex.example")
    await world.user(boss, DEVELOPER)
    olga = await world.user(boss, "olga.with-a-rather-long-name@very-long-domain.acme.example")
    await world.user(boss, "it@acme.example", "it-admin")
    await world.user(boss, "audit@acme.example", "audit-admin")
    old = await world.user(boss, "former@acme.example")
    await accounts.set_disabled(world.identity, boss, old.id, disabled=True)
    await accounts.create_site(world.identity, boss, site_id="hq", name="Headquarters, Utrecht")
    await accounts.create_site(world.identity, boss, site_id="north", name="North")
    group = await accounts.create_group(
        world.identity, boss, name="Night shift", members=[olga.id, "it@acme.example"]
    )
    scopes = (ScopeItem(ScopeKind.SITE, "hq"), ScopeItem(ScopeKind.GROUP, group.id))
    await world.assign(boss, olga, "storage-admin", "basic-user", scopes=scopes)
    maker = await world.user(boss, "keys@acme.example")
    await world.assign(boss, maker, "storage-api", scopes=(COMPANY,))


@dataclass
class Watched:
    """A page whose complaints are collected: console errors, CSP violations, failed scripts."""

    page: Page
    base_url: str
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        def note(message: Any) -> None:
            if message.type in {"error", "warning"}:
                self.complaints.append(f"{self.page.url}: {message.text}")

        self.page.on("console", note)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def open(self, path: str) -> Page:
        self.page.goto(f"{self.base_url}/console{path}")
        return self.page

    def sign_in(self, email: str, password: str = PASSWORD) -> None:
        self.open("/signin")
        self.page.get_by_label("E-mail").fill(email)
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.wait_for_url("**/console/home")

    def choose(self, item: str) -> None:
        """Choose a menu item, by the menu button where the window is small."""
        button = self.page.locator("details.drawer > summary")
        if button.is_visible():
            button.click()
        self.page.get_by_role("navigation").get_by_role("link", name=item, exact=True).click()


@contextmanager
def watched(browser: Browser, base_url: str, **options: Any) -> Iterator[Watched]:
    """A fresh browser profile; at its end nothing may have been complained about."""
    context: BrowserContext = browser.new_context(**options)
    context.set_default_timeout(10_000)
    seen = Watched(context.new_page(), base_url)
    try:
        yield seen
    finally:
        context.close()
    assert seen.complaints == []
