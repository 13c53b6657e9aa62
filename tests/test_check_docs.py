"""The documentation check notices when pages and code part ways."""

import pytest

from check_docs import findings_in, main, paths_named

ERRORS = """
class SoundkeepError(Exception):
    code = "internal"

class NotFound(SoundkeepError):
    code: str = "not_found"
"""

SETTINGS = """
import msgspec
from dataclasses import dataclass
from typing import ClassVar

class Server(msgspec.Struct, frozen=True):
    port: int = 8080

@dataclass(frozen=True)
class Settings:
    kind: ClassVar[str] = "x"
    server: Server
    _hidden: int = 0

class NoSettings:
    name: str
"""

ARCHITECTURE = """
# Architecture

```
src/soundkeep/
├── settings.py        read once (see app.py of another project)
├── foundation/        base.py of others is prose
│   └── errors.py      stable codes
└── region/
    ├── http/          one file per noun
    │   └── objects.py
    └── store.py fiql.py
```

Also `region/work.py` and `https://example.org/nothing.py`.

```python
import nothing.py
```
"""

FILES = {
    "src/soundkeep/__init__.py": "",
    "src/soundkeep/settings.py": SETTINGS,
    "src/soundkeep/foundation/__init__.py": "",
    "src/soundkeep/foundation/errors.py": ERRORS,
    "src/soundkeep/region/http/objects.py": "",
    "src/soundkeep/region/store.py": "",
    "src/soundkeep/region/fiql.py": "",
    "src/soundkeep/region/work.py": "",
    "docs/architecture.md": ARCHITECTURE,
    "docs/errors.md": "| `internal` | ours |\n| `not_found` | nothing there |\n",
    "docs/settings.md": "## server\n\n`port`\n",
    "README.md": "[settings](docs/settings.md#server) [web](https://example.org) [here](#top)\n",
}


@pytest.fixture
def project(tmp_path):
    for path, text in FILES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def told(project) -> list[str]:
    return [str(finding) for finding in findings_in(project)]


def test_pages_that_agree_with_the_code_have_nothing_to_do(project, capsys):
    assert told(project) == []
    assert main([str(project)]) == 0
    assert capsys.readouterr().out == "Documentation: it agrees with the code.\n"


@pytest.mark.parametrize(
    "path",
    [
        "docs/errors.md",
        "docs/settings.md",
        "docs/architecture.md",
        "src/soundkeep/foundation/errors.py",
        "src/soundkeep/settings.py",
    ],
)
def test_a_missing_file_is_a_finding(project, path):
    (project / path).unlink()

    assert f"{path}:1: write this file: it is checked" in told(project)
    assert main([str(project)]) == 1


def test_an_error_code_must_be_described(project):
    (project / "docs/errors.md").write_text("`internal` `not_found_either`")

    assert told(project) == [
        "src/soundkeep/foundation/errors.py:6: describe the error code `not_found` in docs/errors.md"
    ]


def test_a_setting_must_be_described(project):
    (project / "docs/settings.md").write_text("server ports")

    assert told(project) == [
        "src/soundkeep/settings.py:7: describe the setting `port` in docs/settings.md"
    ]


def test_a_path_in_the_tree_must_exist(project):
    page = project / "docs/architecture.md"
    page.write_text(ARCHITECTURE.replace("http/ ", "https/"))

    found = told(project)

    assert (
        "docs/architecture.md:10: mend or remove `src/soundkeep/region/https/`: it does not exist"
        in found
    )


def test_a_module_named_in_the_text_must_exist(project):
    page = project / "docs/architecture.md"
    page.write_text(ARCHITECTURE + "And `region/nothing.py`.\n")

    assert told(project) == [
        "docs/architecture.md:20: mend or remove `region/nothing.py`: it does not exist"
    ]


def test_every_module_must_be_named(project):
    (project / "src/soundkeep/region/bulk.py").write_text("")

    assert told(project) == ["docs/architecture.md:1: name the module `region/bulk.py`"]


def test_a_tree_may_be_plain_indentation_from_the_package():
    page = "```\nregion/   the data plane\n  http/\n    objects.py\n  work.py\nserver.py  the root\n```"

    assert list(paths_named(page)) == [
        (2, "region/"),
        (3, "region/http/"),
        (4, "region/http/objects.py"),
        (5, "region/work.py"),
        (6, "server.py"),
    ]


@pytest.mark.parametrize(
    "link",
    [
        "[a](nothing.md)",
        "![a](<no thing.png>)",
        '[a](docs/nothing.md#part "title")',
        "[a]: docs/nothing.md",
        "[a](/docs/nothing.md)",
    ],
)
def test_a_relative_link_must_lead_somewhere(project, link):
    (project / "README.md").write_text(f"# Title\n\n{link}\n")

    (finding,) = told(project)

    assert finding.startswith("README.md:3: mend the link: ")


@pytest.mark.parametrize(
    "text",
    [
        "[a](mailto:someone@example.org)",
        "[a](//example.org/a)",
        "[a](docs/)",
        "[a](/docs/errors.md)",
        "`[a](nothing.md)`",
        "```\n[a](nothing.md)\n```",
        "~~~ text\n[a](nothing.md)\n~~~",
    ],
)
def test_other_links_and_examples_are_left_alone(project, text):
    (project / "README.md").write_text(text)

    assert told(project) == []


def test_pages_of_others_are_not_read(project):
    for folder in (".venv", "node_modules"):
        (project / folder).mkdir()
        (project / folder / "README.md").write_text("[a](nothing.md)")

    assert told(project) == []
