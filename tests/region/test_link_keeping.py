"""Presigned links are listed, taken back and forgotten; the keys that sign them come and go."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from cryptography.fernet import Fernet
from link_world import (
    DAY,
    FORGED,
    HERE,
    NEW_YORK,
    PRESIGNED,
    SOUND,
    another_process,
    asked,
    changed,
    deeds,
    id_of,
    kid_of,
    listing,
    said,
    url_of,
    visitor,
)
from region_world import COMPANY, VAULT, fault, opened

from soundkeep.foundation.claims import Access
from soundkeep.foundation.errors import Gone
from soundkeep.region import content, links, linkstore
from soundkeep.region.localblobs import LocalBlobs
from soundkeep.region.plane import PACKAGES


@pytest.fixture
async def made(world):
    return await world.uploaded(SOUND)


@pytest.fixture
async def url(world, made):
    return await url_of(world.client(), made)


@pytest.fixture
async def kept(local):
    """For what does not depend on the engine: a world, an object, and a link to it."""
    made = await local.uploaded(SOUND)
    return local, made, await url_of(local.client(), made)


# ---- the list -------------------------------------------------------------------------------


async def test_the_list_tells_all_but_the_url(world, made):
    client = world.client()
    url = await url_of(client, made, once="true", ip=HERE, inline="true", expiresIn=60)
    fresh = await listing(client)
    world.clock.advance(seconds=10)
    await visitor(world).get(url)
    one = {
        "id": id_of(url),
        "objectId": made["id"],
        "createdTime": "2026-01-01T00:00:00",
        "expiresTime": "2026-01-01T00:01:00",
        "once": True,
        "ip": f"{HERE}/32",
        "inline": True,
        "uses": 0,
        "lastUsedTime": None,
        "lastAddress": None,
        "state": "active",
        "client": "sk_test",
    }
    page = {"content": [one], "lastPage": True, "pageKey": 100, "pageSize": 1, "total": 1}
    use = {"uses": 1, "lastUsedTime": "2026-01-01T00:00:10", "lastAddress": HERE, "state": "used"}

    assert fresh == page
    assert (await listing(client))["content"] == [one | use]


async def test_the_list_comes_in_pages_newest_first(world, made):
    client, ids = world.client(access=Access.DOWNLOAD), []
    for _ in range(5):
        ids.insert(0, id_of(await url_of(client, made)))
        world.clock.advance(seconds=1)
    pages = [await listing(client, pageKey=at, limit=2) for at in (0, 2, 4, 6)]

    assert [each["id"] for page in pages for each in page["content"]] == ids
    walk = [(page["lastPage"], page["pageKey"], page["pageSize"]) for page in pages]
    assert walk == [(False, 2, 2), (False, 4, 2), (True, 6, 1), (True, 8, 0)]
    assert {page["total"] for page in pages} == {5}


@pytest.mark.parametrize(("name", "value"), [("limit", 0), ("limit", 1001), ("pageKey", -1)])
async def test_the_list_is_asked_for_in_bounds(local, name, value):
    answer = await local.client().get(PRESIGNED, params={name: value})

    assert fault(answer) == (400, "bad_input", name)


async def test_the_list_says_what_became_of_a_link(kept):
    world, made, first = kept
    client = world.client()
    revoked = await url_of(client, made)
    await client.delete(f"{PRESIGNED}/{id_of(revoked)}")
    await url_of(client, made, expiresIn=60)
    used = await url_of(client, made, once="true")
    await visitor(world).get(used)
    world.clock.advance(seconds=60)
    states = {each["id"]: each["state"] for each in (await listing(client))["content"]}

    assert states[id_of(first)] == "active"
    assert states[id_of(revoked)] == "revoked"
    assert states[id_of(used)] == "used"
    assert sorted(states.values()) == ["active", "expired", "revoked", "used"]


OTHERS = {
    "another app": {"client": "sk_other", "access": Access.DOWNLOAD},
    "another app that edits a site": {"client": "sk_other", "reach": NEW_YORK},
    "another customer": {"customer": "globex", "owner": "greta"},
    "another customer's app of the same name": {"customer": "globex", "access": Access.DOWNLOAD},
}


@pytest.mark.parametrize("who", OTHERS)
async def test_links_of_others_are_neither_listed_nor_taken_back(world, made, url, who):
    client = world.client(**OTHERS[who])
    foreign = await client.delete(f"{PRESIGNED}/{id_of(url)}")
    unknown = await client.delete(f"{PRESIGNED}/{'A' * 22}")

    assert await listing(client) == {
        "content": [], "lastPage": True, "pageKey": 100, "pageSize": 0, "total": 0
    }  # fmt: skip
    assert said(foreign) == said(unknown) == (404, "not_found", "There is nothing with this id.")
    assert (await visitor(world).get(url)).status_code == 200


async def test_a_key_that_edits_the_company_looks_after_every_link_of_it(world, made, url):
    client = world.client(client="sk_other", subject="app-2", reach=COMPANY)
    listed = [each["id"] for each in (await listing(client))["content"]]
    answer = await client.delete(f"{PRESIGNED}/{id_of(url)}")

    assert (listed, answer.status_code) == ([id_of(url)], 204)
    assert (await visitor(world).get(url)).status_code == 410
    assert (await deeds(world, about="link"))[-1][4] == {"client": "sk_other"}


async def test_a_key_that_may_only_search_looks_after_no_links(kept):
    world, _, url = kept
    client = world.client(access=Access.READ)

    assert fault(await client.get(PRESIGNED))[0] == 403
    assert fault(await client.delete(f"{PRESIGNED}/{id_of(url)}"))[0] == 403


# ---- taking one back ------------------------------------------------------------------------


async def test_a_link_that_was_taken_back_is_over_at_once_in_every_process(world, made, url):
    client = world.client(access=Access.DOWNLOAD)
    over = (410, "gone", "This link was taken back: ask for a new link.")
    async with another_process(world) as other:
        clients = [visitor(world), visitor(world, other)]
        before = [(await each.get(url)).status_code for each in clients]
        answer = await client.delete(f"{PRESIGNED}/{id_of(url)}")
        after = [said(await each.get(url)) for each in clients]

    assert (before, answer.status_code, answer.content) == ([200, 200], 204, b"")
    assert after == [over, over]


async def test_taking_a_link_back_again_is_no_error_and_no_deed(world, made, url):
    client = world.client()
    answers = [await client.delete(f"{PRESIGNED}/{id_of(url)}") for _ in range(2)]

    assert [each.status_code for each in answers] == [204, 204]
    assert [event for event, *_ in await deeds(world, about="link")] == ["create", "delete"]


@pytest.mark.parametrize("link", ["x", "A" * 21, "A" * 23, "%00", "%ED%A0%80", "é" * 22, "." * 22])
async def test_what_is_no_id_of_a_link_is_not_found(local, link):
    answer = await local.client().delete(f"{PRESIGNED}/{link}")

    assert fault(answer)[:2] == (404, "not_found")


async def test_a_link_that_is_taken_back_while_it_is_judged_gives_nothing(kept):
    """The last check and the record of the use are one step."""
    world, made, url = kept
    link = await linkstore.by_id(world.region.db, id_of(url), region="us-east")
    found = await content.readable(world.region, link.claims, made["id"])
    await world.client().delete(f"{PRESIGNED}/{link.id}")

    with pytest.raises(Gone, match="taken back"):
        await links.use(world.region, link, found, address=HERE, part="", sent=True)
    assert await deeds(world) == []


async def test_one_that_is_over_does_not_spoil_those_it_is_recorded_with(world, made):
    client = world.client()
    good, bad = await url_of(client, made), await url_of(client, made)
    stale = await linkstore.by_id(world.region.db, id_of(bad), region="us-east")
    found = await content.readable(world.region, stale.claims, made["id"])
    await client.delete(f"{PRESIGNED}/{stale.id}")
    anybody = visitor(world)
    late = links.use(world.region, stale, found, address=HERE, part="", sent=True)
    *answers, error = await asyncio.gather(
        *(anybody.get(good) for _ in range(5)), late, return_exceptions=True
    )

    assert {each.status_code for each in answers} == {200}
    assert isinstance(error, Gone)
    assert len(await deeds(world)) == 5


# ---- keys -----------------------------------------------------------------------------------


async def test_a_key_signs_for_thirty_days_and_its_links_outlive_it(world, made):
    first = await url_of(world.client(), made)
    world.clock.advance(seconds=30 * DAY)
    last = await url_of(world.client(), made, expiresIn=7 * DAY)
    world.clock.advance(seconds=1)
    next_one = await url_of(world.client(), made)
    world.clock.advance(seconds=7 * DAY - 2)
    await links.forget(world.region)
    async with another_process(world) as other:
        found = [
            (await visitor(world, each).get(last)).status_code for each in (other, world.region)
        ]

    assert kid_of(first) == kid_of(last) != kid_of(next_one)
    assert found == [200, 200]


async def test_a_key_goes_when_its_links_are_all_over(world, made, url):
    world.clock.advance(seconds=38 * DAY)
    await links.forget(world.region)
    kept = await world.rows("SELECT kid FROM link_keys")
    world.clock.advance(seconds=0.001)
    await links.forget(world.region)

    assert kept == [(kid_of(url),)]
    assert await world.rows("SELECT kid FROM link_keys") == []
    assert kid_of(await url_of(world.client(), made)) != kid_of(url)


async def test_two_processes_that_make_the_first_key_at_once_believe_each_other(world, made):
    async with another_process(world) as other:
        regions = [world.region, other]
        urls = await asyncio.gather(
            *(url_of(world.client(regions[n % 2]), made) for n in range(10))
        )
        for each in regions:
            client = visitor(world, each)
            assert {(await client.get(url)).status_code for url in urls} == {200}

    assert len({kid_of(url) for url in urls}) == 1


async def test_a_process_looks_up_a_key_that_another_made(world, made, url):
    async with another_process(world) as other:
        assert (await visitor(world, other).get(url)).status_code == 200
        assert kid_of(await url_of(world.client(other), made)) == kid_of(url)


async def test_forged_keys_do_not_make_the_database_busy(kept, monkeypatch):
    world, _, url = kept
    asked_for = []

    async def counted(db, kid):
        asked_for.append(kid)
        return await by_id(db, kid)

    by_id = linkstore.key_by_id
    monkeypatch.setattr(linkstore, "key_by_id", counted)
    client = visitor(world)
    same = [await client.get(changed(url, kid="0" * 16)) for _ in range(50)]
    other = [await client.get(changed(url, kid=f"{n:016x}")) for n in range(1, 51)]
    good = await client.get(url)

    assert {said(each)[0] for each in same} == {403}
    assert [said(each)[0] for each in other] == 19 * [403] + 31 * [429]
    assert other[-1].headers["retry-after"] == "1"
    assert (len(asked_for), good.status_code) == (20, 200)
    world.clock.advance(seconds=1)
    assert said(await client.get(changed(url, kid="f" * 16)))[0] == 403


async def test_keys_are_sealed_with_the_secret_key(world, made, url, logged):
    [(sealed,)] = await world.rows("SELECT sealed FROM link_keys")
    async with another_process(world, vault=Fernet(Fernet.generate_key())) as stranger:
        refused = await visitor(world, stranger).get(url)

    assert len(VAULT.decrypt(sealed.encode())) == 32
    assert fault(refused)[:2] == (500, "tampered")


# ---- forgetting -----------------------------------------------------------------------------


async def test_links_are_forgotten_thirty_days_after_they_expired(world, made, url):
    await url_of(world.client(), made, expiresIn=7 * DAY)
    world.clock.advance(seconds=1800 + 30 * DAY)
    await links.forget(world.region)
    before = await world.count("links")
    world.clock.advance(seconds=0.001)
    await links.forget(world.region)

    assert (before, await world.count("links")) == (2, 1)
    assert said(await visitor(world).get(url))[0] == 410


async def test_many_links_are_forgotten_in_small_steps(world, made, url, monkeypatch):
    monkeypatch.setattr(links, "_AT_ONCE", 3)
    await world.run("DELETE FROM links")
    for _ in range(9):
        await url_of(world.client(), made)
    world.clock.advance(seconds=31 * DAY)
    await links.forget(world.region)

    assert await world.count("links") == 0


# ---- links of the store's own ---------------------------------------------------------------


class Linking(LocalBlobs):
    """A store of bytes that gives links of its own, as S3 does."""

    async def link(self, key, *, seconds):
        return f"https://blobs.test/{key}?for={seconds}"


@pytest.fixture
def linking(local, tmp_path):
    return replace(local.region, blobs=Linking(tmp_path / "linking", min_free_bytes=0))


async def test_where_recordings_are_files_there_is_no_direct_link(kept):
    world, made, _ = kept
    answer = await asked(world.client(), made["id"], direct="true")

    assert fault(answer) == (400, "bad_input", "direct")
    no_link = "This region keeps its recordings in files: there is no direct link."
    assert answer.json()["detail"] == no_link


async def test_a_direct_link_is_audited_and_not_listed(kept, linking):
    world, made, _ = kept
    client = world.client(linking, access=Access.DOWNLOAD)
    before = await listing(client)
    answer = await asked(client, made["id"], direct="true", expiresIn=60)
    event, _, name, user, new, _ = (await deeds(world, about="link"))[-1]

    assert answer.json() == {"url": f"https://blobs.test/{made['id']}?for=60", "expiresIn": 60}
    assert await listing(client) == before
    assert (event, name, user) == ("create", "call.mp3", "olga")
    assert new == {
        "objectId": made["id"],
        "expiresTime": "2026-01-01T00:01:00",
        "client": "sk_test",
        "state": "direct",
    }


@pytest.mark.parametrize(("name", "value"), [("once", "true"), ("ip", HERE), ("inline", "true")])
async def test_a_direct_link_cannot_be_held_to_what_we_alone_can_see(kept, linking, name, value):
    world, made, _ = kept
    answer = await asked(world.client(linking), made["id"], direct="true", **{name: value})

    assert fault(answer) == (400, "bad_input", name)


async def test_a_direct_link_needs_what_any_link_needs(kept, linking):
    world, made, _ = kept
    foreign = await asked(world.client(linking, customer="globex"), made["id"], direct="true")
    await world.put_in_state(made["id"], "ARCHIVED")
    archived = await asked(world.client(linking), made["id"], direct="true")

    assert [fault(each)[0] for each in (foreign, archived)] == [404, 409]


# ---- two regions ----------------------------------------------------------------------------


async def test_every_region_has_keys_of_its_own(world, made, url, sqlite, tmp_path):
    other_url = sqlite.lend(*PACKAGES)
    async with opened(other_url, tmp_path / "uk", name="uk") as other:
        client = visitor(world, world.region, other.region)
        elsewhere = await client.get(url.replace("/us-east/", "/uk/"))
        keys = await other.rows("SELECT kid FROM link_keys")
    sqlite.take_back(other_url)

    assert said(elsewhere) == (403, "invalid_link", FORGED)
    assert keys == []
