"""Move recordings to an archive of one's own: OUT/2026/01/..., with OUT/index.csv.

    chunks_of_50.py --base-url https://api.example.com --region us-east \
        --from 2026-01-01 --to 2026-12-31 --out /archive [--delete]

Key and secret come from STORAGE_KEY and STORAGE_SECRET. Everything is listed, the dates (whole days,
UTC) are chosen here, fifty recordings at a time are downloaded as a ZIP; a download that is cut goes
on where it was. With --delete, what was archived and verified is deleted from the storage: that takes
a key with edit access. Exit code 0, or 1 with the reason on stderr. Needs `requests`.
"""

import argparse
import csv
import hashlib
import os
import re
import sys
import tempfile
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import requests

CHUNK = 50
LIMIT = 1000
ATTEMPTS = 10
COLUMNS = ["file", "id", "type", "createdTime", "objectName", "storedBytes", "checksum"]
TAGS = ["callId", "callerId", "direction", "duration"]
CUT = (
    requests.exceptions.ConnectionError,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.Timeout,
)


class GaveUp(Exception):
    pass


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--region", default="us-east")
    parser.add_argument("--from", dest="first", required=True, type=day, metavar="DAY")
    parser.add_argument("--to", dest="last", required=True, type=day, metavar="DAY")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--delete", action="store_true")
    args = parser.parse_args()
    try:
        archive(args)
    except GaveUp as error:
        sys.exit(f"chunks_of_50: {error}")
    except requests.exceptions.RequestException as error:
        sys.exit(f"chunks_of_50: {args.base_url}: {type(error).__name__}")


def archive(args):
    session = signed_in(args.base_url)
    api = f"{args.base_url.rstrip('/')}/storage/{args.region}/v3"
    objects = [
        each
        for each in listed(session, api)
        if args.first <= created(each) < args.last + timedelta(days=1)
    ]
    print(f"{len(objects)} recordings from {args.first:%Y-%m-%d} to {args.last:%Y-%m-%d}")

    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "index.csv").open("w", newline="", encoding="utf-8") as file:
        index = csv.writer(file)
        index.writerow(COLUMNS + TAGS)
        for start in range(0, len(objects), CHUNK):
            chunk = objects[start : start + CHUNK]
            with tempfile.TemporaryDirectory(dir=args.out) as folder:
                place = Path(folder) / "chunk.zip"
                started = session.post(
                    f"{api}/bulk/download/start", json=[each["id"] for each in chunk], timeout=60
                )
                fetch(session, f"{api}/bulk/download/{checked(started).json()['zipName']}", place)
                for each, path in filed(place, chunk, args.out):
                    tags = {tag["key"]: tag["value"] for tag in each["tags"]}
                    row = [
                        path.relative_to(args.out).as_posix(),
                        *(each[column] for column in COLUMNS[1:]),
                    ]
                    index.writerow(row + [tags.get(key, "") for key in TAGS])
            print(f"{start + len(chunk)} of {len(objects)} archived")

    if args.delete:
        delete(session, api, [each["id"] for each in objects])
        print(f"{len(objects)} deleted from the storage")


def day(text):
    return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)


def created(each):
    return datetime.strptime(each["createdTime"], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)


def signed_in(base_url):
    pair = (os.environ["STORAGE_KEY"], os.environ["STORAGE_SECRET"])
    answer = requests.post(
        f"{base_url.rstrip('/')}/oauth/v2/token",
        data={"grant_type": "client_credentials"},
        auth=requests.auth.HTTPBasicAuth(*pair),
        timeout=30,
    )
    if answer.status_code == 401:
        raise GaveUp("STORAGE_KEY or STORAGE_SECRET is wrong")
    session = requests.Session()
    session.headers["Authorization"] = "Bearer " + checked(answer).json()["access_token"]
    return session


def checked(answer):
    """The answer, or the end with the service's own words."""
    if answer.ok:
        return answer
    try:
        words = answer.json()["message"]
    except (ValueError, KeyError):
        words = answer.reason
    if answer.status_code == 403:
        words = f"the key has no right to do that: {words}"
    raise GaveUp(
        f"{answer.request.method} {answer.request.path_url}: {answer.status_code}, {words}"
    )


def listed(session, api):
    """Everything that there is, a thousand at a time."""
    page_key = 0
    while True:
        query = {
            "pageKey": page_key,
            "limit": LIMIT,
            "sortField": "createdTime",
            "sortDirection": "ASC",
        }
        page = checked(session.get(f"{api}/objects", params=query, timeout=60)).json()
        yield from page["content"]
        if page["lastPage"]:
            return
        page_key += LIMIT


def fetch(session, url, target):
    """Download to a file; go on behind what there is when the connection is cut."""
    size = None
    for _ in range(ATTEMPTS):
        have = target.stat().st_size if target.exists() else 0
        if have == size:
            return
        headers = {"Range": f"bytes={have}-"} if have else {}
        try:
            with session.get(url, headers=headers, stream=True, timeout=60) as answer:
                checked(answer)
                if answer.status_code == 206:
                    start, size = re.fullmatch(
                        r"bytes (\d+)-\d+/(\d+)", answer.headers["Content-Range"]
                    ).groups()
                    if int(start) != have:
                        raise GaveUp(
                            f"{url}: asked for bytes from {have} on, got them from {start} on"
                        )
                    print(f"going on at byte {have}", file=sys.stderr)
                else:
                    size = answer.headers["Content-Length"]
                size = int(size)
                with target.open("ab" if answer.status_code == 206 else "wb") as file:
                    file.writelines(answer.iter_content(64 * 1024))
        except CUT as error:
            print(f"cut ({type(error).__name__})", file=sys.stderr)
    raise GaveUp(f"{url}: cut {ATTEMPTS} times")


def filed(place, chunk, out):
    """Each recording and its file, once that is where it belongs by its metadata."""
    waiting = {}
    for each in chunk:
        waiting.setdefault(each["checksum"], []).append(each)
    with zipfile.ZipFile(place) as opened:
        for name in opened.namelist():
            content = opened.read(name)
            same = waiting.get(hashlib.md5(content).hexdigest())
            if not same:
                raise GaveUp(f"{name} is none of the recordings that were asked for")
            # Where bytes are the same the name decides, as far as it does.
            same.sort(key=lambda each: each["objectName"] != name)
            each = same.pop(0)
            if len(content) != each["storedBytes"]:
                raise GaveUp(f"{name} has {len(content)} bytes instead of {each['storedBytes']}")
            path = out / f"{created(each):%Y/%m}" / new_name(each)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            yield each, path
    left = [each["id"] for same in waiting.values() for each in same]
    if left:
        raise GaveUp(f"not in the archive: {', '.join(left)}")


def new_name(each):
    """`20260131T235959_callrecording_ID.mp3`."""
    return f"{created(each):%Y%m%dT%H%M%S}_{each['type']}_{each['id']}{Path(each['objectName']).suffix}"


def delete(session, api, ids):
    """Delete, fifty at a time, and look whether it is gone."""
    for start in range(0, len(ids), CHUNK):
        checked(session.delete(f"{api}/bulk", json=ids[start : start + CHUNK], timeout=300))
    left = {each["id"] for each in listed(session, api)} & set(ids)
    if left:
        raise GaveUp(f"{len(left)} recordings could not be deleted: {', '.join(sorted(left))}")


if __name__ == "__main__":
    main()
