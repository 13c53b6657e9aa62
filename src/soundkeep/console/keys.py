"""`/console/keys`: API Keys. A secret is in the answer to the form that made it, and nowhere else.

That answer is no redirect, is never stored (`Cache-Control: no-store`) and cannot be had again.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime

from starlette.responses import Response
from starlette.routing import Route

from soundkeep.console import forms, pages, session
from soundkeep.console.forms import Form
from soundkeep.console.menu import KEYS
from soundkeep.console.pages import Console
from soundkeep.console.session import Visit
from soundkeep.foundation.claims import Access
from soundkeep.foundation.errors import BadInput, Conflict, SoundkeepError
from soundkeep.identity import apps
from soundkeep.identity.apps import Shown, Wanted
from soundkeep.identity.model import PRODUCTS

ACCESS = {
    Access.READ: ("Read only", "search recordings and read what is known about them"),
    Access.DOWNLOAD: ("Download", "that, and fetch their content, one by one or in bulk"),
    Access.EDIT: ("Edit", "that, and upload, delete and restore recordings"),
}
"""Access classes (contract §2) in the words of the page."""


def routes(console: Console) -> list[Route]:
    """The pages of this segment."""
    return [
        session.page(console, "/keys", listing, KEYS),
        session.page(console, "/keys/new", ask_new, KEYS),
        session.action(console, "/keys/new", create, KEYS),
        session.page(console, "/keys/{app_id}", one, KEYS),
        session.action(console, "/keys/{app_id}/rotate", rotate, KEYS),
        session.page(console, "/keys/{app_id}/secrets/{secret_id}/remove", ask_remove, KEYS),
        session.action(console, "/keys/{app_id}/secrets/{secret_id}/remove", remove, KEYS),
        session.page(console, "/keys/{app_id}/delete", ask_delete, KEYS),
        session.action(console, "/keys/{app_id}/delete", delete, KEYS),
    ]


async def listing(console: Console, visit: Visit) -> Response:
    """The user's apps."""
    return session.show(
        console,
        visit,
        "keys.html",
        apps=await apps.mine(console.identity, visit.actor),
        access=ACCESS,
        products=PRODUCTS,
        now_ms=console.identity.clock(),
    )


async def ask_new(console: Console, visit: Visit) -> Response:
    """The form of Create App."""
    return _new_page(console, visit, typed=Form({"access": (Access.READ,)}))


async def create(console: Console, visit: Visit) -> Response:
    """Make an app and show its key and secret, this once."""
    try:
        shown = await apps.create(console.identity, visit.actor, _wanted(visit.form))
    except (BadInput, Conflict) as refused:
        return _new_page(console, visit, typed=visit.form, refused=refused)
    return _shown_page(console, visit, shown, first=True)


async def one(console: Console, visit: Visit) -> Response:
    """One app with its live secrets."""
    return await _app_page(console, visit)


async def rotate(console: Console, visit: Visit) -> Response:
    """Make a second secret and show it, this once."""
    try:
        shown = await apps.rotate(console.identity, visit.actor, visit.named("app_id"))
    except Conflict as refused:
        return await _app_page(console, visit, refused=refused)
    return _shown_page(console, visit, shown, first=False)


async def ask_remove(console: Console, visit: Visit) -> Response:
    """What removing a secret means, and the button."""
    app = await apps.one(console.identity, visit.actor, visit.named("app_id"))
    return session.show(
        console,
        visit,
        "confirm.html",
        title="Remove this secret?",
        words="Clients that still use it are refused, and every token of this app made so far "
        "stops working. Clients with the other secret get a new token by themselves.",
        things=(("App", app.name), ("Key", app.key)),
        button="Remove",
        back=f"/keys/{app.id}",
    )


async def remove(console: Console, visit: Visit) -> Response:
    """Remove one of two secrets."""
    app_id = visit.named("app_id")
    try:
        await apps.remove_secret(console.identity, visit.actor, app_id, visit.named("secret_id"))
    except Conflict as refused:
        return await _app_page(console, visit, refused=refused)
    return pages.redirect(console, f"/keys/{app_id}", done="secret-removed")


async def ask_delete(console: Console, visit: Visit) -> Response:
    """What deleting an app means, and the button."""
    app = await apps.one(console.identity, visit.actor, visit.named("app_id"))
    return session.show(
        console,
        visit,
        "confirm.html",
        title=f"Delete the app {app.name}?",
        words="Its key, its secrets and all its tokens stop working at once. This cannot be "
        "undone. Recordings stay.",
        things=(("App", app.name), ("Key", app.key)),
        button="Delete",
        back="/keys",
    )


async def delete(console: Console, visit: Visit) -> Response:
    """Delete an app."""
    await apps.delete(console.identity, visit.actor, visit.named("app_id"))
    return pages.redirect(console, "/keys", done="app-deleted")


def _wanted(form: Form) -> Wanted:
    try:
        access = Access(form.one("access"))
    except ValueError:
        raise BadInput("Choose what the key may do.", field="access") from None
    return Wanted(
        name=form.one("name").strip(),
        products=form.all("products"),
        access=access,
        expires_ms=forms.end_of_day_ms(form, "expires"),
        networks=tuple(form.one("networks").replace(",", " ").split()),
    )


def _new_page(
    console: Console, visit: Visit, *, typed: Form, refused: SoundkeepError | None = None
) -> Response:
    return session.show(
        console,
        visit,
        "key_new.html",
        typed=typed,
        refused=refused,
        access=ACCESS,
        products=PRODUCTS,
        today=datetime.fromtimestamp(console.identity.clock() / 1000, UTC).date().isoformat(),
    )


async def _app_page(
    console: Console, visit: Visit, *, refused: SoundkeepError | None = None
) -> Response:
    return session.show(
        console,
        visit,
        "key.html",
        refused=refused,
        app=await apps.one(console.identity, visit.actor, visit.named("app_id")),
        access=ACCESS,
        products=PRODUCTS,
        max_secrets=apps.MAX_SECRETS,
        now_ms=console.identity.clock(),
    )


def _shown_page(console: Console, visit: Visit, shown: Shown, *, first: bool) -> Response:
    pair = f"{shown.app.key}:{shown.secret}"
    regions = [region for region in visit.who.customer.regions if region in console.regions]
    return session.show(
        console,
        visit,
        "key_shown.html",
        app=shown.app,
        secret=shown.secret,
        first=first,
        pair=pair,
        basic=base64.b64encode(pair.encode()).decode(),
        base_url=console.base_url,
        regions=regions or ["REGION"],
    )
