"""The command line: what it makes, its exit codes, its one-line errors."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import tomllib
import zipfile

import httpx2
import pytest
from cryptography.fernet import Fernet

from service_world import COMMAND, Service, free_port, serving, soundkeep, wait_until_ready


def test_demo_writes_its_listing_for_its_owner_alone(demo_made):
    listing = demo_made.listing

    assert stat.S_IMODE((demo_made.folder / "demo.json").stat().st_mode) == 0o600
    assert list(listing) == ["base_url", "customer_id", "regions", "console_url", "users", "apps"]
    assert listing["base_url"] == "http://127.0.0.1:8080"
    assert listing["regions"] == ["us-east", "uk"]
    assert [(app["customer"], app["access"], app["scope"]) for app in listing["apps"]] == [
        ("acme", "read", "company"),
        ("acme", "download", "company"),
        ("acme", "edit", "company"),
        ("acme", "edit", "site:site-ny"),
        ("globex", "edit", "company"),
    ]
    assert all(
        list(app) == ["customer", "name", "key", "secret", "access", "scope", "owner"]
        for app in listing["apps"]
    )


def test_demo_has_eight_users_of_two_companies(demo_made):
    roles = {user["email"]: user["roles"] for user in demo_made.listing["users"]}

    assert len(roles) == 8
    for customer in ("acme", "globex"):
        assert roles[f"superadmin@{customer}.test"] == ["Super Admin"]
        assert roles[f"storage@{customer}.test"] == ["Storage API"]
        assert roles[f"basic@{customer}.test"] == ["Basic User"]


def test_a_demo_made_before_is_used_again_on_another_port(demo):
    before = demo.listing
    again = soundkeep("demo", "--dir", demo.folder, "--port", 8181, "--no-serve")

    assert again.returncode == 0
    assert "http://127.0.0.1:8181/console/" in again.stdout
    assert demo.listing["base_url"] == "http://127.0.0.1:8181"
    assert demo.listing["apps"] == before["apps"]
    assert tomllib.loads(demo.config.read_text())["server"]["port"] == 8181


def test_demo_refuses_a_folder_with_other_things_in_it(tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    refused = soundkeep("demo", "--dir", tmp_path, "--port", 8080, "--no-serve")

    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == (
        f"soundkeep: {tmp_path} is not empty and holds no demo: choose another folder.\n"
    )
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.txt"]


def test_demo_adds_synthetic_objects_that_can_be_read(demo):
    added = soundkeep("demo", "--dir", demo.folder, "--port", 8080, "--objects", 1500, "--no-serve")
    with serving(demo.config) as service, service.as_app(demo.edit) as client:
        page = client.get("/storage/us-east/v3/objects?limit=1000&filter=userId==agent-0007").json()
        content = client.get(f"/storage/us-east/v3/objects/{page['content'][0]['id']}/content")
        everything = client.get("/storage/us-east/v3/objects?limit=1").json()

    assert re.match(r"Added 1500 synthetic objects in \d+\.\d s, \d+ a second\.", added.stdout)
    assert everything["total"] == 62 + 1500 + 1
    assert page["total"] > 0
    assert len(page["content"][0]["tags"]) == 16
    assert len(content.content) == page["content"][0]["storedBytes"]


def test_the_printed_lines_work_as_printed(demo, tmp_path):
    port = free_port()
    process = subprocess.Popen(
        [*COMMAND, "demo", "--dir", str(demo.folder), "--port", str(port)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        printed = []
        for line in process.stdout:
            printed.append(line)
            if line.startswith("curl") and "-o recordings.zip" in line:
                break
        lines = [line for line in printed if re.match(r"TOKEN=|ID=|ZIP=|curl ", line)]
        lines.append("echo; echo $ID")
        script = "sleep 2\n" + "".join(lines).replace("curl -s", "curl -sS --fail-with-body")
        ran = subprocess.run(
            ["bash", "-e", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
        )
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()

    assert (ran.returncode, ran.stderr) == (0, "")
    body, object_id = ran.stdout.strip().split("\n")
    assert len(json.loads(body)["content"]) == 3
    assert re.fullmatch(r"[0-9a-f-]{36}", object_id)
    recording = (tmp_path / "recording.mp3").read_bytes()
    assert recording[:2] in (b"\xff\xe3", b"\xff\xf3", b"ID")
    with zipfile.ZipFile(tmp_path / "recordings.zip") as archive:
        assert archive.testzip() is None
        assert recording in [archive.read(name) for name in archive.namelist()]
        assert archive.namelist()[-1] == "SHA256SUMS"


def test_init_makes_what_serve_needs_and_prints_the_setup_code(tmp_path):
    folder = tmp_path / "new"
    made = soundkeep("init", "--dir", folder, "--region", "uk", "--region", "ca")
    with serving(folder / "soundkeep.toml") as service, service.client() as client:
        setup = client.get("/console/setup")
        ready = client.get("/readyz").json()

    assert made.returncode == 0
    assert re.search(r"set-up code: [A-Za-z0-9_-]{20}\n", made.stdout)
    assert stat.S_IMODE((folder / "secret.key").stat().st_mode) == 0o600
    assert setup.status_code == 200
    assert list(ready["databases"]) == ["identity", "uk", "ca"]


def test_init_leaves_an_installation_alone(demo):
    before = demo.config.read_bytes()
    refused = soundkeep("init", "--dir", demo.folder)

    assert refused.returncode == 1
    assert "exists already" in refused.stderr
    assert demo.config.read_bytes() == before


def test_migrate_says_when_there_is_nothing_to_do(demo):
    assert soundkeep("migrate", "--config", demo.config).stdout == "Everything is up to date.\n"


def test_doctor_finds_a_whole_installation_whole(demo):
    found = soundkeep("doctor", "--config", demo.config)

    assert (found.returncode, found.stderr) == (0, "")
    assert "AMISS" not in found.stdout
    assert "us-east: 64, 0 without bytes" in found.stdout


def test_doctor_finds_lost_bytes_and_an_open_key(demo):
    lost = next((demo.folder / "regions/us-east/blobs/kept").glob("*/*"))
    lost.unlink()
    (demo.folder / "secret.key").chmod(0o644)
    found = soundkeep("doctor", "--config", demo.config)

    assert found.returncode == 1
    assert f"1 without bytes {lost.name}" in found.stdout
    assert "chmod 600" in found.stdout


def test_doctor_reads_every_byte_when_asked(demo):
    """What rotted is told apart from what is whole, and marked, so a second look finds no more."""
    rotten = next((demo.folder / "regions/us-east/blobs/kept").glob("*/*"))
    raw = bytearray(rotten.read_bytes())
    raw[0] ^= 1
    rotten.write_bytes(raw)
    found = [
        soundkeep("doctor", *options, "--config", demo.config)
        for options in ([], ["--verify"], ["--verify"])
    ]

    assert [each.returncode for each in found] == [0, 1, 1]
    assert f"1 rotten; 1 objects are FAILED now: {rotten.name}" in found[1].stdout
    assert f"1 rotten (1 known before: {rotten.name})\n" in found[2].stdout
    assert found[1].stderr == ""


def test_doctor_brings_back_objects_whose_files_are_back(demo):
    import apsw

    region = demo.folder / "regions/us-east"
    with apsw.Connection(str(region / "region.db")) as database:
        [(key,)] = database.execute("SELECT key FROM blobs WHERE customer = 'acme' LIMIT 1")
    database.close()
    file = region / "blobs/kept" / key[:7] / key
    away = file.rename(demo.folder / "away")
    lost = soundkeep("doctor", "--verify", "--config", demo.config)
    away.rename(file)
    found = [soundkeep("doctor", "--verify", "--config", demo.config) for _ in range(2)]
    with serving(demo.config) as service, service.as_app(demo.edit) as client:
        answer = client.get(f"/storage/us-east/v3/objects/{file.name}/content")

    assert f"1 rotten; 1 objects are FAILED now: {file.name}\n" in lost.stdout
    assert [each.returncode for each in (lost, *found)] == [1, 0, 0]
    assert f"0 rotten; 1 objects are AVAILABLE again: {file.name}\n" in found[0].stdout
    assert "AVAILABLE again" not in found[1].stdout
    assert (answer.status_code, answer.content) == (200, file.read_bytes())


def test_doctor_finds_an_altered_audit_record(demo):
    import apsw

    with apsw.Connection(str(demo.folder / "identity.db")) as database:
        database.execute("UPDATE audit SET display_name = 'x' WHERE customer = 'acme' AND seq = 3")
    database.close()
    found = soundkeep("doctor", "--config", demo.config)

    assert found.returncode == 1
    assert "customer acme: BROKEN at record 3" in found.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["bogus"],
        ["serve", "--bogus"],
        ["demo"],
        ["demo", "--dir", "x", "--port", "many"],
        ["init", "--dir"],
    ],
)
def test_wrong_use_exits_with_2_and_one_line(arguments, tmp_path):
    wrong = soundkeep(*arguments, cwd=tmp_path)

    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert re.fullmatch(r"soundkeep: .+\n", wrong.stderr)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serve", "--config", "nowhere.toml"], "nowhere.toml: no such file"),
        (["doctor", "--config", "broken.toml"], "broken.toml:"),
        (["migrate", "--config", "unknown.toml"], "unknown field `prot`"),
        (["serve", "--config", "open.toml"], "Plain HTTP on 0.0.0.0 would show tokens"),
        (["demo", "--dir", "new", "--port", "0"], "--port from 1 to 65535"),
        (["demo", "--dir", "broken.toml/x"], "broken.toml"),
    ],
)
def test_failures_exit_with_1_and_one_line_that_says_what_to_do(arguments, words, tmp_path):
    (tmp_path / "broken.toml").write_text("[server\n")
    (tmp_path / "unknown.toml").write_text("[server]\nprot = 1\n")
    (tmp_path / "open.toml").write_text('[server]\nhost = "0.0.0.0"\n')
    failed = soundkeep(*arguments, cwd=tmp_path)

    assert (failed.returncode, failed.stdout) == (1, "")
    assert re.fullmatch(r"soundkeep: .+\n", failed.stderr)
    assert words in failed.stderr


@pytest.mark.parametrize("verb", [[], ["init"], ["serve"], ["migrate"], ["doctor"], ["demo"]])
def test_every_command_has_help(verb):
    helped = soundkeep(*verb, "--help", env={**os.environ, "COLUMNS": "200"})

    assert (helped.returncode, helped.stderr) == (0, "")
    assert "Usage: soundkeep" in helped.stdout


def test_what_the_commands_write_is_their_users_alone(tmp_path):
    folder = tmp_path / "there"
    folder.mkdir(mode=0o755)
    soundkeep("init", "--dir", folder)
    modes = {path.name: path.stat().st_mode & 0o077 for path in folder.rglob("*")}

    assert {"soundkeep.toml", "secret.key", "identity.db", "region.db"} <= modes.keys()
    assert set(modes.values()) == {0}


def test_doctor_finds_a_secret_key_that_is_not_the_right_one(demo):
    with serving(demo.config) as service:
        service.token(demo.read)
    key = demo.folder / "secret.key"
    key.write_bytes(Fernet.generate_key())
    found = soundkeep("doctor", "--config", demo.config)

    assert found.returncode == 1
    assert "put back the key that this installation was made with" in found.stdout


def test_doctor_opens_the_keys_of_presigned_links_in_each_region(demo):
    with serving(demo.config) as service, service.as_app(demo.edit) as client:
        for region in ("us-east", "uk"):
            (made, *_) = client.get(f"/storage/{region}/v3/objects?limit=1").json()["content"]
            path = f"/storage/{region}/v3/objects/{made['id']}/content"
            assert client.get(path, params={"presignUrl": "true"}).status_code == 200
    right = soundkeep("doctor", "--config", demo.config)
    (demo.folder / "secret.key").write_bytes(Fernet.generate_key())
    wrong = soundkeep("doctor", "--config", demo.config)

    assert (right.returncode, wrong.returncode) == (0, 1)
    for region in ("us-east", "uk"):
        assert f"ok    link keys       {region}: 1, the secret key opens them\n" in right.stdout
        (line,) = [
            each for each in wrong.stdout.splitlines() if f"link keys       {region}" in each
        ]
        assert line.startswith("AMISS ")
        assert line.endswith("put back the key that this installation was made with.")
    assert "ok    recordings      us-east: 64, 0 without bytes" in wrong.stdout


def test_doctor_says_that_there_are_no_keys_of_links_yet(demo):
    found = soundkeep("doctor", "--config", demo.config)

    assert "ok    link keys       us-east: none yet\n" in found.stdout


def test_metrics_are_summed_over_the_workers_of_a_new_demo(tmp_path):
    port = free_port()
    process = subprocess.Popen(
        [*COMMAND, "demo", "--dir", str(tmp_path / "new"), "--port", str(port)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        for line in process.stdout:
            if "-o recording.mp3" in line:
                break
        base_url = f"http://127.0.0.1:{port}"
        wait_until_ready(Service(process, base_url, tmp_path / "none"))
        for _ in range(6):
            assert httpx2.get(f"{base_url}/storage/uk/v3/objects").status_code == 401
        metrics = httpx2.get(f"{base_url}/metrics").text
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()

    assert 'route="/storage/{region}/v3/objects",status="401"} 6.0' in metrics
