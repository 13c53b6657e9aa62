"""Structured JSON logs that never hold tokens, secrets or full phone numbers."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec
import structlog

_SECRET_NAMES = re.compile(r"token|secret|password|authorization|cookie|key$", re.IGNORECASE)
_SECRETS = re.compile(
    r"eyJ[\w-]+(?:\.[\w-]*)*"  # a JSON Web Token, or what begins like one: never looked at twice
    r"|sk[sx]?_[\w-]{16,}"  # our own keys and secrets
    r"|(?:Bearer|Basic)\s+[^\s\"',]+"
    r"|(?<=token=)[^\s&]+|(?<=secret=)[^\s&]+|(?<=password=)[^\s&]+|(?<=signature=)[^\s&]+",
    re.IGNORECASE,
)
_NUMBERS = re.compile(
    r"(?P<uuid>\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b)"
    r"|(?:\+|%2B)\d(?:[ ().-]{0,2}\d){6,}"  # E.164, also when it is written for people
    r"|\(?(?<!\d)\d{3}\)?[ .-]\d{3}[ .-]\d{4}(?!\d)"  # 555-123-4567
    r"|(?:(?<![0-9a-z])|(?<=%[0-9a-f]{2}))\d{7,}(?![0-9a-z])",
    re.IGNORECASE,
)
_KEPT_DIGITS = 2
_LONGEST_PATH = 2048
"""Characters of a path that the log keeps: a client may send sixty thousand."""

_OURS = frozenset({"timestamp", "level"})


class _Request(msgspec.Struct):
    """The line that every request writes."""

    method: str
    path: str
    status: int
    ms: float
    client: str
    request_id: str
    timestamp: str
    event: str = "request"
    level: str = "info"


def request(
    *, method: str, path: str, status: int, ms: float, client: str, request_id: str
) -> None:
    """Log one answered request; beside structlog's way, since it is on every request's path."""
    line = _Request(
        _masked_name(method),
        masked(path[:_LONGEST_PATH]),
        status,
        ms,
        _masked_name(client),
        masked(request_id),
        datetime.now(UTC).isoformat().replace("+00:00", "Z"),
    )
    structlog.BytesLogger(sys.stderr.buffer).msg(msgspec.json.encode(line))


def configure(level: str) -> None:
    """Log events of `level` and above to standard error, one JSON object a line."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            redact,
            structlog.processors.JSONRenderer(serializer=_encode),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
        cache_logger_on_first_use=True,
    )


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> Any:  # noqa: ANN401  structlog's
    """Mask what must not be read in a log, at any depth: a structlog processor."""
    for name, value in event.items():
        if name not in _OURS:
            event[name] = _redacted(name, value)
    return event


def masked(text: str) -> str:
    """The text with tokens gone and phone numbers cut to their last two digits."""
    return _NUMBERS.sub(_mask_number, _SECRETS.sub("***", text))


@lru_cache(maxsize=1024)
def _masked_name(text: str) -> str:
    """The same, for what comes again and again."""
    return masked(text)


def _redacted(name: str, value: object) -> object:
    if value is not None and _SECRET_NAMES.search(name):
        return "***"
    match value:
        case None | bool() | int() | float():
            return value
        case Mapping():
            return {masked(str(key)): _redacted(str(key), each) for key, each in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_redacted("", each) for each in value]
        case _:
            return masked(str(value))


def _mask_number(found: re.Match[str]) -> str:
    if found["uuid"]:
        return found["uuid"]
    number = found.group()
    return "*" * (len(number) - _KEPT_DIGITS) + number[-_KEPT_DIGITS:]


def _encode(event: dict[str, Any], **_: object) -> bytes:
    return msgspec.json.encode(event, enc_hook=str)
