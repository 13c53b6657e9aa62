"""Time and randomness as values, so that a test can hold them."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], int]
"""Milliseconds since the epoch, UTC."""

Entropy = Callable[[int], bytes]
"""`n` unpredictable bytes; `secrets.token_bytes` outside tests."""

SECOND = 1_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def now_ms() -> int:
    """The wall clock in milliseconds."""
    return time.time_ns() // 1_000_000


def iso_seconds(at_ms: int) -> str:
    """`2022-06-24T05:22:35`: UTC to the second, no zone (contract §2, "Objects")."""
    return datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
