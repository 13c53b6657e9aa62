"""What a verified token says. The one type the two planes share.

Identity writes claims into a signed token; a region reads them and asks nobody. They hold all
that a region needs to decide: whose data, which regions, which access class, which part of the
customer's objects, and the revocation epoch at which they were written.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self

import msgspec

PRODUCT = "storage"

LONGEST_LINK_SECONDS = 7 * 24 * 3600
"""How long a presigned link may work: revocations are remembered until the last one is over."""


class Access(StrEnum):
    """Access class of a key (contract §2, "Objects"): each includes the one before."""

    READ = "read"
    DOWNLOAD = "download"
    EDIT = "edit"

    def includes(self, wanted: Access) -> bool:
        """Whether a key of this class may do what needs `wanted`."""
        return _RANK[self] >= _RANK[wanted]


_RANK = {Access.READ: 0, Access.DOWNLOAD: 1, Access.EDIT: 2}


class Reach(msgspec.Struct, frozen=True, omit_defaults=True):
    """The part of a customer's objects that may be seen: a union of its members.

    `company` is everything; `sites` are `branchId` tags; `users` are the `userId`s whose objects
    are included (members of user groups, or the caller alone for "own").
    """

    company: bool = False
    sites: frozenset[str] = frozenset()
    users: frozenset[str] = frozenset()

    def __or__(self, other: Self) -> Reach:
        return Reach(
            self.company or other.company, self.sites | other.sites, self.users | other.users
        )

    def __bool__(self) -> bool:
        return bool(self.company or self.sites or self.users)

    def covers(self, *, site: str, user: str) -> bool:
        """Whether an object of this site and owner is within reach."""
        return self.company or (site != "" and site in self.sites) or user in self.users


class Claims(msgspec.Struct, frozen=True, rename={
    "issuer": "iss",
    "subject": "sub",
    "audience": "aud",
    "client": "client_id",
    "issued": "iat",
    "expires": "exp",
    "token_id": "jti",
}):  # fmt: skip
    """The payload of an access token (RFC 9068 §2.2); times are seconds since the epoch.

    `until` is when the rights themselves end, where that is known: what is made with a token and
    outlives it, as a link does, ends by then.
    """

    issuer: str
    subject: str
    client: str
    owner: str
    customer: str
    regions: tuple[str, ...]
    access: Access
    reach: Reach
    issued: int
    expires: int
    epoch: int
    token_id: str
    networks: tuple[str, ...] = ()
    audience: str = PRODUCT
    until: int | None = None


def user_subject(customer: str, user_id: str) -> str:
    """A user as the subject of a revocation: users' ids are unique within their customer only."""
    return f"{customer}/{user_id}"


def internal(customer: str, *, by: str, owner: str, regions: tuple[str, ...]) -> Claims:
    """What the service makes out for itself: all that a customer has; never signed."""
    return Claims(
        issuer="",
        subject=by,
        client=by,
        owner=owner,
        customer=customer,
        regions=regions,
        access=Access.EDIT,
        reach=Reach(company=True),
        issued=0,
        expires=0,
        epoch=0,
        token_id="",
    )


def lent(
    customer: str,
    *,
    subject: str,
    client: str,
    owner: str,
    region: str,
    reach: Reach,
    networks: tuple[str, ...],
    epoch: int,
    token_id: str,
) -> Claims:
    """What a link stands on: the claims that it was made with, for content in one region only."""
    return Claims(
        issuer="",
        subject=subject,
        client=client,
        owner=owner,
        customer=customer,
        regions=(region,),
        access=Access.DOWNLOAD,
        reach=reach,
        issued=0,
        expires=0,
        epoch=epoch,
        token_id=token_id,
        networks=networks,
    )
