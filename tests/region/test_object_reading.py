"""One object by its id: its JSON, who sees it, and what its state says to a download."""

from __future__ import annotations

import json

import pytest
from region_world import COMPANY, OBJECTS, fault, names

from soundkeep.foundation.claims import Reach

FORMS = ("", "/metadata", "/content")


async def test_an_object_is_the_documented_json_in_the_documented_order(world):
    metadata = {
        "type": "callcenterrecording",
        "objectName": "Grüße.mp3",
        "mimeType": "audio/mpeg",
        "userId": "pete",
        "bucketId": "call-7",
        "tags": [{"key": "direction", "value": "INBOUND"}, {"key": "branchId", "value": ""}],
        "shared": True,
    }
    made = await world.uploaded(b"sound", metadata=metadata)
    answer = await world.client().get(f"{OBJECTS}/{made['id']}")
    expected = {
        "id": made["id"],
        "type": "callcenterrecording",
        "mimeType": "audio/mpeg",
        "objectName": "Grüße.mp3",
        "checksumType": "MD5",
        "checksum": "0b8263d341de01f741e4deadfb18f9eb",
        "customerId": "acme",
        "userId": "pete",
        "storedBytes": 5,
        "createdTime": "2026-01-01T00:00:00",
        "updatedTime": "2026-01-01T00:00:00",
        "objectState": "AVAILABLE",
        "bucketId": "call-7",
        "tags": [{"key": "direction", "value": "INBOUND"}, {"key": "branchId", "value": ""}],
        "shared": True,
    }

    assert answer.headers["content-type"] == "application/json"
    assert answer.text == json.dumps(expected, ensure_ascii=False, separators=(",", ":"))


async def test_metadata_and_search_show_the_same_json(world):
    made = await world.uploaded()
    client = world.client()
    by_id = await client.get(f"{OBJECTS}/{made['id']}")
    metadata = await client.get(f"{OBJECTS}/{made['id']}/metadata")
    page = await client.get(OBJECTS)

    assert metadata.content == by_id.content
    assert by_id.json() == made
    assert page.json()["content"] == [made]


async def test_a_body_and_a_content_type_on_get_are_ignored(local):
    made = await local.uploaded()
    answer = await local.client().request(
        "GET",
        f"{OBJECTS}/{made['id']}",
        content=b"{not json",
        headers={"content-type": "application/json"},
    )

    assert answer.json() == made


@pytest.mark.parametrize("form", FORMS)
async def test_unknown_foreign_and_out_of_scope_ids_look_the_same(world, form):
    foreign = await world.uploaded(client=world.client(customer="umbra"))
    beyond = await world.uploaded(metadata={"type": "x", "userId": "pete"})
    client = world.client(reach=Reach(users=frozenset({"olga"}), sites=frozenset({"ny"})))
    client.headers["x-request-id"] = "same"
    unknown = foreign["id"][:-1] + ("0" if foreign["id"][-1] != "0" else "1")
    seen = set()
    for object_id in (unknown, foreign["id"], beyond["id"]):
        answer = await client.get(f"{OBJECTS}/{object_id}{form}")
        assert fault(answer) == (404, "not_found", None)
        assert answer.json()["instance"] == f"{OBJECTS}/{object_id}{form}"
        seen.add((answer.text.replace(object_id, "ID"), tuple(answer.headers.items())))

    assert len(seen) == 1


async def test_what_cannot_be_an_id_is_an_unknown_one(world):
    await world.uploaded()
    client = world.client()
    ids = ["x", "*", "%00", "a%00b", "%FF", "%27%20OR%201", "..%2e", "%F0%9F%8E%A7", "9" * 5000]
    found = {
        f"{object_id}{form}": fault(await client.get(f"{OBJECTS}/{object_id}{form}"))
        for object_id in ids
        for form in FORMS
    }

    assert found == dict.fromkeys(found, (404, "not_found", None))


async def test_paths_that_lead_nowhere_are_problems_too(local):
    client = local.client()
    nowhere = await client.get(f"{OBJECTS}/a/b/c")
    refused = await client.delete(f"{OBJECTS}/a")

    assert fault(nowhere)[0] == 404
    assert fault(refused)[0] == 405
    assert set(refused.headers["allow"].split(", ")) == {"GET", "HEAD"}


# ---- scope


def sites(*names: str) -> Reach:
    return Reach(sites=frozenset(names))


def users(*names: str) -> Reach:
    return Reach(users=frozenset(names))


REACHES = {
    "the company": (COMPANY, {"ny", "la", "own", "petes ny", "nobodys"}),
    "one site": (sites("ny"), {"ny", "petes ny"}),
    "two sites": (sites("ny", "la"), {"ny", "la", "petes ny"}),
    "an unknown site": (sites("sf"), set()),
    "the nameless site": (sites(""), set()),
    "a group's members": (users("pete", "gina"), {"la", "petes ny"}),
    "own": (users("olga"), {"own"}),
    "own and a site": (users("olga") | sites("la"), {"la", "own"}),
    "the company and a site": (COMPANY | sites("la"), {"ny", "la", "own", "petes ny", "nobodys"}),
    "nothing": (Reach(), set()),
}


@pytest.fixture
async def scoped(world):
    """Objects of several sites and users, by their names."""
    facts = {
        "ny": {"tags": {"branchId": "ny"}, "user_id": "rita"},
        "la": {"tags": {"branchId": "la"}, "user_id": "gina"},
        "own": {"tags": {}, "user_id": "olga"},
        "petes ny": {"tags": {"branchId": "ny"}, "user_id": "pete"},
        "nobodys": {"tags": {"branchId": ""}, "user_id": "rita"},
        "umbras": {"tags": {"branchId": "ny"}, "user_id": "olga", "customer": "umbra"},
    }
    kept = {name: (await world.keep(name=name, **each)).id for name, each in facts.items()}
    return world, kept


async def test_search_totals_and_ids_show_what_is_in_reach_and_no_more(scoped):
    world, kept = scoped
    for reach, expected in REACHES.values():
        client = world.client(reach=reach)
        page = await client.get(OBJECTS)
        statuses = {
            name: (await client.get(f"{OBJECTS}/{object_id}/metadata")).status_code
            for name, object_id in kept.items()
        }

        assert set(names(page)) == expected
        assert page.json()["total"] == len(expected)
        assert {name for name, status in statuses.items() if status == 200} == expected
        assert set(statuses.values()) <= {200, 404}


async def test_content_is_held_to_the_same_reach(scoped):
    """The rows have no bytes here: what is in reach fails later, with 503."""
    world, kept = scoped
    for reach, expected in REACHES.values():
        client = world.client(reach=reach)
        statuses = {
            name: (await client.get(f"{OBJECTS}/{object_id}/content")).status_code
            for name, object_id in kept.items()
        }

        assert statuses == {name: 503 if name in expected else 404 for name in kept}


async def test_naming_a_foreign_customer_user_or_id_in_a_filter_widens_nothing(scoped):
    world, kept = scoped
    client = world.client(reach=users("olga"))
    texts = [
        "customerId==umbra",
        "userId==pete",
        f"id=={kept['umbras']}",
        f"id=={kept['ny']}",
        "objectState==AVAILABLE;customerId==umbra",
    ]
    pages = [(await client.get(OBJECTS, params={"filter": text})).json() for text in texts]

    assert [(page["total"], page["content"]) for page in pages] == [(0, [])] * len(texts)


# ---- states


REFUSALS = {
    "PENDING": (409, "illegal_state"),
    "ARCHIVED": (409, "illegal_state"),
    "REVOKED": (410, "gone"),
    "DELETED": (410, "gone"),
    "FAILED": (409, "illegal_state"),
}


@pytest.mark.parametrize("state", REFUSALS)
async def test_content_of_what_is_not_available_is_refused_by_state(world, state):
    made = await world.uploaded()
    await world.put_in_state(made["id"], state)
    client = world.client()
    answer = await client.get(f"{OBJECTS}/{made['id']}/content")
    head = await client.head(f"{OBJECTS}/{made['id']}/content")

    assert fault(answer)[:2] == REFUSALS[state]
    assert answer.json()["state"] == state
    assert head.status_code == answer.status_code
    assert (await client.get(f"{OBJECTS}/{made['id']}/metadata")).status_code == 200


async def test_the_refusal_of_archived_content_says_how_to_restore(local):
    made = await local.uploaded()
    await local.put_in_state(made["id"], "ARCHIVED")
    detail = (await local.client().get(f"{OBJECTS}/{made['id']}/content")).json()["detail"]

    assert "ARCHIVED" in detail
    assert f"POST .../objects/{made['id']}/restore" in detail


async def test_a_state_is_told_to_those_in_scope_only(local):
    made = await local.uploaded(metadata={"type": "x", "userId": "pete"})
    await local.put_in_state(made["id"], "DELETED")
    answer = await local.client(reach=users("olga")).get(f"{OBJECTS}/{made['id']}/content")

    assert fault(answer) == (404, "not_found", None)
