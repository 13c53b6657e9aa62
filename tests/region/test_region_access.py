"""Who gets in: tokens, access classes, regions. Contract §2, "Bearer errors" and "Regions"."""

from __future__ import annotations

import pytest
from region_world import KNOWN, OBJECTS, Signer, fault, in_pieces, opened

from soundkeep.foundation.claims import Access

EVERYTHING = (
    "/storage/us-east/v3/regions",
    OBJECTS,
    f"{OBJECTS}/some-id",
    f"{OBJECTS}/some-id/metadata",
    f"{OBJECTS}/some-id/content",
)
NO_TOKEN = 'Bearer realm="soundkeep"'


# ---- tokens


@pytest.mark.parametrize("path", EVERYTHING)
async def test_without_credentials_the_challenge_is_bare(local, path):
    answer = await local.bearing(None).get(path)

    assert fault(answer)[0] == 401
    assert answer.headers["www-authenticate"] == NO_TOKEN


async def test_an_upload_without_credentials_is_refused_before_its_body_is_read(local):
    answer = await local.bearing(None).post(OBJECTS, content=never_read())

    assert fault(answer)[0] == 401


async def never_read():
    raise AssertionError("the body was read")
    yield b""


@pytest.mark.parametrize("path", EVERYTHING)
@pytest.mark.parametrize("place", ["query", "query beside a bad header"])
async def test_a_token_in_the_query_is_not_taken(local, path, place):
    client = local.bearing(None if place == "query" else "Bearer wrong")
    answer = await client.get(path, params={"access_token": local.token()})

    assert fault(answer)[0] == 401


@pytest.mark.parametrize(
    "authorization",
    ["Bearer", "Bearer ", "Bearer x", "Bearer x.y.z", "Bearer a b", "Basic c2s6c2VjcmV0", "x", " "],
)
async def test_a_malformed_token_is_an_invalid_one(local, authorization):
    answer = await local.bearing(authorization).get(OBJECTS)

    assert fault(answer) == (401, "invalid_token", None)
    assert answer.headers["www-authenticate"].startswith(f'{NO_TOKEN}, error="invalid_token"')


async def test_a_token_of_another_signer_is_invalid(local):
    forged = Signer().token(local.claims())
    answer = await local.bearing(f"Bearer {forged}").get(OBJECTS)

    assert fault(answer) == (401, "invalid_token", None)


@pytest.mark.parametrize(
    "claims",
    [
        {"issuer": "https://other.test"},
        {"audience": "console"},
        {"issued": 2**40, "expires": 2**41},
        {"issued": 0, "expires": 1},
    ],
    ids=["issuer", "audience", "future", "expired"],
)
async def test_a_token_that_is_not_for_here_and_now_is_invalid(local, claims):
    answer = await local.client(**claims).get(OBJECTS)

    assert fault(answer) == (401, "invalid_token", None)


async def test_a_token_ends_at_its_time(local):
    client = local.client()
    statuses = []
    for seconds in (0, 3599, 1):
        local.clock.advance(seconds=seconds)
        statuses.append((await client.get(OBJECTS)).status_code)

    assert statuses == [200, 200, 401]


@pytest.mark.parametrize("subject", ["app-1", "acme/olga", "token-1"])
async def test_a_revocation_ends_a_token_that_was_good_a_moment_ago(local, subject):
    client = local.client()
    before = await client.get(OBJECTS)
    local.signer.revoked[subject] = 1
    after = await client.get(OBJECTS)

    assert (before.status_code, fault(after)) == (200, (401, "invalid_token", None))


async def test_a_token_may_be_tied_to_networks(local):
    inside = await local.client(networks=("127.0.0.0/8",)).get(OBJECTS)
    outside = await local.client(networks=("203.0.113.0/24",)).get(OBJECTS)

    assert inside.status_code == 200
    assert fault(outside) == (403, "insufficient_scope", None)


async def test_the_scheme_may_be_in_any_case(local):
    answer = await local.bearing(f"bEaReR  {local.token()}").get(OBJECTS)

    assert answer.status_code == 200


# ---- access classes


@pytest.mark.parametrize(
    ("access", "expected"),
    [
        (Access.READ, {"search": 200, "one": 200, "metadata": 200, "content": 403, "upload": 403}),
        (
            Access.DOWNLOAD,
            {"search": 200, "one": 200, "metadata": 200, "content": 200, "upload": 403},
        ),
        (Access.EDIT, {"search": 200, "one": 200, "metadata": 200, "content": 200, "upload": 201}),
    ],
)
async def test_each_access_class_may_do_what_it_is_for(local, access, expected):
    where = f"{OBJECTS}/{(await local.uploaded())['id']}"
    client = local.client(access=access)
    answers = {
        "search": await client.get(OBJECTS),
        "one": await client.get(where),
        "metadata": await client.get(f"{where}/metadata"),
        "content": await client.get(f"{where}/content"),
        "upload": await local.upload(client=client),
    }
    refused = [each for each in answers.values() if each.status_code == 403]

    assert {name: each.status_code for name, each in answers.items()} == expected
    assert {fault(each) for each in refused} <= {(403, "insufficient_scope", None)}
    assert all(
        each.headers["www-authenticate"].startswith(f'{NO_TOKEN}, error="insufficient_scope"')
        for each in refused
    )


async def test_a_right_that_is_missing_hides_whether_the_object_exists(local):
    made = await local.uploaded()
    client = local.client(access=Access.READ)
    answers = [await client.get(f"{OBJECTS}/{each}/content") for each in (made["id"], "unknown")]

    assert [fault(each) for each in answers] == [(403, "insufficient_scope", None)] * 2


async def test_a_refused_upload_is_refused_before_its_body_is_read(local):
    client = local.client(access=Access.DOWNLOAD)
    answer = await client.post(OBJECTS, content=never_read())

    assert fault(answer) == (403, "insufficient_scope", None)
    assert local.files() == []


# ---- regions


@pytest.mark.parametrize("region", KNOWN)
async def test_any_known_region_tells_where_the_customer_is_provisioned(local, region):
    client = local.client(regions=("us-east", "uk"))
    answer = await client.get(f"/storage/{region}/v3/regions")

    assert answer.json() == ["us-east", "uk"]
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("access", Access)
async def test_every_access_class_may_discover_regions(local, access):
    answer = await local.client(access=access).get("/storage/us-east/v3/regions")

    assert answer.json() == ["us-east"]


@pytest.mark.parametrize("region", ["mars", "US-EAST", "us-east%20", "us_east", "%00", "..."])
@pytest.mark.parametrize("rest", ["regions", "objects", "objects/x", "objects/x/content"])
async def test_an_unknown_region_is_not_found(local, region, rest):
    answer = await local.client().get(f"/storage/{region}/v3/{rest}")

    assert fault(answer) == (404, "not_found", None)


@pytest.mark.parametrize("region", ["uk", "us-east"])
async def test_a_known_region_without_the_customer_allows_discovery_only(local, region):
    """`uk` is served elsewhere; `us-east` is served here and keeps nothing of this customer."""
    made = await local.uploaded()
    client = local.client(regions=("ca",))
    base = f"/storage/{region}/v3/objects"
    paths = [
        base,
        f"{base}/{made['id']}",
        f"{base}/{made['id']}/metadata",
        f"{base}/{made['id']}/content",
    ]
    answers = [await client.get(path) for path in paths]
    answers.append(await client.post(base, content=in_pieces(b"x", 1)))
    discovery = await client.get(f"/storage/{region}/v3/regions")

    assert [fault(each) for each in answers] == [(403, "region_not_provisioned", None)] * 5
    assert discovery.json() == ["ca"]


async def test_data_never_crosses_regions(local, tmp_path):
    async with opened(str(tmp_path / "uk.sqlite"), tmp_path / "uk", name="uk") as uk:
        client = local.client(local.region, uk.region, regions=("us-east", "uk"))
        made = await local.uploaded(client=client)
        there = await client.get(f"/storage/uk/v3/objects/{made['id']}")
        page = await client.get("/storage/uk/v3/objects")

        assert fault(there) == (404, "not_found", None)
        assert page.json()["total"] == 0
        assert uk.files() == []


async def test_a_method_that_objects_do_not_take_is_told_all_that_they_do(local):
    answer = await local.client().put(OBJECTS)

    assert answer.status_code == 405
    assert {each.strip() for each in answer.headers["allow"].split(",")} == {"GET", "HEAD", "POST"}
