"""Revocation and network limits; what a token must look like is tested with those who make it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundkeep.foundation.claims import Access, Claims, Reach, user_subject
from soundkeep.foundation.errors import NotAllowed
from soundkeep.foundation.verify import is_revoked, must_be_inside


def claims(epoch=5):
    return Claims(
        issuer="https://keep.example",
        subject="app-1",
        client="sk_1",
        owner="ann",
        customer="acme",
        regions=("uk",),
        access=Access.READ,
        reach=Reach(company=True),
        issued=0,
        expires=60,
        epoch=epoch,
        token_id="token-1",
    )


OWN = ["app-1", user_subject("acme", "ann"), "token-1"]
OTHERS = ["app-2", user_subject("acme", "bob"), user_subject("globex", "ann"), "ann", "acme"]


def test_nothing_is_revoked_where_nothing_was():
    assert not is_revoked(claims(), {})


@pytest.mark.parametrize("subject", OWN)
def test_a_revocation_after_the_token_was_made_kills_it(subject):
    assert is_revoked(claims(epoch=5), {subject: 6})


@pytest.mark.parametrize("subject", OWN)
def test_a_token_made_after_the_revocation_lives(subject):
    assert not is_revoked(claims(epoch=6), {subject: 6})


@pytest.mark.parametrize("subject", OTHERS)
def test_the_revocation_of_another_subject_is_nothing_to_it(subject):
    assert not is_revoked(claims(), {subject: 99})


def test_the_first_revocation_of_all_kills_a_token_of_epoch_zero():
    assert is_revoked(claims(epoch=0), {"app-1": 1})


@given(st.dictionaries(st.sampled_from(OWN + OTHERS), st.integers(0, 10)), st.integers(0, 10))
def test_a_token_is_dead_when_the_newest_revocation_of_its_own_is_newer(revoked, epoch):
    newest = max((revoked.get(subject, 0) for subject in OWN), default=0)

    assert is_revoked(claims(epoch), revoked) == (newest > epoch)


@pytest.mark.parametrize(
    ("networks", "address"),
    [
        (("203.0.113.0/24",), "203.0.113.9"),
        (("203.0.113.9",), "203.0.113.9"),
        (("198.51.100.0/24", "203.0.113.0/24"), "203.0.113.9"),
        (("2001:db8::/32",), "2001:db8::1"),
        (("203.0.113.0/24", "2001:db8::/32"), "2001:db8::1"),
    ],
)
def test_an_address_inside_one_of_the_ranges_may_pass(networks, address):
    assert must_be_inside(networks, address) is None


@pytest.mark.parametrize(
    ("networks", "address"),
    [
        (("203.0.113.0/24",), "203.0.114.9"),
        (("203.0.113.0/24",), "2001:db8::1"),
        (("2001:db8::/32",), "203.0.113.9"),
        (("0.0.0.0/0",), ""),
        (("0.0.0.0/0",), "unknown"),
        (("0.0.0.0/0",), "203.0.113.9, 10.0.0.1"),
        ((), "203.0.113.9"),
    ],
)
def test_any_other_address_is_refused(networks, address):
    with pytest.raises(NotAllowed):
        must_be_inside(networks, address)
