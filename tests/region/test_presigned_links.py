"""Presigned links: an object's content without a token, for as long as its maker says."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest
from link_world import (
    DAY,
    FORGED,
    HERE,
    IN_NEW_YORK,
    NEW_YORK,
    PRESIGNED,
    SOUND,
    another_process,
    asked,
    changed,
    deeds,
    id_of,
    said,
    url_of,
    visitor,
)
from region_world import BASE, BASE_URL, OBJECTS, fault

from soundkeep.foundation.claims import Access, user_subject
from soundkeep.foundation.errors import Unavailable
from soundkeep.region import links


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


# ---- what a link gives ----------------------------------------------------------------------


async def test_a_link_gives_the_bytes_without_a_token(world, made, url):
    answer = await visitor(world).get(url)

    assert (answer.status_code, answer.content) == (200, SOUND)
    assert answer.headers["content-type"] == "audio/mpeg"
    assert answer.headers["referrer-policy"] == "no-referrer"


async def test_the_answer_is_a_url_of_the_public_address_and_its_seconds(kept):
    world, made, _ = kept
    answer = await asked(world.client(access=Access.DOWNLOAD), made["id"])
    url = answer.json()["url"]

    assert answer.json() == {"url": url, "expiresIn": 1800}
    assert answer.headers["cache-control"] == "no-store"
    assert url.partition("?")[0] == f"{BASE_URL}{OBJECTS}/{made['id']}/content"
    assert list(parse_qs(urlsplit(url).query)) == ["link", "expires", "kid", "signature"]


async def test_a_link_works_for_ranges_conditions_and_heads(kept):
    world, _, url = kept
    client = visitor(world)
    part = await client.get(url, headers={"range": "bytes=100-199"})
    beyond = await client.get(url, headers={"range": "bytes=9999-"})
    known = await client.get(url, headers={"if-none-match": part.headers["etag"]})
    head = await client.head(url)

    assert (part.status_code, part.content) == (206, SOUND[100:200])
    assert part.headers["content-range"] == "bytes 100-199/1024"
    assert fault(beyond)[:2] == (416, "range_not_satisfiable")
    assert (known.status_code, known.content) == (304, b"")
    assert (head.status_code, head.headers["content-length"]) == (200, "1024")


@pytest.mark.parametrize(("inline", "kind"), [("true", "inline"), ("false", "attachment")])
async def test_a_link_says_whether_a_browser_may_show_the_bytes(kept, inline, kind):
    world, made, _ = kept
    url = await url_of(world.client(), made, inline=inline)
    answer = await visitor(world).get(url)

    assert answer.headers["content-disposition"].startswith(f"{kind}; ")


async def test_an_object_without_bytes_has_a_link_too(local):
    made = await local.uploaded(b"")
    answer = await visitor(local).get(await url_of(local.client(), made, once="true"))

    assert (answer.status_code, answer.content) == (200, b"")


# ---- who may make one -----------------------------------------------------------------------


async def test_a_key_that_may_only_search_makes_no_link(kept):
    world, made, _ = kept
    answer = await asked(world.client(access=Access.READ), made["id"])

    assert fault(answer)[:2] == (403, "insufficient_scope")


async def test_nobody_makes_a_link_without_a_token(kept):
    world, made, _ = kept

    assert fault(await asked(visitor(world), made["id"]))[:2] == (401, "not_signed_in")


async def test_what_is_not_ones_own_cannot_be_linked_to(world, made):
    foreign = await asked(world.client(customer="globex"), made["id"])
    outside = await asked(world.client(reach=NEW_YORK), made["id"])
    unknown = await asked(world.client(), "01a20a27-7989-7e88-9c5b-79ec6bb90491")

    assert said(foreign) == said(outside) == said(unknown)
    assert said(unknown) == (404, "not_found", "There is nothing with this id.")


@pytest.mark.parametrize(
    ("state", "refusal"),
    [("ARCHIVED", (409, "illegal_state")), ("REVOKED", (410, "gone")), ("DELETED", (410, "gone"))],
)
async def test_what_cannot_be_read_cannot_be_linked_to(kept, state, refusal):
    world, made, _ = kept
    await world.put_in_state(made["id"], state)

    assert fault(await asked(world.client(), made["id"]))[:2] == refusal


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("expiresIn", value) for value in ("0", "-1", "604801", "1.5", "soon", "")),
        *(("once", value) for value in ("yes", "1", "")),
        *(("inline", value) for value in ("yes", "1")),
        ("direct", "yes"),
        *(("ip", value) for value in ("", "here", "198.51.100.7/24", "1.2.3", "10.0.0.0/33", "é")),
    ],
)
async def test_a_wish_that_cannot_be_met_is_refused_by_name(kept, name, value):
    world, made, _ = kept

    answer = await asked(world.client(), made["id"], **{name: value})
    assert fault(answer) == (400, "bad_input", name)


async def test_a_wish_is_made_once(kept):
    world, made, _ = kept
    path = f"{OBJECTS}/{made['id']}/content?presignUrl=true&once=true&once=false"

    assert fault(await world.client().get(path)) == (400, "bad_input", "once")


async def test_a_head_makes_no_link(kept):
    world, made, _ = kept
    before = await world.count("links")
    answer = await world.client().head(f"{OBJECTS}/{made['id']}/content?presignUrl=true")

    assert answer.status_code == 400
    assert await world.count("links") == before


# ---- its time -------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [1, 1800, 7 * DAY])
async def test_a_link_expires_when_it_says(kept, seconds):
    world, made, _ = kept
    url = await url_of(world.client(), made, expiresIn=seconds)
    client = visitor(world)
    world.clock.advance(seconds=seconds - 0.001)
    before = await client.get(url)
    world.clock.advance(seconds=0.001)

    assert before.status_code == 200
    over = (410, "gone", "This link expired: ask for a new link.")
    assert said(await client.get(url)) == over
    assert (await client.head(url)).status_code == 410


async def test_a_link_never_outlives_the_rights_it_was_made_with(kept):
    world, made, _ = kept
    until = world.clock() // 1000 + 5000
    client = world.client(until=until)
    short, long = [await asked(client, made["id"], expiresIn=n) for n in (4000, 6000)]

    assert [each.json()["expiresIn"] for each in (short, long)] == [4000, 5000]
    assert parse_qs(urlsplit(long.json()["url"]).query)["expires"] == [str(until)]


# ---- forgeries ------------------------------------------------------------------------------

FORGERIES = {
    "another expiry": lambda url: changed(url, expires="1767230000"),
    "an expiry with a zero before it": lambda url: url.replace("expires=", "expires=0"),
    "an expiry that is no number": lambda url: changed(url, expires="never"),
    "an expiry beyond all numbers": lambda url: changed(url, expires="9" * 400),
    "another link": lambda url: changed(url, link="A" * 22),
    "another key": lambda url: changed(url, kid="0" * 16),
    "no key": lambda url: changed(url, kid=""),
    "another signature": lambda url: changed(url, signature="A" * 43),
    "a signature cut short": lambda url: url[:-1],
    "a signature of the same bits": lambda url: url[:-1] + chr(ord(url[-1]) + 1),
    "no signature": lambda url: changed(url, signature=None),
    "an empty signature": lambda url: changed(url, signature=""),
    "no link": lambda url: changed(url, link=None),
    "no expiry": lambda url: changed(url, expires=None),
    "shown to browsers": lambda url: changed(url, inline="true"),
    "an inline of its own": lambda url: changed(url, inline="false"),
    "a further parameter": lambda url: changed(url, presignUrl="true"),
    "the signature twice": lambda url: url + url[url.index("&signature") :],
    "an expiry twice": lambda url: url + "&expires=1767230000",
    "a NUL": lambda url: url.replace("/content", "%00/content"),
    "half a character": lambda url: url.replace("/content", "%ED%A0%80/content"),
}


@pytest.mark.parametrize("how", FORGERIES)
async def test_an_altered_link_is_refused_and_says_nothing_of_why(kept, how):
    world, _, url = kept
    forged = FORGERIES[how](url)
    assert forged != url

    assert said(await visitor(world).get(forged)) == (403, "invalid_link", FORGED)


async def test_no_character_of_a_link_can_be_changed(kept):
    world, _, url = kept
    client, start = visitor(world), url.index("?") + 1
    found = set()
    for at in range(start, len(url)):
        other = "z" if url[at] != "z" else "y"
        found.add(said(await client.get(f"{url[:at]}{other}{url[at + 1 :]}")))

    assert found == {(403, "invalid_link", FORGED)}
    assert (await client.get(url)).status_code == 200


async def test_a_link_to_be_shown_cannot_be_turned_into_one_to_be_kept(kept):
    world, made, _ = kept
    url = await url_of(world.client(), made, inline="true")

    assert said(await visitor(world).get(changed(url, inline=None)))[0] == 403


async def test_a_link_opens_its_own_object_only(kept):
    world, made, url = kept
    other = await world.uploaded(b"other")
    forged = url.replace(made["id"], other["id"])

    assert said(await visitor(world).get(forged)) == (403, "invalid_link", FORGED)


async def test_a_link_of_one_object_is_no_link_of_another(world, made, url):
    """Even where both were given out: nothing of one fits the other."""
    other = await url_of(world.client(), await world.uploaded(b"other"))
    mixed = changed(url, link=id_of(other))

    assert said(await visitor(world).get(mixed)) == (403, "invalid_link", FORGED)


async def test_a_link_of_one_region_is_none_in_another(world, made, url):
    """Not even where both have the same keys and the same rows."""
    twin = replace(world.region, name="uk")
    client = visitor(world, world.region, twin)
    elsewhere = [
        await client.get(url.replace("/us-east/", f"/{name}/")) for name in ("uk", "ap", "mars")
    ]

    assert {said(each) for each in elsewhere} == {(403, "invalid_link", FORGED)}
    assert (await client.get(url)).status_code == 200


async def test_a_link_that_was_signed_but_not_kept_is_forged(world, made, url):
    """Whoever gets hold of a signing key can still not make links."""
    await world.run("DELETE FROM links")

    assert said(await visitor(world).get(url)) == (403, "invalid_link", FORGED)


async def test_a_link_opens_nothing_but_content(kept):
    world, _, url = kept
    client = visitor(world)
    query = urlsplit(url).query
    path = urlsplit(url).path.removesuffix("/content")

    for other in (path, f"{path}/metadata", OBJECTS, PRESIGNED, f"{BASE}/regions"):
        assert fault(await client.get(f"{other}?{query}"))[:2] == (401, "not_signed_in")
    assert (await client.post(url)).status_code == 405


async def test_a_token_and_a_link_at_once_are_refused(kept):
    world, _, url = kept

    assert fault(await world.client().get(url)) == (400, "bad_input", "link")
    assert fault(await world.bearing("Bearer x").get(url)) == (400, "bad_input", "link")


# ---- from where, and how often --------------------------------------------------------------


@pytest.mark.parametrize(
    ("ip", "inside", "outside"),
    [
        ("198.51.100.0/24", "198.51.100.7", "198.51.101.7"),
        ("198.51.100.7", "198.51.100.7", "198.51.100.8"),
        ("2001:db8::/32", "2001:db8::1", "2001:db9::1"),
        ("::ffff:198.51.100.0/120", "::ffff:198.51.100.7", "198.51.101.7"),
        ("198.51.100.0/24", "198.51.100.255", "2001:db8::1"),
        ("198.51.100.0/24", "198.51.100.0", ""),
    ],
)
async def test_a_link_may_be_held_to_a_network(kept, ip, inside, outside):
    world, made, _ = kept
    url = await url_of(world.client(), made, ip=ip)
    refused = await visitor(world, address=outside).get(url)

    elsewhere = "This link may not be used from this network address."
    assert said(refused) == (403, "invalid_link", elsewhere)
    assert (await visitor(world, address=inside).get(url)).status_code == 200


async def test_the_networks_of_the_key_hold_for_its_links(kept):
    world, made, _ = kept
    client = world.client(networks=("127.0.0.0/8", "203.0.113.0/24"))
    url = await url_of(client, made, ip="203.0.113.0/25")
    found = [
        (await visitor(world, address=address).get(url)).status_code
        for address in ("203.0.113.7", "203.0.113.200", "127.0.0.1", HERE)
    ]

    assert found == [200, 403, 403, 403]


async def test_a_link_for_one_use_gives_the_bytes_once(world, made):
    url, client = await url_of(world.client(), made, once="true"), visitor(world)
    first = await client.get(url, headers={"range": "bytes=0-9"})
    second = await client.get(url)

    assert (first.status_code, first.content) == (206, SOUND[:10])
    used = "This link was for one use and was used: ask for a new link."
    assert said(second) == (410, "gone", used)


async def test_only_bytes_use_a_link_up(kept):
    world, made, _ = kept
    url, client = await url_of(world.client(), made, once="true"), visitor(world)
    etag = (await client.head(url)).headers["etag"]
    tried = [
        await client.get(url, headers=headers)
        for headers in ({"if-none-match": etag}, {"if-match": '"x"'}, {"range": "bytes=9999-"})
    ]
    await world.put_in_state(made["id"], "ARCHIVED")
    tried.append(await client.get(url))
    await world.put_in_state(made["id"], "AVAILABLE")
    tried.append(await client.get(url))

    assert [each.status_code for each in tried] == [304, 412, 416, 409, 200]


async def test_of_twenty_at_once_one_gets_the_bytes(world, made):
    url, client = await url_of(world.client(), made, once="true"), visitor(world)
    answers = await asyncio.gather(*(client.get(url) for _ in range(20)))

    assert sorted(each.status_code for each in answers) == [200] + 19 * [410]
    assert [each.content for each in answers if each.status_code == 200] == [SOUND]
    assert [event for event, *_ in await deeds(world)] == ["export"]
    assert await world.rows("SELECT uses FROM links") == [(1,)]
    assert await world.broken() is None


async def test_of_twenty_at_once_in_two_processes_one_gets_the_bytes(world, made):
    url = await url_of(world.client(), made, once="true")
    async with another_process(world) as other:
        clients = [visitor(world), visitor(world, other)]
        answers = await asyncio.gather(*(clients[n % 2].get(url) for n in range(20)))

    assert sorted(each.status_code for each in answers) == [200] + 19 * [410]
    assert await world.broken() is None


async def test_a_link_for_any_use_counts_them_all(world, made, url):
    client = visitor(world)
    answers = await asyncio.gather(*(client.get(url) for _ in range(20)))

    assert {each.status_code for each in answers} == {200}
    assert await world.rows("SELECT uses, last_address FROM links") == [(20, HERE)]
    assert len(await deeds(world)) == 20


# ---- the rights it stands on ----------------------------------------------------------------

REVOKED = {
    "its app": "app-1",
    "the owner of its app": user_subject("acme", "olga"),
    "the token it was made with": "token-1",
}


@pytest.mark.parametrize("what", REVOKED)
async def test_a_link_ends_with_what_it_was_made_with(kept, what):
    world, _, url = kept
    client = visitor(world)
    before = await client.get(url)
    world.signer.revoked[REVOKED[what]] = 1
    lost = "The API key that made this link lost its rights since: ask for a new link."

    assert before.status_code == 200
    assert said(await client.get(url)) == (410, "gone", lost)


async def test_a_link_made_after_a_revocation_stands(kept):
    world, made, _ = kept
    world.signer.revoked["app-1"] = 1
    url = await url_of(world.client(epoch=1), made)

    assert (await visitor(world).get(url)).status_code == 200


async def test_an_object_that_leaves_the_reach_of_a_link_is_not_found(world):
    made = await world.uploaded(SOUND, metadata=IN_NEW_YORK)
    url, client = await url_of(world.client(reach=NEW_YORK), made), visitor(world)
    before = await client.get(url)
    await world.run("UPDATE objects SET site = 'sj' WHERE id = :id", id=made["id"])

    assert before.status_code == 200
    assert said(await client.get(url)) == (404, "not_found", "There is nothing with this id.")


@pytest.mark.parametrize(
    ("state", "refusal"),
    [("ARCHIVED", (409, "illegal_state")), ("REVOKED", (410, "gone")), ("DELETED", (410, "gone"))],
)
async def test_a_link_gives_no_more_than_its_maker_would_get(kept, state, refusal):
    world, made, url = kept
    await world.put_in_state(made["id"], state)

    assert fault(await visitor(world).get(url))[:2] == refusal
    assert await world.rows("SELECT uses FROM links") == [(0,)]


# ---- the audit ------------------------------------------------------------------------------


async def test_making_using_and_taking_back_are_audited(world, made):
    client, anybody = world.client(), visitor(world)
    url = await url_of(client, made, expiresIn=60, ip="198.51.100.0/24", inline="true")
    await anybody.get(url, headers={"range": "bytes=0-99"})
    await anybody.head(url)
    await anybody.get(url)
    link = id_of(url)
    await client.delete(f"{PRESIGNED}/{link}")
    use = {"link": link, "client": "sk_test", "address": HERE}
    wanted = {
        "objectId": made["id"],
        "expiresTime": "2026-01-01T00:01:00",
        "client": "sk_test",
        "once": False,
        "ip": "198.51.100.0/24",
        "inline": True,
    }

    assert await deeds(world) == [
        ("export", made["id"], "call.mp3", "olga", {**use, "range": "bytes 0-99/1024"}, link),
        ("view", made["id"], "call.mp3", "olga", {**use, "range": None}, link),
        ("export", made["id"], "call.mp3", "olga", {**use, "range": None}, link),
    ]
    assert await deeds(world, about="link") == [
        ("create", link, "call.mp3", "olga", wanted, ""),
        ("delete", link, made["id"], "olga", {"client": "sk_test"}, ""),
    ]
    assert await world.broken() is None


async def test_what_is_refused_leaves_no_record_of_a_use(kept):
    world, _, url = kept
    client = visitor(world)
    await client.get(changed(url, expires="1767230000"))
    await client.get(url, headers={"range": "bytes=9999-"})
    world.clock.advance(seconds=1800)
    await client.get(url)

    assert await deeds(world) == []


async def test_no_signature_is_kept_anywhere(kept):
    world, _, url = kept
    await visitor(world).get(url)
    signature = parse_qs(urlsplit(url).query)["signature"][0]
    rows = [
        row
        for table in ("audit", "links", "link_keys")
        for row in await world.rows(f"SELECT * FROM {table}")
    ]

    assert len(rows) == 5
    assert [row for row in rows if signature in str(row)] == []


async def test_nothing_is_sent_that_cannot_be_audited(kept, monkeypatch):
    world, made, _ = kept
    url, client = await url_of(world.client(), made, once="true"), visitor(world)

    async def broken(*_, **__):
        raise Unavailable("The database does not answer: try again.")

    with monkeypatch.context() as patched:
        patched.setattr(links.audit, "append", broken)
        refused = await client.get(url)

    assert fault(refused)[:2] == (503, "unavailable")
    assert (await client.get(url)).content == SOUND
