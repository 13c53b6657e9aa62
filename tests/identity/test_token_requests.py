"""What the token endpoint accepts and what it refuses, before any rule of ours is asked."""

from __future__ import annotations

import base64

import pytest
from identity_world import COMPATIBLE, GRANT, STRICT, basic, either_engine_will_do, signed_by
from starlette.requests import ClientDisconnect

pytestmark = either_engine_will_do

ENDPOINTS = (COMPATIBLE, STRICT)
CLIENT_ENDPOINTS = (*ENDPOINTS, "/oauth2/revoke", "/oauth2/introspect")
FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.fixture
async def shown(world):
    return await world.key()


def assert_refused(answer, status: int, error: str) -> None:
    """RFC 6749 §5.2, with the reference's own two members beside it."""
    body = answer.json()
    assert (answer.status_code, body["error"]) == (status, error), answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert body["ErrorCode"] == body["error"]
    assert body["Error"] == body["error_description"]
    assert set(body) == {"error", "error_description", "ErrorCode", "Error"}
    assert not set(body["error_description"]) & set('"\\'), "RFC 6749 allows neither"


# ---- the ways to authenticate ---------------------------------------------------------------


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_curl_with_a_header_made_by_hand(world, shown, path):
    pair = base64.b64encode(f"{shown.app.key}:{shown.secret}".encode()).decode()
    answer = await world.client().post(
        path,
        content=b"grant_type=client_credentials",
        headers={"authorization": f"Basic {pair}", **FORM},
    )

    assert answer.status_code == 200


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_curl_with_its_user_option(world, shown, path):
    answer = await world.client().post(path, data=GRANT, auth=(shown.app.key, shown.secret))

    assert answer.status_code == 200


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_key_and_secret_in_the_form(world, shown, path):
    form = GRANT | {"client_id": shown.app.key, "client_secret": shown.secret}
    answer = await world.client().post(path, data=form)

    assert answer.status_code == 200


async def test_the_scheme_may_be_written_in_any_case(world, shown):
    headers = {"authorization": signed_by(shown)["authorization"].replace("Basic", "bAsIc")}

    assert (await world.client().post(COMPATIBLE, data=GRANT, headers=headers)).status_code == 200


async def test_percent_encoded_basic_credentials_are_decoded(world, shown):
    headers = basic(shown.app.key.replace("_", "%5F"), shown.secret.replace("_", "%5f"))

    assert (await world.client().post(COMPATIBLE, data=GRANT, headers=headers)).status_code == 200


async def test_the_key_may_be_said_again_in_the_form(world, shown):
    answer = await world.ask(shown, form=GRANT | {"client_id": shown.app.key})

    assert answer.status_code == 200


# ---- the form -------------------------------------------------------------------------------


@pytest.mark.parametrize("charset", ["charset=UTF-8", "charset=utf-8; x=y", ""])
async def test_content_type_may_have_parameters(world, shown, charset):
    kind = f"Application/X-WWW-Form-Urlencoded;{charset}"
    answer = await world.client().post(
        COMPATIBLE,
        content=b"grant_type=client_credentials",
        headers=signed_by(shown) | {"content-type": kind},
    )

    assert answer.status_code == 200


async def test_unknown_parameters_are_ignored(world, shown):
    answer = await world.ask(shown, form=GRANT | {"resource": "x", "grant": "y"})

    assert answer.status_code == 200


async def test_a_parameter_without_a_value_counts_as_left_out(world, shown):
    form = GRANT | {"scope": "", "client_id": "", "client_secret": ""}

    assert (await world.ask(shown, form=form)).status_code == 200


async def test_sloppy_ampersands_are_forgiven(world, shown):
    answer = await world.client().post(
        COMPATIBLE,
        content=b"&grant_type=client%5Fcredentials&&",
        headers=signed_by(shown) | FORM,
    )

    assert answer.status_code == 200


# ---- refused: who asks ----------------------------------------------------------------------


@pytest.mark.parametrize("path", CLIENT_ENDPOINTS)
async def test_nobody_is_refused_with_a_challenge(world, path):
    answer = await world.client().post(path, data=GRANT | {"token": "x"})

    assert_refused(answer, 401, "invalid_client")
    assert answer.headers["www-authenticate"] == 'Basic realm="soundkeep", charset="UTF-8"'


@pytest.mark.parametrize("path", CLIENT_ENDPOINTS)
async def test_a_wrong_secret_is_refused(world, shown, path):
    form = GRANT | {"token": "x"}
    answer = await world.client().post(path, data=form, headers=basic(shown.app.key, "wrong"))

    assert_refused(answer, 401, "invalid_client")
    assert answer.headers["www-authenticate"].startswith("Basic ")


async def test_an_unknown_key_looks_like_a_wrong_secret(world, shown):
    client = world.client()
    wrong = await client.post(COMPATIBLE, data=GRANT, headers=basic(shown.app.key, "wrong"))
    unknown = await client.post(COMPATIBLE, data=GRANT, headers=basic("sk_unknown", shown.secret))

    volatile = {"x-request-id"}
    assert unknown.content == wrong.content
    assert {**unknown.headers, **dict.fromkeys(volatile)} == {
        **wrong.headers,
        **dict.fromkeys(volatile),
    }


async def test_a_secret_is_not_good_for_another_key(world):
    owner = await world.owner()
    one, two = await world.app(owner, "one"), await world.app(owner, "two")
    answer = await world.client().post(
        COMPATIBLE, data=GRANT, headers=basic(one.app.key, two.secret)
    )

    assert_refused(answer, 401, "invalid_client")


@pytest.mark.parametrize(
    "header",
    [
        b"Basic",
        b"Basic ",
        b"Basic !!!!",
        b"Basic YWJj",  # no colon
        b"Basic YTpi=",  # wrong padding
        b"Basic YTpi YTpi",
        b"Basic /zr/",  # not UTF-8
        "Basic é".encode("latin-1"),
        "Basic ✓".encode(),
        b"Basic Og==",  # neither key nor secret
        b"Basic AAE6AAE=",  # control characters
        b"Basic JTAwOmE=",  # an encoded NUL
        b"Basic JUZGOmE=",  # an encoded byte that is not UTF-8
        b"Bearer YTpi",
        b"Digest username=x",
        b"",
    ],
)
async def test_malformed_credentials_are_refused(world, header):
    answer = await world.client().post(COMPATIBLE, data=GRANT, headers=[(b"authorization", header)])

    assert_refused(answer, 401, "invalid_client")


async def test_a_megabyte_of_authorization_is_refused(world):
    answer = await world.client().post(
        COMPATIBLE, data=GRANT, headers={"authorization": "Basic " + "YTph" * 262_144}
    )

    assert_refused(answer, 401, "invalid_client")


async def test_two_authorization_headers_are_refused(world, shown):
    value = signed_by(shown)["authorization"]
    answer = await world.client().post(
        COMPATIBLE, data=GRANT, headers=[("authorization", value), ("authorization", value)]
    )

    assert_refused(answer, 400, "invalid_request")


@pytest.mark.parametrize("path", CLIENT_ENDPOINTS)
async def test_header_and_form_together_are_refused(world, shown, path):
    form = GRANT | {"client_id": shown.app.key, "client_secret": shown.secret}

    assert_refused(await world.ask(shown, path, form), 400, "invalid_request")


async def test_another_key_in_the_form_is_refused(world, shown):
    answer = await world.ask(shown, form=GRANT | {"client_id": "sk_another"})

    assert_refused(answer, 400, "invalid_request")


@pytest.mark.parametrize("only", ["client_id", "client_secret"])
async def test_half_of_the_credentials_is_refused(world, shown, only):
    both = {"client_id": shown.app.key, "client_secret": shown.secret}
    answer = await world.client().post(COMPATIBLE, data=GRANT | {only: both[only]})

    assert_refused(answer, 401, "invalid_client")


async def test_credentials_in_the_query_are_never_read(world, shown):
    query = {"client_id": shown.app.key, "client_secret": shown.secret}
    answer = await world.client().post(COMPATIBLE, params=query, data=GRANT)

    assert_refused(answer, 401, "invalid_client")


# ---- refused: what is asked -----------------------------------------------------------------


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize(
    "grant", ["password", "authorization_code", "refresh_token", "CLIENT_CREDENTIALS", "\u2713"]
)
async def test_another_grant_is_refused(world, shown, path, grant):
    answer = await world.ask(shown, path, {"grant_type": grant})

    assert_refused(answer, 400, "unsupported_grant_type")


@pytest.mark.parametrize("form", [{"grant_type": ""}, {"grant": "client_credentials"}])
async def test_a_missing_grant_is_refused(world, shown, form):
    assert_refused(await world.ask(shown, form=form), 400, "invalid_request")


async def test_a_grant_in_the_query_is_never_read(world, shown):
    answer = await world.client().post(COMPATIBLE, params=GRANT, headers=signed_by(shown))

    assert_refused(answer, 400, "invalid_request")


async def test_an_empty_body_without_a_type_is_an_empty_form(world, shown):
    answer = await world.client().post(COMPATIBLE, headers=signed_by(shown))

    assert_refused(answer, 400, "invalid_request")
    assert "grant_type" in answer.json()["error_description"]


@pytest.mark.parametrize("scope", ["storage", "openid", " "])
async def test_a_scope_is_refused(world, shown, scope):
    answer = await world.ask(shown, form=GRANT | {"scope": scope})

    assert_refused(answer, 400, "invalid_scope")


@pytest.mark.parametrize("path", ["/oauth2/revoke", "/oauth2/introspect"])
@pytest.mark.parametrize("form", [{"token": ""}, {"token_type_hint": "access_token"}])
async def test_a_missing_token_is_refused(world, shown, path, form):
    assert_refused(await world.ask(shown, path, form), 400, "invalid_request")


@pytest.mark.parametrize(
    "body",
    [
        b"grant_type=client_credentials&grant_type=client_credentials",
        b"grant_type=client_credentials&scope=&scope=",
        b"grant_type=client_credentials&client_id=a&client_id=b",
        b"grant_type=client_credentials&other=1&other=2",
        b"grant_type=client_credentials&%6Fther=1&other=2",
    ],
)
async def test_a_repeated_parameter_is_refused(world, shown, body):
    answer = await world.client().post(COMPATIBLE, content=body, headers=signed_by(shown) | FORM)

    assert_refused(answer, 400, "invalid_request")
    assert "repeated" in answer.json()["error_description"]


@pytest.mark.parametrize(
    "body", [b"grant_type=\xff", b"grant_type=%FF", b"%FF=1", b"\x00\xfe", b"&".join([b"a=1"] * 99)]
)
async def test_a_body_that_is_no_form_is_refused(world, shown, body):
    answer = await world.client().post(COMPATIBLE, content=body, headers=signed_by(shown) | FORM)

    assert_refused(answer, 400, "invalid_request")


@pytest.mark.parametrize("path", CLIENT_ENDPOINTS)
async def test_json_is_refused_with_the_type_to_send(world, shown, path):
    answer = await world.client().post(path, json=GRANT, headers=signed_by(shown))

    assert_refused(answer, 400, "invalid_request")
    assert "application/x-www-form-urlencoded" in answer.json()["error_description"]


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=x", "text/plain", ";", "\u2713"])
async def test_another_content_type_is_refused(world, shown, kind):
    answer = await world.client().post(
        COMPATIBLE,
        content=b"grant_type=client_credentials",
        headers={**signed_by(shown), "content-type": kind.encode()},
    )

    assert_refused(answer, 400, "invalid_request")


async def test_a_form_without_a_type_is_refused(world, shown):
    answer = await world.client().post(
        COMPATIBLE, content=b"grant_type=client_credentials", headers=signed_by(shown)
    )

    assert_refused(answer, 400, "invalid_request")


@pytest.mark.parametrize("path", CLIENT_ENDPOINTS)
async def test_a_body_of_more_than_16_kib_is_refused(world, shown, path):
    body = b"grant_type=client_credentials&x=" + b"x" * 16 * 1024
    answer = await world.client().post(path, content=body, headers=signed_by(shown) | FORM)

    assert_refused(answer, 413, "invalid_request")


async def test_an_endless_body_is_not_read_to_its_end(world, shown):
    sent = 0

    async def endless():
        nonlocal sent
        while sent < 10_000_000:
            sent += 4096
            yield b"x" * 4096

    answer = await world.client().post(
        COMPATIBLE, content=endless(), headers=signed_by(shown) | FORM
    )

    assert_refused(answer, 413, "invalid_request")
    assert sent <= 24 * 1024


async def test_a_body_that_ends_half_way_is_refused(world, shown):
    async def broken():
        yield b"grant_type=client_"
        raise ClientDisconnect

    answer = await world.client().post(
        COMPATIBLE, content=broken(), headers=signed_by(shown) | FORM
    )

    assert_refused(answer, 400, "invalid_request")


@pytest.mark.parametrize("path", CLIENT_ENDPOINTS)
async def test_another_method_is_told_what_is_allowed(world, path):
    answer = await world.client().get(path)

    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("path", ["/oauth2/jwks", "/.well-known/oauth-authorization-server"])
async def test_documents_are_only_read(world, path):
    answer = await world.client().post(path, data=GRANT)

    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}
