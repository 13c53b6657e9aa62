"""How much a reader is handed at once, so that many who stall cost little memory together."""

from __future__ import annotations

from collections.abc import Awaitable

_FEW = 16
_LARGE = 64 * 1024
_SMALL = 2 * 1024


class Pace:
    """The readers of one region who have yet to take what they were handed.

    For each of them the server keeps up to twenty pieces of an answer, so where many wait the
    pieces are small: more work for each byte, but little memory.
    """

    def __init__(self) -> None:
        self._waiting = 0

    @property
    def size(self) -> int:
        """Bytes of the next piece."""
        return _LARGE if self._waiting < _FEW else _SMALL

    async def hand(self, piece: Awaitable[None]) -> None:
        """Wait until a piece is on its way."""
        self._waiting += 1
        try:
            await piece
        finally:
            self._waiting -= 1
