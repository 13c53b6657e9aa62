"""Waiting for what must not be left half-way."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


async def to_the_end(running: asyncio.Future[T]) -> T:
    """The result of what runs; a caller that is cancelled waits for its end all the same."""
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        if not running.cancelled():
            running.exception()
        raise
