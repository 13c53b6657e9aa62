"""The tenant lint finds what could show one customer's data to another."""

from textwrap import dedent

import pytest

from lint_tenants import Finding, findings_in, main, tables_in

SCHEMA = """
CREATE TABLE customers (id TEXT PRIMARY KEY);
CREATE TABLE objects (
    id TEXT PRIMARY KEY,   -- of one customer
    customer TEXT NOT NULL REFERENCES customers (id)
);
CREATE VIRTUAL TABLE words USING fts5(body, content='');
CREATE TABLE late (id TEXT);
ALTER TABLE late ADD COLUMN customer TEXT;
"""


@pytest.fixture
def lint(tmp_path):
    (tmp_path / "0001_all.sql").write_text(SCHEMA)
    tables = tables_in(tmp_path)

    def run(source: str) -> list[Finding]:
        return findings_in(dedent(source), path="store.py", tables=tables)

    return run


def test_only_tables_with_a_column_of_that_name_are_a_tenants(tmp_path):
    (tmp_path / "0001_all.sql").write_text(SCHEMA)

    assert tables_in(tmp_path) == {
        "customers": False,
        "objects": True,
        "words": False,
        "late": True,
    }


def test_a_good_store_has_nothing_to_do(lint):
    source = '''
        """Select nothing from anyone."""
        _COLUMNS = "id, customer"
        _PAGE = f"SELECT {_COLUMNS} FROM objects WHERE customer = :customer"

        async def add_object(db, new, *, customer):
            """Insert into objects what came."""
            await db.run(f"INSERT INTO objects ({_COLUMNS}) VALUES (:id, :customer)", {})

        async def page_of_objects(db, *, customer: str, where, limit: int = 100):
            return await db.all(_PAGE + f" AND {where.sql} LIMIT :limit", {})

        async def object_by_word(db, *, customer, word):
            sql = """
                WITH hits (id) AS (SELECT rowid FROM words WHERE body MATCH :word)
                SELECT o.id FROM objects AS o JOIN hits ON hits.id = o.id
                WHERE o.customer = :customer
            """
            return await db.all(sql, {})

        async def customer_by_id(db, *, customer):
            return await db.one("SELECT id FROM customers WHERE id = :customer", {})

        async def move(db, *, customer, object_id):
            await db.run("UPDATE objects SET id = :now WHERE customer = :customer AND id = :was", {})

        async def due(  # every customer: the sweep asks for the oldest work of all
            db, *, limit
        ):
            return await db.all("SELECT id, customer FROM objects ORDER BY id LIMIT :limit", {})

        def _row(row):
            return row
    '''

    assert lint(source) == []


@pytest.mark.parametrize(
    ("signature", "advice"),
    [
        ("def f(db, object_id):", "f: take `customer` as a required keyword-only argument"),
        ("async def f(db):", "f: take `customer` as a required keyword-only argument"),
        ("def f(db, customer):", "f: make `customer` keyword-only, without a default"),
        ("def f(db, *, customer=''):", "f: make `customer` keyword-only, without a default"),
        ("def f(db):  # every customer:", "f: say why after `# every customer:`"),
        ("def f(db, note='# every customer: no'):", "f: take `customer`"),
    ],
)
def test_a_public_function_must_take_the_customer(lint, signature, advice):
    (finding,) = lint(f"\n{signature}\n    return db\n")

    assert finding.line == 2
    assert finding.what.startswith(advice)


def test_a_method_is_held_to_it_too(lint):
    (finding,) = lint("class Store:\n    def f(self, db):\n        return db\n")

    assert finding.line == 2


def test_a_protocol_runs_nothing_and_is_left_alone(lint):
    source = """
        from typing import Protocol

        class Reader(Protocol):
            async def all(self, sql, params): ...
    """

    assert lint(source) == []


@pytest.mark.parametrize(
    "statement",
    [
        '"SELECT id FROM objects WHERE id = :id"',
        '"select id from objects where id = :id"',
        '"SELECT id FROM objects WHERE customer = :other"',
        '"SELECT id FROM objects -- customer = :customer"',
        '"SELECT id " "FROM objects"',
        '"SELECT id FROM objects WHERE " + where.sql',
        'f"SELECT id FROM objects WHERE {where.sql}"',
        'f"SELECT id FROM {table}"',
        '"SELECT id FROM unknown"',
        '"SELECT w.rowid FROM words AS w JOIN objects ON objects.id = w.rowid"',
        '"SELECT id FROM late"',
        '"WITH x AS (SELECT id FROM objects) SELECT id FROM x"',
        '"UPDATE objects SET customer = :customer"',
        '"UPDATE objects SET customer = :customer WHERE id = :id"',
        '"DELETE FROM objects WHERE id = :id"',
        '"INSERT INTO objects (id, customer) VALUES (:id, :owner)"',
        "_BY_ID",
        'f"{_BY_ID} LIMIT 1"',
    ],
)
def test_a_statement_must_hold_the_customer(lint, statement):
    source = f"""
_BY_ID = "SELECT id FROM objects WHERE id = :id"

async def f(db, *, customer, where, table):
    if where:
        return await db.all({statement}, {{}})
"""

    (finding,) = lint(source)

    assert finding.line == 6
    assert finding.what.startswith("f: ")
    assert "customer" in finding.what


def test_a_private_function_with_a_customer_is_read_too(lint):
    source = """
        async def _f(db, customer):
            await db.run("DELETE FROM objects WHERE id = :id", {})
    """

    assert lint(source) == [
        Finding(
            "store.py",
            3,
            "_f: add `customer = :customer` to the WHERE of the statement on objects",
        )
    ]


def test_every_statement_of_a_function_is_reported(lint):
    source = """
        async def f(db, *, customer):
            await db.run("DELETE FROM objects WHERE id = :id", {})
            await db.run("DELETE FROM late WHERE id = :id", {})
    """

    assert [finding.line for finding in lint(source)] == [3, 4]


def test_the_command_says_file_and_line_and_fails(tmp_path, capsys):
    store = tmp_path / "src" / "soundkeep" / "region" / "store.py"
    store.parent.mkdir(parents=True)
    store.write_text("def f(db):\n    return db\n")

    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.startswith("src/soundkeep/region/store.py:1: f: take `customer`")


def test_the_command_is_content_with_a_good_store(tmp_path, capsys):
    store = tmp_path / "src" / "soundkeep" / "region" / "store.py"
    store.parent.mkdir(parents=True)
    store.write_text("def f(db, *, customer):\n    return db\n")

    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == "Tenant lint: 1 stores, nothing to do.\n"


def test_nothing_to_check_is_a_finding(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert "no store to check" in capsys.readouterr().out
