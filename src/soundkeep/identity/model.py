"""Users, roles, assignments and API keys: what they are and what follows from them. Pure.

A role is a set of permissions, an assignment gives a user roles within scopes, and `Rights` is
what comes out of all assignments of a user. Contract §3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from soundkeep.foundation.claims import Access, Reach


class Permission(StrEnum):
    """What a role may allow, by application."""

    APPLICATION_CREDENTIALS = "console.application-credentials"
    RECORDINGS = "console.recordings"
    USERS = "console.users"
    ROLES = "console.roles"
    STORAGE_POLICY = "console.storage-policy"
    AUDIT_EVENTS = "console.audit-events"
    VIEW = "storage.view"
    DOWNLOAD = "storage.download"
    UPLOAD = "storage.upload"
    DELETE_OBJECTS = "storage.delete-objects"
    BULK_DELETE = "storage.bulk-delete"
    RESTORE = "storage.restore"
    STORAGE_API = "storage.api"


P = Permission

APPLICATIONS: Mapping[str, Mapping[Permission, str]] = {
    "Admin Console": {
        P.APPLICATION_CREDENTIALS: "Application Credentials",
        P.RECORDINGS: "Recordings",
        P.USERS: "Users",
        P.ROLES: "Roles",
        P.STORAGE_POLICY: "Storage Policy",
        P.AUDIT_EVENTS: "Audit events",
    },
    "Call Recordings & Storage": {
        P.VIEW: "View",
        P.DOWNLOAD: "Download",
        P.UPLOAD: "Upload",
        P.DELETE_OBJECTS: "Delete Objects",
        P.BULK_DELETE: "Bulk Delete",
        P.RESTORE: "Restore",
        P.STORAGE_API: "Storage API",
    },
}
"""The words on the screen."""

PRODUCTS: Mapping[str, str] = {"storage": "Call Recordings & Storage"}
"""API products by the name tokens carry."""


@dataclass(frozen=True, slots=True)
class Role:
    """A named set of permissions; a built-in one belongs to every customer."""

    id: str
    name: str
    permissions: frozenset[Permission]
    built_in: bool = False
    description: str = ""


_CONSOLE = frozenset(APPLICATIONS["Admin Console"])
_RECORDINGS = frozenset(APPLICATIONS["Call Recordings & Storage"]) - {P.STORAGE_API}

SUPER_ADMIN = Role(
    "super-admin",
    "Super Admin",
    _CONSOLE | _RECORDINGS,
    built_in=True,
    description="Everything in the console. The only role that may grant Storage API.",
)
STORAGE_API = Role(
    "storage-api",
    "Storage API",
    frozenset({P.APPLICATION_CREDENTIALS, P.STORAGE_API}),
    built_in=True,
    description="May make API keys for storage, within the scope of the assignment.",
)
BASIC_USER = Role(
    "basic-user", "Basic User", frozenset(), built_in=True, description="May sign in."
)
BUILT_IN: Mapping[str, Role] = {
    role.id: role
    for role in (
        SUPER_ADMIN,
        Role(
            "company-admin",
            "Company Admin",
            _CONSOLE - {P.STORAGE_POLICY},
            built_in=True,
            description="Users, sites, roles, applications and audit of the company.",
        ),
        Role(
            "it-admin",
            "IT Admin",
            frozenset({P.APPLICATION_CREDENTIALS, P.USERS}),
            built_in=True,
            description="Users, sites and application credentials.",
        ),
        Role(
            "storage-admin",
            "Storage Admin",
            _RECORDINGS | {P.RECORDINGS, P.STORAGE_POLICY},
            built_in=True,
            description="Access to recordings and to the policies that keep them.",
        ),
        STORAGE_API,
        Role(
            "audit-admin",
            "Audit Admin",
            frozenset({P.AUDIT_EVENTS}),
            built_in=True,
            description="Reads the audit events.",
        ),
        BASIC_USER,
    )
}


class ScopeKind(StrEnum):
    """How far an assignment reaches."""

    COMPANY = "company"
    SITE = "site"
    GROUP = "group"
    OWN = "own"


@dataclass(frozen=True, slots=True, order=True)
class ScopeItem:
    """One scope of an assignment; `target` is the site's or group's id, else empty."""

    kind: ScopeKind
    target: str = ""


@dataclass(frozen=True, slots=True)
class Customer:
    """A tenant."""

    id: str
    name: str
    regions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class User:
    """A person who may sign in; `id` is the `userId` that recordings carry."""

    customer: str
    id: str
    email: str
    name: str
    disabled: bool
    created_ms: int


@dataclass(frozen=True, slots=True)
class Site:
    """A place of business; `id` is the `branchId` tag of its recordings."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Group:
    """Users whose recordings are seen together."""

    id: str
    name: str
    members: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Assignment:
    """These roles, for this user, within these scopes, until then (None: for good)."""

    id: str
    user_id: str
    roles: tuple[str, ...]
    scopes: tuple[ScopeItem, ...]
    expires_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Secret:
    """One live secret of an app, without the secret itself."""

    id: str
    created_ms: int
    last_used_ms: int | None


@dataclass(frozen=True, slots=True)
class App:
    """An API key and what it may be used for; its secrets are kept as hashes only."""

    customer: str
    id: str
    key: str
    name: str
    owner: str
    products: tuple[str, ...]
    access: Access
    networks: tuple[str, ...]
    expires_ms: int | None
    created_ms: int
    secrets: tuple[Secret, ...] = ()


@dataclass(frozen=True, slots=True)
class Grant:
    """One role within one scope of one live assignment."""

    role: Role
    scope: ScopeItem
    expires_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Rights:
    """What a user's live assignments add up to."""

    grants: tuple[Grant, ...] = ()

    def allow(self, permission: Permission) -> bool:
        """Whether some assignment gives it, in any scope."""
        return any(permission in grant.role.permissions for grant in self.grants)

    def allow_company(self, permission: Permission) -> bool:
        """Whether some assignment gives it for the whole company: what administering needs."""
        return permission in self.company_permissions

    @property
    def company_permissions(self) -> frozenset[Permission]:
        """All permissions held for the whole company."""
        return frozenset[Permission]().union(
            *(
                grant.role.permissions
                for grant in self.grants
                if grant.scope.kind is ScopeKind.COMPANY
            )
        )

    @property
    def super_admin(self) -> bool:
        """Whether the user is a Super Admin (of the whole company)."""
        return any(
            grant.role.id == SUPER_ADMIN.id and grant.scope.kind is ScopeKind.COMPANY
            for grant in self.grants
        )

    @property
    def may_make_keys(self) -> bool:
        """Application Credentials and Storage API, both (contract §3)."""
        return self.allow(P.APPLICATION_CREDENTIALS) and self.allow(P.STORAGE_API)

    def scopes(self, permission: Permission) -> frozenset[ScopeItem]:
        """Where the permission holds."""
        return frozenset(
            grant.scope for grant in self.grants if permission in grant.role.permissions
        )

    def until_ms(self) -> int | None:
        """When the first of the assignments behind an API key ends; None: none will."""
        ends = [
            grant.expires_ms
            for grant in self.grants
            if grant.expires_ms is not None
            and {P.STORAGE_API, P.APPLICATION_CREDENTIALS} & grant.role.permissions
        ]
        return min(ends, default=None)


def reach(
    scopes: Iterable[ScopeItem], *, user_id: str, members: Mapping[str, Iterable[str]]
) -> Reach:
    """What scopes cover, with user groups spelled out as their members."""
    company, sites, users = False, set[str](), set[str]()
    for scope in scopes:
        match scope.kind:
            case ScopeKind.COMPANY:
                company = True
            case ScopeKind.SITE:
                sites.add(scope.target)
            case ScopeKind.GROUP:
                users.update(members.get(scope.target, ()))
            case ScopeKind.OWN:
                users.add(user_id)
    if company:
        return Reach(company=True)
    return Reach(sites=frozenset(sites), users=frozenset(users))


@dataclass(frozen=True, slots=True)
class Actor:
    """A signed-in user and what they may do."""

    user: User
    rights: Rights = field(default_factory=Rights)

    @property
    def customer(self) -> str:
        """The actor's tenant."""
        return self.user.customer
