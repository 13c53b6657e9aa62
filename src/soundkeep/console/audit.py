"""`/console/audit`: Audit events, who did what to which thing, newest first."""

from __future__ import annotations

from urllib.parse import urlencode

import msgspec
from starlette.responses import Response
from starlette.routing import Route

from soundkeep.console import forms, session
from soundkeep.console.forms import Form
from soundkeep.console.menu import AUDIT
from soundkeep.console.pages import Console
from soundkeep.console.session import Visit
from soundkeep.foundation.audit import Event, Record, Wanted
from soundkeep.foundation.clock import SECOND
from soundkeep.foundation.errors import BadInput
from soundkeep.identity import accounts
from soundkeep.identity.model import Permission

ENTITY_TYPES = ("app", "assignment", "customer", "group", "role", "session", "site", "user")
_PAGE = 50
_FILTERS = ("event", "entity", "user", "from", "to")


def routes(console: Console) -> list[Route]:
    """The pages of this segment."""
    return [session.page(console, "/audit", listing, AUDIT)]


async def listing(console: Console, visit: Visit) -> Response:
    """A page of records that the filter lets through."""
    typed = _typed(visit)
    refused, total, records = None, 0, list[Record]()
    try:
        total, records = await accounts.audits(console.identity, visit.actor, _wanted(typed))
    except BadInput as error:
        refused = error
    more = len(records) > _PAGE
    return session.show(
        console,
        visit,
        "audit.html",
        typed=typed,
        refused=refused,
        total=total,
        records=[(each, _details(each)) for each in records[:_PAGE]],
        names=await _names(console, visit),
        events=[event.value for event in Event],
        entity_types=ENTITY_TYPES,
        older=_older(typed, records[_PAGE - 1].seq) if more else "",
        newest=_query(typed) if typed.one("before") else None,
    )


def _typed(visit: Visit) -> Form:
    """The filter in the address; of a name that comes twice, the last counts."""
    return Form({name: (value,) for name, value in visit.request.query_params.items()})


def _wanted(typed: Form) -> Wanted:
    start_ms = forms.start_of_day_ms(typed, "from")
    end_ms = forms.end_of_day_ms(typed, "to")
    event, entity, before = typed.one("event"), typed.one("entity"), typed.one("before")
    if before and not (before.isascii() and before.isdigit() and len(before) <= 18):
        raise BadInput("The page to go on from is not a number.", field="before")
    return Wanted(
        start_ms=start_ms if start_ms is not None else 0,
        end_ms=end_ms + SECOND if end_ms is not None else 2**62,
        user_id=typed.one("user").strip(),
        events=(event,) if event else (),
        entity_types=(entity,) if entity else (),
        before_seq=int(before) if before else 2**62,
        limit=_PAGE + 1,
    )


async def _names(console: Console, visit: Visit) -> dict[str, str]:
    """Users' names by id, for whoever may see people."""
    rights = visit.actor.rights
    if not (rights.allow_company(Permission.USERS) or rights.allow_company(Permission.ROLES)):
        return {visit.actor.user.id: visit.actor.user.name}
    return {user.id: user.name for user in await accounts.users(console.identity, visit.actor)}


def _details(record: Record) -> str:
    """What changed, to be read by people; empty when nothing is told."""
    details: dict[str, object] = msgspec.json.decode(record.details)
    told = {name: value for name, value in details.items() if value}
    return msgspec.json.format(msgspec.json.encode(told), indent=2).decode() if told else ""


def _older(typed: Form, seq: int) -> str:
    query = _query(typed)
    return f"{query}&before={seq}" if query else f"before={seq}"


def _query(typed: Form) -> str:
    return urlencode({name: typed.one(name) for name in _FILTERS if typed.one(name)})
