"""`GET /buckets` and `/buckets/{bucketId}`: what belongs together, within scope."""

from __future__ import annotations

import pytest
from region_world import BASE, fault

from soundkeep.foundation.claims import Access, Reach
from soundkeep.region.model import State

BUCKETS = f"{BASE}/buckets"
NEW_YORK = Reach(sites=frozenset({"ny"}))


@pytest.fixture
async def filled(world):
    """Three buckets of acme, one of umbra with an id that acme has too."""
    await world.keep(name="call", bucket_id="b-1", user_id="pete", tags={"branchId": "ny"})
    await world.keep(name="transcript", bucket_id="b-1", user_id="pete", type="transcription")
    await world.keep(name="gone", bucket_id="b-1", state=State.REVOKED)
    await world.keep(name="meeting", bucket_id="b-2", user_id="olga")
    await world.keep(name="elsewhere", bucket_id="b-3", user_id="rita", tags={"branchId": "sj"})
    await world.keep(name="theirs", bucket_id="b-1", customer="umbra")
    return world


def ids(answer):
    assert answer.status_code == 200, answer.text
    return [each["bucketId"] for each in answer.json()["content"]]


async def test_a_bucket_holds_its_available_objects_oldest_first(filled):
    bucket = (await filled.client().get(f"{BUCKETS}/b-1")).json()

    assert list(bucket) == [
        "bucketId",
        "customerId",
        "userId",
        "name",
        "createdTime",
        "updatedTime",
        "tags",
        "objectList",
    ]
    assert (bucket["bucketId"], bucket["customerId"], bucket["userId"]) == ("b-1", "acme", "pete")
    assert [each["objectName"] for each in bucket["objectList"]] == ["call", "transcript"]


async def test_buckets_come_in_pages_newest_first(filled):
    client = filled.client()
    first = await client.get(BUCKETS, params={"limit": 2})
    second = await client.get(BUCKETS, params={"limit": 2, "pageKey": 2})

    assert (ids(first), ids(second)) == (["b-3", "b-2"], ["b-1"])
    assert {key: first.json()[key] for key in ("lastPage", "pageKey", "pageSize", "total")} == {
        "lastPage": False,
        "pageKey": 2,
        "pageSize": 2,
        "total": 3,
    }
    assert "objectList" not in first.json()["content"][0]


@pytest.mark.parametrize(
    ("params", "found"),
    [
        ({"filter": "id==b-2"}, ["b-2"]),
        ({"filter": "userId=in=(pete,rita)"}, ["b-3", "b-1"]),
        ({"filter": "name==b*;userId!=pete"}, ["b-3", "b-2"]),
        ({"filter": "createdTime=gt=2020-01-01"}, ["b-3", "b-2", "b-1"]),
        ({"filter": "duration=gt=5"}, []),
        ({"filter": "duration!=5", "sortField": "duration", "sortDirection": "asc"}, ["b-1", "b-2", "b-3"]),
        ({"sortField": "name", "sortDirection": "ASC"}, ["b-1", "b-2", "b-3"]),
    ],
)  # fmt: skip
async def test_buckets_can_be_searched_and_sorted(filled, params, found):
    assert ids(await filled.client().get(BUCKETS, params=params)) == found


@pytest.mark.parametrize("params", [{"filter": "id=="[:-1]}, {"limit": 0}, {"sortField": "*"}])
async def test_what_cannot_be_understood_is_refused(filled, params):
    assert fault(await filled.client().get(BUCKETS, params=params))[0] == 400


async def test_a_scoped_key_sees_only_what_lies_within(filled):
    client = filled.client(reach=NEW_YORK)
    bucket = (await client.get(f"{BUCKETS}/b-1")).json()

    assert ids(await client.get(BUCKETS)) == ["b-1"]
    assert (await client.get(BUCKETS)).json()["total"] == 1
    assert [each["objectName"] for each in bucket["objectList"]] == ["call"]
    assert ids(await filled.client(reach=Reach()).get(BUCKETS)) == []


async def test_unknown_foreign_and_out_of_scope_buckets_look_the_same(filled):
    scoped = filled.client(reach=NEW_YORK)
    refused = [
        await filled.client().get(f"{BUCKETS}/unknown"),
        await filled.client(customer="umbra").get(f"{BUCKETS}/b-2"),
        await scoped.get(f"{BUCKETS}/b-3"),
        await filled.client().get(f"{BUCKETS}/b%00"),
    ]

    assert {fault(each) for each in refused} == {(404, "not_found", None)}


async def test_a_read_key_is_enough_and_no_token_is_not(filled):
    read = filled.client(access=Access.READ)

    assert (await read.get(BUCKETS)).status_code == 200
    assert (await read.get(f"{BUCKETS}/b-2")).status_code == 200
    assert (await filled.bearing(None).get(BUCKETS)).status_code == 401


async def test_a_scoped_key_cannot_bring_a_bucket_into_its_scope_by_adding_to_it(filled):
    client = filled.client(reach=NEW_YORK)
    metadata = {"type": "x", "tags": [{"key": "branchId", "value": "ny"}]}
    before = await filled.everything()
    outside = await filled.upload(metadata={**metadata, "bucketId": "b-3"}, client=client)

    assert fault(outside) == (403, "insufficient_scope", None)
    assert await filled.everything() == before
    assert (await client.get(f"{BUCKETS}/b-3")).status_code == 404
    for bucket in ("b-1", "b-new"):
        inside = await filled.upload(metadata={**metadata, "bucketId": bucket}, client=client)
        assert inside.status_code == 201
