"""Structured JSON logs that never hold tokens, secrets or full phone numbers."""

from __future__ import annotations

import re
import sys
from collections.abc import MutableMapping
from typing import Any

import msgspec
import structlog

_SECRET_NAMES = re.compile(r"token|secret|password|authorization|cookie|key$", re.IGNORECASE)
_TOKENS = re.compile(
    r"eyJ[\w-]+\.[\w-]+(?:\.[\w-]*)?|sk[sx]?_[\w-]{16,}|(?:Bearer|Basic)\s+\S+", re.IGNORECASE
)
_PHONE = re.compile(r"(?<![\w-])(?:\+|%2[Bb])?\d{7,15}(?![\w-])")
_KEPT_DIGITS = 2


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
    """Mask what must not be read in a log: a structlog processor."""
    for name, value in event.items():
        if isinstance(value, str) and name not in ("timestamp", "level"):
            event[name] = "***" if _SECRET_NAMES.search(name) else masked(value)
    return event


def masked(text: str) -> str:
    """The text with tokens gone and phone numbers cut to their last two digits."""
    return _PHONE.sub(_mask_number, _TOKENS.sub("***", text))


def _mask_number(found: re.Match[str]) -> str:
    number = found.group()
    return "*" * (len(number) - _KEPT_DIGITS) + number[-_KEPT_DIGITS:]


def _encode(event: dict[str, Any], **_: object) -> bytes:
    return msgspec.json.encode(event, enc_hook=str)
