"""Presigned links: content without a token, for a while. Contract §2, "Objects" and "Bulk"."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from soundkeep.foundation import audit
from soundkeep.foundation.audit import Deed, Event
from soundkeep.foundation.claims import LONGEST_LINK_SECONDS, Access, Claims, lent
from soundkeep.foundation.clock import DAY, SECOND, iso_seconds
from soundkeep.foundation.errors import BadInput, BadLink, Gone, NotAllowed, NotFound
from soundkeep.foundation.verify import is_inside
from soundkeep.region import bulk, content, linkstore
from soundkeep.region.linkkeys import LinkKey
from soundkeep.region.model import NOTHING, Link, LinkState, Opens, Use
from soundkeep.region.plane import Region, must_live_here

DEFAULT_SECONDS = 1800
LONGEST_SECONDS = LONGEST_LINK_SECONDS

_VERSION = "soundkeep-link-1"
_ID_BYTES = 16
_KEPT_MS = 30 * DAY
_AT_ONCE = 500
_FORGED = "This link was not given out here as it is: ask for a new link."
_ELSEWHERE = "This link may not be used from this network address."
_ENTITIES = {Opens.OBJECT: "object", Opens.ARCHIVE: "bulk"}
"""What the audit calls them."""

_OVER = {
    LinkState.EXPIRED: "This link expired: ask for a new link.",
    LinkState.USED: "This link was for one use and was used: ask for a new link.",
    LinkState.REVOKED: "This link was taken back: ask for a new link.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What kind of link: good for how long, for one use, from which CIDR range (or empty: any)."""

    seconds: int = DEFAULT_SECONDS
    once: bool = False
    network: str = ""
    inline: bool = False


@dataclass(frozen=True, slots=True)
class Made:
    """A new link's URL, and for how many seconds it is good."""

    url: str
    seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A link as it comes in a URL: nothing of it is believed before its signature is checked."""

    id: str
    opens: Opens
    target: str
    expires: int
    kid: str
    signature: str
    inline: bool


@dataclass(frozen=True, slots=True)
class Page:
    """Links, newest first; `last` is true exactly when nothing follows, `total` counts them all."""

    links: Sequence[Link]
    last: bool
    total: int


def forged() -> BadLink:
    """What is said of every link that is not one of ours, whatever is wrong with it."""
    return BadLink(_FORGED)


# ---- making them ----------------------------------------------------------------------------


async def create(region: Region, claims: Claims, opens: Opens, target: str, wanted: Wanted) -> Made:
    """A link to an object, or to an archive, that the caller may read now.

    It ends with the caller's rights, where it is known when they end.
    """
    target, name = await _readable(region, claims, opens, target)
    key = await region.link_keys.current()
    now_ms = region.clock()
    expires = _end(claims, now_ms, wanted.seconds)
    link = Link(
        id=_new_id(region),
        opens=opens,
        target=target,
        claims=_kept(region, claims),
        created_ms=now_ms,
        expires_ms=expires * SECOND,
        once=wanted.once,
        network=wanted.network,
        inline=wanted.inline,
    )
    async with region.db.transaction() as tx:
        await linkstore.add(tx, link, customer=claims.customer)
        deed = _made(claims, link.id, name, now_ms, expires, {**target_of(link), **_said(link)})
        await audit.append(tx, [deed], entropy=region.entropy)
    return Made(_url(region, key, link), expires - now_ms // SECOND)


async def create_direct(region: Region, claims: Claims, object_id: str, *, seconds: int) -> Made:
    """A link of the blob store's own, which nobody can take back; BadInput where it has none.

    NotAllowed for a key that is held to networks, since such a link would not be.
    """
    if claims.networks:
        raise NotAllowed(
            "A direct link would not be held to the IP ranges of this key: ask for one without "
            "direct=true."
        )
    found = await content.readable(region, claims, object_id)
    now_ms = region.clock()
    expires = _end(claims, now_ms, seconds)
    left = expires - now_ms // SECOND
    url = await region.blobs.link(found.blob, seconds=left)
    if url is None:
        raise BadInput(
            "This region keeps its recordings in files: there is no direct link.", field="direct"
        )
    said: dict[str, object] = {"objectId": found.id, "state": "direct"}
    deed = _made(claims, _new_id(region), found.name, now_ms, expires, said)
    async with region.db.transaction() as tx:
        await audit.append(tx, [deed], entropy=region.entropy)
    return Made(url, left)


async def _readable(region: Region, claims: Claims, opens: Opens, target: str) -> tuple[str, str]:
    """The id and name of what may be read now; otherwise the reason why not."""
    if opens is Opens.ARCHIVE:
        job = await bulk.ready(region, claims, target)
        return job.id, job.zip_name
    found = await content.readable(region, claims, target)
    return found.id, found.name


def _end(claims: Claims, now_ms: int, seconds: int) -> int:
    """When a new link ends, in seconds since the epoch."""
    end = now_ms // SECOND + seconds
    return end if claims.until is None else min(end, claims.until)


def _kept(region: Region, claims: Claims) -> Claims:
    """What of the caller's claims the link stands on."""
    return lent(
        claims.customer,
        subject=claims.subject,
        client=claims.client,
        owner=claims.owner,
        region=region.name,
        reach=claims.reach,
        networks=claims.networks,
        epoch=claims.epoch,
        token_id=claims.token_id,
    )


def _new_id(region: Region) -> str:
    return _base64url(region.entropy(_ID_BYTES))


def _url(region: Region, key: LinkKey, link: Link) -> str:
    expires, path = link.expires_ms // SECOND, _path(region, link.opens, link.target)
    params = {
        "link": link.id,
        "expires": expires,
        "kid": key.kid,
        **({"inline": "true"} if link.inline else {}),
        "signature": _signature(region, key, link.id, path, expires=expires, inline=link.inline),
    }
    return f"{region.base_url}{path}?{urlencode(params)}"


def _path(region: Region, opens: Opens, target: str) -> str:
    name = quote(target, safe="", errors="surrogatepass")
    if opens is Opens.ARCHIVE:
        return f"/storage/{region.name}/v3/bulk/download/{name}.zip"
    return f"/storage/{region.name}/v3/objects/{name}/content"


def _signature(
    region: Region, key: LinkKey, link_id: str, path: str, *, expires: int, inline: bool
) -> str:
    """Over a line for each thing that must not be altered: none of them can hold a line's end."""
    lines = (
        _VERSION,
        key.kid,
        region.name,
        "GET",
        path,
        link_id,
        str(expires),
        "inline" if inline else "attachment",
    )
    return _base64url(key.sign("\n".join(lines).encode()))


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


# ---- using them -----------------------------------------------------------------------------


async def find(region: Region, shown: Shown, *, address: str) -> Link:
    """The link that was shown from a network address, if it is good now.

    BadLink where it is none of ours or may not be used from there, Gone where its time is over.
    Whether its maker has the rights still is for the caller to find out.
    """
    key = await region.link_keys.find(shown.kid)
    if key is None:
        raise forged()
    path = _path(region, shown.opens, shown.target)
    expected = _signature(region, key, shown.id, path, expires=shown.expires, inline=shown.inline)
    if not hmac.compare_digest(expected, shown.signature):
        raise forged()
    now_ms = region.clock()
    if shown.expires * SECOND <= now_ms:
        raise Gone(_OVER[LinkState.EXPIRED])
    link = await linkstore.by_id(region.db, shown.id, region=region.name)
    if link is None or (link.opens, link.target, link.expires_ms) != (
        shown.opens,
        shown.target,
        shown.expires * SECOND,
    ):
        raise forged()
    for networks in ((link.network,) if link.network else (), link.claims.networks):
        if networks and not is_inside(networks, address):
            raise BadLink(_ELSEWHERE)
    _must_be_active(link, now_ms)
    return link


async def use(
    region: Region, link: Link, name: str, *, address: str, part: str, sent: bool
) -> None:
    """Put the use of a good link on record, with the name of what it opens; Gone where it ended.

    To be called last of all, before the first byte: what is for one use is used up by it.
    """
    one = Use(link=link, name=name, at_ms=region.clock(), address=address, part=part, sent=sent)

    async def work(batch: Sequence[Use]) -> None:
        await _commit(region, batch)

    await region.uses.add(one, work)


async def _commit(region: Region, batch: Sequence[Use]) -> None:
    async with region.db.transaction() as tx:
        for each in sorted(batch, key=lambda each: each.link.id):  # one order, so no deadlock
            customer = each.link.claims.customer
            if each.sent and not await linkstore.mark_used(
                tx, each.link.id, customer=customer, at_ms=each.at_ms, address=each.address
            ):
                found = await linkstore.by_id(tx, each.link.id, region=region.name)
                _must_be_active(found or each.link, each.at_ms)
                raise Gone(_OVER[LinkState.EXPIRED])
        await audit.append(tx, [_used(each) for each in batch], entropy=region.entropy)


def _must_be_active(link: Link, now_ms: int) -> None:
    said = _OVER.get(link.state(now_ms))
    if said is not None:
        raise Gone(said)


# ---- looking after them ---------------------------------------------------------------------


async def made(region: Region, claims: Claims, *, offset: int, limit: int) -> Page:
    """The links that this key's app made; all of the customer's for an edit key of the company."""
    must_live_here(region, claims)
    customer, client, seconds = claims.customer, _whose(claims), region.limits.search_seconds
    found = await linkstore.newest(
        region.db,
        customer=customer,
        client=client,
        region=region.name,
        offset=offset,
        limit=limit + 1,
        seconds=seconds,
    )
    total = await linkstore.count(region.db, customer=customer, client=client, seconds=seconds)
    return Page(found[:limit], len(found) <= limit, total)


async def revoke(region: Region, claims: Claims, link_id: str) -> None:
    """Take a link back, at once; again is fine. NotFound for what `made` does not list."""
    must_live_here(region, claims)
    customer, client, now_ms = claims.customer, _whose(claims), region.clock()
    async with region.db.transaction() as tx:
        link = await linkstore.revoke(
            tx, link_id, customer=customer, client=client, region=region.name, at_ms=now_ms
        )
        if link is not None:
            await audit.append(tx, [_revoked(claims, link, now_ms)], entropy=region.entropy)
        elif not await linkstore.is_known(tx, link_id, customer=customer, client=client):
            raise NotFound(NOTHING)


async def forget(region: Region) -> None:
    """Drop the links that expired thirty days ago, and the keys whose links are all over."""
    before_ms = region.clock() - _KEPT_MS
    gone = _AT_ONCE
    while gone == _AT_ONCE:
        async with region.db.transaction() as tx:
            gone = await linkstore.forget(tx, before_ms=before_ms, limit=_AT_ONCE)
    await region.link_keys.forget()


def _whose(claims: Claims) -> str | None:
    """The client whose links may be seen; None for every one of the customer."""
    return None if claims.access is Access.EDIT and claims.reach.company else claims.client


# ---- what the audit says --------------------------------------------------------------------


def _made(
    claims: Claims,
    link_id: str,
    name: str,
    at_ms: int,
    expires: int,
    said: dict[str, object],
) -> Deed:
    return Deed(
        customer=claims.customer,
        at_ms=at_ms,
        event=Event.CREATE,
        service="storage",
        entity_type="link",
        entity_key=link_id,
        display_name=name,
        user_id=claims.owner,
        new={
            "expiresTime": iso_seconds(expires * SECOND),
            "client": claims.client,
            **said,
        },
    )


def target_of(link: Link) -> dict[str, object]:
    """What a link opens, as clients name it."""
    if link.opens is Opens.ARCHIVE:
        return {"zipName": f"{link.target}.zip"}
    return {"objectId": link.target}


def _said(link: Link) -> dict[str, object]:
    return {"once": link.once, "ip": link.network or None, "inline": link.inline}


def _revoked(claims: Claims, link: Link, at_ms: int) -> Deed:
    return Deed(
        customer=claims.customer,
        at_ms=at_ms,
        event=Event.DELETE,
        service="storage",
        entity_type="link",
        entity_key=link.id,
        display_name=link.target,
        user_id=claims.owner,
        old={**target_of(link), "client": link.claims.client, "uses": link.uses},
        new={"client": claims.client},
    )


def _used(use: Use) -> Deed:
    """Who is named is the owner of the key that made the link: nobody else is known."""
    claims = use.link.claims
    return Deed(
        customer=claims.customer,
        at_ms=use.at_ms,
        event=Event.EXPORT if use.sent else Event.VIEW,
        service="storage",
        entity_type=_ENTITIES[use.link.opens],
        entity_key=use.link.target,
        display_name=use.name,
        user_id=claims.owner,
        new={
            "link": use.link.id,
            "client": claims.client,
            "address": use.address,
            "range": use.part or None,
        },
        correlation_type="link",
        correlation_id=use.link.id,
    )
