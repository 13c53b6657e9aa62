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
from soundkeep.region import catalog, fiql, links
from soundkeep.region.model import LinkState, State

DOCUMENT = json.loads((files("soundkeep") / "openapi.json").read_bytes())
PASSWORD = "correct horse battery"
OBJECTS = "/storage/us-east/v3/objects"
PRESIGNED = "/storage/us-east/v3/presigned"
BULK = "/storage/us-east/v3/bulk"
GRANT = {"grant_type": "client_credentials"}


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
    served = {(route.path, method) for route in routes for method in route.methods}
    described = {
        (path, method.upper())
        for path, operations in DOCUMENT["paths"].items()
        for method in operations.keys() - {"parameters"}
    }
    described |= {(path, "HEAD") for path, method in described if method == "GET"}

    assert described == served
    assert all("HEAD" in route.methods for route in routes if "GET" in route.methods)


def test_bounds_and_words_are_those_of_the_code():
    parameters, schemas = DOCUMENT["components"]["parameters"], DOCUMENT["components"]["schemas"]

    assert parameters["filter"]["schema"]["maxLength"] == fiql.MAX_BYTES
    assert parameters["limit"]["schema"]["maximum"] == catalog.MAX_LIMIT
    assert parameters["limit"]["schema"]["default"] == catalog.DEFAULT_LIMIT
    assert parameters["sortField"]["schema"]["default"] == catalog.DEFAULT_SORT
    assert schemas["Object"]["properties"]["objectState"]["enum"] == list(State)
    assert schemas["Link"]["properties"]["state"]["enum"] == list(LinkState)
    assert schemas["Presigned"]["properties"]["expiresIn"]["maximum"] == links.LONGEST_SECONDS
    [seconds] = [
        each["schema"]
        for each in DOCUMENT["paths"]["/storage/{region}/v3/objects/{id}/content"]["get"][
            "parameters"
        ]
        if each["name"] == "expiresIn"
    ]
    assert (seconds["minimum"], seconds["maximum"]) == (1, links.LONGEST_SECONDS)
    assert seconds["default"] == links.DEFAULT_SECONDS


async def test_the_bounds_of_a_page_are_where_the_document_puts_them(client, credentials):
    headers = await authorized(client, credentials)
    statuses = {}
    for name in ("pageKey", "limit"):
        schema = DOCUMENT["components"]["parameters"][name]["schema"]
        least, most = schema["minimum"], schema["maximum"]
        for value in (least - 1, least, most, most + 1):
            answer = await client.get(OBJECTS, headers=headers, params={name: value})
            statuses.setdefault(name, []).append(answer.status_code)

    assert statuses == {"pageKey": [400, 200, 200, 400], "limit": [400, 200, 200, 400]}


async def test_real_answers_are_as_described(client, credentials):
    compatible = await client.post("/oauth/v2/token", auth=credentials, data=GRANT)
    strict = await client.post("/oauth2/token", auth=credentials, data=GRANT)
    token = strict.json()["access_token"]
    headers = {"authorization": f"Bearer {token}"}
    introspected = await client.post("/oauth2/introspect", auth=credentials, data={"token": token})
    metadata = json.dumps({"type": "meeting", "tags": [{"key": "branchId", "value": "x"}]})
    parts = {"metadata": (None, metadata), "content": ("a.txt", b"hello", "text/plain")}
    uploaded = await client.post(OBJECTS, headers=headers, files=parts)
    where = uploaded.headers["location"]
    linked = await client.get(f"{where}/content?presignUrl=true", headers=headers)
    ids = [uploaded.json()["id"], "unknown"]
    started = await client.post(f"{BULK}/download/start", headers=headers, json=ids)
    name = started.json()["zipName"]
    bulk = "/storage/{region}/v3/bulk"
    status = await client.get(f"{BULK}/download/status/{name}?presignUrl=true", headers=headers)
    linked_archive = await client.get(f"{BULK}/download/{name}?presignUrl=true", headers=headers)
    listed = await client.get(PRESIGNED, headers=headers)
    deleted = await client.request("DELETE", BULK, headers=headers, json=ids)
    seen = {
        (f"{bulk}/download/start", "post"): started,
        (f"{bulk}/download/status/{{id}}", "get"): status,
        (f"{bulk}/download/{{id}}", "get"): linked_archive,
        (f"{bulk}/download/status", "get"): await client.get(
            f"{BULK}/download/status", headers=headers
        ),
        (f"{bulk}/download/cancel/{{id}}", "post"): await client.post(
            f"{BULK}/download/cancel/{name}", headers=headers
        ),
        (f"{bulk}/download/clear", "put"): await client.put(
            f"{BULK}/download/clear", headers=headers
        ),
        (bulk, "delete"): deleted,
        (f"{bulk}/undelete", "post"): await client.post(
            f"{BULK}/undelete", headers=headers, json=ids
        ),
        ("/oauth/v2/token", "post"): compatible,
        ("/oauth2/token", "post"): strict,
        ("/oauth2/introspect", "post"): introspected,
        ("/storage/{region}/v3/objects", "post"): uploaded,
        ("/storage/{region}/v3/objects", "get"): await client.get(OBJECTS, headers=headers),
        ("/storage/{region}/v3/objects/{id}", "get"): await client.get(where, headers=headers),
        ("/storage/{region}/v3/objects/{id}/metadata", "get"): await client.get(
            f"{where}/metadata", headers=headers
        ),
        ("/storage/{region}/v3/buckets", "get"): await client.get(
            "/storage/us-east/v3/buckets", headers=headers
        ),
        ("/storage/{region}/v3/buckets/{id}", "get"): await client.get(
            f"/storage/us-east/v3/buckets/{uploaded.json()['bucketId']}", headers=headers
        ),
        ("/storage/{region}/v3/presigned", "get"): listed,
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
    assert {answer.status_code for answer in seen.values()} == {200, 201}
    for (path, method), answer in seen.items():
        assert wrong(path, method, answer) == [], path
        if answer is not linked_archive:  # what has no bytes has not their headers
            assert absent_headers(path, method, answer) == [], path
    assert [error.message for error in validator("Presigned").iter_errors(linked.json())] == []


async def test_real_content_has_the_headers_that_are_described(client, credentials):
    headers = await authorized(client, credentials)
    parts = {
        "metadata": (None, '{"type": "meeting"}'),
        "content": ("a.txt", b"hello", "text/plain"),
    }
    uploaded = await client.post(OBJECTS, headers=headers, files=parts)
    path, described = uploaded.headers["location"], "/storage/{region}/v3/objects/{id}/content"
    answers = [
        await client.request(method, f"{path}/content{query}", headers=headers | more)
        for method, query, more in (
            ("GET", "", {}),
            ("HEAD", "", {}),
            ("GET", "?inline=true", {}),
            ("GET", "", {"range": "bytes=1-"}),
            ("GET", "", {"range": "bytes=0-1,4-"}),
            ("GET", "", {"if-none-match": "*"}),
        )
    ]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 206, 206, 304]
    for answer in answers:
        assert absent_headers(described, "get", answer) == []
        assert wrong_headers(described, "get", answer) == []


async def test_real_refusals_are_as_described(client, credentials):
    headers = await authorized(client, credentials)
    listing, single = "/storage/{region}/v3/objects", "/storage/{region}/v3/objects/{id}"
    content, listed_links = f"{single}/content", "/storage/{region}/v3/presigned"
    parts = {
        "metadata": (None, '{"type": "meeting"}'),
        "content": ("a.txt", b"hello", "text/plain"),
    }
    uploaded = await client.post(OBJECTS, headers=headers, files=parts)
    bytes_of = f"{uploaded.headers['location']}/content"
    beyond, other = {"range": "bytes=9-"}, {"if-match": '"x"'}
    too_many = {"range": "bytes=0-0" + ",0-0" * 50}
    link = (await client.get(f"{bytes_of}?presignUrl=true", headers=headers)).json()["url"]
    [listed] = (await client.get(PRESIGNED, headers=headers)).json()["content"]
    ended = await client.delete(f"{PRESIGNED}/{listed['id']}", headers=headers)
    wrong_secret = (credentials[0], "wrong")
    seen = [
        (listing, "get", 401, await client.get(OBJECTS)),
        (listing, "get", 400, await client.get(f"{OBJECTS}?filter=type~x", headers=headers)),
        (listing, "get", 403, await client.get("/storage/uk/v3/objects", headers=headers)),
        (listing, "get", 404, await client.get("/storage/mars/v3/objects", headers=headers)),
        (listing, "post", 400, await client.post(OBJECTS, headers=headers, content=b"{}")),
        (single, "get", 404, await client.get(f"{OBJECTS}/unknown", headers=headers)),
        (content, "get", 416, await client.get(bytes_of, headers=headers | beyond)),
        (content, "get", 416, await client.get(bytes_of, headers=headers | too_many)),
        (content, "get", 400, await client.get(f"{bytes_of}?inline=1", headers=headers)),
        (content, "get", 412, await client.get(bytes_of, headers=headers | other)),
        (content, "get", 403, await client.get(link[:-1])),
        (content, "get", 410, await client.get(link)),
        (listed_links, "get", 400, await client.get(f"{PRESIGNED}?limit=0", headers=headers)),
        (
            f"{listed_links}/{{id}}",
            "delete",
            404,
            await client.delete(f"{PRESIGNED}/x", headers=headers),
        ),
        ("/oauth/v2/token", "post", 401, await client.post("/oauth/v2/token", data=GRANT)),
        ("/oauth2/token", "post", 400, await client.post("/oauth2/token", auth=credentials)),
        (
            "/oauth2/revoke",
            "post",
            413,
            await client.post("/oauth2/revoke", data={"token": "x" * 20_000}),
        ),
        ("/oauth2/token", "post", "default", await client.get("/oauth2/token")),
    ]
    for _ in range(11):
        slowed = await client.post("/oauth2/token", auth=wrong_secret, data=GRANT)
    seen.append(("/oauth2/token", "post", 429, slowed))

    assert ended.status_code == 204
    for path, method, status, answer in seen:
        assert status in (answer.status_code, "default"), (path, status)
        assert wrong(path, method, answer) == [], (path, status)
        assert absent_headers(path, method, answer) == [], (path, status)


async def authorized(client, credentials):
    answer = await client.post("/oauth2/token", auth=credentials, data=GRANT)
    return {"authorization": f"Bearer {answer.json()['access_token']}"}


def response_of(path, method, answer):
    """What the document says of answers with this status."""
    responses = DOCUMENT["paths"][path][method]["responses"]
    return responses.get(str(answer.status_code), responses["default"])


def wrong(path, method, answer):
    """What of an answer is not as the document says."""
    described = resolved(response_of(path, method, answer))
    schema = described["content"][answer.headers["content-type"].partition(";")[0]]["schema"]
    checked = Draft202012Validator({**schema, "components": DOCUMENT["components"]})
    return [error.message for error in checked.iter_errors(answer.json())]


def validator(name):
    """What checks JSON against one of the document's schemas."""
    reference = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    return Draft202012Validator(reference)


def absent_headers(path, method, answer):
    """Headers that the document promises and an answer lacks."""
    promised = resolved(response_of(path, method, answer))["headers"]
    return [
        name
        for name, header in promised.items()
        if resolved(header).get("required") and name not in answer.headers
    ]


def wrong_headers(path, method, answer):
    """What of an answer's headers is not as the document says."""
    promised = resolved(response_of(path, method, answer))["headers"]
    return [
        error.message
        for name, header in promised.items()
        if name in answer.headers
        for error in Draft202012Validator(resolved(header)["schema"]).iter_errors(
            answer.headers[name]
        )
    ]


def resolved(part):
    if "$ref" not in part:
        return part
    found = DOCUMENT
    for name in part["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return found
