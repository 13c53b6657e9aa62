"""Scripts as customers of the reference service write them, run as customers run them."""

from __future__ import annotations

import ast
import csv
import hashlib
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from service_world import Demo, Service, free_port, serving

HERE = Path(__file__).parent
STORAGE = "/storage/us-east/v3"
ALL_TIME = ("--since", "2020-01-01", "--until", "2100-01-01")


# ---- the scripts ----------------------------------------------------------------------------


def poll_until_done(base_url: str, app: dict, out: Path, *more):
    return run(
        "poll_until_done", "--url", base_url, "--key", app["key"], "--secret", app["secret"],
        "--out", out, "--poll-seconds", "0.1", *(more or ALL_TIME),
    )  # fmt: skip


def start_then_get(base_url: str, app: dict, out: Path, **more):
    out.mkdir(exist_ok=True)
    return run("start_then_get", STORAGE_URL=base_url, STORAGE_OUT=out, **credentials(app), **more)


def chunks_of_50(base_url: str, app: dict, out: Path, *more):
    window = () if "--from" in more else ("--from", "2020-01-01", "--to", "2099-12-31")
    arguments = ["--base-url", base_url, "--out", out, *window, *more]
    return run("chunks_of_50", *arguments, **credentials(app))


SCRIPTS = (poll_until_done, start_then_get, chunks_of_50)
every_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)


def credentials(app: dict) -> dict[str, str]:
    return {"STORAGE_KEY": app["key"], "STORAGE_SECRET": app["secret"]}


def run(name: str, *arguments, **environment) -> subprocess.CompletedProcess[str]:
    """A script to its end, in a Python that sees nothing of ours."""
    return subprocess.run(
        [sys.executable, "-I", "-W", "ignore", str(HERE / f"{name}.py"), *map(str, arguments)],
        env={**os.environ, **{key: str(value) for key, value in environment.items()}},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def one_line(ran: subprocess.CompletedProcess[str], name: str) -> str:
    """What a script that failed says, all of it."""
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert re.fullmatch(rf"{name}: [^\n]+\n", ran.stderr)
    return ran.stderr


# ---- the service ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared_demo(demo_made, tmp_path_factory):
    """A demo for those tests that change none of its objects."""
    return Demo(shutil.copytree(demo_made.folder, tmp_path_factory.mktemp("shared") / "demo"))


@pytest.fixture(scope="module")
def shared(shared_demo):
    """That demo, served."""
    with serving(shared_demo.config) as service:
        yield service


def objects(service: Service, app: dict, text: str = "", storage: str = STORAGE) -> list[dict]:
    """All that a filter finds, oldest first."""
    order = {"sortField": "createdTime", "sortDirection": "ASC", "limit": 1000}
    with service.as_app(app) as client:
        page = client.get(f"{storage}/objects", params={"filter": text, **order}).json()
    assert page["lastPage"]
    return page["content"]


def keep(service: Service, app: dict, name: str, content: bytes) -> str:
    """Upload a call recording; its id."""
    metadata = json.dumps({"type": "callrecording", "objectName": name})
    parts = {"metadata": (None, metadata), "content": ("a.wav", content, "audio/wav")}
    with service.as_app(app) as client:
        answer = client.post(f"{STORAGE}/objects", files=parts)
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


@contextmanager
def cutting(service: Service, *cuts: int):
    """A way to the service that cuts archives after so many bytes, as often as `cuts` says.

    Gives its URL, and the ranges that were asked for as they come.
    """
    left, ranges = list(cuts), []
    upstream = urlsplit(service.base_url).netloc

    class Way(BaseHTTPRequestHandler):
        def hand_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            line = http.client.HTTPConnection(upstream)
            line.request(self.command, self.path, body, dict(self.headers))
            answer = line.getresponse()
            content = answer.read()
            line.close()
            if self.command == "GET" and re.search(r"/bulk/download/[^/]+$", self.path):
                ranges.append(self.headers.get("range"))
                content = content[: left.pop(0)] if left else content
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = hand_on  # noqa: N815

    with ThreadingHTTPServer(("127.0.0.1", 0), Way) as server:
        serving_it = threading.Thread(target=server.serve_forever)
        serving_it.start()
        yield f"http://127.0.0.1:{server.server_port}", ranges
        server.shutdown()
        serving_it.join()


# ---- what arrived ---------------------------------------------------------------------------


def files(folder: Path) -> Counter[tuple[str, str]]:
    """Name and MD5 of each file."""
    found = [each for each in folder.rglob("*") if each.is_file()]
    return Counter((each.relative_to(folder).as_posix(), md5(each.read_bytes())) for each in found)


def entries(place: Path) -> Counter[tuple[str, str]]:
    """Name and MD5 of each entry of a ZIP."""
    with zipfile.ZipFile(place) as archive:
        return Counter((name, md5(archive.read(name))) for name in archive.namelist())


def named(found: list[dict]) -> Counter[tuple[str, str]]:
    """Name and MD5 of each object."""
    return Counter((each["objectName"], each["checksum"]) for each in found)


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


# ---- poll_until_done.py ---------------------------------------------------------------------


def test_polling_brings_every_recording_of_a_window(shared, shared_demo, tmp_path):
    app = shared_demo.app(1)
    calls = objects(shared, app, "type==callrecording")
    since, until = calls[3]["createdTime"], calls[-2]["createdTime"]
    window = ("--since", since, "--until", until, "--page-size", 4)
    ran = poll_until_done(shared.base_url, app, tmp_path, *window)

    assert (ran.returncode, ran.stderr) == (0, "")
    assert len(calls[3:-2]) > 8
    assert files(tmp_path / "recordings") == named(calls[3:-2])
    assert ran.stdout.startswith(f"{len(calls[3:-2])} recordings in us-east\n")


def test_a_sites_key_brings_that_sites_recordings(shared, shared_demo, tmp_path):
    calls = objects(shared, shared_demo.edit, "type==callrecording")
    of_site = [each for each in calls if {"key": "branchId", "value": "site-ny"} in each["tags"]]
    ran = poll_until_done(shared.base_url, shared_demo.site, tmp_path)

    assert (ran.returncode, ran.stderr) == (0, "")
    assert 0 < len(of_site) < len(calls)
    assert files(tmp_path / "recordings") == named(of_site)


def test_the_region_may_be_chosen_among_those_discovered(shared, shared_demo, tmp_path):
    calls = objects(shared, shared_demo.globex, "type==callrecording", "/storage/uk/v3")
    arguments = (*ALL_TIME, "--region", "uk")
    ran = poll_until_done(shared.base_url, shared_demo.globex, tmp_path, *arguments)

    assert (ran.returncode, ran.stderr) == (0, "")
    assert calls
    assert files(tmp_path / "recordings") == named(calls)


def test_what_did_not_come_is_told_and_asked_for_again(shared, shared_demo, tmp_path):
    """Another company's recording, and one that never was, look the same."""
    foreign = objects(shared, shared_demo.globex)[0]["id"]
    never = "00000000-0000-7000-8000-000000000000"
    (tmp_path / "missing.txt").write_text(f"{foreign}\n{never}\n")
    ran = poll_until_done(shared.base_url, shared_demo.edit, tmp_path)

    assert ran.returncode == 3
    told = dict(line.removeprefix("missing: ").split(" ", 1) for line in ran.stderr.splitlines())
    assert list(told) == [foreign, never]
    assert told[foreign] == told[never]
    assert (tmp_path / "missing.txt").read_text() == f"{foreign}\n{never}\n"
    calls = objects(shared, shared_demo.edit, "type==callrecording")
    assert files(tmp_path / "recordings") == named(calls)


def test_what_was_missing_comes_the_next_time(shared, shared_demo, tmp_path):
    """It was asked for by its id, outside of the window."""
    calls = objects(shared, shared_demo.edit, "type==callrecording")
    (tmp_path / "missing.txt").write_text(calls[0]["id"])
    window = ("--since", calls[1]["createdTime"], "--until", "2100-01-01")
    ran = poll_until_done(shared.base_url, shared_demo.edit, tmp_path, *window)

    assert (ran.returncode, ran.stderr) == (0, "")
    assert files(tmp_path / "recordings") == named(calls)
    assert (tmp_path / "missing.txt").read_text() == ""


def test_recordings_of_one_name_come_side_by_side(demo, service, tmp_path):
    name = "2026-01-31T23:59:59_+16695550193_INBOUND.wav"
    for content in (b"first", b"second", b"third"):
        keep(service, demo.edit, name, content)
    calls = objects(service, demo.edit, f"objectName=='{name}'")
    window = ("--since", calls[0]["createdTime"], "--until", "2100-01-01")
    ran = poll_until_done(service.base_url, demo.edit, tmp_path / "out", *window)

    assert (ran.returncode, ran.stderr) == (0, "")
    found = files(tmp_path / "out/recordings")
    plain = name.removesuffix(".wav")
    assert {each for each, _ in found} == {name, f"{plain} (2).wav", f"{plain} (3).wav"}
    assert {digest for _, digest in found} == {each["checksum"] for each in calls}


def test_a_region_without_recordings_of_the_customer_is_told(shared, shared_demo, tmp_path):
    ran = poll_until_done(
        shared.base_url, shared_demo.edit, tmp_path, *ALL_TIME, "--region", "ca"
    )  # fmt: skip

    assert one_line(ran, "poll_until_done") == (
        "poll_until_done: no recordings of yours in ca, but in: us-east, uk\n"
    )


# ---- start_then_get.py ----------------------------------------------------------------------


def test_an_archive_comes_without_a_poll_and_with_its_ending_twice(shared, shared_demo, tmp_path):
    app = shared_demo.app(1)
    ran = start_then_get(shared.base_url, app, tmp_path)

    assert (ran.returncode, ran.stderr) == (0, "")
    place = Path(ran.stdout.removesuffix("\n"))
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.zip\.zip", place.name)
    assert entries(place) == named(objects(shared, app, "type==callrecording"))


def test_names_that_would_leave_the_folder_do_not(demo, service, tmp_path):
    names = ["../../escaped.wav", "/absolute.wav", "C:\\windows.wav", "a\\..\\..\\b.wav"]
    ids = {keep(service, demo.edit, name, name.encode()) for name in names}
    ran = start_then_get(service.base_url, demo.edit, tmp_path / "out")
    place = ran.stdout.removesuffix("\n")
    target = tmp_path / "deep/deeper/deepest"
    with zipfile.ZipFile(place) as archive:
        stored = archive.namelist()
    target.mkdir(parents=True)
    subprocess.run(["unzip", "-q", place, "-d", target], check=True, stdout=subprocess.DEVNULL)

    assert len(ids) == len(names)
    assert not [name for name in stored if name.startswith("/") or ".." in name.split("/")]
    assert not [name for name in stored if "\\" in name or "\0" in name]
    assert len(files(tmp_path / "deep")) == len(files(target)) == len(stored)
    assert {md5(name.encode()) for name in names} <= {digest for _, digest in files(target)}


def test_clearing_leaves_the_list_empty(shared, shared_demo, tmp_path):
    app = shared_demo.app(1)
    with shared.as_app(app) as client:
        started = client.post(
            f"{STORAGE}/bulk/download/start", json=[objects(shared, app)[0]["id"]]
        )
        listed = client.get(f"{STORAGE}/bulk/download/status").json()
        ran = start_then_get(shared.base_url, app, tmp_path)
        left = client.get(f"{STORAGE}/bulk/download/status").json()

    assert started.json()["zipName"] in [each["zipName"] for each in listed]
    assert ran.returncode == 0
    assert left == []


@pytest.mark.parametrize(("region", "status"), [("ca", "403"), ("mars", "404")])
def test_a_region_that_is_not_the_customers_is_refused(
    shared, shared_demo, tmp_path, region, status
):
    ran = start_then_get(shared.base_url, shared_demo.edit, tmp_path, STORAGE_REGION=region)

    assert f": {status} from /storage/{region}/v3/objects?" in one_line(ran, "start_then_get")
    assert list(tmp_path.iterdir()) == []


# ---- chunks_of_50.py ------------------------------------------------------------------------


def test_everything_goes_into_folders_by_month_with_an_index(shared, shared_demo, tmp_path):
    app = shared_demo.app(1)
    ran = chunks_of_50(shared.base_url, app, tmp_path)
    everything = {each["id"]: each for each in objects(shared, app)}

    assert (ran.returncode, ran.stderr) == (0, "")
    assert "50 of 62 archived\n62 of 62 archived\n" in ran.stdout
    rows = index(tmp_path)
    assert [row["id"] for row in rows] == list(everything)
    for row in rows:
        each = everything[row["id"]]
        assert row["file"].startswith(each["createdTime"][:7].replace("-", "/") + "/")
        assert md5((tmp_path / row["file"]).read_bytes()) == row["checksum"] == each["checksum"]
        assert row["storedBytes"] == str(each["storedBytes"])
    assert {name for name, _ in files(tmp_path)} == {row["file"] for row in rows} | {"index.csv"}


def test_days_are_chosen_on_the_clients_side(shared, shared_demo, tmp_path):
    app = shared_demo.edit
    today = datetime.now(UTC).date()
    first, last = today - timedelta(days=20), today - timedelta(days=3)
    ran = chunks_of_50(shared.base_url, app, tmp_path, "--from", first, "--to", last)
    expected = [
        each["id"]
        for each in objects(shared, app)
        if str(first) <= each["createdTime"][:10] <= str(last)
    ]

    assert (ran.returncode, ran.stderr) == (0, "")
    assert 0 < len(expected) < 62
    assert [row["id"] for row in index(tmp_path)] == expected


def test_a_download_that_is_cut_goes_on_where_it_was(shared, shared_demo, tmp_path):
    with cutting(shared, 100_000, 70_000, 200_000) as (way, ranges):
        ran = chunks_of_50(way, shared_demo.edit, tmp_path)

    assert ran.returncode == 0, ran.stderr
    assert [ranges[0], *ranges[4:]] == [None, None]  # the first of each archive
    starts = [int(re.fullmatch(r"bytes=(\d+)-", each)[1]) for each in ranges[1:4]]
    assert 0 < starts[0] < starts[1] < starts[2]
    everything = objects(shared, shared_demo.edit)
    assert Counter(row["checksum"] for row in index(tmp_path)) == Counter(
        each["checksum"] for each in everything
    )
    assert all(
        md5((tmp_path / row["file"]).read_bytes()) == row["checksum"] for row in index(tmp_path)
    )


def test_what_was_moved_is_deleted_when_that_is_asked_for(demo, service, tmp_path):
    before = objects(service, demo.edit)
    ran = chunks_of_50(service.base_url, demo.edit, tmp_path / "out", "--delete")

    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.endswith("62 deleted from the storage\n")
    assert {row["id"] for row in index(tmp_path / "out")} == {each["id"] for each in before}
    assert objects(service, demo.edit) == []
    assert len(objects(service, demo.globex)) == 2


def test_a_key_without_edit_archives_and_deletes_nothing(shared, shared_demo, tmp_path):
    ran = chunks_of_50(shared.base_url, shared_demo.app(1), tmp_path, "--delete")

    told = one_line(ran, "chunks_of_50")
    assert told.startswith(f"chunks_of_50: DELETE {STORAGE}/bulk: 403, the key has no right to")
    assert len(index(tmp_path)) == 62
    assert len(objects(shared, shared_demo.edit)) == 62


def index(folder: Path) -> list[dict[str, str]]:
    with (folder / "index.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# ---- what goes wrong ------------------------------------------------------------------------


@every_script
def test_a_wrong_secret_is_told_in_one_line(shared, shared_demo, tmp_path, script):
    app = {**shared_demo.read, "secret": "no-such-secret"}
    ran = script(shared.base_url, app, tmp_path / "out")

    assert re.search(
        "secret (is )?wrong|wrong .*SECRET", one_line(ran, script.__name__), re.IGNORECASE
    )
    assert "no-such-secret" not in ran.stdout + ran.stderr
    assert files(tmp_path) == Counter()


@every_script
def test_a_key_that_may_not_download_is_told_in_one_line(shared, shared_demo, tmp_path, script):
    ran = script(shared.base_url, shared_demo.read, tmp_path / "out")

    told = one_line(ran, script.__name__)
    assert "403" in told
    assert "key has no right to do that" in told
    assert f"{STORAGE}/bulk/download/start" in told
    assert {name for name, _ in files(tmp_path)} <= {"out/index.csv"}


@every_script
def test_a_service_that_is_not_there_is_told_in_one_line(shared_demo, tmp_path, script):
    nowhere = f"http://127.0.0.1:{free_port()}"
    ran = script(nowhere, shared_demo.read, tmp_path / "out")

    assert nowhere in one_line(ran, script.__name__)


@every_script
def test_a_script_knows_nothing_of_us(script):
    text = (HERE / f"{script.__name__}.py").read_text()
    trees = list(ast.walk(ast.parse(text)))
    imported = {each.name for tree in trees if isinstance(tree, ast.Import) for each in tree.names}
    imported |= {tree.module for tree in trees if isinstance(tree, ast.ImportFrom)}

    assert imported - sys.stdlib_module_names == {"requests"}
    assert "soundkeep" not in text.lower()
