from __future__ import annotations

import shutil

import pytest
from service_world import Demo, serving, soundkeep


@pytest.fixture(scope="session")
def demo_made(tmp_path_factory):
    """A demo installation, made once by the command line; to be copied, not changed."""
    folder = tmp_path_factory.mktemp("demo") / "made"
    made = soundkeep("demo", "--dir", folder, "--port", 8080, "--no-serve")
    assert made.returncode == 0, made.stderr
    return Demo(folder)


@pytest.fixture
def demo(demo_made, tmp_path):
    """A demo installation of the test's own."""
    return Demo(shutil.copytree(demo_made.folder, tmp_path / "demo"))


@pytest.fixture
def service(demo):
    """The demo, served."""
    with serving(demo.config) as service:
        yield service
