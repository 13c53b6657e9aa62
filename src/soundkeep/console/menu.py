"""The menu, and the door behind each of its items: who may open it and who can give the right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from soundkeep.foundation.errors import NotAllowed
from soundkeep.identity.model import Permission, Rights


@dataclass(frozen=True, slots=True)
class Door:
    """A menu item: its words, its address under `/console/`, and who may go in."""

    name: str
    segment: str
    opens: Callable[[Rights], bool]
    refusal: str = ""


def _company(permission: Permission) -> Callable[[Rights], bool]:
    return lambda rights: rights.allow_company(permission)


def _needs(permission: str) -> str:
    return (
        f"This page needs the permission {permission} for the whole company. "
        "A Super Admin can give it to you under Roles & Permissions, Assignments."
    )


HOME = Door("Home", "home", lambda _: True)
USERS = Door("Users", "users", _company(Permission.USERS), _needs("Users"))
SITES = Door("Sites", "sites", _company(Permission.USERS), _needs("Users"))
ROLES = Door("Roles & Permissions", "roles", _company(Permission.ROLES), _needs("Roles"))
KEYS = Door(
    "API Keys",
    "keys",
    lambda rights: rights.may_make_keys,
    "This page needs both permissions, Application Credentials and Storage API. Only a Super "
    "Admin can give Storage API, with the role of that name, under Roles & Permissions, "
    "Assignments.",
)
AUDIT = Door("Audit events", "audit", _company(Permission.AUDIT_EVENTS), _needs("Audit events"))

MENU = (HOME, USERS, SITES, ROLES, KEYS, AUDIT)


def items(rights: Rights) -> list[Door]:
    """What the menu shows to somebody with these rights."""
    return [door for door in MENU if door.opens(rights)]


def must_open(door: Door, rights: Rights) -> None:
    """NotAllowed, with what is missing and who can give it, where the door stays shut."""
    if not door.opens(rights):
        raise NotAllowed(door.refusal)
