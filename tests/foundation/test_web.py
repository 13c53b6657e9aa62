"""The edge: who is calling, over what, and how every refusal reads on the wire."""

from __future__ import annotations

import asyncio
import re

import httpx2
import msgspec
import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from soundkeep.foundation import errors, metrics, web

PROXY = "10.0.0.1"
INNER_PROXY = "10.0.0.2"
CLIENT = "203.0.113.9"
SPOOF = "198.51.100.66"


async def who(request):
    found = web.caller(request)
    return web.json_response([found.address, found.secure, found.request_id])


async def echo(request):
    return PlainTextResponse(await web.body(request, limit=10))


async def token(request):
    return PlainTextResponse(web.bearer_token(request))


def fails_with(error):
    async def endpoint(_):
        raise error

    return endpoint


def served(*more, trusted=("10.0.0.0/8",)):
    app = Starlette(
        routes=[
            Route("/who", who),
            Route("/healthz", who),
            Route("/readyz", who),
            Route("/echo", echo, methods=["POST"]),
            Route("/token", token),
            *more,
        ],
        exception_handlers={
            errors.SoundkeepError: web.handler(web.problem),
            HTTPException: web.handler(web.http_problem),
            Exception: web.handler(web.internal_problem),
        },
    )
    return web.Edge(app, trusted_proxies=trusted, log_requests=False)


async def call(app, path, *, peer="127.0.0.1", scheme="http", method="GET", **more):
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False, client=(peer, 4321))
    async with httpx2.AsyncClient(
        transport=transport, base_url=f"{scheme}://keep.example"
    ) as client:
        return await client.request(method, path, **more)


async def seen(*headers, peer=PROXY, scheme="https", trusted=("10.0.0.0/8",)):
    """Which address the application sees."""
    answer = await call(served(trusted=trusted), "/who", peer=peer, scheme=scheme, headers=headers)
    return answer.json()[0]


# ---- request ids ----------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["a", "req-1.2_3", "A" * 64])
async def test_a_safe_request_id_is_kept(given):
    answer = await call(served(), "/who", headers={"x-request-id": given})

    assert answer.headers["x-request-id"] == given
    assert answer.json()[2] == given


@pytest.mark.parametrize("given", ["", "a b", "A" * 65, 'a"b', "<script>", "ü".encode(), "a,b"])
async def test_an_unsafe_request_id_is_replaced(given):
    answer = await call(served(), "/who", headers=[(b"x-request-id", given)])

    assert re.fullmatch("[0-9a-f]{16}", answer.headers["x-request-id"])


async def test_two_requests_without_an_id_get_different_ones():
    ids = {(await call(served(), "/who")).headers["x-request-id"] for _ in range(2)}

    assert len(ids) == 2


async def test_a_refusal_carries_the_request_id_too():
    answer = await call(served(), "/nowhere", headers={"x-request-id": "mine"})

    assert (answer.status_code, answer.headers["x-request-id"]) == (404, "mine")


async def test_every_answer_forbids_content_sniffing():
    assert (await call(served(), "/who")).headers["x-content-type-options"] == "nosniff"


# ---- addresses and proxies ------------------------------------------------------------------


async def test_without_a_proxy_the_peer_is_the_client():
    assert await seen(peer=CLIENT) == CLIENT


async def test_a_trusted_proxy_names_the_client():
    assert await seen(("x-forwarded-for", CLIENT)) == CLIENT


async def test_a_trusted_proxy_that_names_nobody_is_the_client_itself():
    assert await seen() == PROXY


@pytest.mark.parametrize("trusted", [(), ("10.0.0.0/8",)], ids=["none trusted", "another trusted"])
async def test_an_untrusted_peer_cannot_name_another_client(trusted):
    assert await seen(("x-forwarded-for", SPOOF), peer=CLIENT, trusted=trusted) == CLIENT


async def test_what_a_client_wrote_before_the_proxy_did_is_ignored():
    assert await seen(("x-forwarded-for", f"{SPOOF}, {CLIENT}")) == CLIENT


async def test_a_trusted_address_that_a_client_wrote_does_not_help_it():
    assert await seen(("x-forwarded-for", f"{SPOOF}, {INNER_PROXY}, {CLIENT}")) == CLIENT


async def test_a_chain_of_trusted_proxies_is_walked_to_its_beginning():
    assert await seen(("x-forwarded-for", f"{SPOOF}, {CLIENT}, {INNER_PROXY}")) == CLIENT


async def test_a_chain_over_several_header_lines_is_one_chain():
    lines = [("x-forwarded-for", CLIENT), ("x-forwarded-for", INNER_PROXY)]

    assert await seen(*lines) == CLIENT


async def test_spaces_and_empty_members_do_not_matter():
    assert await seen(("x-forwarded-for", f" ,{SPOOF},,  {CLIENT} ,")) == CLIENT


async def test_an_ipv4_client_of_a_dual_stack_socket_is_an_ipv4_client():
    assert await seen(peer=f"::ffff:{CLIENT}") == CLIENT


async def test_an_ipv4_proxy_before_a_dual_stack_socket_is_trusted():
    assert await seen(("x-forwarded-for", CLIENT), peer=f"::ffff:{PROXY}") == CLIENT


async def test_an_ipv6_proxy_is_trusted_by_its_range():
    headers = ("x-forwarded-for", "2001:db8::7")

    assert await seen(headers, peer="fd00::1", trusted=("fd00::/8",)) == "2001:db8::7"


# ---- transport ------------------------------------------------------------------------------


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
async def test_plain_http_is_fine_on_the_same_machine(peer):
    assert (await call(served(), "/who", peer=peer)).status_code == 200


async def test_plain_http_from_elsewhere_is_refused():
    answer = await call(served(), "/who", peer=CLIENT)

    assert answer.status_code == 403
    assert answer.json()["errors"][0]["code"] == "insecure_transport"


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_a_probe_may_come_by_plain_http(path):
    assert (await call(served(), path, peer=CLIENT)).status_code == 200


@pytest.mark.parametrize(
    "path", ["/healthz/", "//healthz", "/healthz/../who", "/HEALTHZ", "/metrics"]
)
async def test_what_looks_like_a_probe_may_not(path):
    assert (await call(served(), path, peer=CLIENT)).status_code == 403


async def test_https_from_elsewhere_is_served():
    answer = await call(served(), "/who", peer=CLIENT, scheme="https")

    assert answer.json()[:2] == [CLIENT, True]


@pytest.mark.parametrize("word", ["https", "HTTPS", " https "])
async def test_a_trusted_proxy_may_say_that_the_client_came_by_https(word):
    headers = {"x-forwarded-for": CLIENT, "x-forwarded-proto": word}

    answer = await call(served(), "/who", peer=PROXY, headers=headers)

    assert answer.json()[:2] == [CLIENT, True]


@pytest.mark.parametrize("word", ["http", "", "https,http", "wss"])
async def test_a_trusted_proxy_that_does_not_say_https_is_plain_http(word):
    headers = {"x-forwarded-for": CLIENT, "x-forwarded-proto": word}

    assert (await call(served(), "/who", peer=PROXY, headers=headers)).status_code == 403


async def test_an_untrusted_peer_cannot_say_that_it_came_by_https():
    headers = {"x-forwarded-proto": "https"}

    assert (await call(served(), "/who", peer=CLIENT, headers=headers)).status_code == 403


async def test_a_client_that_claims_to_be_this_machine_is_refused():
    headers = {"x-forwarded-for": "127.0.0.1"}

    assert (await call(served(), "/who", peer=CLIENT, headers=headers)).status_code == 403
    assert (await call(served(), "/who", peer=PROXY, headers=headers)).status_code == 403


@pytest.mark.parametrize(
    ("address", "here"),
    [("", True), ("127.0.0.1", True), ("::1", True), ("10.0.0.1", False), ("localhost", False)],
)
def test_loopback_is_this_machine_only(address, here):
    assert web.is_loopback(address) is here


# ---- how errors read ------------------------------------------------------------------------


def family(root):
    return [root, *(each for child in root.__subclasses__() for each in family(child))]


BASES = (errors.SoundkeepError, errors.OAuthError)
CLASSES = [each for each in family(errors.SoundkeepError) if each not in BASES]


def test_every_class_has_a_code_of_its_own():
    codes = [each.code for each in CLASSES]

    assert len(set(codes)) == len(codes)


def test_no_status_is_kept_for_a_class_that_is_gone():
    assert set(web.STATUS) == set(CLASSES)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
async def test_every_error_renders_as_problem_json(kind):
    failing = Route("/failing", fails_with(kind("Do this instead.", field="name", at=3)))

    answer = await call(served(failing), "/failing")

    body = answer.json()
    assert answer.status_code == web.STATUS[kind]
    assert answer.headers["content-type"] == "application/problem+json"
    assert body == {
        "type": f"urn:soundkeep:error:{kind.code}",
        "title": body["title"],
        "status": answer.status_code,
        "detail": "Do this instead.",
        "instance": "/failing",
        "message": "Do this instead.",
        "errors": [{"field": "name", "code": kind.code, "message": "Do this instead."}],
        "at": 3,
    }
    assert body["title"]


async def headers_of(error):
    return (await call(served(Route("/failing", fails_with(error))), "/failing")).headers


async def test_without_credentials_the_challenge_tells_no_error_code():
    headers = await headers_of(errors.NotSignedIn("Send an access token."))

    assert headers["www-authenticate"] == 'Bearer realm="soundkeep"'


@pytest.mark.parametrize(
    ("kind", "code"),
    [(errors.BadToken, "invalid_token"), (errors.NotAllowed, "insufficient_scope")],
)
async def test_a_refused_token_is_told_why_by_the_challenge(kind, code):
    headers = await headers_of(kind("It expired."))

    assert headers["www-authenticate"] == (
        f'Bearer realm="soundkeep", error="{code}", error_description="It expired."'
    )


@pytest.mark.parametrize(
    "message", ['say "please"', "back\\slash", "Ünïcode – “quoted”", "two\r\nlines: x", "🎙"]
)
async def test_a_challenge_holds_only_what_its_grammar_allows(message):
    headers = await headers_of(errors.NotAllowed(message))

    described = headers["www-authenticate"].partition("error_description=")[2]
    assert re.fullmatch(r'"[\x20-\x21\x23-\x5B\x5D-\x7E]+"', described)


async def test_a_message_beyond_ascii_is_whole_in_the_body():
    failing = Route("/failing", fails_with(errors.NotAllowed('Only “root” may – "now".')))

    assert (await call(served(failing), "/failing")).json()["detail"] == 'Only “root” may – "now".'


async def test_a_wrong_client_is_challenged_by_basic():
    headers = await headers_of(errors.InvalidClient("Wrong."))

    assert headers["www-authenticate"] == 'Basic realm="soundkeep", charset="UTF-8"'


QUIET = [
    each
    for each in CLASSES
    if each not in (errors.NotSignedIn, errors.BadToken, errors.NotAllowed, errors.InvalidClient)
]


@pytest.mark.parametrize("kind", QUIET, ids=lambda kind: kind.__name__)
async def test_what_no_credentials_can_mend_is_not_challenged(kind):
    assert "www-authenticate" not in await headers_of(kind("No."))


async def test_a_wait_and_a_limit_are_headers_and_not_in_the_body():
    error = errors.TooMany("Wait.", retry_after=7, limit=10, remaining=0, reset=7)

    answer = await call(served(Route("/failing", fails_with(error))), "/failing")

    assert {
        "retry-after": "7",
        "x-ratelimit-limit": "10",
        "x-ratelimit-remaining": "0",
        "x-ratelimit-reset": "7",
    }.items() <= dict(answer.headers).items()
    assert not {"retry_after", "limit", "remaining", "reset"} & answer.json().keys()


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/no", 404), ("PUT", "/who", 405)])
async def test_the_frameworks_refusals_read_like_ours(method, path, status):
    answer = await call(served(), path, method=method)

    body = answer.json()
    assert answer.status_code == body["status"] == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert body["message"] == body["detail"] == body["errors"][0]["message"]
    assert body["instance"] == path


async def test_a_refused_method_names_those_that_are_allowed():
    assert "GET" in (await call(served(), "/who", method="PUT")).headers["allow"]


async def test_a_fault_of_ours_shows_nothing_but_the_request_id():
    failing = Route("/failing", fails_with(ZeroDivisionError("secret detail of /etc/passwd")))

    answer = await call(served(failing), "/failing", headers={"x-request-id": "tell-me"})

    assert answer.status_code == 500
    assert "tell-me" in answer.json()["detail"]
    assert "secret" not in answer.text
    assert "ZeroDivision" not in answer.text


def test_a_fault_before_the_edge_saw_the_request_renders_too():
    request = Request(
        {"type": "http", "method": "GET", "path": "/", "headers": [], "server": ("h", 1)}
    )

    answer = web.internal_problem(request, ZeroDivisionError())

    assert msgspec.json.decode(answer.body)["status"] == 500


# ---- bodies ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 10])
async def test_a_body_up_to_the_limit_is_read_whole(size):
    answer = await call(served(), "/echo", method="POST", content=b"x" * size)

    assert answer.content == b"x" * size


async def test_a_body_past_the_limit_is_too_large():
    answer = await call(served(), "/echo", method="POST", content=b"x" * 11)

    assert answer.status_code == 413
    assert "10 bytes" in answer.json()["detail"]


async def test_a_body_past_the_limit_is_not_read_to_its_end():
    sent = 0

    async def endless():
        nonlocal sent
        while sent < 1000:
            sent += 1
            yield b"x" * 6

    answer = await call(served(), "/echo", method="POST", content=endless())

    assert (answer.status_code, sent) == (413, 2)


async def test_a_client_that_leaves_in_mid_body_is_incomplete():
    messages = [
        {"type": "http.request", "body": b"half", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive():
        return messages.pop(0)

    request = Request({"type": "http", "method": "POST", "path": "/", "headers": []}, receive)
    with pytest.raises(errors.Incomplete):
        await web.body(request, limit=100)


async def test_json_response_writes_json_with_the_headers_given():
    answer = web.json_response({"a": [1, None]}, 201, cache_control="no-store")

    assert (answer.status_code, answer.body) == (201, b'{"a":[1,null]}')
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/json"


# ---- bearer tokens --------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["Bearer abc.def", "bearer abc.def", "BEARER   abc.def  "])
async def test_a_bearer_token_is_found(value):
    answer = await call(served(), "/token", headers={"authorization": value})

    assert answer.text == "abc.def"


async def test_no_authorization_is_not_signed_in():
    answer = await call(served(), "/token")

    assert answer.status_code == 401
    assert answer.json()["errors"][0]["code"] == "not_signed_in"


@pytest.mark.parametrize(
    "value", ["", "Bearer", "Bearer ", "Basic abc", "abc", "Bearer a b", "Bearer,abc", "Token abc"]
)
async def test_any_other_authorization_is_a_bad_token(value):
    answer = await call(served(), "/token", headers={"authorization": value})

    assert answer.status_code == 401
    assert answer.json()["errors"][0]["code"] == "invalid_token"


async def test_two_authorizations_are_a_bad_token():
    headers = [("authorization", "Bearer abc"), ("authorization", "Bearer abc")]

    answer = await call(served(), "/token", headers=headers)

    assert answer.json()["errors"][0]["code"] == "invalid_token"


@pytest.mark.parametrize("name", ["token", "access_token", "authorization"])
async def test_a_token_in_the_query_is_not_looked_at(name):
    answer = await call(served(), f"/token?{name}=abc")

    assert answer.json()["errors"][0]["code"] == "not_signed_in"


# ---- what is counted ------------------------------------------------------------------------


async def test_a_request_is_counted_under_its_route_and_not_its_path():
    app = served(Route("/things/{id}", who))

    await call(app, "/things/a-private-id")

    text = metrics.exposition().decode()
    assert 'method="GET",route="/things/{id}",status="200"' in text
    assert "a-private-id" not in text


async def test_paths_that_no_route_knows_are_counted_as_one():
    await call(served(), "/a-private-path")

    text = metrics.exposition().decode()
    assert 'method="GET",route="unmatched",status="404"' in text
    assert "a-private-path" not in text


async def test_made_up_methods_are_counted_as_one():
    await call(served(), "/who", method="BREW")

    assert 'method="other",route="/who",status="405"' in metrics.exposition().decode()


async def test_a_client_that_falls_silent_is_not_waited_for():
    said = [{"type": "http.request", "body": b"half", "more_body": True}]

    async def receive():
        if not said:
            await asyncio.sleep(3600)
        return said.pop()

    scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
    body = web.chunks(Request(scope, receive), idle_seconds=0.05)

    assert await anext(body) == b"half"
    with pytest.raises(errors.Incomplete, match="Nothing of the body came"):
        await anext(body)
