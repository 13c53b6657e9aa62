"""Make the demo's sample recordings from `sample_dialogues.json`.

Every text is our own and every voice is synthetic: espeak-ng speaks the lines, sox gives them the
band of a telephone, lame and ffmpeg encode them. Transcripts carry the very words that are spoken,
with times measured from the audio. The results are committed under `src/soundkeep/sample/`; run
this again only after the dialogues changed:

    apt-get install espeak-ng sox lame ffmpeg fonts-dejavu-core
    python3 tools/make_sample.py

Running it twice gives the same files. `sample.json` lists the objects, newest first. Three tokens
in its tag values are left for the demo to fill in: `{start_ms}` and `{end_ms}` (epoch milliseconds
of the call) and `{id:REF}` (the id that the object called REF was given).
"""

import argparse
import array
import base64
import hashlib
import json
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DIALOGUES = HERE / "sample_dialogues.json"
OUT = HERE.parent / "src" / "soundkeep" / "sample"

RATE = 8000
LEAD_SECONDS = 0.25
PAUSE_SECONDS = 0.35
TAIL_SECONDS = 0.3
PEAK_SAMPLES = 800
# Object names carry a time and must not change from run to run: they count back from this Friday.
NAMES_END = datetime(2026, 9, 11, 17, 30, tzinfo=UTC)
DAY_MINUTES = 24 * 60
OFFICE_MINUTES = 470
ENDINGS = {"mp3": ".mp3", "wav-mulaw": ".wav", "wav-pcm": ".wav", "json": ".json", "text": ".txt"}
MIME_TYPES = {
    ".mp3": "audio/mpeg",
    ".wav": "audio/wav",
    ".json": "application/json",
    ".txt": "text/plain",
    ".webm": "video/webm",
}
# What the wire calls each side, and how its line sounds: band in hertz, peak in decibels.
BANDS = {"owner": ("250", "3400", "-2"), "external": ("380", "3100", "-4")}

RAW = ("-t", "raw", "-e", "signed", "-b", "16", "-c", "1", "-L")

Tags = dict[str, str]


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who owns recordings."""

    name: str
    customer: str
    site: str
    extension: str
    number: str
    voice: str


@dataclass(frozen=True, slots=True)
class Voice:
    """How espeak-ng speaks: variant, pitch 0 to 99, words a minute."""

    variant: str
    pitch: int
    speed: int


@dataclass(frozen=True, slots=True)
class Conversation:
    """One call, message, meeting or chat, and what is kept beside it."""

    ref: str
    type: str
    user: str
    region: str
    lines: Sequence[tuple[str, str]]
    days_ago: int
    direction: str = ""
    number: str = ""
    name: str = ""
    voice: str = ""
    queue: str = ""
    title: str = ""
    format: str = "mp3"
    kbits: int = 8
    transcript: bool = False
    waveform: bool = False
    summary: Mapping[str, Any] = field(default_factory=dict)
    sentiment: Mapping[str, float] = field(default_factory=dict)
    notes: str = ""
    screen: Mapping[str, Any] = field(default_factory=dict)
    survey: str = ""
    survey_format: str = "mp3"
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Book:
    """The dialogues file, read."""

    people: Mapping[str, Person]
    voices: Mapping[str, Voice]
    queues: Mapping[str, str]
    conversations: Sequence[Conversation]


@dataclass(frozen=True, slots=True)
class Piece:
    """One spoken line and where it is in the audio."""

    speaker: str
    name: str
    start_seconds: float
    end_seconds: float
    text: str


@dataclass(frozen=True, slots=True)
class Audio:
    """Sound as 16-bit samples at 8 kHz, mono, little-endian."""

    samples: bytes
    pieces: Sequence[Piece]


@dataclass(frozen=True, slots=True)
class Kept:
    """A conversation while its objects are made: who, when, and the tags that its parts share."""

    said: Conversation
    owner: Person
    bucket: str
    minutes_ago: int
    stem: str
    tags: Tags
    duration_ms: int

    def entry(
        self, ref: str, file: str, type_: str, tags: Tags, *, name: str, later: int = 0
    ) -> dict[str, Any]:
        """One object of `sample.json`, made `later` minutes after the conversation."""
        return {
            "ref": ref,
            "file": file,
            "customer": self.owner.customer,
            "region": self.said.region,
            "type": type_,
            "mimeType": MIME_TYPES[Path(file).suffix],
            "objectName": name,
            "user": self.said.user,
            "bucket": self.bucket,
            "minutesAgo": self.minutes_ago - later,
            "tags": tags,
        }


def read_book(path: Path) -> Book:
    """The people, voices and conversations in the dialogues file."""
    raw = json.loads(path.read_text(encoding="utf-8"))
    return Book(
        people={email: Person(**facts) for email, facts in raw["people"].items()},
        voices={name: Voice(**facts) for name, facts in raw["voices"].items()},
        queues=raw["queues"],
        conversations=[Conversation(**facts) for facts in raw["conversations"]],
    )


# --- sound ---------------------------------------------------------------------------------------


def run(*command: str, given: bytes = b"") -> bytes:
    """What a program writes, given this input; raises when it fails."""
    return subprocess.run(command, input=given, capture_output=True, check=True).stdout


def speak(text: str, voice: Voice, *, british: bool, side: str, work: Path) -> bytes:
    """A line as samples, as it sounds on a telephone, without silence around it."""
    language = "en-gb" if british else "en-us"
    spoken = str(work / "spoken.wav")
    manner = ("-p", str(voice.pitch), "-s", str(voice.speed), "-v", f"{language}+{voice.variant}")
    run("espeak-ng", *manner, "-w", spoken, text)
    low, high, peak = BANDS[side]
    cut = ("silence", "1", "0.02", "0.4%", "reverse")
    band = ("highpass", low, "lowpass", high, "rate", str(RATE), "gain", "-n", peak)
    return run("sox", "-D", "-V1", spoken, *RAW, "-", *band, *cut, *cut)


def silence(seconds: float) -> bytes:
    """That much of nothing."""
    return bytes(2 * round(seconds * RATE))


def seconds_of(samples: bytes) -> float:
    """How long these samples sound."""
    return len(samples) / 2 / RATE


def record(book: Book, said: Conversation, lines: Sequence[tuple[str, str]], work: Path) -> Audio:
    """The lines spoken one after another, with a pause between turns."""
    owner = book.people[said.user]
    samples = silence(LEAD_SECONDS)
    pieces = []
    for number, (speaker, text) in enumerate(lines):
        if number:
            samples += silence(PAUSE_SECONDS)
        side = speaker if speaker in BANDS else "owner"
        who = {"owner": (owner.name, owner.voice), "external": (said.name, said.voice)}
        person = book.people.get(speaker)
        name, voice = (person.name, person.voice) if person else who[speaker]
        sound = speak(text, book.voices[voice], british=said.region == "uk", side=side, work=work)
        start = seconds_of(samples)
        samples += sound
        pieces.append(Piece(side, name, round(start, 2), round(seconds_of(samples), 2), text))
    return Audio(samples + silence(TAIL_SECONDS), pieces)


def encode(audio: Audio, path: Path, *, how: str, kbits: int) -> int:
    """Write the sound as MP3 or WAV; give its measured duration in milliseconds."""
    if how == "mp3":
        pcm = ("-r", "-s", "8", "--bitwidth", "16", "--signed", "--little-endian", "-m", "m")
        wanted = ("-t", "-q", "2", "-b", str(kbits))
        run("lame", "--quiet", *pcm, *wanted, "-", str(path), given=audio.samples)
    else:
        law = "mu-law" if how == "wav-mulaw" else "signed"
        bits = "8" if how == "wav-mulaw" else "16"
        raw = (*RAW, "-r", str(RATE), "-")
        run("sox", "-D", "-V1", *raw, "-e", law, "-b", bits, str(path), given=audio.samples)
    return round(1000 * float(run("soxi", "-D", str(path))))


def peaks(audio: Audio) -> dict[str, Any]:
    """The lowest and highest 8-bit sample of each tenth of a second, as audiowaveform writes."""
    samples = array.array("h", audio.samples)
    if sys.byteorder == "big":
        samples.byteswap()
    data: list[int] = []
    for start in range(0, len(samples), PEAK_SAMPLES):
        part = samples[start : start + PEAK_SAMPLES]
        data += (min(part) >> 8, max(part) >> 8)
    shape = {"version": 2, "channels": 1, "sample_rate": RATE, "samples_per_pixel": PEAK_SAMPLES}
    return shape | {"bits": 8, "length": len(data) // 2, "data": data}


def caption(
    file: Path, text: str, *, x: int, y: int, size: int, color: str, since: float = 0
) -> str:
    """The drawing step for a text, which goes by way of a file and so needs no escaping."""
    file.write_text(text, encoding="utf-8")
    look = f"font=DejaVu Sans:fontsize={size}:fontcolor={color}:expansion=none"
    return f"drawtext={look}:textfile={file.name}:x={x}:y={y}:enable='gte(t,{since:.1f})'"


def film(screen: Mapping[str, Any], path: Path, *, duration_ms: int, work: Path) -> None:
    """A small screen recording: a form whose fields fill in while the call goes on."""
    seconds = duration_ms / 1000
    title = caption(work / "title", screen["title"], x=18, y=12, size=20, color="white")
    steps = ["drawbox=0:0:iw:44:color=0x1f4e5f:t=fill", title]
    fields = screen["fields"]
    for number, (label, value) in enumerate(fields):
        y = 70 + 50 * number
        since = seconds * (0.5 + number) / (len(fields) + 0.5)
        box = f"drawbox=210:{y}:406:34"
        focus = f"between(t,{since - 1.5:.1f},{since + 1.5:.1f})"
        look = {"y": y + 8, "size": 16}
        steps += [
            caption(work / f"label{number}", label, x=24, color="0x51606b", **look),
            f"{box}:color=white:t=fill",
            f"{box}:color=0xb8c4cc:t=1",
            f"{box}:color=0x2a7de1:t=2:enable='{focus}'",
            caption(work / f"value{number}", value, x=222, color="0x17212b", since=since, **look),
        ]
    (work / "drawing").write_text(",\n".join(steps), encoding="utf-8")
    source = f"color=c=0xeef2f5:size=640x340:rate=4:duration={seconds:.3f}"
    given = ("-f", "lavfi", "-i", source, "-filter_script:v", "drawing")
    codec = ("-c:v", "libvpx-vp9", "-b:v", "0", "-crf", "45", "-g", "40", "-pix_fmt", "yuv420p")
    exact = ("-fflags", "+bitexact", "-flags:v", "+bitexact", "-threads", "1")
    command = ("ffmpeg", "-v", "error", "-y", *given, *codec, *exact, str(path.absolute()))
    subprocess.run(command, cwd=work, check=True)


# --- tags ----------------------------------------------------------------------------------------


def digest(kind: str, of: str) -> bytes:
    """Bytes that look random and are always the same for the same thing."""
    return hashlib.sha256(f"soundkeep sample {kind} {of}".encode()).digest()


def short_id(kind: str, of: str) -> str:
    """A URL-safe identifier of 22 characters."""
    return base64.urlsafe_b64encode(digest(kind, of)[:16]).decode().rstrip("=")


def digits(kind: str, of: str, count: int) -> str:
    """A decimal identifier of that many digits, with no zero in front."""
    lowest = 10 ** (count - 1)
    return str(lowest + int.from_bytes(digest(kind, of)) % (9 * lowest))


def guid(kind: str, of: str) -> str:
    """An identifier in the form of a UUID."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"soundkeep sample {kind} {of}"))


def call_tags(said: Conversation, owner: Person, name: str, duration_ms: int) -> Tags:
    """What a telephone system says about a call or a voicemail."""
    call_id = digits("call", said.ref, 13)
    extension_id = digits("extension", owner.extension, 6)
    pbx = owner.customer
    return {
        "guid": guid("call", said.ref),
        "pbxId": short_id("pbx", pbx),
        "pbxname": pbx.capitalize(),
        "callId": call_id,
        "ipbxid": pbx,
        "address": said.number,
        "startTime": "{start_ms}",
        "endTime": "{end_ms}",
        "duration": str(duration_ms),
        "branchId": owner.site,
        "userName": owner.name,
        "userEmail": said.user,
        "callLogId": short_id("call log", said.ref) + call_id,
        "direction": said.direction,
        "extensionId": extension_id,
        "extensionNumber": owner.extension,
        "callerId": said.number if said.direction == "INBOUND" else owner.number,
        "relativePath": f"{pbx}/{said.type}/users/{extension_id}/{name}",
        "media-processed": "true",
    }


def agent_tags(said: Conversation, owner: Person) -> Tags:
    """What a contact center says about the agent's side of any conversation."""
    return {
        "agentId": short_id("agent", said.user),
        "agentName": owner.name,
        "agentEmail": said.user,
        "branchId": owner.site,
        "tenantId": f"{owner.customer}-cc",
        "transactionId": digits("transaction", said.ref, 7),
    }


def contact_center_tags(
    said: Conversation, owner: Person, queue_number: str, name: str, duration_ms: int
) -> Tags:
    """What a contact center says about a call or a voicemail."""
    caller = (said.number, said.name)
    callee = (queue_number, said.queue)
    if said.direction == "OUTBOUND":
        caller, callee = (queue_number, owner.name), caller
    call_id = guid("call", said.ref)
    missed = said.type == "callcentervoicemail"
    return {
        "callId": call_id,
        "ipbxid": owner.customer,
        "address": said.number,
        **agent_tags(said, owner),
        "calleeId": callee[0],
        "calleeName": callee[1],
        "callerId": caller[0],
        "callerName": caller[1],
        "direction": said.direction,
        "startTime": "{start_ms}",
        "duration": str(duration_ms),
        "holdDuration": "0",
        "queueName": said.queue,
        "queueNumber": queue_number,
        "channelName": f"{said.queue} voicemail" if missed else f"{said.queue} phone",
        "mediaUrl": f"https://media.{owner.customer}.test/{said.type}/{name}",
        "callSnippetId": "1",
        "originalCallId": call_id,
        "extensionNumber": owner.extension,
        "billingTelephoneNumber": owner.number,
    }


def meeting_tags(said: Conversation, owner: Person, duration_ms: int) -> Tags:
    """What a meeting says about itself."""
    room = said.title.lower().replace(" ", "-")
    return {
        "duration": str(duration_ms),
        "meetingUrl": f"https://meet.{owner.customer}.test/{room}",
        "sessionId": guid("meeting", said.ref),
        "branchId": owner.site,
        "startTime": "{start_ms}",
        "userName": owner.name,
    }


def chat_tags(said: Conversation, owner: Person) -> Tags:
    """What a contact center says about a chat."""
    return agent_tags(said, owner) | {
        "callerName": said.name,
        "channelName": "Website chat",
        "queueName": said.queue,
        "direction": "INBOUND",
        "startTime": "{start_ms}",
        "language": "en-GB" if said.region == "uk" else "en-US",
    }


# --- objects -------------------------------------------------------------------------------------


def minutes_ago(index: int, days: int) -> int:
    """When a conversation was: some minute of an office day."""
    return days * DAY_MINUTES + 8 + index * 53 % OFFICE_MINUTES


def stem_of(said: Conversation, owner: Person, ago: int) -> str:
    """The object name without its ending."""
    at = (NAMES_END - timedelta(minutes=ago)).strftime("%Y-%m-%dT%H:%M:00")
    match said.type:
        case "meeting" | "chattranscription":
            about = (said.title or f"{said.queue} chat {said.name}").replace(" ", "-")
            return f"{at}_{about}"
        case "voicemail" | "callcentervoicemail":
            return f"{at}_{said.number}_{owner.number}_VOICEMAIL"
        case _:
            inbound = said.direction == "INBOUND"
            ends = (said.number, owner.number) if inbound else (owner.number, said.number)
            return f"{at}_{ends[0]}_{ends[1]}_{said.direction}"


def write_json(path: Path, value: object, *, indent: int | None = 2) -> None:
    """Write JSON for people to read, or in one line."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")


def transcript_of(audio: Audio, *, duration_ms: int, british: bool) -> dict[str, Any]:
    """The words of a recording, said by whom and when."""
    segments = [
        {
            "speaker": piece.speaker,
            "name": piece.name,
            "start": piece.start_seconds,
            "end": piece.end_seconds,
            "text": piece.text,
        }
        for piece in audio.pieces
    ]
    return {
        "language": "en-GB" if british else "en-US",
        "duration": round(duration_ms / 1000, 2),
        "text": " ".join(piece.text for piece in audio.pieces),
        "segments": segments,
    }


def transcript_entry(kept: Kept, audio: Audio, out: Path) -> dict[str, Any]:
    """The transcript of a recording. The tag `speaker` is empty where both sides are heard."""
    ref = f"{kept.said.ref}-transcript"
    british = kept.said.region == "uk"
    result = transcript_of(audio, duration_ms=kept.duration_ms, british=british)
    write_json(out / f"{ref}.json", result)
    sides = {piece.speaker for piece in audio.pieces}
    tags = kept.tags | {
        "duration": str(result["duration"]),
        "result": "SUCCESS",
        "language": result["language"],
        "provider": "sample",
        "sourceId": f"{{id:{kept.said.ref}}}",
        "sourceObjectType": kept.said.type,
        "speaker": sides.pop() if len(sides) == 1 and kept.said.type != "meeting" else "",
    }
    meeting = kept.said.type == "meeting"
    type_ = "meetings_transcriptions" if meeting else "transcription"
    return kept.entry(ref, f"{ref}.json", type_, tags, name=f"{kept.stem}_transcription.json")


def source_tags(kept: Kept) -> Tags:
    """What points from a derived object back to its recording."""
    shared = ("callId", "branchId", "address", "direction", "queueName", "agentName", "userName")
    return {key: kept.tags[key] for key in shared if key in kept.tags} | {
        "sourceObjectId": f"{{id:{kept.said.ref}}}",
        "sourceObjectType": kept.said.type,
    }


def label_of(score: float) -> str:
    """A score from -1 to 1 in a word."""
    return "positive" if score > 0.2 else "negative" if score < -0.2 else "neutral"


def insight_entries(kept: Kept, audio: Audio, out: Path) -> Iterator[dict[str, Any]]:
    """The waveform, the summary and the sentiment of a recording, where it has them."""
    said = kept.said
    content = "transcription" if said.transcript else said.type
    processed = {"contentObjectType": content, "sentimentProcessed": str(bool(said.sentiment))}
    judged = source_tags(kept) | {key: value.lower() for key, value in processed.items()}

    def entry(kind: str, type_: str, tags: Tags) -> dict[str, Any]:
        ref = f"{said.ref}-{kind}"
        return kept.entry(ref, f"{ref}.json", type_, tags, name=f"{kept.stem}_{kind}.json")

    if said.waveform:
        write_json(out / f"{said.ref}-waveform.json", peaks(audio), indent=None)
        drawn = source_tags(kept) | {"duration": str(kept.duration_ms)}
        yield entry("waveform", "waveform", drawn)
    if said.summary:
        summary = {"summary": said.summary["text"], "actions": said.summary["actions"]}
        write_json(out / f"{said.ref}-summary.json", summary)
        yield entry("summary", "summary", judged)
    if said.sentiment:
        scores = dict(said.sentiment)
        overall = scores.pop("overall")
        sentiment = {"overall": overall, "label": label_of(overall), "speakers": scores}
        write_json(out / f"{said.ref}-sentiment.json", sentiment)
        yield entry("sentiment", "sentimentScore", judged)


def desk_entries(kept: Kept, out: Path, work: Path) -> Iterator[dict[str, Any]]:
    """The agent's notes and screen during a call, where there are any."""
    said, owner = kept.said, kept.owner
    if said.notes:
        file = f"{said.ref}-notes.txt"
        (out / file).write_text(said.notes + "\n", encoding="utf-8", newline="\n")
        tags = source_tags(kept) | agent_tags(said, owner)
        name = f"{kept.stem}_notes.txt"
        yield kept.entry(f"{said.ref}-notes", file, "agentnotes", tags, name=name)
    if said.screen:
        file = f"{said.ref}-screen.webm"
        film(said.screen, out / file, duration_ms=kept.duration_ms, work=work)
        agent = agent_tags(said, owner)
        tags = {
            "callId": kept.tags["callId"],
            "agentId": agent["agentId"],
            "branchId": owner.site,
            "duration": str(kept.duration_ms),
            "tenantId": agent["tenantId"],
            "startTime": "{start_ms}",
            "startedBy": "SYSTEM",
            "identifier": guid("screen", said.ref),
            "transactionId": agent["transactionId"],
            "recording_start_time": "{start_ms}",
        }
        name = f"{kept.stem}_screen.webm"
        yield kept.entry(f"{said.ref}-screen", file, "screenrecording", tags, name=name)


def survey_entries(kept: Kept, book: Book, out: Path, work: Path) -> Iterator[dict[str, Any]]:
    """What the caller said after the call: answers to the survey, and a free comment."""
    said = kept.said
    answers = [("postcallsurvey", "survey", said.survey_format, said.survey)]
    answers.append(("voicecommentrecording", "comment", "mp3", said.comment))
    for number, (type_, kind, how, text) in enumerate(filter(lambda it: it[3], answers), start=1):
        ref = f"{said.ref}-{kind}"
        file = ref + ENDINGS[how]
        audio = record(book, said, [("external", text)], work)
        duration_ms = encode(audio, out / file, how=how, kbits=8)
        tags = kept.tags | {
            "duration": str(duration_ms),
            "mediaUrl": f"https://media.{kept.owner.customer}.test/{type_}/{file}",
            "pcsId": digits("survey", said.queue, 4),
            "pcsQuestionNumber": str(number),
        }
        name = f"{kept.stem}_{kind}_q{number}{ENDINGS[how]}"
        yield kept.entry(ref, file, type_, tags, name=name, later=2 + number)


def chat_entry(kept: Kept, out: Path) -> dict[str, Any]:
    """A chat, as JSON or as plain text."""
    said = kept.said
    names = {"owner": kept.owner.name, "external": said.name}
    file = said.ref + ENDINGS["text" if said.format == "text" else "json"]
    if said.format == "text":
        text = "".join(f"{names[who]}: {words}\n" for who, words in said.lines)
        (out / file).write_text(text, encoding="utf-8", newline="\n")
    else:
        messages = [
            {"speaker": who, "name": names[who], "offset": 25 * number, "text": words}
            for number, (who, words) in enumerate(said.lines)
        ]
        write_json(out / file, {"channel": "Website chat", "messages": messages})
    return kept.entry(said.ref, file, said.type, kept.tags, name=kept.stem + Path(file).suffix)


def objects_of(
    book: Book, index: int, said: Conversation, out: Path, work: Path
) -> Iterator[dict[str, Any]]:
    """Write every file of a conversation and give its objects, the recording first."""
    owner = book.people[said.user]
    ago = minutes_ago(index, said.days_ago)
    stem = stem_of(said, owner, ago)
    bucket = f"b-{index + 1:03}"
    if said.type == "chattranscription":
        yield chat_entry(Kept(said, owner, bucket, ago, stem, chat_tags(said, owner), 0), out)
        return
    file = said.ref + ENDINGS[said.format]
    name = stem + ENDINGS[said.format]
    audio = record(book, said, said.lines, work)
    duration_ms = encode(audio, out / file, how=said.format, kbits=said.kbits)
    match said.type:
        case "meeting":
            tags = meeting_tags(said, owner, duration_ms)
        case "callcenterrecording" | "callcentervoicemail":
            number = book.queues[said.queue]
            tags = contact_center_tags(said, owner, number, name, duration_ms)
        case _:
            tags = call_tags(said, owner, name, duration_ms)
    kept = Kept(said, owner, bucket, ago, stem, tags, duration_ms)
    yield kept.entry(said.ref, file, said.type, tags, name=name)
    if said.transcript:
        yield transcript_entry(kept, audio, out)
    yield from insight_entries(kept, audio, out)
    yield from desk_entries(kept, out, work)
    yield from survey_entries(kept, book, out, work)


def make(out: Path) -> list[dict[str, Any]]:
    """Make the sample anew in that directory; give its objects, newest first."""
    book = read_book(DIALOGUES)
    out.mkdir(parents=True, exist_ok=True)
    for old in out.iterdir():
        if old.suffix in MIME_TYPES:
            old.unlink()
    with tempfile.TemporaryDirectory() as work:
        objects = [
            entry
            for index, said in enumerate(book.conversations)
            for entry in objects_of(book, index, said, out, Path(work))
        ]
    objects.sort(key=lambda entry: entry["minutesAgo"])
    rows = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in objects)
    listing = f'{{"objects": [\n{rows}\n]}}\n'
    (out / "sample.json").write_text(listing, encoding="utf-8", newline="\n")
    return objects


def main() -> None:
    """Make the sample and say how large it is."""
    parser = argparse.ArgumentParser(description="Make the demo's sample recordings.")
    parser.add_argument("out", nargs="?", type=Path, default=OUT, help="default: %(default)s")
    out = parser.parse_args().out
    objects = make(out)
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"{len(objects)} objects, {size:,} bytes")


if __name__ == "__main__":
    main()
