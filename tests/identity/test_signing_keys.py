"""Signing keys and revocations across processes: who signs, what still verifies, who hears of it."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections import Counter

import pytest
from cryptography.fernet import Fernet
from identity_world import HERE, HeldClock, either_engine_will_do, new_identity
from joserfc import jws

from soundkeep.foundation.claims import LONGEST_LINK_SECONDS
from soundkeep.foundation.clock import now_ms
from soundkeep.foundation.errors import BadToken, Gone
from soundkeep.foundation.verify import REGISTRY
from soundkeep.identity import accounts, apps
from soundkeep.identity.tokens import Issuer


def kid_of(token: str) -> str:
    return jws.extract_compact(token.encode(), registry=REGISTRY).headers()["kid"]


async def published(world, issuer=None) -> list[str]:
    answer = await world.client(issuer).get("/oauth2/jwks")
    return [key["kid"] for key in answer.json()["keys"]]


async def eventually(check, within: float) -> None:
    """Wait until `check()` holds; the failure of the last try otherwise."""
    until = time.monotonic() + within
    while not await check():
        assert time.monotonic() < until, "it never came to be"
        await asyncio.sleep(0.02)


# ---- rotation -------------------------------------------------------------------------------


async def test_the_same_key_signs_for_thirty_days(world):
    shown = await world.key()
    first = kid_of(await world.token(shown))
    world.clock.advance(days=30)

    assert kid_of(await world.token(shown)) == first


async def test_then_another_key_signs(world):
    shown = await world.key()
    first = kid_of(await world.token(shown))
    world.clock.advance(days=30, seconds=1)
    second = kid_of(await world.token(shown))

    assert second != first
    assert await published(world) == [second, first]


async def test_tokens_outlive_the_turn_of_the_key(world):
    shown = await world.key()
    await world.token(shown)
    world.clock.advance(days=30)
    old = await world.token(shown)
    world.clock.advance(seconds=1)
    new = await world.token(shown)

    assert kid_of(old) != kid_of(new)
    assert await world.claims(old)
    assert await world.claims(new)


async def test_a_key_is_gone_when_its_last_token_expired(world):
    shown = await world.key()
    await world.token(shown)
    world.clock.advance(days=30)
    old = await world.token(shown)
    world.clock.advance(seconds=1)
    new = kid_of(await world.token(shown))
    world.clock.advance(seconds=3660)
    await world.token(shown)

    assert await published(world) == [new]
    with pytest.raises(BadToken, match="signed by"):
        await world.claims(old)


async def test_asking_for_keys_first_makes_the_first_one(world):
    [kid] = await published(world)

    assert kid_of(await world.token(await world.key())) == kid


async def test_signing_keys_are_sealed(world):
    await published(world)
    [(sealed,)] = await world.identity.db.all("SELECT sealed FROM signing_keys")

    assert "Ed25519" not in sealed
    assert b"Ed25519" in world.identity.vault.decrypt(sealed.encode())


# ---- several processes ----------------------------------------------------------------------


async def test_tokens_of_one_process_verify_in_another(world):
    shown = await world.key()
    other = await world.process()
    here, there = await world.token(shown), await world.token(shown, issuer=other)

    assert kid_of(here) == kid_of(there)
    assert await world.claims(here, other)
    assert await world.claims(there)


async def test_a_revoked_token_dies_in_another_process(world):
    shown = await world.key()
    token = await world.token(shown)
    verifier = world.verifier(await world.process())
    await verifier.claims(token, address=HERE)
    await world.ask(shown, "/oauth2/revoke", {"token": token})

    await eventually(lambda: _is_dead(verifier, token), within=5)


async def test_a_deleted_app_dies_in_another_process(world):
    owner = await world.owner()
    shown = await world.app(owner)
    other = await world.process()
    token, verifier = await world.token(shown, issuer=other), world.verifier(other)
    await verifier.claims(token, address=HERE)
    await apps.delete(world.identity, owner, shown.app.id)

    await eventually(lambda: _is_dead(verifier, token), within=5)
    assert (await world.ask(shown, issuer=other)).status_code == 401


async def test_a_process_that_starts_later_knows_what_was_revoked(world):
    shown = await world.key()
    token = await world.token(shown)
    await accounts.set_disabled(world.identity, world.boss, "olga", disabled=True)

    assert await _is_dead(world.verifier(await world.process()), token)


async def test_revocations_outlast_every_token_and_every_link_that_was_made_with_one(world):
    """A link may be made with a token's last breath, and lives for seven days from then."""
    shown = await world.key()
    token = await world.token(shown)
    claims = await world.claims(token)
    await world.verifier().must_stand(claims)
    await world.ask(shown, "/oauth2/revoke", {"token": token})
    world.clock.advance(seconds=LONGEST_LINK_SECONDS + 3600)
    await world.issuer.forget()

    for issuer in (world.issuer, await world.process()):
        with pytest.raises(Gone, match="lost its rights"):
            await world.verifier(issuer).must_stand(claims)


async def test_forgetting_old_revocations_keeps_the_young(world):
    shown = await world.key()
    await world.ask(shown, "/oauth2/revoke", {"token": await world.token(shown)})
    world.clock.advance(seconds=LONGEST_LINK_SECONDS + 24 * 3600 + 1)
    token = await world.token(shown)
    await world.ask(shown, "/oauth2/revoke", {"token": token})
    await world.issuer.forget()

    [(count,)] = await world.identity.db.all("SELECT count(*) FROM revocations")
    assert count == 1
    assert await _is_dead(world.verifier(), token)
    assert await _is_dead(world.verifier(await world.process()), token)


@either_engine_will_do
@pytest.mark.parametrize(("behind", "good"), [(60, True), (61, False)])
async def test_a_process_may_be_a_minute_behind_the_issuer(world, behind, good):
    token = await world.token(await world.key())
    late = await world.process(HeldClock(world.clock.now_ms - behind * 1000))
    verifier = world.verifier(late)

    if good:
        assert await verifier.claims(token, address=HERE)
    else:
        with pytest.raises(BadToken, match="from the future"):
            await verifier.claims(token, address=HERE)


async def _is_dead(verifier, token: str) -> bool:
    try:
        await verifier.claims(token, address=HERE)
    except BadToken as error:
        return "revoked" in error.message
    return False


# ---- all at once ----------------------------------------------------------------------------


async def test_fifty_first_requests_share_one_key(world):
    shown = await world.key()
    tokens = await asyncio.gather(*(world.token(shown) for _ in range(50)))

    assert len({kid_of(token) for token in tokens}) == 1
    assert len(set(tokens)) == 50
    for token in tokens:
        assert await world.claims(token)


async def test_fifty_requests_at_a_rotation_share_one_key(world):
    shown = await world.key()
    await world.token(shown)
    other = await world.process()
    await world.token(shown, issuer=other)
    world.clock.advance(days=31)
    answers = await asyncio.gather(
        *(world.token(shown, issuer=issuer) for issuer in (None, other) for _ in range(25))
    )

    assert len({kid_of(token) for token in answers}) == 1
    assert len(await published(world)) == 2


async def test_tokens_while_rights_come_and_go_are_dead_or_good(world):
    """Whatever is issued while the owner is disabled and enabled again: none survives the last."""
    shown = await world.key()

    async def churn() -> None:
        for disabled in (True, False) * 5:
            await accounts.set_disabled(world.identity, world.boss, "olga", disabled=disabled)
        await accounts.set_disabled(world.identity, world.boss, "olga", disabled=True)

    async def asking() -> list[str]:
        answers = [await world.ask(shown) for _ in range(10)]
        return [each.json()["access_token"] for each in answers if each.status_code == 200]

    _, *issued = await asyncio.gather(churn(), *(asking() for _ in range(4)))

    for token in [token for tokens in issued for token in tokens]:
        assert await _is_dead(world.verifier(), token)


def _first_kid(url: str, vault_key: bytes, gate, answers) -> None:
    """A process of its own: as soon as all are ready, ask for the key that signs."""

    async def work() -> str:
        identity = await new_identity(url, now_ms, vault=Fernet(vault_key))
        try:
            gate.wait(30)
            return (await Issuer(identity).signer()).kid
        finally:
            await identity.db.close()

    answers.put(asyncio.run(work()))


def test_processes_that_start_together_make_one_key(database_url):
    spawn = multiprocessing.get_context("spawn")
    gate, answers = spawn.Barrier(2), spawn.SimpleQueue()
    facts = (database_url, Fernet.generate_key(), gate, answers)
    processes = [spawn.Process(target=_first_kid, args=facts) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0]
    kids = Counter(answers.get() for _ in processes)
    answers.close()

    assert list(kids.values()) == [2]
