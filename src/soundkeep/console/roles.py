"""`/console/roles`: Roles & Permissions, with the tabs Roles and Assignments."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from starlette.responses import Response
from starlette.routing import Route

from soundkeep.console import forms, pages, session
from soundkeep.console.forms import Form
from soundkeep.console.menu import ROLES
from soundkeep.console.pages import Console
from soundkeep.console.session import Visit
from soundkeep.foundation.errors import BadInput, Conflict, NotAllowed, NotFound, SoundkeepError
from soundkeep.identity import accounts, roles
from soundkeep.identity.model import (
    APPLICATIONS,
    SUPER_ADMIN,
    Actor,
    Assignment,
    Permission,
    Role,
    ScopeItem,
    ScopeKind,
)


def routes(console: Console) -> list[Route]:
    """The pages of this segment."""
    return [
        session.page(console, "/roles", listing, ROLES),
        session.page(console, "/roles/new", ask_new, ROLES),
        session.action(console, "/roles/new", create, ROLES),
        session.page(console, "/roles/assignments", assignments, ROLES),
        session.page(console, "/roles/assignments/new", ask_assign, ROLES),
        session.action(console, "/roles/assignments/new", assign, ROLES),
        session.page(console, "/roles/assignments/{assignment_id}/remove", ask_unassign, ROLES),
        session.action(console, "/roles/assignments/{assignment_id}/remove", unassign, ROLES),
        session.page(console, "/roles/{role_id}", one, ROLES),
        session.action(console, "/roles/{role_id}", change, ROLES),
        session.action(console, "/roles/{role_id}/copy", copy, ROLES),
        session.page(console, "/roles/{role_id}/delete", ask_delete, ROLES),
        session.action(console, "/roles/{role_id}/delete", delete, ROLES),
    ]


# ---- tab Roles ------------------------------------------------------------------------------


async def listing(console: Console, visit: Visit) -> Response:
    """Every role with what it allows."""
    return session.show(
        console,
        visit,
        "roles.html",
        roles=await roles.all_roles(console.identity, visit.actor),
        applications=APPLICATIONS,
    )


async def ask_new(console: Console, visit: Visit) -> Response:
    """The form for a role of the customer's own."""
    return _role_page(console, visit, role=None, typed=Form())


async def create(console: Console, visit: Visit) -> Response:
    """Make a role."""
    form = visit.form
    try:
        await roles.create_role(
            console.identity,
            visit.actor,
            name=form.one("name"),
            permissions=_permissions(form),
        )
    except (BadInput, Conflict, NotAllowed) as refused:
        return _role_page(console, visit, role=None, typed=form, refused=refused)
    return pages.redirect(console, "/roles", done="role-created")


async def one(console: Console, visit: Visit) -> Response:
    """One role: a form when it is the customer's own."""
    role = await roles.role_by_id(console.identity, visit.actor, visit.named("role_id"))
    typed = Form({"name": (role.name,), "permission": tuple(role.permissions)})
    return _role_page(console, visit, role=role, typed=typed)


async def change(console: Console, visit: Visit) -> Response:
    """Rename a role or change what it allows."""
    form = visit.form
    role = await roles.role_by_id(console.identity, visit.actor, visit.named("role_id"))
    try:
        await roles.change_role(
            console.identity,
            visit.actor,
            role.id,
            name=form.one("name"),
            permissions=_permissions(form),
        )
    except (BadInput, Conflict, NotAllowed) as refused:
        return _role_page(console, visit, role=role, typed=form, refused=refused)
    return pages.redirect(console, "/roles", done="role-changed")


async def copy(console: Console, visit: Visit) -> Response:
    """Make a role like another and go on to its form."""
    made = await roles.copy_role(console.identity, visit.actor, visit.named("role_id"))
    return pages.redirect(console, f"/roles/{made.id}", done="role-copied")


async def ask_delete(console: Console, visit: Visit) -> Response:
    """What deleting a role means, and the button."""
    return await _delete_page(console, visit)


async def delete(console: Console, visit: Visit) -> Response:
    """Delete a role that is not assigned."""
    try:
        await roles.delete_role(console.identity, visit.actor, visit.named("role_id"))
    except (Conflict, NotAllowed) as refused:
        return await _delete_page(console, visit, refused=refused)
    return pages.redirect(console, "/roles", done="role-deleted")


def _permissions(form: Form) -> list[Permission]:
    try:
        return [Permission(each) for each in form.all("permission")]
    except ValueError:
        raise BadInput("There is no such permission.", field="permission") from None


def _role_page(
    console: Console,
    visit: Visit,
    *,
    role: Role | None,
    typed: Form,
    refused: SoundkeepError | None = None,
) -> Response:
    return session.show(
        console,
        visit,
        "role.html",
        role=role,
        typed=typed,
        refused=refused,
        applications=APPLICATIONS,
        withheld=_withheld(visit.actor),
    )


async def _delete_page(
    console: Console, visit: Visit, *, refused: SoundkeepError | None = None
) -> Response:
    role = await roles.role_by_id(console.identity, visit.actor, visit.named("role_id"))
    if role.built_in:
        raise NotAllowed("A built-in role cannot be deleted.")
    return session.show(
        console,
        visit,
        "confirm.html",
        refused=refused,
        title=f"Delete the role {role.name}?",
        words="This cannot be undone. A role that is assigned cannot be deleted.",
        things=(("Role", role.name), ("Permissions", str(len(role.permissions)))),
        button="Delete",
        back="/roles",
    )


def _withheld(actor: Actor) -> dict[Permission, str]:
    """Why the actor may not put a permission into a role, for those they may not."""
    if actor.rights.super_admin:
        return {}
    reasons = dict.fromkeys(
        set(Permission) - actor.rights.company_permissions, "you do not hold it yourself"
    )
    reasons[Permission.STORAGE_API] = "only a Super Admin decides over it"
    return reasons


# ---- tab Assignments ------------------------------------------------------------------------


async def assignments(console: Console, visit: Visit) -> Response:
    """Who holds what, where, until when."""
    found = await roles.all_assignments(console.identity, visit.actor)
    described = await _described(console, visit, found)
    return session.show(
        console,
        visit,
        "assignments.html",
        assignments=list(zip(found, described, strict=True)),
        now_ms=console.identity.clock(),
    )


async def ask_assign(console: Console, visit: Visit) -> Response:
    """The form of + Create Assignment."""
    user = visit.request.query_params.get("user", "")
    return await _assign_page(console, visit, typed=Form({"user": (user,), "scope": ("company",)}))


async def assign(console: Console, visit: Visit) -> Response:
    """Give a user roles within a scope."""
    form = visit.form
    try:
        await roles.assign(
            console.identity,
            visit.actor,
            user_id=form.one("user"),
            role_ids=form.all("role"),
            scopes=_scopes(form),
            expires_ms=forms.end_of_day_ms(form, "expires"),
        )
    except (BadInput, NotAllowed) as refused:
        return await _assign_page(console, visit, typed=form, refused=refused)
    return pages.redirect(console, "/roles/assignments", done="assigned")


async def ask_unassign(console: Console, visit: Visit) -> Response:
    """What removing an assignment means, and the button."""
    return await _unassign_page(console, visit)


async def unassign(console: Console, visit: Visit) -> Response:
    """Remove an assignment."""
    try:
        await roles.unassign(console.identity, visit.actor, visit.named("assignment_id"))
    except (Conflict, NotAllowed) as refused:
        return await _unassign_page(console, visit, refused=refused)
    return pages.redirect(console, "/roles/assignments", done="unassigned")


def _scopes(form: Form) -> list[ScopeItem]:
    """The scope that is chosen; boxes under the others do not count."""
    try:
        kind = ScopeKind(form.one("scope"))
    except ValueError:
        raise BadInput(
            "Choose a scope: the company, or one or more sites.", field="scope"
        ) from None
    if kind in {ScopeKind.COMPANY, ScopeKind.OWN}:
        return [ScopeItem(kind)]
    return [ScopeItem(kind, target) for target in form.all(kind)]


async def _assign_page(
    console: Console, visit: Visit, *, typed: Form, refused: SoundkeepError | None = None
) -> Response:
    identity, actor = console.identity, visit.actor
    known = await roles.all_roles(identity, actor)
    return session.show(
        console,
        visit,
        "assignment_new.html",
        typed=typed,
        refused=refused,
        users=[user for user in await accounts.users(identity, actor) if user != actor.user],
        roles=list(zip(known, _reasons(actor, known), strict=True)),
        sites=await accounts.sites(identity, actor),
        groups=await accounts.groups(identity, actor),
        today=datetime.fromtimestamp(identity.clock() / 1000, UTC).date().isoformat(),
    )


def _reasons(actor: Actor, known: Iterable[Role]) -> list[str]:
    """Why the actor may not grant each role; empty where they may."""
    known = list(known)
    allowed = {role.id for role in roles.grantable(actor, known)}
    return ["" if role.id in allowed else _reason(role) for role in known]


def _reason(role: Role) -> str:
    if role.id == SUPER_ADMIN.id or Permission.STORAGE_API in role.permissions:
        return "Only a Super Admin may grant it."
    return "It allows more than you hold yourself."


async def _unassign_page(
    console: Console, visit: Visit, *, refused: SoundkeepError | None = None
) -> Response:
    found = await roles.all_assignments(console.identity, visit.actor)
    assignment = next((each for each in found if each.id == visit.named("assignment_id")), None)
    if assignment is None:
        raise NotFound("There is no such assignment.")
    [(user, held, scopes)] = await _described(console, visit, [assignment])
    return session.show(
        console,
        visit,
        "confirm.html",
        refused=refused,
        title="Remove this assignment?",
        words="It ends at once, and so do API tokens that stand on it.",
        things=(("User", user), ("Roles", ", ".join(held)), ("Scope", ", ".join(scopes))),
        button="Remove",
        back="/roles/assignments",
    )


async def _described(
    console: Console, visit: Visit, found: Iterable[Assignment]
) -> list[tuple[str, list[str], list[str]]]:
    """User, roles and scopes of assignments by the names people know."""
    identity, actor = console.identity, visit.actor
    users = {user.id: user.name for user in await accounts.users(identity, actor)}
    names = {role.id: role.name for role in await roles.all_roles(identity, actor)}
    places = {
        **{(ScopeKind.SITE, site.id): site.name for site in await accounts.sites(identity, actor)},
        **{
            (ScopeKind.GROUP, group.id): group.name
            for group in await accounts.groups(identity, actor)
        },
        (ScopeKind.COMPANY, ""): "Company",
        (ScopeKind.OWN, ""): "Own",
    }
    return [
        (
            users.get(each.user_id, each.user_id),
            sorted(names.get(role_id, role_id) for role_id in each.roles),
            [places.get((scope.kind, scope.target), scope.target) for scope in each.scopes],
        )
        for each in found
    ]
