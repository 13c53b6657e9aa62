"""Real OAuth libraries, and curl, against a real socket: they get a token and use it."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import httpx2
import pytest
import requests
from authlib.integrations.httpx_client import AsyncOAuth2Client, OAuth2Client
from authlib.integrations.requests_client import OAuth2Session as AuthlibSession
from granian.constants import Interfaces
from granian.server.embed import Server
from identity_world import GRANT, HeldClock, World, new_identity
from oauthlib.oauth2 import BackendApplicationClient
from requests_oauthlib import OAuth2Session
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from soundkeep.foundation import web
from soundkeep.foundation.clock import now_ms
from soundkeep.foundation.errors import SoundkeepError
from soundkeep.identity import http

CURL = shutil.which("curl")


@dataclass
class Service:
    """A running authorization server with one thing to protect, and a key for it."""

    base: str
    key: str = ""
    secret: str = ""

    @property
    def token_url(self) -> str:
        return f"{self.base}/oauth2/token"

    @property
    def protected(self) -> str:
        return f"{self.base}/whoami"


def protecting(world: World, base: str) -> web.Edge:
    verifier = world.verifier()

    async def whoami(request: Request) -> Response:
        who = web.caller(request).address
        claims = await verifier.claims(web.bearer_token(request), address=who)
        return web.json_response({"client": claims.client})

    routes = [*http.routes(world.issuer, base_url=base), Route("/whoami", whoami)]
    app = Starlette(routes=routes, exception_handlers={SoundkeepError: web.problem})
    return web.Edge(app, trusted_proxies=(), log_requests=False)


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[Service]:
    url = str(tmp_path_factory.mktemp("clients") / "identity.sqlite")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    service = Service(f"http://127.0.0.1:{port}")
    ready, stops, failures = threading.Event(), [], []

    async def main() -> None:
        clock = HeldClock(now_ms())
        world = World(url, await new_identity(url, clock), clock)
        world.boss = await world.company("acme")
        shown = await world.key()
        service.key, service.secret = shown.app.key, shown.secret
        app = protecting(world, service.base)
        server = Server(app, "127.0.0.1", port, interface=Interfaces.ASGINL, log_enabled=False)
        loop = asyncio.get_running_loop()
        stops.append(lambda: loop.call_soon_threadsafe(server.stop))
        serving = asyncio.create_task(server.serve())
        while not await _answers(port):  # noqa: ASYNC110  no event tells of it
            await asyncio.sleep(0.02)
        ready.set()
        await serving
        await world.close()

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:  # noqa: BLE001  told by the test, not by the thread
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(20), failures
    yield service
    stops[0]()
    thread.join(20)
    assert not thread.is_alive()
    assert not failures


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


@pytest.fixture(autouse=True)
def plain_http(monkeypatch):
    """Libraries insist on https; loopback is our one exception."""
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
    monkeypatch.setenv("AUTHLIB_INSECURE_TRANSPORT", "1")


# ---- libraries ------------------------------------------------------------------------------


@pytest.mark.parametrize("in_form", [False, True])
def test_requests_oauthlib(service, in_form):
    with OAuth2Session(client=BackendApplicationClient(client_id=service.key)) as session:
        session.fetch_token(
            service.token_url,
            client_id=service.key,
            client_secret=service.secret,
            include_client_id=in_form,
        )

        assert session.get(service.protected).json() == {"client": service.key}


METHODS = ["client_secret_basic", "client_secret_post"]


@pytest.mark.parametrize("method", METHODS)
def test_authlib_over_requests(service, method):
    with AuthlibSession(
        service.key,
        service.secret,
        token_endpoint=service.token_url,
        token_endpoint_auth_method=method,
    ) as session:
        session.fetch_token(grant_type="client_credentials")

        assert session.get(service.protected).json() == {"client": service.key}


@pytest.mark.parametrize("method", METHODS)
def test_authlib_over_httpx(service, method):
    with OAuth2Client(
        service.key,
        service.secret,
        token_endpoint=service.token_url,
        token_endpoint_auth_method=method,
    ) as client:
        client.fetch_token()

        assert client.get(service.protected).json() == {"client": service.key}


async def test_authlib_over_httpx_async(service):
    async with AsyncOAuth2Client(service.key, service.secret) as client:
        await client.fetch_token(service.token_url, grant_type="client_credentials")

        answer = await client.get(service.protected)
        assert answer.json() == {"client": service.key}


def test_authlib_introspects_and_revokes(service):
    with AuthlibSession(service.key, service.secret, token_endpoint=service.token_url) as session:
        token = session.fetch_token(grant_type="client_credentials")["access_token"]
        asked = session.introspect_token(f"{service.base}/oauth2/introspect", token)
        assert asked.json()["active"] is True
        session.revoke_token(f"{service.base}/oauth2/revoke", token)

        answer = session.get(service.protected)
        assert answer.status_code == 401
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]


class ClientCredentials(httpx2.Auth):
    """What many write by hand: fetch a token at the first 401, then carry it."""

    requires_response_body = True

    def __init__(self, url: str, key: str, secret: str) -> None:
        self.url, self.pair, self.token = url, (key, secret), ""

    def auth_flow(
        self, request: httpx2.Request
    ) -> Generator[httpx2.Request, httpx2.Response, None]:
        request.headers["authorization"] = f"Bearer {self.token or 'none'}"
        answer = yield request
        if answer.status_code == 401:
            asking = httpx2.Request("POST", self.url, data=GRANT)
            granted = yield next(httpx2.BasicAuth(*self.pair).auth_flow(asking))
            self.token = granted.json()["access_token"]
            request.headers["authorization"] = f"Bearer {self.token}"
            yield request


@pytest.mark.parametrize("path", ["/oauth2/token", "/oauth/v2/token"])
def test_an_httpx_auth_of_ones_own(service, path):
    auth = ClientCredentials(service.base + path, service.key, service.secret)
    with httpx2.Client(auth=auth) as client:
        assert client.get(service.protected).json() == {"client": service.key}


def test_discovery_leads_to_the_strict_endpoint(service):
    with requests.Session() as session:
        url = f"{service.base}/.well-known/oauth-authorization-server"
        found = session.get(url).json()

    assert found["issuer"] == service.base
    assert found["token_endpoint"] == service.token_url


# ---- curl -----------------------------------------------------------------------------------


def curl(*arguments: str) -> dict[str, str]:
    done = subprocess.run(
        [CURL, "--silent", "--show-error", "--fail-with-body", *arguments],
        capture_output=True,
        check=True,
        timeout=20,
    )
    return json.loads(done.stdout)


@pytest.mark.skipif(CURL is None, reason="there is no curl here")
@pytest.mark.parametrize("form", ["user", "header"])
def test_curl_as_the_reference_documents_it(service, form):
    pair = f"{service.key}:{service.secret}"
    header = requests.auth._basic_auth_str(service.key, service.secret)
    credentials = ("-u", pair) if form == "user" else ("-H", f"Authorization: {header}")
    answer = curl(
        *("-X", "POST", f"{service.base}/oauth/v2/token"),
        *("-H", "Content-Type: application/x-www-form-urlencoded"),
        *credentials,
        *("-d", "grant_type=client_credentials"),
    )
    assert answer["token_type"] == "BearerToken"

    used = curl(service.protected, "-H", f"Authorization: Bearer {answer['access_token']}")
    assert used == {"client": service.key}
