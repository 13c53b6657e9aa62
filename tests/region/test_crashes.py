"""Kill -9 at any moment of uploads, deletions and bulk downloads: what was acknowledged stays.

`make soak` runs SOUNDKEEP_SOAK_ROUNDS rounds (500) on each pair of database and store.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("crashing.py")
OFTEN = ("kept", "keyed", "offset", "deleted", "purged", "started", "outlives")
SELDOM = ("undeleted", "read", "cancelled")
ROUNDS = int(os.environ.get("SOUNDKEEP_SOAK_ROUNDS", "500"))


def crash(rounds: int, database: str, blobs: Path | str) -> dict[str, int]:
    """What was acknowledged in so many rounds; the seed is told for a replay."""
    seed = secrets.randbelow(2**32)
    print(f"seed {seed}")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(rounds), str(seed), database, str(blobs)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    print(done.stdout)
    return json.loads(done.stdout)


def test_a_few_kills_lose_nothing(database_url, tmp_path):
    said = crash(8, database_url, tmp_path / "blobs")

    assert said["ready"] == 8
    assert said["begun"] > 0


def test_a_few_kills_lose_nothing_in_s3(seaweedfs, tmp_path):
    said = crash(4, str(tmp_path / "region.db"), as_json(seaweedfs))

    assert said["ready"] == 4


def as_json(server) -> str:
    """A bucket as the script takes it: the secret is the tests' own."""
    return json.dumps(dataclasses.asdict(server.bucket()))


@pytest.mark.soak
@pytest.mark.parametrize("store", ["seaweedfs", "rclone"])
def test_hundreds_of_kills_lose_nothing_in_s3(request, database_url, store):
    said = crash(ROUNDS, database_url, as_json(request.getfixturevalue(store)))

    assert said["ready"] == ROUNDS
    assert min(said[each] for each in OFTEN) > ROUNDS // 3
    assert min(said[each] for each in SELDOM) > ROUNDS // 5


@pytest.mark.soak
def test_hundreds_of_kills_lose_nothing(database_url, tmp_path):
    said = crash(ROUNDS, database_url, tmp_path / "blobs")

    assert said["ready"] == ROUNDS
    assert min(said[each] for each in OFTEN) > ROUNDS // 3
    assert min(said[each] for each in SELDOM) > ROUNDS // 5
