"""Holds the documentation to the code.

    python tools/check_docs.py [ROOT]

- docs/errors.md names every error code (`code = "..."`) of src/soundkeep/foundation/errors.py.
- docs/settings.md names every field of the classes in src/soundkeep/settings.py.
- Every path in the tree of docs/architecture.md exists, and every module is named there: in the
  tree (a plain fenced block; indented, a folder ends in `/`, a module in `.py`, words after that
  are free) or as `package/module.py` in backticks. Paths count from the root, from src or from
  src/soundkeep.
- Every relative link in a Markdown file leads to a file.

A file that should be there and is not is a finding. Findings are printed as `file:line: what to
do`; the exit status is 1 if there are any.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

SOURCE = "src/soundkeep"
ERRORS = f"{SOURCE}/foundation/errors.py"
SETTINGS = f"{SOURCE}/settings.py"
ERRORS_PAGE = "docs/errors.md"
SETTINGS_PAGE = "docs/settings.md"
ARCHITECTURE_PAGE = "docs/architecture.md"
NOT_OURS = frozenset({"node_modules", "dist", "build", "demo-data", "vendor", "htmlcov"})

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})\s*(\w*)")
_PLAIN_FENCES = frozenset({"", "text", "tree"})
_TREE_LINES = str.maketrans("│├└─┬|", "      ")
_TREE_PATH = re.compile(r"(?:\./)?[\w.-]+(?:/[\w.-]+)*(?:/|\.\w+)")
_INLINE_MODULE = re.compile(r"`(?:\./)?([\w-]+(?:/[\w-]+)*\.py)`")
_INLINE_CODE = re.compile(r"(`+).*?\1")
_LINK = re.compile(r"!?\[[^\]]*\]\(\s*(<[^>]*>|[^)\s]+)(?:\s+[^)]*)?\)")
_REFERENCE = re.compile(r"^ {0,3}\[[^\]^]+\]:\s*(<[^>]*>|\S+)")
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|//|#", re.IGNORECASE)

NamesInTree = Callable[[ast.Module], Iterator[tuple[int, str]]]


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One place that needs a change."""

    path: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}"


def findings_in(root: Path) -> list[Finding]:
    """All that is to be done in a checkout, in the order of files and lines."""
    return sorted({*_errors(root), *_settings(root), *_architecture(root), *_links(root)})


def main(arguments: list[str]) -> int:
    """Check a checkout; 1 when something is to be done."""
    root = Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent
    found = findings_in(root)
    print("\n".join(map(str, found)) or "Documentation: it agrees with the code.")
    return 1 if found else 0


# ---- names of the code that a page must hold ------------------------------------------------


def _errors(root: Path) -> Iterator[Finding]:
    yield from _named(root, ERRORS, ERRORS_PAGE, "error code", error_codes)


def _settings(root: Path) -> Iterator[Finding]:
    yield from _named(root, SETTINGS, SETTINGS_PAGE, "setting", setting_names)


def _named(root: Path, code: str, page: str, kind: str, names: NamesInTree) -> Iterator[Finding]:
    missing = [path for path in (code, page) if not (root / path).is_file()]
    yield from (Finding(path, 1, "write this file: it is checked") for path in missing)
    if missing:
        return
    text = (root / page).read_text("utf-8")
    for line, name in names(ast.parse((root / code).read_text("utf-8"), filename=code)):
        if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text):
            yield Finding(code, line, f"describe the {kind} `{name}` in {page}")


def error_codes(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The line and the value of each class attribute `code = "..."`."""
    for owner in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        for node in owner.body:
            match node:
                case (
                    ast.Assign(targets=[ast.Name(id="code")], value=ast.Constant(value=str(code)))
                    | ast.AnnAssign(target=ast.Name(id="code"), value=ast.Constant(value=str(code)))
                ):
                    yield node.lineno, code


def setting_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The line and the name of each public field of a dataclass or a msgspec.Struct."""
    for owner in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        marks = [ast.unparse(mark) for mark in (*owner.decorator_list, *owner.bases)]
        if not any("dataclass" in mark or mark.endswith("Struct") for mark in marks):
            continue
        for node in owner.body:
            match node:
                case ast.AnnAssign(target=ast.Name(id=name), annotation=kind):
                    if not name.startswith("_") and "ClassVar" not in ast.unparse(kind):
                        yield node.lineno, name


# ---- the tree of modules --------------------------------------------------------------------


def _architecture(root: Path) -> Iterator[Finding]:
    page = root / ARCHITECTURE_PAGE
    if not page.is_file():
        yield Finding(ARCHITECTURE_PAGE, 1, "write this file: it is checked")
        return
    named: set[Path] = set()
    for line, path in paths_named(page.read_text("utf-8")):
        places = (root / path, root / SOURCE / path, root / SOURCE / ".." / path)
        there = next((place.resolve() for place in places if place.exists()), None)
        if there is None:
            yield Finding(ARCHITECTURE_PAGE, line, f"mend or remove `{path}`: it does not exist")
        else:
            named.add(there)
    for module in sorted((root / SOURCE).rglob("*.py")):
        if not module.name.startswith("__") and module.resolve() not in named:
            path = module.relative_to(root / SOURCE).as_posix()
            yield Finding(ARCHITECTURE_PAGE, 1, f"name the module `{path}`")


def paths_named(text: str) -> Iterator[tuple[int, str]]:
    """The line and the path of each module or folder that an architecture page names."""
    for start, language, block in _fenced(text):
        lines = [line.translate(_TREE_LINES).expandtabs() for line in block]
        if language in _PLAIN_FENCES and any(".py" in line for line in lines):
            yield from _tree(start, lines)
    for number, line in _prose(text):
        yield from ((number, path) for path in _INLINE_MODULE.findall(line))


def _tree(start: int, lines: list[str]) -> Iterator[tuple[int, str]]:
    """The paths of an indented tree: each line's first words, as long as they are paths."""
    above: list[tuple[int, str]] = []
    for number, line in enumerate(lines, start):
        depth = len(line) - len(line.lstrip())
        while above and above[-1][0] >= depth:
            above.pop()
        folder = above[-1][1] if above else ""
        for word in line.split():
            if not _TREE_PATH.fullmatch(word):
                break
            path = folder + word.removeprefix("./")
            yield number, path
            if word.endswith("/"):
                above.append((depth, path))
                break


# ---- links ----------------------------------------------------------------------------------


def _links(root: Path) -> Iterator[Finding]:
    for page in _pages(root):
        for number, line in _prose(page.read_text("utf-8")):
            bare = _INLINE_CODE.sub("", line)
            for target in (*_LINK.findall(bare), *_REFERENCE.findall(bare)):
                link = target.strip("<>")
                path = unquote(link.partition("#")[0].partition("?")[0])
                if _ELSEWHERE.match(link) or not path:
                    continue
                base = root if path.startswith("/") else page.parent
                if not (base / path.lstrip("/")).exists():
                    where = page.relative_to(root).as_posix()
                    yield Finding(where, number, f"mend the link: {link} leads nowhere")


def _pages(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if not path.name.startswith(".") and path.name not in NOT_OURS:
                yield from _pages(path)
        elif path.suffix == ".md":
            yield path


# ---- Markdown -------------------------------------------------------------------------------


def _fenced(text: str) -> Iterator[tuple[int, str, list[str]]]:
    """Each fenced block: the number of its first line, its language, its lines."""
    opened, language, start, block = "", "", 0, list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        fence = _FENCE.match(line)
        if not opened and fence:
            opened, language, start, block = fence[1], fence[2], number + 1, []
        elif opened and fence and fence[1].startswith(opened) and not fence[2]:
            yield start, language, block
            opened = ""
        elif opened:
            block.append(line)


def _prose(text: str) -> Iterator[tuple[int, str]]:
    """The lines outside of fenced blocks, with their numbers."""
    inside = {
        number
        for start, _, block in _fenced(text)
        for number in range(start - 1, start + len(block) + 1)
    }
    for number, line in enumerate(text.splitlines(), 1):
        if number not in inside:
            yield number, line


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
