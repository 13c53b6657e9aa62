"""Fetch a period's call recordings in one ZIP: search, start, poll, download, unzip, verify.

    poll_until_done.py --url https://api.example.com --key KEY --secret SECRET \
        --since 2026-01-01 --until 2026-02-01 --out calls

The recordings come to OUT/recordings. What the service could not give is listed in OUT/missing.txt
and asked for again at the next run. Needs `requests`.

Exit code: 0 if everything came and its MD5 is right, 3 if some did not come, 1 if it failed.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
import time
import zipfile
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

import requests

RENEW_SECONDS = 60
PIECE = 256 * 1024


class Failed(Exception):
    """What is told in one line before giving up."""


class Storage:
    """The storage API of one region; gets a new token in time."""

    def __init__(self, url: str, key: str, secret: str) -> None:
        self.url = url.rstrip("/")
        self.pair = (key, secret)
        self.region = "us-west"
        self.session = requests.Session()
        self.good_until = 0.0

    def sign_in(self) -> None:
        answer = requests.post(
            f"{self.url}/oauth/v2/token",
            auth=self.pair,
            data={"grant_type": "client_credentials"},
            timeout=30,
        )
        if answer.status_code == 401:
            raise Failed("the key or the secret is wrong (401 from /oauth/v2/token)")
        if answer.status_code != 200:
            raise Failed(f"no token: {told(answer)}")
        granted = answer.json()
        if granted["status"] != "approved" or granted["token_type"] != "BearerToken":
            raise Failed(f"no token: {granted['status']}, {granted['token_type']}")
        self.session.headers["Authorization"] = f"Bearer {granted['access_token']}"
        self.good_until = time.time() + int(granted["expires_in"]) - RENEW_SECONDS

    def ask(self, method: str, path: str, **more) -> requests.Response:
        if time.time() > self.good_until:
            self.sign_in()
        where = f"{self.url}/storage/{self.region}/v3/{path}"
        for _ in range(5):
            answer = self.session.request(method, where, timeout=60, **more)
            if answer.status_code != 429:
                break
            time.sleep(float(answer.headers["Retry-After"]))
        if answer.status_code == 403:
            raise Failed(f"this key has no right to do that here: {told(answer)}")
        if answer.status_code != 200:
            raise Failed(told(answer))
        return answer

    def search(self, text: str, limit: int) -> list[dict]:
        """All objects that a filter finds, page by page."""
        found, key = [], 0
        while True:
            params = {"filter": text, "pageKey": key, "limit": limit}
            page = self.ask("GET", "objects", params=params).json()
            if len(page["content"]) != page["pageSize"] or page["pageKey"] != key + limit:
                raise Failed(
                    f"page {key} is not what it says: {page['pageKey']}, {page['pageSize']}"
                )
            found += page["content"]
            if page["lastPage"]:
                return found
            key = page["pageKey"]


def told(answer: requests.Response) -> str:
    """What the service says went wrong, in one line."""
    try:
        body = answer.json()
    except ValueError:
        body = {}
    words = body.get("message") or body.get("error_description") or answer.reason
    return f"{answer.request.method} {answer.request.path_url}: {answer.status_code} {words}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--secret", required=True)
    parser.add_argument("--region", help="the first that there is, if left out")
    parser.add_argument("--since", required=True, type=moment, help="ISO date, UTC")
    parser.add_argument("--until", required=True, type=moment)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--page-size", type=int, default=100)
    parser.add_argument("--poll-seconds", type=float, default=2)
    parser.add_argument("--wait-seconds", type=float, default=600)
    wanted = parser.parse_args()
    try:
        return run(wanted)
    except Failed as error:
        print(f"poll_until_done: {error}", file=sys.stderr)
    except requests.RequestException as error:
        print(f"poll_until_done: {wanted.url}: {type(error).__name__}", file=sys.stderr)
    return 1


def moment(text: str) -> int:
    """A date, or date and time, as epoch milliseconds."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def run(wanted: argparse.Namespace) -> int:
    storage = Storage(wanted.url, wanted.key, wanted.secret)
    regions = storage.ask("GET", "regions").json()
    storage.region = wanted.region or regions[0]
    if storage.region not in regions:
        raise Failed(f"no recordings of yours in {storage.region}, but in: {', '.join(regions)}")
    within = f"createdTime=ge={wanted.since};createdTime=lt={wanted.until}"
    objects = storage.search(f"type==callrecording;{within}", wanted.page_size)
    print(f"{len(objects)} recordings in {storage.region}")

    wanted.out.mkdir(parents=True, exist_ok=True)
    missing = wanted.out / "missing.txt"
    again = missing.read_text().split() if missing.exists() else []
    ids = list(dict.fromkeys([*(each["id"] for each in objects), *again]))
    if not ids:
        return 0

    job = storage.ask("POST", "bulk/download/start", json=ids).json()
    outcome = poll(storage, job["zipName"], wanted.poll_seconds, wanted.wait_seconds)
    print(f"{job['zipName']}: {outcome['status']}")
    words = dict(line.split(" ", 1) for line in outcome["content"])
    came = {each for each in ids if words.get(each) == "DONE"}
    known = {each["id"]: each for each in objects}
    for each in came - set(known):
        known[each] = storage.ask("GET", f"objects/{each}/metadata").json()

    archive = wanted.out / job["zipName"]
    download(storage, f"bulk/download/{job['zipName']}", archive)
    folder = wanted.out / "recordings"
    with zipfile.ZipFile(archive) as whole:
        names = whole.namelist()
        whole.extractall(folder)
    verify(folder, names, [known[each] for each in came])
    archive.unlink()
    print(f"{len(names)} recordings in {folder}, every MD5 is right")

    left = [each for each in ids if each not in came]
    for each in left:
        print(f"missing: {each} {words.get(each, '')}".rstrip(), file=sys.stderr)
    missing.write_text("".join(f"{each}\n" for each in left))
    return 3 if left else 0


def poll(storage: Storage, name: str, every: float, at_most: float) -> dict:
    """The job's status when it is over."""
    until = time.time() + at_most
    while True:
        job = storage.ask("GET", f"bulk/download/status/{name}").json()
        if job["status"] in ("DONE", "PARTIAL_DONE"):
            return job
        if job["status"] not in ("NOT_STARTED", "IN_PROGRESS"):
            raise Failed(f"{name}: {job['status']}")
        if time.time() > until:
            raise Failed(f"{name}: still {job['status']} after {at_most:.0f} s")
        time.sleep(every)


def download(storage: Storage, path: str, target: Path) -> None:
    """Stream an archive to a file of exactly the announced length."""
    with storage.ask("GET", path, stream=True) as answer:
        if answer.headers["Content-Type"] != "application/zip":
            raise Failed(f"{path}: {answer.headers['Content-Type']} is no ZIP")
        size = int(answer.headers["Content-Length"])
        with target.open("wb") as file:
            file.writelines(answer.iter_content(PIECE))
    if target.stat().st_size != size:
        raise Failed(f"{target}: {target.stat().st_size} bytes of {size}")


def verify(folder: Path, names: list[str], objects: list[dict]) -> None:
    """Hold every file's name and MD5 to the object that it is."""
    left = defaultdict(list)
    for each in objects:
        left[each["objectName"]].append(each["checksum"])
    for name in names:
        digest = hashlib.md5((folder / name).read_bytes()).hexdigest()
        plain = re.sub(r" \(\d+\)(?=(\.[^.]*)?$)", "", name)
        whose = [each for each in (name, plain) if digest in left[each]]
        if not whose:
            raise Failed(f"{name}: MD5 {digest} is no recording's of that name")
        left[whose[0]].remove(digest)
    lost = [name for name, digests in left.items() if digests]
    if lost:
        raise Failed(f"not in the archive: {', '.join(lost)}")


if __name__ == "__main__":
    sys.exit(main())
