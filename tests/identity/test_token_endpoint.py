"""What the authorization server answers (contract §1): tokens, metadata, keys, revocation."""

from __future__ import annotations

import pytest
from identity_world import BASE, COMPATIBLE, START_MS, STRICT, either_engine_will_do
from joserfc import jws
from joserfc.jwk import KeySet

from soundkeep.foundation.errors import BadToken
from soundkeep.foundation.verify import REGISTRY
from soundkeep.identity import apps


@pytest.fixture
async def shown(world):
    return await world.key()


# ---- the answer -----------------------------------------------------------------------------


async def test_compatible_answer_has_every_member_of_the_reference(world, shown):
    answer = await world.ask(shown)

    body = answer.json()
    assert body.pop("access_token")
    assert answer.status_code == 200
    assert body == {
        "token_type": "BearerToken",
        "expires_in": "3599",
        "issued_at": str(START_MS),
        "application_name": shown.app.id,
        "scope": "",
        "status": "approved",
        "client_id": shown.app.key,
        "api_product_list": "[storage]",
        "api_product_list_json": ["storage"],
        "refresh_token_expires_in": "0",
        "refresh_count": "0",
    }


@either_engine_will_do
async def test_strict_answer_is_that_of_rfc_6749(world, shown):
    answer = await world.ask(shown, STRICT)

    body = answer.json()
    assert body.pop("access_token")
    assert body == {"token_type": "Bearer", "expires_in": 3600}


@either_engine_will_do
@pytest.mark.parametrize("path", [COMPATIBLE, STRICT])
async def test_token_answer_is_never_stored(world, shown, path):
    answer = await world.ask(shown, path)

    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["pragma"] == "no-cache"
    assert answer.headers["content-type"] == "application/json"


@either_engine_will_do
async def test_every_token_is_another(world, shown):
    assert await world.token(shown) != await world.token(shown)


async def test_token_carries_whose_it_is_and_what_it_may_do(world, shown):
    claims = await world.claims(await world.token(shown))

    assert claims.issuer == BASE
    assert claims.subject == shown.app.id
    assert claims.client == shown.app.key
    assert claims.owner == "olga"
    assert claims.customer == "acme"
    assert claims.regions == ("us-west", "uk")
    assert claims.access == "read"
    assert claims.audience == "storage"
    assert (claims.issued, claims.expires) == (START_MS // 1000, START_MS // 1000 + 3600)


@either_engine_will_do
async def test_token_stays_short_enough_for_a_header(world, shown):
    assert len(await world.token(shown)) < 2000


async def test_last_use_of_a_secret_is_shown(world):
    owner = await world.owner()
    shown = await world.app(owner)
    await world.token(shown)

    app = await apps.one(world.identity, owner, shown.app.id)
    assert [secret.last_used_ms for secret in app.secrets] == [START_MS]


# ---- what else the server tells -------------------------------------------------------------


@either_engine_will_do
async def test_metadata_names_the_strict_endpoints(world):
    answer = await world.client().get("/.well-known/oauth-authorization-server")

    methods = ["client_secret_basic", "client_secret_post"]
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "issuer": BASE,
        "token_endpoint": f"{BASE}/oauth2/token",
        "revocation_endpoint": f"{BASE}/oauth2/revoke",
        "introspection_endpoint": f"{BASE}/oauth2/introspect",
        "jwks_uri": f"{BASE}/oauth2/jwks",
        "grant_types_supported": ["client_credentials"],
        "response_types_supported": [],
        "token_endpoint_auth_methods_supported": methods,
        "revocation_endpoint_auth_methods_supported": methods,
        "introspection_endpoint_auth_methods_supported": methods,
    }


async def test_tokens_verify_with_the_published_keys(world, shown):
    token = await world.token(shown)
    answer = await world.client().get("/oauth2/jwks")

    verified = jws.deserialize_compact(
        token, KeySet.import_key_set(answer.json()), registry=REGISTRY
    )
    assert verified.headers()["typ"] == "at+jwt"


@either_engine_will_do
async def test_published_keys_hold_no_private_half(world):
    answer = await world.client().get("/oauth2/jwks")

    assert answer.headers["content-type"] == "application/jwk-set+json"
    assert answer.headers["cache-control"] == "public, max-age=60"
    [key] = answer.json()["keys"]
    assert key.keys() == {"kty", "crv", "x", "kid", "use", "alg"}
    assert (key["kty"], key["crv"], key["use"], key["alg"]) == ("OKP", "Ed25519", "sig", "EdDSA")


# ---- introspection and revocation -----------------------------------------------------------


async def test_introspection_tells_what_a_live_token_says(world, shown):
    token = await world.token(shown)
    answer = await world.ask(shown, "/oauth2/introspect", {"token": token})

    body = answer.json()
    assert len(body.pop("jti")) == 22
    assert answer.headers["cache-control"] == "no-store"
    assert body == {
        "active": True,
        "scope": "",
        "client_id": shown.app.key,
        "token_type": "Bearer",
        "exp": START_MS // 1000 + 3600,
        "iat": START_MS // 1000,
        "sub": shown.app.id,
        "aud": "storage",
        "iss": BASE,
    }


@either_engine_will_do
@pytest.mark.parametrize("token", ["nonsense", "a.b.c", "\u2713", "\x00"])
async def test_introspection_tells_nothing_of_a_bad_token(world, shown, token):
    answer = await world.ask(shown, "/oauth2/introspect", {"token": token})

    assert (answer.status_code, answer.json()) == (200, {"active": False})


async def test_introspection_tells_nothing_of_an_expired_token(world, shown):
    token = await world.token(shown)
    world.clock.advance(seconds=3600)
    answer = await world.ask(shown, "/oauth2/introspect", {"token": token})

    assert answer.json() == {"active": False}


async def test_introspection_tells_nothing_of_another_companys_token(world, shown):
    globex = await world.company("globex")
    foreign = await world.app(await world.owner("gina", boss=globex))
    answer = await world.ask(shown, "/oauth2/introspect", {"token": await world.token(foreign)})

    assert answer.json() == {"active": False}


@either_engine_will_do
async def test_introspection_does_not_depend_on_where_it_is_asked_from(world):
    shown = await world.key(networks=("198.51.100.0/24",))
    token = await world.token(shown)
    answer = await world.ask(shown, "/oauth2/introspect", {"token": token}, address="192.0.2.1")

    assert answer.json()["active"] is True


async def test_a_revoked_token_is_dead_at_once(world, shown):
    token, other = await world.token(shown), await world.token(shown)
    verifier = world.verifier()
    await verifier.claims(token, address="")
    answer = await world.ask(shown, "/oauth2/revoke", {"token": token})

    assert (answer.status_code, answer.content) == (200, b"")
    with pytest.raises(BadToken, match="revoked"):
        await verifier.claims(token, address="")
    assert await verifier.claims(other, address="")


@either_engine_will_do
async def test_a_token_is_revoked_from_wherever_its_client_asks(world):
    shown = await world.key(networks=("198.51.100.0/24",))
    token = await world.token(shown)
    await world.ask(shown, "/oauth2/revoke", {"token": token}, address="192.0.2.1")

    with pytest.raises(BadToken, match="revoked"):
        await world.claims(token)


@either_engine_will_do
@pytest.mark.parametrize("hint", ["access_token", "refresh_token", "whatever"])
async def test_revoking_takes_any_hint(world, shown, hint):
    token = await world.token(shown)
    await world.ask(shown, "/oauth2/revoke", {"token": token, "token_type_hint": hint})

    with pytest.raises(BadToken, match="revoked"):
        await world.claims(token)


@either_engine_will_do
async def test_revoking_what_is_no_token_is_no_error(world, shown):
    answer = await world.ask(shown, "/oauth2/revoke", {"token": "nonsense"})

    assert answer.status_code == 200


async def test_nobody_revokes_another_apps_token(world):
    owner = await world.owner()
    one, two = await world.app(owner, "one"), await world.app(owner, "two")
    token = await world.token(one)
    answer = await world.ask(two, "/oauth2/revoke", {"token": token})

    assert answer.status_code == 200
    assert await world.claims(token)
