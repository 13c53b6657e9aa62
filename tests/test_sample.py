"""The demo's sample recordings: complete, small, and what they say they are."""

import json
import re
import struct
from importlib.resources import files

import pytest

from make_sample import DIALOGUES, read_book

SAMPLE = files("soundkeep") / "sample"
FILES = [path for path in SAMPLE.iterdir() if path.is_file() and not path.name.endswith(".py")]
OBJECTS = json.loads((SAMPLE / "sample.json").read_text(encoding="utf-8"))["objects"]
BY_REF = {entry["ref"]: entry for entry in OBJECTS}
SAID = {said.ref: said for said in read_book(DIALOGUES).conversations}
TRANSCRIPTS = [ref for ref in BY_REF if ref.endswith("-transcript")]
TYPES = {
    "callrecording",
    "callcenterrecording",
    "screenrecording",
    "meeting",
    "transcription",
    "voicemail",
    "callcentervoicemail",
    "postcallsurvey",
    "voicecommentrecording",
    "agentnotes",
    "summary",
    "sentimentScore",
    "waveform",
    "meetings_transcriptions",
    "chattranscription",
}
KEYS = [
    "ref",
    "file",
    "customer",
    "region",
    "type",
    "mimeType",
    "objectName",
    "user",
    "bucket",
    "minutesAgo",
    "tags",
]
FIRST_BYTES = {
    "audio/mpeg": rb"ID3|\xff[\xe0-\xff]",
    "audio/wav": rb"RIFF....WAVE",
    "video/webm": rb"\x1aE\xdf\xa3",
    "application/json": rb"\{",
    "text/plain": rb"[A-Z]",
}
FICTIONAL = r"\+1\d{3}55501\d\d|\+442079460\d{3}"


def content(entry):
    return (SAMPLE / entry["file"]).read_bytes()


def wav_milliseconds(wav):
    at, per_second = 12, 0
    while True:
        name, size = struct.unpack_from("<4sI", wav, at)
        if name == b"fmt ":
            (per_second,) = struct.unpack_from("<I", wav, at + 16)
        if name == b"data":
            return 1000 * size / per_second
        at += 8 + size + size % 2


def mp3_milliseconds(mp3):
    """Of what we make: MPEG 2.5, layer III, 8 kHz, one constant rate of 8 or 16 kbit/s."""
    frame = {1: 72, 2: 144}[mp3[2] >> 4]
    starts = {mp3[at : at + 2] for at in range(0, len(mp3), frame)}

    assert {b"\xff\xe3"} == starts
    return 72 * len(mp3) / frame


def test_every_file_is_listed_once_and_every_listed_file_is_there():
    there = sorted(path.name for path in FILES if path.name != "sample.json")

    assert there == sorted(entry["file"] for entry in OBJECTS)


def test_all_of_it_is_small():
    assert sum(len(path.read_bytes()) for path in FILES) < 1_400_000


def test_every_type_of_the_contract_appears():
    assert {entry["type"] for entry in OBJECTS} == TYPES


def test_refs_and_names_are_unique():
    assert len({entry["objectName"] for entry in OBJECTS}) == len(BY_REF) == len(OBJECTS)


@pytest.mark.parametrize("ref", BY_REF)
def test_an_object_is_complete(ref):
    entry = BY_REF[ref]
    tags = entry["tags"]

    assert list(entry) == KEYS
    assert 0 < entry["minutesAgo"] < 90 * 24 * 60
    assert all(isinstance(value, str) for value in tags.values())
    assert (
        tags["branchId"]
        in {"acme": ("site-sj", "site-ny"), "globex": ("site-ldn",)}[entry["customer"]]
    )
    assert entry["user"].endswith(f"@{entry['customer']}.test")


@pytest.mark.parametrize("ref", BY_REF)
def test_the_bytes_are_what_the_media_type_says(ref):
    entry = BY_REF[ref]

    assert re.match(FIRST_BYTES[entry["mimeType"]], content(entry), re.DOTALL)


@pytest.mark.parametrize(
    "ref", [ref for ref in BY_REF if BY_REF[ref]["mimeType"].startswith("audio/")]
)
def test_the_duration_is_that_of_the_audio(ref):
    entry = BY_REF[ref]
    measure = mp3_milliseconds if entry["mimeType"] == "audio/mpeg" else wav_milliseconds

    assert measure(content(entry)) == pytest.approx(int(entry["tags"]["duration"]), rel=0.05)


@pytest.mark.parametrize("ref", TRANSCRIPTS)
def test_a_transcript_has_the_words_of_its_dialogue(ref):
    said = SAID[ref.removesuffix("-transcript")]
    transcript = json.loads(content(BY_REF[ref]))
    segments = transcript["segments"]

    assert [segment["text"] for segment in segments] == [text for _, text in said.lines]
    assert transcript["text"] == " ".join(segment["text"] for segment in segments)


@pytest.mark.parametrize("ref", TRANSCRIPTS)
def test_the_segments_of_a_transcript_follow_one_another(ref):
    transcript = json.loads(content(BY_REF[ref]))
    segments = transcript["segments"]
    times = [time for segment in segments for time in (segment["start"], segment["end"])]

    assert times == sorted(times)
    assert times[-1] < transcript["duration"]
    assert {segment["speaker"] for segment in segments} <= {"owner", "external"}


def test_what_points_to_another_object_stays_in_its_bucket_and_region():
    for entry in OBJECTS:
        for ref in re.findall(r"\{id:(.+?)\}", " ".join(entry["tags"].values())):
            source = BY_REF[ref]

            assert source["type"] == entry["tags"]["sourceObjectType"]
            assert [source[key] for key in ("customer", "region", "bucket")] == [
                entry[key] for key in ("customer", "region", "bucket")
            ]


def test_every_telephone_number_is_fictional():
    numbers = set(re.findall(r"\+\d+", json.dumps(OBJECTS)))

    assert [number for number in numbers if not re.fullmatch(FICTIONAL, number)] == []
