"""The keys that sign presigned links: one that signs now, and those whose links may still live.

They lie in the region's database, sealed with the installation's secret key, and in memory.
"""

from __future__ import annotations

import asyncio
import hmac
from collections import deque
from dataclasses import dataclass

from cachetools import LRUCache
from cryptography.fernet import Fernet, InvalidToken

from soundkeep.foundation.claims import LONGEST_LINK_SECONDS
from soundkeep.foundation.clock import DAY, SECOND, Clock, Entropy
from soundkeep.foundation.database import Database
from soundkeep.foundation.errors import Tampered, TooMany
from soundkeep.region import linkstore

_SIGNS_MS = 30 * DAY
_VERIFIES_MS = _SIGNS_MS + LONGEST_LINK_SECONDS * SECOND + DAY
"""Since it was made; a day more than its last link lives, for clocks that differ."""

_SECRET_BYTES = 32
_KID_BYTES = 8
_UNKNOWN = 1024
_LOOK_UPS = 20
"""In a second: what is forged must not make the database busy."""


@dataclass(frozen=True, slots=True)
class LinkKey:
    """One key; `secret` is 256 random bits."""

    kid: str
    secret: bytes
    created_ms: int

    def sign(self, text: bytes) -> bytes:
        """HMAC-SHA-256 (RFC 2104)."""
        return hmac.digest(self.secret, text, "sha256")


class LinkKeys:
    """A region's keys."""

    def __init__(self, db: Database, vault: Fernet, *, clock: Clock, entropy: Entropy) -> None:
        self._db = db
        self._vault = vault
        self._clock = clock
        self._entropy = entropy
        self._turn = asyncio.Lock()
        self._current: LinkKey | None = None
        self._known: dict[str, LinkKey] = {}
        self._unknown: LRUCache[str, None] = LRUCache(_UNKNOWN)
        self._looked_up: deque[int] = deque(maxlen=_LOOK_UPS)

    async def current(self) -> LinkKey:
        """The key that signs now: a new one where there is none, or the last is too old."""
        async with self._turn:
            if self._current is None or not self._signs(self._current.created_ms):
                self._current = await self._newest()
                self._known[self._current.kid] = self._current
            return self._current

    async def find(self, kid: str) -> LinkKey | None:
        """A key whose links may still live; None where there is none.

        TooMany where many that are unknown were asked for within a second.
        """
        found = self._known.get(kid)
        if found is None and kid not in self._unknown:
            self._may_look_up()
            row = await linkstore.key_by_id(self._db, kid)
            if row is None:
                self._unknown[kid] = None
            else:
                found = self._known[kid] = self._opened(*row)
        if found is not None and self._clock() - found.created_ms > _VERIFIES_MS:
            return None
        return found

    async def check(self) -> int:
        """How many keys there are; Tampered where the secret key does not open one of them."""
        return len([self._opened(*row) for row in await linkstore.every_key(self._db)])

    async def forget(self) -> None:
        """Drop the keys whose links are all over."""
        before_ms = self._clock() - _VERIFIES_MS
        async with self._db.transaction() as tx:
            await linkstore.forget_keys(tx, before_ms=before_ms)
        self._known = {kid: key for kid, key in self._known.items() if key.created_ms >= before_ms}

    def _signs(self, created_ms: int) -> bool:
        return self._clock() - created_ms <= _SIGNS_MS

    async def _newest(self) -> LinkKey:
        """The newest key, made now unless another process just did."""
        async with self._db.transaction() as tx:
            await linkstore.take_key_turn(tx)
            row = await linkstore.newest_key(tx)
            if row is not None and self._signs(row[2]):
                return self._opened(*row)
            key = LinkKey(
                self._entropy(_KID_BYTES).hex(), self._entropy(_SECRET_BYTES), self._clock()
            )
            sealed = self._vault.encrypt(key.secret).decode()
            await linkstore.add_key(tx, kid=key.kid, sealed=sealed, created_ms=key.created_ms)
        return key

    def _may_look_up(self) -> None:
        now_ms = self._clock()
        if len(self._looked_up) == _LOOK_UPS and 0 <= now_ms - self._looked_up[0] < SECOND:
            raise TooMany("Too many links with unknown keys came: try again in 1 s.", retry_after=1)
        self._looked_up.append(now_ms)

    def _opened(self, kid: str, sealed: str, created_ms: int) -> LinkKey:
        try:
            return LinkKey(kid, self._vault.decrypt(sealed.encode()), created_ms)
        except InvalidToken:
            raise Tampered(
                "The secret key (identity.secret_key_file) does not open the keys of presigned "
                "links in the database: put back the key that this installation was made with."
            ) from None
