"""Whoever keeps failing waits: a key, and a network address."""

from __future__ import annotations

import asyncio

import httpx2
import pytest
from identity_world import COMPATIBLE, GRANT, STRICT, basic, either_engine_will_do, signed_by

from soundkeep.foundation.errors import TooMany
from soundkeep.identity import accounts

THERE = "203.0.113.9"


async def fail(world, key: str, times: int, address: str = THERE) -> list[httpx2.Response]:
    client = world.client(address=address)
    return [
        await client.post(COMPATIBLE, data=GRANT, headers=basic(key, "wrong")) for _ in range(times)
    ]


async def status(world, shown, **more) -> int:
    return (await world.ask(shown, **more)).status_code


async def test_ten_failures_hold_a_key_off(world):
    shown = await world.key()
    failures = await fail(world, shown.app.key, 10)

    assert {answer.status_code for answer in failures} == {401}
    assert await status(world, shown) == 429


async def test_nine_failures_do_not(world):
    shown = await world.key()
    await fail(world, shown.app.key, 9)

    assert await status(world, shown) == 200


@either_engine_will_do
@pytest.mark.parametrize("path", [COMPATIBLE, STRICT, "/oauth2/revoke", "/oauth2/introspect"])
async def test_the_refusal_says_when_to_come_back(world, path):
    shown = await world.key()
    await fail(world, shown.app.key, 10)
    answer = await world.ask(shown, path, GRANT | {"token": "x"})

    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["x-ratelimit-limit"] == "10"
    assert answer.headers["x-ratelimit-remaining"] == "0"
    assert answer.headers["x-ratelimit-reset"] == "1"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json() == {
        "error": "too_many_requests",
        "error_description": "Too many failed attempts: try again in 1 s.",
        "ErrorCode": "too_many_requests",
        "Error": "Too many failed attempts: try again in 1 s.",
    }


async def test_after_the_wait_the_right_secret_works(world):
    shown = await world.key()
    await fail(world, shown.app.key, 10)
    world.clock.advance(seconds=1)

    assert await status(world, shown) == 200


@either_engine_will_do
async def test_every_further_failure_doubles_the_wait(world):
    shown = await world.key()
    await fail(world, shown.app.key, 10)
    waits = []
    for _ in range(11):
        wait = int((await world.ask(shown)).headers["retry-after"])
        waits.append(wait)
        world.clock.advance(seconds=wait)
        await fail(world, shown.app.key, 1)

    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


@either_engine_will_do
async def test_waiting_attempts_are_not_counted(world):
    shown = await world.key()
    await fail(world, shown.app.key, 30)

    assert (await world.ask(shown)).headers["retry-after"] == "1"


async def test_a_quiet_quarter_of_an_hour_wipes_the_slate(world):
    shown = await world.key()
    await fail(world, shown.app.key, 9)
    world.clock.advance(seconds=15 * 60 + 1)
    await fail(world, shown.app.key, 9)

    assert await status(world, shown) == 200


async def test_other_keys_go_on(world):
    owner = await world.owner()
    one, two = await world.app(owner, "one"), await world.app(owner, "two")
    await fail(world, one.app.key, 10)

    assert await status(world, two, address=THERE) == 200


async def test_an_unknown_key_waits_like_a_known_one(world):
    await fail(world, "sk_unknown", 10)

    [answer] = await fail(world, "sk_unknown", 1)
    assert answer.status_code == 429


async def test_an_address_that_fails_with_many_keys_is_held_off(world):
    shown = await world.key()
    for number in range(50):
        await fail(world, f"sk_guess_{number}", 1)

    assert await status(world, shown, address=THERE) == 429
    assert await status(world, shown) == 200


@either_engine_will_do
async def test_malformed_credentials_are_not_counted(world):
    shown = await world.key()
    client = world.client(address=THERE)
    for _ in range(60):
        await client.post(COMPATIBLE, data=GRANT, headers={"authorization": "Basic !"})

    assert await status(world, shown, address=THERE) == 200


@either_engine_will_do
async def test_a_refused_grant_is_no_failed_attempt(world):
    shown = await world.key()
    for _ in range(12):
        await world.ask(shown, form={"grant_type": "password"})

    assert await status(world, shown) == 200


async def test_another_process_holds_off_too(world):
    shown = await world.key()
    other = await world.process()
    assert await status(world, shown, issuer=other) == 200
    await fail(world, shown.app.key, 10)
    for _ in range(100):
        if await status(world, shown, issuer=other) == 429:
            return
        await asyncio.sleep(0.02)
    pytest.fail("the other process never heard of it")


@either_engine_will_do
async def test_failures_at_once_all_count(world):
    shown = await world.key()
    await asyncio.gather(*(fail(world, shown.app.key, 1) for _ in range(20)))

    assert await status(world, shown) == 429


@either_engine_will_do
async def test_failures_are_kept_without_the_key(world):
    await fail(world, "sk_unknown", 1)

    names = [row[0] for row in await world.identity.db.all("SELECT name FROM throttles")]
    assert not any("sk_unknown" in name for name in names)


@either_engine_will_do
async def test_signing_in_and_tokens_share_the_address(world):
    for number in range(50):
        await fail(world, f"sk_guess_{number}", 1)

    with pytest.raises(TooMany):
        await accounts.sign_in(
            world.identity, email="boss@acme.example", password="any at all", address=THERE
        )


@either_engine_will_do
async def test_success_does_not_reset_an_address(world):
    shown = await world.key()
    for number in range(49):
        await fail(world, f"sk_guess_{number}", 1)
    await world.client(address=THERE).post(COMPATIBLE, data=GRANT, headers=signed_by(shown))
    await fail(world, "sk_guess", 1)

    assert await status(world, shown, address=THERE) == 429
