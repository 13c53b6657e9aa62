"""What a browser sends back: URL-encoded forms (WHATWG URL, "application/x-www-form-urlencoded").

Nothing here knows a page. A value that cannot be used is a BadInput that names its field, so the
form can be shown again with the message beside it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from urllib.parse import parse_qsl

from starlette.requests import Request

from soundkeep.foundation import web
from soundkeep.foundation.errors import BadInput

LIMIT = 64 * 1024
_MAX_FIELDS = 4096
_KIND = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Form:
    """Fields as they were typed; an absent one is empty."""

    fields: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def one(self, name: str) -> str:
        """The value of a field that a page has once."""
        values = self.all(name)
        if len(values) > 1:
            raise BadInput("The form names this field twice.", field=name)
        return values[0] if values else ""

    def all(self, name: str) -> tuple[str, ...]:
        """Every value of a field: boxes that were ticked, entries that were chosen."""
        return self.fields.get(name, ())


def parse(text: str) -> Form:
    """A form from its encoded text, UTF-8 only; BadInput when it is not one."""
    if not text:
        return Form()
    try:
        pairs = parse_qsl(
            text,
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=_MAX_FIELDS,
        )
    except ValueError:
        raise BadInput("The form cannot be read: load the page again.") from None
    fields = defaultdict[str, tuple[str, ...]](tuple)
    for name, value in pairs:
        fields[name] += (value.replace("\r\n", "\n"),)
    return Form(dict(fields))


async def read(request: Request) -> Form:
    """The form that a request carries, 64 KiB at most."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _KIND:
        raise BadInput(f"Send the form as {_KIND}.")
    raw = await web.body(request, limit=LIMIT)
    try:
        return parse(raw.decode("ascii"))
    except UnicodeDecodeError:
        raise BadInput("The form cannot be read: load the page again.") from None


def start_of_day_ms(form: Form, name: str) -> int | None:
    """The first moment, UTC, of the day in a date field; None when it is empty."""
    return _moment_ms(form, name, time.min)


def end_of_day_ms(form: Form, name: str) -> int | None:
    """The last second, UTC, of the day in a date field; None when it is empty."""
    return _moment_ms(form, name, time(23, 59, 59))


def _moment_ms(form: Form, name: str, at: time) -> int | None:
    text = form.one(name).strip()
    if not text:
        return None
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise BadInput("Write a date as YYYY-MM-DD.", field=name) from None
    return int(datetime.combine(day, at, UTC).timestamp()) * 1000
