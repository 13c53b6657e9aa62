"""Nightly copy of the newest recordings: start a bulk download, take the ZIP, clear the list.

Set in the environment (this runs from cron):
  STORAGE_URL, STORAGE_KEY, STORAGE_SECRET   where, and with what
  STORAGE_REGION                             us-east if not set
  STORAGE_OUT                                the folder for the ZIP
  STORAGE_TYPE                               which objects; callrecording if not set
Prints the path of the ZIP. Exit code 0, or 1 with the reason on stderr. Needs `requests`.
"""

import base64
import os
import sys
import zipfile
from pathlib import Path

import requests

BASE = os.environ.get("STORAGE_URL", "").rstrip("/")
REGION = os.environ.get("STORAGE_REGION", "us-east")
OUT = os.environ.get("STORAGE_OUT", ".")
TYPE = os.environ.get("STORAGE_TYPE", "callrecording")
API = f"{BASE}/storage/{REGION}/v3"


def main():
    pair = f"{os.environ['STORAGE_KEY']}:{os.environ['STORAGE_SECRET']}"
    answer = requests.request(
        "POST",
        f"{BASE}/oauth/v2/token",
        headers={
            "Authorization": "Basic " + base64.b64encode(pair.encode()).decode(),
            "Content-Type": "application/x-www-form-urlencoded",
        },
        data="grant_type=client_credentials",
        timeout=30,
    )
    if answer.status_code == 401:
        sys.exit("start_then_get: wrong STORAGE_KEY or STORAGE_SECRET")
    token = check(answer).json()["access_token"]
    # One set of headers for everything: GETs have a Content-Type too.
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    query = f"filter=type=={TYPE}&sortField=createdTime&sortDirection=DESC&pageKey=0&limit=200"
    page = check(requests.get(f"{API}/objects?{query}", headers=headers, timeout=60)).json()
    ids = [each["id"] for each in page["content"]]
    if not ids:
        sys.exit(f"start_then_get: no {TYPE} in {REGION}")

    started = requests.post(f"{API}/bulk/download/start", headers=headers, json=ids, timeout=60)
    name = check(started).json()["zipName"] + ".zip"
    path = Path(OUT, name)
    with requests.get(
        f"{API}/bulk/download/{name}", headers=headers, stream=True, timeout=600
    ) as got:
        check(got)
        with path.open("wb") as file:
            file.writelines(got.iter_content(chunk_size=8192))
    with zipfile.ZipFile(path) as archive:
        broken = archive.testzip()
        count = len(archive.namelist())
    if broken or count != len(ids):
        sys.exit(f"start_then_get: {path}: {count} files of {len(ids)}, broken: {broken}")

    check(requests.put(f"{API}/bulk/download/clear", headers=headers, timeout=60))
    print(path)


def check(answer):
    if answer.status_code == 200:
        return answer
    try:
        reason = answer.json()["message"]
    except (ValueError, KeyError):
        reason = answer.text[:200]
    if answer.status_code == 403:
        reason = f"this key has no right to do that: {reason}"
    sys.exit(f"start_then_get: {answer.status_code} from {answer.request.path_url}: {reason}")


if __name__ == "__main__":
    try:
        main()
    except requests.exceptions.RequestException as error:
        sys.exit(f"start_then_get: {BASE}: {type(error).__name__}")
