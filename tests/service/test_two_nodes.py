"""Two services on one PostgreSQL, each with a region of its own: what one does holds on both."""

from __future__ import annotations

import asyncio
import time

import httpx2
import pytest

from service_world import Service, serving, soundkeep
from soundkeep import server
from soundkeep.cli import installation
from soundkeep.foundation.claims import Access
from soundkeep.identity import apps
from soundkeep.sample import planting

PASSWORD = "correct horse battery"
PUBLIC = "https://recordings.example.com"


@pytest.fixture
def databases(postgres):
    urls = [postgres.lend() for _ in range(3)]
    yield urls
    for url in urls:
        postgres.take_back(url)


@pytest.fixture
def nodes(databases, tmp_path):
    """Folders of two installations that share the identity's database and secret key."""
    folders = []
    for region, database in (("us-east", databases[1]), ("uk", databases[2])):
        folder = tmp_path / region
        assert soundkeep("init", "--dir", folder, "--region", region).returncode == 0
        config = (folder / "soundkeep.toml").read_text()
        for table, line in (
            ("server", f'public_url = "{PUBLIC}"'),
            ("identity", f'database = "{databases[0]}"'),
            (f"regions.{region}", f'database = "{database}"'),
        ):
            config = config.replace(f"\n[{table}]\n", f"\n[{table}]\n{line}\n")
        (folder / "soundkeep.toml").write_text(config)
        folders.append(folder)
    (folders[1] / "secret.key").write_bytes((folders[0] / "secret.key").read_bytes())
    return [folder / "soundkeep.toml" for folder in folders]


async def furnish(config) -> tuple[str, str]:
    """A company in both regions with an API key: its key and secret."""
    settings = installation.load(config)
    await server.migrate_all(settings)
    identity = await server.open_identity(settings)
    try:
        people = await planting._company(
            identity, planting.COMPANIES[0], ("us-east", "uk"), PASSWORD
        )
        wanted = apps.Wanted(name="nodes", products=("storage",), access=Access.EDIT)
        shown = await apps.create(identity, people["storage@acme.test"], wanted)
        return shown.app.key, shown.secret
    finally:
        await identity.db.close()


def status(node: Service, region: str, token: str) -> int:
    headers = {"authorization": f"Bearer {token}"}
    return httpx2.get(f"{node.base_url}/storage/{region}/v3/objects", headers=headers).status_code


def test_a_token_of_one_node_works_on_the_other_until_it_is_revoked_there(nodes):
    credentials = asyncio.run(furnish(nodes[0]))
    with serving(nodes[0]) as first, serving(nodes[1]) as second:
        token = httpx2.post(
            f"{first.base_url}/oauth2/token",
            auth=credentials,
            data={"grant_type": "client_credentials"},
        ).json()["access_token"]
        before = [status(first, "us-east", token), status(second, "uk", token)]
        elsewhere = [status(first, "uk", token), status(second, "us-east", token)]
        httpx2.post(f"{second.base_url}/oauth2/revoke", auth=credentials, data={"token": token})
        revoked = time.monotonic()
        at_once = status(second, "uk", token)
        while status(first, "us-east", token) != 401:
            assert time.monotonic() - revoked < 5
            time.sleep(0.05)

    assert (before, elsewhere, at_once) == ([200, 200], [403, 403], 401)
