"""Presigned links, made and used where content is, looked after at `/presigned`.

Contract §2, "Objects" and "Bulk".
"""

from __future__ import annotations

import ipaddress
import re

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from soundkeep.foundation import web
from soundkeep.foundation.claims import Access, Claims
from soundkeep.foundation.clock import iso_seconds
from soundkeep.foundation.errors import BadInput, NotFound
from soundkeep.region import archive, bulk, content, links
from soundkeep.region.catalog import Page, Search
from soundkeep.region.content import Body
from soundkeep.region.http import download, paging
from soundkeep.region.http.guard import BASE, ByLink, Door, by_method, flag, number, parameter
from soundkeep.region.links import Made, Shown, Wanted
from soundkeep.region.model import NOTHING, Link, Opens
from soundkeep.region.plane import Region
from soundkeep.region.walks import Total

_ID = re.compile(r"[A-Za-z0-9_-]{22}")
_FORMS = {
    "link": _ID,
    "expires": re.compile(r"[1-9][0-9]{0,10}"),
    "kid": re.compile(r"[0-9a-f]{16}"),
    "signature": re.compile(r"[A-Za-z0-9_-]{43}"),
}
"""A link's parameters, each there once."""

_INLINE = ("inline", "true")
"""The one that may be there as well."""

_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_LONGEST_PART = 256


def routes(door: Door) -> list[Route]:
    """URL, handler, and the access class that a key needs."""
    return [
        Route(f"{BASE}/presigned", door.opens(made, Access.DOWNLOAD)),
        by_method(f"{BASE}/presigned/{{id}}", DELETE=door.opens(revoke, Access.DOWNLOAD)),
    ]


def opens(door: Door, what: Opens) -> ByLink:
    """What judges a request that shows a link, and answers it; all is checked before it is used."""

    async def by_link(request: Request, region: Region) -> Response:
        address = web.caller(request).address
        link = await links.find(region, _shown(request, what), address=address)
        await door.verifier.must_stand(link.claims)
        body = await _body(region, link)
        response = download.answer(request, region, body)
        response.headers["referrer-policy"] = "no-referrer"
        sent = request.method == "GET" and response.status_code in (200, 206)
        part = _part(request, response) if sent else ""
        await links.use(region, link, body.name, address=address, part=part, sent=sent)
        return response

    return by_link


async def _body(region: Region, link: Link) -> Body:
    """What a link opens, as far as its maker may read it still."""
    if link.opens is Opens.ARCHIVE:
        job = await bulk.ready(region, link.claims, link.target)
        return archive.body_of(region, job)
    found = await content.readable(region, link.claims, link.target)
    return content.body_of(region, found)


def is_wanted(request: Request) -> bool:
    """Whether a link is asked for; clients may send `presignUrl=` with nothing behind it."""
    return bool(parameter(request, "presignUrl")) and flag(request, "presignUrl")


async def make(request: Request, region: Region, claims: Claims, opens: Opens, target: str) -> Made:
    """A new link to an object or an archive, as the request's parameters want it."""
    if request.method != "GET":
        raise BadInput("Ask for a link with GET.", field="presignUrl")
    wanted = Wanted(
        seconds=number(
            request, "expiresIn", links.DEFAULT_SECONDS, least=1, most=links.LONGEST_SECONDS
        ),
        once=flag(request, "once"),
        network=_network(request),
        inline=flag(request, "inline"),
    )
    if flag(request, "direct"):
        for name in ("once", "ip", "inline"):
            if name in request.query_params:
                raise BadInput(f"A direct link cannot be held to {name}.", field=name)
        if opens is Opens.ARCHIVE:
            raise BadInput("No bucket holds an archive: there is no direct link.", field="direct")
        return await links.create_direct(region, claims, target, seconds=wanted.seconds)
    return await links.create(region, claims, opens, target, wanted)


async def made(request: Request, region: Region, claims: Claims) -> Response:
    """A page of links, newest first."""
    offset, limit = paging.bounds(request)
    page = await links.made(region, claims, offset=offset, limit=limit)
    now_ms = region.clock()
    documents = [msgspec.json.encode(_listed(each, now_ms)).decode() for each in page.links]
    total = Total(page.total, exact=True)
    return paging.answer(Search(offset=offset, limit=limit), Page(documents, page.last, total))


async def revoke(request: Request, region: Region, claims: Claims) -> Response:
    """204 once the link is taken back; the same where it was before."""
    link_id = request.path_params["id"]
    if not _ID.fullmatch(link_id):
        raise NotFound(NOTHING)
    await links.revoke(region, claims, link_id)
    return Response(status_code=204)


def _shown(request: Request, opens: Opens) -> Shown:
    """The link in a request's query, and nothing else in it; what is repeated counts as forged."""
    given = request.query_params.multi_items()
    params = dict(given)
    inline = params.pop(_INLINE[0], "") == _INLINE[1]
    if (
        len(given) != len(_FORMS) + inline
        or params.keys() != _FORMS.keys()
        or not all(form.fullmatch(params[name]) for name, form in _FORMS.items())
    ):
        raise links.forged()
    return Shown(
        id=params["link"],
        opens=opens,
        target=_target(request, opens),
        expires=int(params["expires"]),
        kid=params["kid"],
        signature=params["signature"],
        inline=inline,
    )


def _target(request: Request, opens: Opens) -> str:
    shown: str = request.path_params["id"]
    if opens is Opens.OBJECT:
        return shown
    try:
        return bulk.job_id(shown)
    except NotFound:
        raise links.forged() from None


def _network(request: Request) -> str:
    """The CIDR range of the parameter `ip`, or an empty text."""
    if "ip" not in request.query_params:
        return ""
    text = parameter(request, "ip")
    try:
        network = ipaddress.ip_network(text)
        if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
            address = int(network.network_address) & 0xFFFF_FFFF
            network = ipaddress.IPv4Network((address, network.prefixlen - _MAPPED.prefixlen))
    except ValueError:
        raise BadInput(
            "ip is a network address, or a range of them like 198.51.100.0/24.", field="ip"
        ) from None
    return str(network)


def _part(request: Request, response: Response) -> str:
    """Which part of the bytes is answered; empty for the whole."""
    if response.status_code != 206:
        return ""
    return response.headers.get("content-range") or request.headers["range"][:_LONGEST_PART]


def _listed(link: Link, now_ms: int) -> dict[str, object]:
    used_ms = link.last_used_ms
    return {
        "id": link.id,
        **links.target_of(link),
        "createdTime": iso_seconds(link.created_ms),
        "expiresTime": iso_seconds(link.expires_ms),
        "once": link.once,
        "ip": link.network or None,
        "inline": link.inline,
        "uses": link.uses,
        "lastUsedTime": None if used_ms is None else iso_seconds(used_ms),
        "lastAddress": link.last_address or None,
        "state": link.state(now_ms),
        "client": link.claims.client,
    }
