"""`/console/users`: people who may sign in."""

from __future__ import annotations

from collections import defaultdict

from starlette.responses import Response
from starlette.routing import Route

from soundkeep.console import pages, session
from soundkeep.console.menu import USERS
from soundkeep.console.pages import Console
from soundkeep.console.session import Visit
from soundkeep.foundation.errors import BadInput, Conflict, NotAllowed, NotFound, SoundkeepError
from soundkeep.identity import accounts
from soundkeep.identity import roles as role_cases
from soundkeep.identity.accounts import MIN_PASSWORD, NewUser
from soundkeep.identity.model import Permission, User


def routes(console: Console) -> list[Route]:
    """The pages of this segment."""
    return [
        session.page(console, "/users", listing, USERS),
        session.page(console, "/users/new", ask_new, USERS),
        session.action(console, "/users/new", create, USERS),
        session.page(console, "/users/{user_id}/password", ask_password, USERS),
        session.action(console, "/users/{user_id}/password", reset_password, USERS),
        session.page(console, "/users/{user_id}/disable", ask_disable, USERS),
        session.action(console, "/users/{user_id}/disable", disable, USERS),
        session.action(console, "/users/{user_id}/enable", enable, USERS),
    ]


async def listing(console: Console, visit: Visit) -> Response:
    """Everybody; their roles too, for whoever may see assignments."""
    return session.show(
        console,
        visit,
        "users.html",
        users=await accounts.users(console.identity, visit.actor),
        held=await _roles_held(console, visit),
        sees_roles=visit.actor.rights.allow_company(Permission.ROLES),
    )


async def ask_new(console: Console, visit: Visit) -> Response:
    """The form for a new user."""
    return session.show(console, visit, "user_new.html", min_password=MIN_PASSWORD)


async def create(console: Console, visit: Visit) -> Response:
    """Make a user."""
    form = visit.form
    wanted = NewUser(
        email=form.one("email"),
        name=form.one("name"),
        password=form.one("password"),
        id=form.one("id").strip(),
    )
    try:
        await accounts.create_user(console.identity, visit.actor, wanted)
    except (BadInput, Conflict, NotAllowed) as refused:
        return session.show(
            console, visit, "user_new.html",
            typed=form, refused=refused, min_password=MIN_PASSWORD,
        )  # fmt: skip
    return pages.redirect(console, "/users", done="user-created")


async def ask_password(console: Console, visit: Visit) -> Response:
    """The form for another password of a user's."""
    return await _password_page(console, visit)


async def reset_password(console: Console, visit: Visit) -> Response:
    """Give a user another password."""
    try:
        await accounts.reset_password(
            console.identity, visit.actor, visit.named("user_id"), visit.form.one("password")
        )
    except (BadInput, NotAllowed) as refused:
        return await _password_page(console, visit, refused=refused)
    return pages.redirect(console, "/users", done="password-reset")


async def ask_disable(console: Console, visit: Visit) -> Response:
    """What disabling means, and the button."""
    return await _disable_page(console, visit)


async def disable(console: Console, visit: Visit) -> Response:
    """Disable a user."""
    try:
        await accounts.set_disabled(
            console.identity, visit.actor, visit.named("user_id"), disabled=True
        )
    except (Conflict, NotAllowed) as refused:
        return await _disable_page(console, visit, refused=refused)
    return pages.redirect(console, "/users", done="user-disabled")


async def enable(console: Console, visit: Visit) -> Response:
    """Enable a user again."""
    await accounts.set_disabled(
        console.identity, visit.actor, visit.named("user_id"), disabled=False
    )
    return pages.redirect(console, "/users", done="user-enabled")


async def _password_page(
    console: Console, visit: Visit, *, refused: SoundkeepError | None = None
) -> Response:
    return session.show(
        console,
        visit,
        "user_password.html",
        refused=refused,
        user=await _user(console, visit),
        min_password=MIN_PASSWORD,
    )


async def _disable_page(
    console: Console, visit: Visit, *, refused: SoundkeepError | None = None
) -> Response:
    user = await _user(console, visit)
    return session.show(
        console,
        visit,
        "confirm.html",
        refused=refused,
        title=f"Disable {user.name}?",
        words="They are signed out at once, and their API keys stop working. Recordings stay. "
        "You can enable them again at any time.",
        things=(("User", user.name), ("E-mail", user.email), ("User ID", user.id)),
        button="Disable",
        back="/users",
    )


async def _user(console: Console, visit: Visit) -> User:
    for user in await accounts.users(console.identity, visit.actor):
        if user.id == visit.named("user_id"):
            return user
    raise NotFound("There is no such user.")


async def _roles_held(console: Console, visit: Visit) -> dict[str, list[str]]:
    """Names of roles by user id, of assignments that have not ended."""
    if not visit.actor.rights.allow_company(Permission.ROLES):
        return {}
    now_ms = console.identity.clock()
    names = {
        role.id: role.name for role in await role_cases.all_roles(console.identity, visit.actor)
    }
    held = defaultdict[str, set[str]](set)
    for each in await role_cases.all_assignments(console.identity, visit.actor):
        if each.expires_ms is None or each.expires_ms > now_ms:
            held[each.user_id].update(names.get(role_id, role_id) for role_id in each.roles)
    return {user_id: sorted(roles) for user_id, roles in held.items()}
