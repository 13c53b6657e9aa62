"""Which access tokens a region believes (RFC 8725: best practices for JWTs, attacks included)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from identity_world import BASE, HERE, START_MS, HeldClock
from joserfc.jwk import OKPKey

from soundkeep.foundation.claims import Access, Claims, Reach
from soundkeep.foundation.errors import BadToken, NotAllowed
from soundkeep.foundation.verify import Trust, Verifier

NOW = START_MS // 1000
KEY = OKPKey.generate_key("Ed25519")
KID = KEY.thumbprint()
HEADER = {"alg": "EdDSA", "typ": "at+jwt", "kid": KID}
CLAIMS = Claims(
    issuer=BASE,
    subject="app-1",
    client="sk_1",
    owner="olga",
    customer="acme",
    regions=("us-west",),
    access=Access.READ,
    reach=Reach(company=True),
    issued=NOW,
    expires=NOW + 3600,
    epoch=5,
    token_id="token-1",
)


class Held:
    """Trust that a test holds in its hand."""

    def __init__(self) -> None:
        self.keys = {KID: OKPKey.import_key(KEY.as_dict(private=False))}
        self.revoked: dict[str, int] = {}

    async def trust(self) -> Trust:
        return Trust(self.keys, self.revoked)


@pytest.fixture
def feed():
    return Held()


@pytest.fixture
def clock():
    return HeldClock()


@pytest.fixture
def verifier(feed, clock):
    return Verifier(BASE, feed, clock)


def encoded(part: object) -> str:
    raw = part if isinstance(part, bytes) else msgspec.json.encode(part)
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(claims: object = CLAIMS, header: object = HEADER, key: OKPKey = KEY) -> str:
    text = f"{encoded(header)}.{encoded(claims)}"
    return f"{text}.{encoded(key.private_key.sign(text.encode()))}"


def changed(**facts: object) -> str:
    return signed(msgspec.structs.replace(CLAIMS, **facts))


async def assert_refused(verifier, token: str, match: str) -> None:
    with pytest.raises(BadToken, match=match):
        await verifier.claims(token, address=HERE)


async def test_a_good_token_gives_its_claims(verifier):
    assert await verifier.claims(signed(), address=HERE) == CLAIMS


# ---- who signed -----------------------------------------------------------------------------


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "", None, ["EdDSA"], "HS256", "RS256"])
async def test_another_algorithm_is_refused(verifier, alg):
    await assert_refused(verifier, signed(header=HEADER | {"alg": alg}), "malformed")


async def test_no_signature_is_refused(verifier):
    header, claims, _ = signed().split(".")

    await assert_refused(verifier, f"{header}.{claims}.", "signed by")
    await assert_refused(verifier, f"{encoded(HEADER | {'alg': 'none'})}.{claims}.", "malformed")


@pytest.mark.parametrize(
    "secret",
    [
        KEY.public_key.public_bytes_raw(),
        KEY.as_pem(private=False),
        json.dumps(KEY.as_dict(private=False)).encode(),
        KEY.as_dict(private=False)["x"].encode(),
    ],
    ids=["raw", "PEM", "JWK", "x"],
)
async def test_the_public_key_is_no_hmac_secret(verifier, secret):
    text = f"{encoded(HEADER | {'alg': 'HS256'})}.{encoded(CLAIMS)}"
    mac = hmac.new(secret, text.encode(), hashlib.sha256).digest()

    await assert_refused(verifier, f"{text}.{encoded(mac)}", "malformed")


async def test_a_foreign_key_under_our_kid_is_refused(verifier):
    await assert_refused(verifier, signed(key=OKPKey.generate_key("Ed25519")), "signed by")


async def test_a_foreign_kid_is_refused(verifier):
    foreign = OKPKey.generate_key("Ed25519")

    await assert_refused(
        verifier, signed(header=HEADER | {"kid": foreign.thumbprint()}, key=foreign), "signed by"
    )


@pytest.mark.parametrize("kid", [None, 1, ["x"], {}, ""])
async def test_an_odd_kid_is_refused(verifier, kid):
    await assert_refused(verifier, signed(header=HEADER | {"kid": kid}), "malformed|signed by")


async def test_a_key_inside_the_token_is_not_believed(verifier):
    foreign = OKPKey.generate_key("Ed25519")
    header = HEADER | {"jwk": foreign.as_dict(private=False)}

    await assert_refused(verifier, signed(header=header, key=foreign), "signed by|malformed")


@pytest.mark.parametrize("header", [{"crit": ["exp"], "exp": NOW}, {"crit": 5}])
async def test_critical_extensions_are_refused(verifier, header):
    await assert_refused(verifier, signed(header=HEADER | header), "malformed|signed by")


async def test_a_key_that_is_gone_no_longer_counts(verifier, feed):
    token = signed()
    await verifier.claims(token, address=HERE)
    feed.keys = {}

    await assert_refused(verifier, token, "signed by")


# ---- what it says ---------------------------------------------------------------------------


@pytest.mark.parametrize("part", range(3))
async def test_a_changed_token_is_refused(verifier, part):
    parts = signed().split(".")
    for at in range(0, len(parts[part]), 7):
        changed = list(parts)
        letter = "A" if changed[part][at] != "A" else "B"
        changed[part] = changed[part][:at] + letter + changed[part][at + 1 :]
        await assert_refused(verifier, ".".join(changed), "malformed|signed by")


async def test_a_raised_access_class_is_refused(verifier):
    header, _, signature = signed().split(".")
    claims = msgspec.structs.replace(CLAIMS, access=Access.EDIT)

    await assert_refused(verifier, f"{header}.{encoded(claims)}.{signature}", "signed by")


@pytest.mark.parametrize("typ", ["JWT", "AT+JWT", "application/at+jwt", None, "", ["at+jwt"]])
async def test_another_type_is_refused(verifier, typ):
    await assert_refused(verifier, signed(header=HEADER | {"typ": typ}), "malformed")


@pytest.mark.parametrize("issuer", ["", BASE + "/", "https://elsewhere.example"])
async def test_another_issuer_is_refused(verifier, issuer):
    await assert_refused(verifier, changed(issuer=issuer), "another service")


@pytest.mark.parametrize("audience", ["", "Storage", "console"])
async def test_another_audience_is_refused(verifier, audience):
    await assert_refused(verifier, changed(audience=audience), "another service")


@pytest.mark.parametrize("missing", ["iss", "sub", "exp", "iat", "reach", "epoch", "customer"])
async def test_a_claim_that_is_missing_is_refused(verifier, missing):
    claims = msgspec.to_builtins(CLAIMS)
    del claims[missing]

    await assert_refused(verifier, signed(claims), "malformed")


@pytest.mark.parametrize(
    "claims", [{"exp": str(NOW + 3600)}, {"access": "root"}, {"reach": []}, {"epoch": None}]
)
async def test_a_claim_of_the_wrong_kind_is_refused(verifier, claims):
    await assert_refused(verifier, signed(msgspec.to_builtins(CLAIMS) | claims), "malformed")


@pytest.mark.parametrize("claims", [b"", b"null", b"[]", b"{", b"\xff", b"[" * 10_000])
async def test_claims_that_are_no_object_are_refused(verifier, claims):
    await assert_refused(verifier, signed(claims), "malformed")


async def test_claims_of_a_later_release_are_read(verifier):
    claims = msgspec.to_builtins(CLAIMS) | {"colour": "blue"}

    assert await verifier.claims(signed(claims), address=HERE) == CLAIMS


# ---- when -----------------------------------------------------------------------------------


async def test_an_expired_token_is_refused_to_the_second(verifier, clock):
    token = signed()
    clock.now_ms = (NOW + 3600) * 1000 - 1
    await verifier.claims(token, address=HERE)
    clock.now_ms += 1

    await assert_refused(verifier, token, "expired")


async def test_our_clock_may_be_a_minute_behind_the_issuers(verifier, clock):
    clock.now_ms = (NOW - 60) * 1000

    assert await verifier.claims(signed(), address=HERE)


async def test_our_clock_may_not_be_further_behind(verifier, clock):
    clock.now_ms = (NOW - 60) * 1000 - 1

    await assert_refused(verifier, signed(), "from the future")


async def test_our_clock_ahead_only_shortens_a_tokens_life(verifier, clock):
    clock.advance(seconds=60)

    assert await verifier.claims(signed(), address=HERE)


# ---- what was revoked -----------------------------------------------------------------------


@pytest.mark.parametrize("subject", ["app-1", "acme/olga", "token-1"])
async def test_revoked_after_it_was_made(verifier, feed, subject):
    token = signed()
    await verifier.claims(token, address=HERE)
    feed.revoked = {subject: 6}

    await assert_refused(verifier, token, "revoked")


@pytest.mark.parametrize("subject", ["app-1", "acme/olga", "token-1"])
async def test_revoked_before_it_was_made(verifier, feed, subject):
    feed.revoked = {subject: 5}

    assert await verifier.claims(signed(), address=HERE)


@pytest.mark.parametrize("subject", ["app-2", "olga", "globex/olga", "acme/otto", "acme"])
async def test_somebody_else_was_revoked(verifier, feed, subject):
    feed.revoked = {subject: 9}

    assert await verifier.claims(signed(), address=HERE)


# ---- from where -----------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db9::1", "", "nonsense"])
async def test_outside_its_networks_a_token_is_good_for_nothing(verifier, address):
    token = changed(networks=("198.51.100.0/24", "2001:db8::/32"))
    await verifier.claims(token, address=HERE)

    with pytest.raises(NotAllowed):
        await verifier.claims(token, address=address)


# ---- rubbish --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "é.é.é",
        "\x00",
        "=.=.=",
        signed() + ".",
        signed() + ".x",
        "." + signed(),
        signed().replace(".", "", 1),
        signed() + "\n",
        signed() + " ",
        " " + signed(),
    ],
)
async def test_rubbish_is_refused(verifier, token):
    await assert_refused(verifier, token, "malformed|signed by")


@pytest.mark.parametrize("header", [b"[]", b"null", b"1", b'"a"', b"[" * 40_000, b"{" * 400])
async def test_a_header_that_is_no_object_is_refused(verifier, header):
    await assert_refused(verifier, signed(header=header), "malformed")


async def test_a_huge_token_is_refused(verifier):
    await assert_refused(verifier, changed(owner="x" * 70_000), "malformed")
    await assert_refused(verifier, "x" * 10_000_000, "malformed")


async def test_claims_as_long_as_a_header_may_be_are_read(verifier):
    users = frozenset(f"user-{number:06}" for number in range(2_500))

    claims = await verifier.claims(changed(reach=Reach(users=users)), address=HERE)
    assert claims.reach.users == users


@given(st.text() | st.from_regex(r"[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*"))
def test_no_text_is_a_token_by_chance(token):
    verifier = Verifier(BASE, Held(), HeldClock())

    with pytest.raises(BadToken):
        verifier._read(token, Trust(Held().keys))
