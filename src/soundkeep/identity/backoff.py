"""Brute force: who keeps failing waits, by name (API key, e-mail address) and network address.

The failures are kept in the database, so they count across workers and restarts. From the limit
on, each failure doubles the wait, up to five minutes; a quiet quarter of an hour wipes the slate.
"""

from __future__ import annotations

from soundkeep.foundation.clock import MINUTE, SECOND
from soundkeep.foundation.errors import TooMany
from soundkeep.identity import store
from soundkeep.identity.plane import Identity, digest

FORGOTTEN_MS = 15 * MINUTE
LONGEST_MS = 5 * MINUTE
_DOUBLINGS = 9


async def check(identity: Identity, *, name: str, address: str) -> None:
    """TooMany, with the seconds to wait, while either of them has to."""
    until_ms = await store.throttled_until(identity.db, (_named(name), _from(address)))
    wait_ms = until_ms - identity.clock()
    if wait_ms > 0:
        seconds = -(-wait_ms // SECOND)
        raise TooMany(
            f"Too many failed attempts: try again in {seconds} s.",
            retry_after=seconds,
            limit=identity.policy.failures_per_key,
            remaining=0,
            reset=seconds,
        )


async def failed(identity: Identity, *, name: str, address: str) -> None:
    """Count a failure against both."""
    policy, now_ms = identity.policy, identity.clock()
    async with identity.db.transaction() as tx:
        for who, limit in (
            (_named(name), policy.failures_per_key),
            (_from(address), policy.failures_per_address),
        ):
            count = await store.failures(tx, who, since_ms=now_ms - FORGOTTEN_MS, now_ms=now_ms)
            if count >= limit:
                wait_ms = min(SECOND << min(count - limit, _DOUBLINGS), LONGEST_MS)
                await store.hold_off(tx, who, until_ms=now_ms + wait_ms)


def _named(name: str) -> str:
    return "name:" + digest(name)


def _from(address: str) -> str:
    return "address:" + address
