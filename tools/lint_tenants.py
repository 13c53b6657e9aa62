"""The tenant lint: no statement on tenant data without its customer.

    python tools/lint_tenants.py [ROOT]

Reads src/soundkeep/*/store.py and the other modules of SQL without importing them and asks of each:

1. Every public function takes `customer` as a required keyword-only argument. One that serves all
   customers at once (a sweep, a migration) says so beside its `def`: `# every customer: <reason>`.
2. In a function that takes `customer`, every SQL statement on a tenant table holds it: `INSERT`
   gives `:customer`, all others compare `customer = :customer` (`UPDATE` and `DELETE` after their
   `WHERE`). A tenant table is one with a `customer` column in the schema/*.sql beside the store;
   a table that no schema knows counts as one.

Statements are read as they are written: literals, f-strings, sums, and constants of the module.
Findings are printed as `file:line: what to do`; the exit status is 1 if there are any.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

STORES = (
    "src/soundkeep/*/store.py",
    "src/soundkeep/region/*store.py",
    "src/soundkeep/region/ledger.py",
    "src/soundkeep/region/pages.py",
)
HOLE = "{}"
"""What stands where an f-string's value is only known at run time."""

_MARKER = re.compile(r"#\s*every customer:\s*(?P<reason>.*)")
_STATEMENT = re.compile(
    r"\s*(?:(?P<verb>INSERT|REPLACE)\b.*?\bINTO\b|(?P<change>UPDATE\b.*?\bSET\b|DELETE\s+FROM\b)"
    r"|SELECT\b.*?\bFROM\b|WITH\b.*?\bAS\b)",
    re.IGNORECASE | re.DOTALL,
)
_TABLE = re.compile(r"\b(?:FROM|JOIN|INTO|UPDATE)\s+(?:ONLY\s+)?(\"?[\w.]+\"?|\{\})", re.IGNORECASE)
_CTE = re.compile(
    r"(\w+)\s*(?:\([^()]*\)\s*)?AS\s+(?:NOT\s+)?(?:MATERIALIZED\s+)?\(", re.IGNORECASE
)
_COMPARED = re.compile(r"\bcustomer\s*=\s*:customer\b", re.IGNORECASE)
_GIVEN = re.compile(r":customer\b")
_SQL_COMMENT = re.compile(r"--[^\n]*")
_CREATE = re.compile(
    r"CREATE\s+(?:VIRTUAL\s+)?TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?\"?(\w+)\"?(.*?);",
    re.IGNORECASE | re.DOTALL,
)
_ADDED_COLUMN = re.compile(
    r"ALTER\s+TABLE\s+\"?(\w+)\"?\s+ADD\s+(?:COLUMN\s+)?customer\b", re.IGNORECASE
)
_OWN_COLUMN = re.compile(r"[(,]\s*\"?customer\"?\s", re.IGNORECASE)

_TAKE_CUSTOMER = (
    "take `customer` as a required keyword-only argument,"
    " or write `# every customer: <reason>` beside the def"
)

Function = ast.FunctionDef | ast.AsyncFunctionDef
Advice = tuple[int, str | None]
"""A line and what to do there; None when all is well."""


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One place that needs a change."""

    path: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}"


def findings_in(source: str, *, path: str, tables: Mapping[str, bool]) -> list[Finding]:
    """What to change in a store; `tables` says of each known table whether it is a tenant's."""
    tree = ast.parse(source, filename=path)
    comments = _comments(source)
    constants = _constants(tree)
    found: list[Finding] = []
    for function in _functions(tree):
        advice = list(_signature(function, comments))
        if "customer" in {argument.arg for argument in _arguments(function)}:
            advice += [
                (line, _unbound(sql, tables)) for line, sql in _statements(function, constants)
            ]
        found += [Finding(path, line, f"{function.name}: {what}") for line, what in advice if what]
    return sorted(found)


def tables_in(folder: Path) -> dict[str, bool]:
    """The tables of the schema files below a folder: name → whether it has a customer column."""
    tables: dict[str, bool] = {}
    for file in sorted(folder.rglob("*.sql")):
        text = _SQL_COMMENT.sub("", file.read_text("utf-8"))
        for name, columns in _CREATE.findall(text):
            own = _OWN_COLUMN.search(columns) is not None
            tables[name.lower()] = tables.get(name.lower(), False) or own
        for name in _ADDED_COLUMN.findall(text):
            tables[name.lower()] = True
    return tables


def main(arguments: list[str]) -> int:
    """Check the stores of a checkout; 1 when something is to be done."""
    root = Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent
    stores = sorted({store for pattern in STORES for store in root.glob(pattern)})
    if not stores:
        print(f"{STORES[0]}:1: there is no store to check; is this the root of the project?")
        return 1
    found = [
        finding
        for store in stores
        for finding in findings_in(
            store.read_text("utf-8"),
            path=store.relative_to(root).as_posix(),
            tables=tables_in(store.parent / "schema"),
        )
    ]
    print("\n".join(map(str, found)) or f"Tenant lint: {len(stores)} stores, nothing to do.")
    return 1 if found else 0


# ---- rule 1: the signature ------------------------------------------------------------------


def _functions(tree: ast.Module) -> Iterator[Function]:
    """The functions of a module and the methods of its classes, but for protocols' empty ones."""
    for node in tree.body:
        if isinstance(node, Function):
            yield node
        elif isinstance(node, ast.ClassDef) and "Protocol" not in map(ast.unparse, node.bases):
            yield from (part for part in node.body if isinstance(part, Function))


def _signature(function: Function, comments: Mapping[int, str]) -> Iterator[Advice]:
    if function.name.startswith("_"):
        return
    for line in range(function.lineno, function.body[0].lineno + 1):
        if marker := _MARKER.search(comments.get(line, "")):
            if not marker["reason"].strip():
                yield line, "say why after `# every customer:`"
            return
    required = {
        argument.arg
        for argument, default in zip(
            function.args.kwonlyargs, function.args.kw_defaults, strict=True
        )
        if default is None
    }
    if "customer" in required:
        return
    if "customer" in {argument.arg for argument in _arguments(function)}:
        yield function.lineno, "make `customer` keyword-only, without a default"
    else:
        yield function.lineno, _TAKE_CUSTOMER


def _arguments(function: Function) -> list[ast.arg]:
    arguments = function.args
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]


def _comments(source: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}


# ---- rule 2: the statements -----------------------------------------------------------------


def _constants(tree: ast.Module) -> dict[str, str]:
    """The module's own strings by name, so that a statement kept in one is read too."""
    constants: dict[str, str] = {}
    for node in tree.body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ):
                if (text := _text(value, constants)) is not None:
                    constants[name] = text
    return constants


def _statements(function: Function, constants: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    """Each SQL statement of a function with its line; a string is read once, at its outermost."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    waiting: list[ast.AST] = list(reversed(body))
    while waiting:
        node = waiting.pop()
        text = _text(node, constants) if isinstance(node, ast.expr) else None
        if text is None or not isinstance(node, ast.expr):
            waiting.extend(reversed(list(ast.iter_child_nodes(node))))
        elif _STATEMENT.match(_SQL_COMMENT.sub("", text)):
            yield node.lineno, _SQL_COMMENT.sub("", text)


def _text(node: ast.expr, constants: Mapping[str, str]) -> str | None:
    """What a string expression says, with a hole for each value unknown here; None if no string."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_text(part, constants) or HOLE for part in parts)
        case ast.FormattedValue(value=value):
            return _text(value, constants)
        case ast.Name(id=name):
            return constants.get(name)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            halves = _text(left, constants), _text(right, constants)
            return None if halves == (None, None) else "".join(half or HOLE for half in halves)
    return None


def _unbound(sql: str, tables: Mapping[str, bool]) -> str | None:
    """What a statement lacks, or None."""
    derived = {name.lower() for name in _CTE.findall(sql)}
    named = {name.strip('"').rpartition(".")[2].lower() for name in _TABLE.findall(sql)}
    owned = sorted(name for name in named - derived if tables.get(name, True))
    if not owned:
        return None
    where = f" on {', '.join(owned)}" if owned != [HOLE] else ""
    statement = _STATEMENT.match(sql)
    if statement and statement["verb"]:
        return None if _GIVEN.search(sql) else f"give `:customer` in the INSERT{where}"
    if statement and statement["change"]:
        condition = re.split(r"\bWHERE\b", sql, maxsplit=1, flags=re.IGNORECASE)[1:]
        if not any(map(_COMPARED.search, condition)):
            return f"add `customer = :customer` to the WHERE of the statement{where}"
        return None
    return None if _COMPARED.search(sql) else f"add `customer = :customer` to the SELECT{where}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
