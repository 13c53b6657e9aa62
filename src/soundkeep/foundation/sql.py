"""Conditions as values: a piece of SQL with its parameters. Only constants become SQL text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Where:
    """A condition and the values of its `:name` parameters."""

    sql: str = "TRUE"
    params: Mapping[str, object] = field(default_factory=dict)


def all_of(*conditions: Where) -> Where:
    """Every one holds."""
    return _joined(" AND ", conditions, "TRUE")


def any_of(*conditions: Where) -> Where:
    """At least one holds."""
    return _joined(" OR ", conditions, "FALSE")


def one_of(column: str, name: str, values: Iterable[str]) -> Where:
    """The column holds one of the values; parameters are `name_0`, `name_1`, ..."""
    params = {f"{name}_{number}": value for number, value in enumerate(sorted(values))}
    if not params:
        return Where("FALSE")
    marks = ", ".join(f":{each}" for each in params)
    return Where(f"{column} IN ({marks})", params)


def _joined(word: str, conditions: tuple[Where, ...], empty: str) -> Where:
    if not conditions:
        return Where(empty)
    params: dict[str, object] = {}
    for each in conditions:
        assert not params.keys() & each.params.keys(), "two conditions use one parameter name"
        params |= each.params
    return Where(f"({word.join(each.sql for each in conditions)})", params)
