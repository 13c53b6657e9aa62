"""`/openapi.json` is valid, names exactly the routes that are served, and describes real answers."""

from __future__ import annotations

import json
from importlib.resources import files

import httpx2
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.routing import Mount

import soundkeep
from soundkeep import server
from soundkeep.cli import installation
from soundkeep.foundation.claims import Access
from soundkeep.identity import accounts, apps, roles
from soundkeep.identity.accounts import NewUser
from soundkeep.identity.model import ScopeItem, ScopeKind

DOCUMENT = json.loads((files("soundkeep") / "openapi.json").read_bytes())
PASSWORD = "correct horse battery"


@pytest.fixture
async def settings(tmp_path):
    settings = installation.create(tmp_path / "made", port=8080, regions=["us-east"])
    await server.migrate_all(settings)
    return settings


@pytest.fixture
async def app(settings):
    async with server.running(settings) as app:
        yield app


@pytest.fixture
async def client(app):
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as client:
        yield client


@pytest.fixture
async def credentials(settings):
    """An API key with every right."""
    identity = await server.open_identity(settings)
    try:
        boss = NewUser(email="boss@acme.test", name="Boss", password=PASSWORD)
        await accounts.add_customer(identity, company="Acme", customer_id="acme", admin=boss)
        actor = await signed_in(identity, "boss@acme.test")
        wanted = NewUser(email="dev@acme.test", name="Dev", password=PASSWORD)
        user = await accounts.create_user(identity, actor, wanted)
        company = ScopeItem(ScopeKind.COMPANY)
        await roles.assign(
            identity, actor, user_id=user.id, role_ids=["storage-api"], scopes=[company]
        )
        developer = await signed_in(identity, "dev@acme.test")
        app = apps.Wanted(name="key", products=("storage",), access=Access.EDIT)
        shown = await apps.create(identity, developer, app)
        return shown.app.key, shown.secret
    finally:
        await identity.db.close()


async def signed_in(identity, email):
    cookie = await accounts.sign_in(identity, email=email, password=PASSWORD, address="127.0.0.1")
    return (await accounts.signed_in(identity, cookie)).actor


def test_the_document_is_valid():
    assert [str(error) for error in OpenAPIV31SpecValidator(DOCUMENT).iter_errors()] == []
    assert DOCUMENT["info"]["version"] == soundkeep.__version__


async def test_it_names_exactly_the_routes_that_are_served(app):
    routes = [route for route in app._app.routes if not isinstance(route, Mount)]
    served = {(route.path, method) for route in routes for method in route.methods - {"HEAD"}}
    described = {
        (path, method.upper())
        for path, operations in DOCUMENT["paths"].items()
        for method in operations.keys() - {"parameters"}
    }

    assert described == served


async def test_real_answers_are_as_described(client, credentials):
    grant = {"grant_type": "client_credentials"}
    compatible = await client.post("/oauth/v2/token", auth=credentials, data=grant)
    strict = await client.post("/oauth2/token", auth=credentials, data=grant)
    token = strict.json()["access_token"]
    headers = {"authorization": f"Bearer {token}"}
    introspected = await client.post("/oauth2/introspect", auth=credentials, data={"token": token})
    objects = "/storage/us-east/v3/objects"
    metadata = json.dumps({"type": "meeting", "tags": [{"key": "branchId", "value": "x"}]})
    parts = {"metadata": (None, metadata), "content": ("a.txt", b"hello", "text/plain")}
    uploaded = await client.post(objects, headers=headers, files=parts)
    where = uploaded.headers["location"]
    seen = {
        ("/oauth/v2/token", "post"): compatible,
        ("/oauth2/token", "post"): strict,
        ("/oauth2/introspect", "post"): introspected,
        ("/storage/{region}/v3/objects", "post"): uploaded,
        ("/storage/{region}/v3/objects", "get"): await client.get(objects, headers=headers),
        ("/storage/{region}/v3/objects/{id}", "get"): await client.get(where, headers=headers),
        ("/storage/{region}/v3/regions", "get"): await client.get(
            "/storage/uk/v3/regions", headers=headers
        ),
        ("/readyz", "get"): await client.get("/readyz"),
        ("/healthz", "get"): await client.get("/healthz"),
        ("/oauth2/jwks", "get"): await client.get("/oauth2/jwks"),
        ("/.well-known/oauth-authorization-server", "get"): await client.get(
            "/.well-known/oauth-authorization-server"
        ),
    }
    refused = {
        ("/storage/{region}/v3/objects", "get"): await client.get(objects),
        ("/oauth/v2/token", "post"): await client.post("/oauth/v2/token", data=grant),
        ("/storage/{region}/v3/objects/{id}", "get"): await client.get(
            f"{objects}/unknown", headers=headers
        ),
    }

    assert {answer.status_code for answer in seen.values()} == {200, 201}
    for (path, method), answer in [*seen.items(), *refused.items()]:
        assert wrong(path, method, answer) == [], path


def wrong(path, method, answer):
    """What of an answer is not as the document says."""
    described = resolved(DOCUMENT["paths"][path][method]["responses"][str(answer.status_code)])
    schema = described["content"][answer.headers["content-type"].partition(";")[0]]["schema"]
    validator = Draft202012Validator({**schema, "components": DOCUMENT["components"]})
    return [error.message for error in validator.iter_errors(answer.json())]


def resolved(part):
    if "$ref" not in part:
        return part
    found = DOCUMENT
    for name in part["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return found
