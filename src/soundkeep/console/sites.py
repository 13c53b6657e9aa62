"""`/console/sites`: places of business, and groups of users, that assignments can be limited to."""

from __future__ import annotations

from starlette.responses import Response
from starlette.routing import Route

from soundkeep.console import pages, session
from soundkeep.console.forms import Form
from soundkeep.console.menu import SITES
from soundkeep.console.pages import Console
from soundkeep.console.session import Visit
from soundkeep.foundation.errors import BadInput, Conflict, NotAllowed, NotFound, SoundkeepError
from soundkeep.identity import accounts
from soundkeep.identity.model import Group, Site


def routes(console: Console) -> list[Route]:
    """The pages of this segment."""
    return [
        session.page(console, "/sites", listing, SITES),
        session.page(console, "/sites/new", ask_new_site, SITES),
        session.action(console, "/sites/new", create_site, SITES),
        session.page(console, "/sites/{site_id}/rename", ask_rename, SITES),
        session.action(console, "/sites/{site_id}/rename", rename_site, SITES),
        session.page(console, "/sites/{site_id}/delete", ask_delete_site, SITES),
        session.action(console, "/sites/{site_id}/delete", delete_site, SITES),
        session.page(console, "/sites/groups/new", ask_new_group, SITES),
        session.action(console, "/sites/groups/new", create_group, SITES),
        session.page(console, "/sites/groups/{group_id}/members", ask_members, SITES),
        session.action(console, "/sites/groups/{group_id}/members", set_members, SITES),
        session.page(console, "/sites/groups/{group_id}/delete", ask_delete_group, SITES),
        session.action(console, "/sites/groups/{group_id}/delete", delete_group, SITES),
    ]


async def listing(console: Console, visit: Visit) -> Response:
    """All sites and all user groups."""
    users = await accounts.users(console.identity, visit.actor)
    return session.show(
        console,
        visit,
        "sites.html",
        sites=await accounts.sites(console.identity, visit.actor),
        groups=await accounts.groups(console.identity, visit.actor),
        names={user.id: user.name for user in users},
    )


# ---- sites ----------------------------------------------------------------------------------


async def ask_new_site(console: Console, visit: Visit) -> Response:
    """The form for a new site."""
    return session.show(console, visit, "site_new.html")


async def create_site(console: Console, visit: Visit) -> Response:
    """Make a site."""
    form = visit.form
    try:
        await accounts.create_site(
            console.identity,
            visit.actor,
            site_id=form.one("id").strip(),
            name=form.one("name"),
        )
    except (BadInput, Conflict) as refused:
        return session.show(console, visit, "site_new.html", typed=form, refused=refused)
    return pages.redirect(console, "/sites", done="site-created")


async def ask_rename(console: Console, visit: Visit) -> Response:
    """The form for another name of a site."""
    site = await _site(console, visit)
    return session.show(
        console, visit, "site_rename.html", site=site, typed=Form({"name": (site.name,)})
    )


async def rename_site(console: Console, visit: Visit) -> Response:
    """Give a site another name."""
    site = await _site(console, visit)
    try:
        await accounts.rename_site(
            console.identity, visit.actor, site_id=site.id, name=visit.form.one("name")
        )
    except BadInput as refused:
        return session.show(
            console, visit, "site_rename.html", site=site, typed=visit.form, refused=refused
        )
    return pages.redirect(console, "/sites", done="site-renamed")


async def ask_delete_site(console: Console, visit: Visit) -> Response:
    """What deleting a site means, and the button."""
    return await _delete_site_page(console, visit)


async def delete_site(console: Console, visit: Visit) -> Response:
    """Delete a site."""
    try:
        await accounts.delete_site(console.identity, visit.actor, visit.named("site_id"))
    except (Conflict, NotAllowed) as refused:
        return await _delete_site_page(console, visit, refused=refused)
    return pages.redirect(console, "/sites", done="site-deleted")


async def _delete_site_page(
    console: Console, visit: Visit, *, refused: SoundkeepError | None = None
) -> Response:
    site = await _site(console, visit)
    return session.show(
        console,
        visit,
        "confirm.html",
        refused=refused,
        title=f"Delete the site {site.name}?",
        words="Assignments can no longer be limited to it. Its recordings stay.",
        things=(("Site", site.name), ("Site ID", site.id)),
        button="Delete",
        back="/sites",
    )


async def _site(console: Console, visit: Visit) -> Site:
    for site in await accounts.sites(console.identity, visit.actor):
        if site.id == visit.named("site_id"):
            return site
    raise NotFound("There is no such site.")


# ---- user groups ----------------------------------------------------------------------------


async def ask_new_group(console: Console, visit: Visit) -> Response:
    """The form for a new user group."""
    return await _group_page(console, visit, group=None, typed=Form())


async def create_group(console: Console, visit: Visit) -> Response:
    """Make a user group."""
    form = visit.form
    try:
        await accounts.create_group(
            console.identity, visit.actor, name=form.one("name"), members=form.all("members")
        )
    except BadInput as refused:
        return await _group_page(console, visit, group=None, typed=form, refused=refused)
    return pages.redirect(console, "/sites", done="group-created")


async def ask_members(console: Console, visit: Visit) -> Response:
    """The form for the members of a group."""
    group = await _group(console, visit)
    return await _group_page(console, visit, group=group, typed=Form({"members": group.members}))


async def set_members(console: Console, visit: Visit) -> Response:
    """Say who is in a group."""
    group = await _group(console, visit)
    try:
        await accounts.set_members(
            console.identity, visit.actor, group.id, visit.form.all("members")
        )
    except BadInput as refused:
        return await _group_page(console, visit, group=group, typed=visit.form, refused=refused)
    return pages.redirect(console, "/sites", done="group-changed")


async def ask_delete_group(console: Console, visit: Visit) -> Response:
    """What deleting a group means, and the button."""
    return await _delete_group_page(console, visit)


async def delete_group(console: Console, visit: Visit) -> Response:
    """Delete a user group."""
    try:
        await accounts.delete_group(console.identity, visit.actor, visit.named("group_id"))
    except (Conflict, NotAllowed) as refused:
        return await _delete_group_page(console, visit, refused=refused)
    return pages.redirect(console, "/sites", done="group-deleted")


async def _group_page(
    console: Console,
    visit: Visit,
    *,
    group: Group | None,
    typed: Form,
    refused: SoundkeepError | None = None,
) -> Response:
    return session.show(
        console,
        visit,
        "group.html",
        group=group,
        users=await accounts.users(console.identity, visit.actor),
        typed=typed,
        refused=refused,
    )


async def _delete_group_page(
    console: Console, visit: Visit, *, refused: SoundkeepError | None = None
) -> Response:
    group = await _group(console, visit)
    return session.show(
        console,
        visit,
        "confirm.html",
        refused=refused,
        title=f"Delete the user group {group.name}?",
        words="Its members stay; assignments can no longer be limited to the group.",
        things=(("User group", group.name), ("Members", str(len(group.members)))),
        button="Delete",
        back="/sites",
    )


async def _group(console: Console, visit: Visit) -> Group:
    for group in await accounts.groups(console.identity, visit.actor):
        if group.id == visit.named("group_id"):
            return group
    raise NotFound("There is no such user group.")
