"""The parameters of a search, and the page that answers it. Contract §2, "Objects"."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from soundkeep.foundation.claims import Access, Claims
from soundkeep.foundation.errors import BadInput, NotAllowed
from soundkeep.region import catalog
from soundkeep.region.catalog import Page, Search
from soundkeep.region.http.guard import number, parameter

_FURTHEST = 2**53


def wanted(request: Request, claims: Claims) -> Search:
    """What is searched for; `pageKey` is a record offset, `explain` for keys of class edit."""
    direction = parameter(request, "sortDirection", "DESC").upper()
    if direction not in ("ASC", "DESC"):
        raise BadInput("sortDirection is ASC or DESC.", field="sortDirection")
    explain = parameter(request, "explain", "false").lower()
    if explain not in ("true", "false"):
        raise BadInput("explain is true or false.", field="explain")
    if explain == "true" and not claims.access.includes(Access.EDIT):
        raise NotAllowed(f"To explain a search takes a key of access class {Access.EDIT}.")
    offset, limit = bounds(request)
    return Search(
        filter=parameter(request, "filter"),
        offset=offset,
        limit=limit,
        sort=parameter(request, "sortField") or catalog.DEFAULT_SORT,
        descending=direction == "DESC",
        explain=explain == "true",
    )


def bounds(request: Request) -> tuple[int, int]:
    """How many records to pass over, and how many to answer at most."""
    return (
        number(request, "pageKey", 0, least=0, most=_FURTHEST),
        number(request, "limit", catalog.DEFAULT_LIMIT, least=1, most=catalog.MAX_LIMIT),
    )


def answer(search: Search, page: Page) -> Response:
    """The page; its `pageKey` is where the next one starts, on the last page too."""
    body: dict[str, object] = {
        "content": [msgspec.Raw(each.encode()) for each in page.documents],
        "lastPage": page.last,
        "pageKey": search.offset + search.limit,
        "pageSize": len(page.documents),
        "total": page.total.rows,
    }
    if not page.total.exact:
        body["totalIsExact"] = False
    if page.explanation is not None:
        body["explanation"] = page.explanation
    return json(msgspec.json.encode(body))


def json(body: bytes, status: int = 200, **headers: str) -> Response:
    """JSON of a customer's own: not to be kept by caches."""
    return Response(body, status, {"cache-control": "no-store", **headers}, "application/json")
