"""The log: one JSON object a line, and nothing in it that must not be read there."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundkeep.foundation import journal

KEY = "sk_0123456789abcdefghijkl4mPlXy"
SECRET = "sks_A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q7r8S9t0U1v2W3x4Y"
JWT = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhcHAifQ.c2lnbmF0dXJl-_c2ln"
PHONE = "15551234567"
UUID = "12345678-1234-4234-8234-123456789012"


def written(**event):
    """What the log line would hold."""
    return json.dumps(journal.redact(None, "info", {"event": "x", **event}), default=str)


# ---- text -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        KEY,
        SECRET,
        JWT,
        f"GET /?access_token={SECRET}",
        f"Authorization: Bearer {JWT}",
        "Authorization: Basic dXNlcjpwYXNz",
        "authorization: bearer opaque-token",
        f"prefix{SECRET}suffix",
        f"'{KEY}','{SECRET}'",
    ],
)
def test_a_secret_in_a_text_is_gone(text):
    masked = journal.masked(text)

    assert "***" in masked
    for secret in (KEY, SECRET, JWT, "dXNlcjpwYXNz", "opaque-token"):
        assert secret not in masked


@pytest.mark.parametrize(
    "name", ["token", "client_secret", "password", "access_token", "signature"]
)
def test_a_secret_named_in_a_query_is_gone(name):
    assert journal.masked(f"/path?{name}=hunter2&page=2") == f"/path?{name}=***&page=2"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("15551234567", "*********67"),
        ("+15551234567", "**********67"),
        ("call from 5551234.", "call from *****34."),
        ("caller==+15551234567;page", "caller==**********67;page"),
        ("a_15551234567_b", "a_*********67_b"),
        ("a-15551234567-b", "a-*********67-b"),
        ("%2B15551234567", "************67"),
        ("tel%3D%3D%2B15551234567", "tel%3D%3D************67"),
        ("tel%3D15551234567", "tel%3D*********67"),
    ],
)
def test_a_phone_number_keeps_its_last_two_digits(text, masked):
    assert journal.masked(text) == masked


@pytest.mark.parametrize(
    "text",
    ["+1 555 123 4567", "+1 (555) 123-4567", "+44-20-7946-0958", "(555) 123-4567", "555.123.4567"],
)
def test_a_phone_number_written_for_people_is_masked_too(text):
    masked = journal.masked(f"call {text} now")

    assert masked.startswith("call *")
    assert sum(each.isdigit() for each in masked) == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        UUID,
        f"/storage/v2/objects/{UUID}",
        "203.0.113.255",
        "2001:db8::1234:5678",
        "2026-01-01T00:00:00Z",
        "123456",
        "0f1234567890ab",
        "Tokenized keys are fine",
    ],
)
def test_what_operators_need_stays_readable(text):
    assert journal.masked(text) == text


# ---- events ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["token", "access_token", "secret", "client_secret", "password", "Authorization", "cookie",
     "set-cookie", "key", "api_key"],
)  # fmt: skip
@pytest.mark.parametrize("value", ["hunter2", ["hunter2"], {"a": "hunter2"}, b"hunter2"], ids=str)
def test_whatever_has_a_secrets_name_is_masked(name, value):
    assert journal.redact(None, "info", {name: value}) == {name: "***"}


def test_numbers_and_flags_stay_what_they_are():
    event = {"status": 200, "ms": 1.5, "ok": True, "size": 123456789, "none": None}

    assert journal.redact(None, "info", dict(event)) == event


@pytest.mark.parametrize(
    "nested",
    [
        {"headers": {"authorization": f"Bearer {JWT}"}},
        {"headers": [("authorization", f"Bearer {JWT}")]},
        {"deep": [{"list": ({"text": SECRET},)}]},
        {"by": {PHONE: 1}},
        {"by": {KEY: 1}},
        pytest.param({"several": {SECRET, "other"}}, id="a set"),
        {"bytes": SECRET.encode()},
        {"error": ValueError(f"no such number +{PHONE}")},
        {"inner": {"password": "hunter2", "token": [JWT]}},
    ],
    ids=str,
)
def test_a_secret_at_any_depth_is_gone(nested):
    line = written(**nested)

    assert not [secret for secret in (JWT, SECRET, KEY, PHONE, "hunter2") if secret in line]
    assert "*" in line


def test_the_time_and_the_level_of_an_event_stay():
    event = {"timestamp": "2026-01-01T00:00:00.1234567Z", "level": "info"}

    assert journal.redact(None, "info", dict(event)) == event


phones = st.integers(10**6, 10**15 - 1).map("+{}".format)
secrets = st.sampled_from([KEY, SECRET, JWT]) | phones


@given(st.data())
def test_no_secret_comes_out_of_any_event_it_is_put_into(data):
    secret = data.draw(secrets, label="secret")
    around = st.text(max_size=5)
    leaf = st.just(secret) | st.builds("{} {} {}".format, around, st.just(secret), around)
    tree = st.recursive(
        leaf, lambda inner: st.lists(inner) | st.dictionaries(around | leaf, inner), max_leaves=5
    )

    line = written(value=data.draw(tree, label="tree"))

    assert secret not in line
    assert secret.lstrip("+") not in line


@given(st.text())
def test_masking_twice_is_masking_once(text):
    once = journal.masked(text)

    assert journal.masked(once) == once


# ---- lines ----------------------------------------------------------------------------------

LOGS = f"""
import structlog
from soundkeep.foundation import journal

journal.configure("warning")
log = structlog.get_logger("test")
log.info("not heard")
log.warning("heard", size=7, path="/objects?from=%2B{PHONE}")
try:
    raise ValueError("bad secret {SECRET}") from KeyError("+{PHONE}")
except ValueError:
    log.exception("failed", client={{"secret": "hunter2", "object": object}})
"""


@pytest.fixture(scope="module")
def lines():
    """What a process writes to standard error."""
    done = subprocess.run([sys.executable, "-c", LOGS], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_a_line_is_one_json_object_even_with_a_traceback(lines):
    assert [json.loads(line)["event"] for line in lines] == ["heard", "failed"]


def test_a_line_says_when_and_how_bad(lines):
    event = json.loads(lines[0])

    assert event["level"] == "warning"
    assert event["timestamp"].endswith("Z")
    assert event["size"] == 7


def test_a_traceback_is_in_the_line_without_its_secrets(lines):
    event = json.loads(lines[1])

    assert "ValueError: bad secret ***" in event["exception"]
    assert event["client"]["secret"] == "***"


def test_no_line_holds_a_secret(lines):
    assert not [secret for secret in (SECRET, PHONE, "hunter2") if secret in "".join(lines)]


def test_what_only_begins_like_a_token_is_masked_in_one_go():
    """Were it left alone, every beginning in it would be looked at to the end: minutes for 60 KB."""
    assert journal.masked("eyJ" * 20_000) == "***"
    assert journal.masked("/objects/eyJhbGciOi/content") == "/objects/***/content"


def test_a_request_line_keeps_the_start_of_a_long_path(capfd):
    journal.request(
        method="GET", path="/x" * 30_000, status=404, ms=1.0, client="::1", request_id="r"
    )

    line = json.loads(capfd.readouterr().err)
    assert line["path"] == "/x" * 1024
