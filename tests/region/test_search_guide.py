"""Every filter of docs/search.md finds what its question asks for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from region_world import OBJECTS, names

from soundkeep.region.model import State

GUIDE = Path(__file__).parents[2] / "docs/search.md"
ROWS = re.findall(r"^\| (.+?) \| `(.+?)` \|$", GUIDE.read_text("utf-8"), re.MULTILINE)
JANUARY_2_MS = 1_767_312_000_000
HOUR_MS = 3_600_000
CALL = {
    "address": "+16692001234", "direction": "INBOUND", "duration": "4000", "branchId": "site-ny",
    "callId": "4071438168729", "startTime": str(JANUARY_2_MS + 9 * HOUR_MS),
}  # fmt: skip
CENTRE = {
    "address": "+442079460300", "direction": "INBOUND", "duration": "700000", "callId": "cc-1",
    "agentName": "Nina Castillo", "queueName": "Card Services", "branchId": "site-ny",
    "startTime": str(JANUARY_2_MS + 10 * HOUR_MS),
}  # fmt: skip
FOUND = {
    "All call recordings": "call old",
    "Calls and contact centre calls": "call centre old",
    "Everything but waveforms": "call centre old transcript",
    "Recordings since New Year": "call centre transcript wave",
    "Recordings of one day": "call centre transcript wave",
    "Calls that started in one hour, as a PBX tells time": "call",
    "Calls longer than ten minutes": "centre",
    "Very short calls": "call",
    "All calls of a number": "call",
    "Calls of an area code": "call old",
    "Incoming calls of two agents": "centre",
    "A queue's calls, or transfers to it": "centre",
    "Calls of a site": "call centre",
    "Calls of no site": "old transcript wave",
    "Everything of one call": "call transcript",
    "The transcript of a recording": "transcript",
    "What belongs together": "call transcript",
    "Files by name": "old",
    "Large files": "old",
    "What somebody deleted": "gone",
}


@pytest.fixture
async def filled(world):
    at = {"created_ms": JANUARY_2_MS + 12 * HOUR_MS}
    await world.keep(name="call", tags=CALL, bucket_id="acme-b-002", **at)
    await world.keep(name="centre", type="callcenterrecording", tags=CENTRE, **at)
    await world.keep(
        name="transcript",
        type="transcription",
        tags={"sourceId": "01a209ba-d255-7004-a9eb-f70e09c86497", "callId": "4071438168729"},
        bucket_id="acme-b-002",
        **at,
    )
    await world.keep(name="wave", type="waveform", **at)
    await world.keep(
        content=b"x" * 10_000_001,
        name="old_INBOUND.mp3",
        created_ms=JANUARY_2_MS - 48 * HOUR_MS,
        tags={"address": "+16695550000", "direction": "INBOUND", "duration": "soon"},
    )
    await world.keep(name="gone", state=State.REVOKED, tags=CALL, **at)
    return world


def test_the_guide_answers_twenty_questions():
    assert [question for question, _ in ROWS if question in FOUND] == list(FOUND)
    assert len(FOUND) == 20


async def test_every_filter_of_the_guide_finds_what_is_asked_for(filled):
    client = filled.client()
    found = {}
    for question, text in ROWS[-20:]:
        page = names(await client.get(OBJECTS, params={"filter": text}))
        found[question] = " ".join(sorted(each.removesuffix("_INBOUND.mp3") for each in page))

    assert found == FOUND
