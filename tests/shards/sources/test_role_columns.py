from __future__ import annotations

from pathlib import Path

import pytest

from shards.records import DataError, Role
from shards.sources.role_columns import protocols_of, roles_of, rule
from shards.sources.table import Row, Table

BOTH, JUNK = Role.QUERY | Role.GALLERY, Role.GALLERY | Role.JUNK


def test_columns_of_a_protocol_may_lie_apart() -> None:
    """Protocols and splits come in the order of their first columns; roles are in the order of the protocols."""
    table = Table(Path("t.csv"), 1, ("role:a/x", "pid", "role:b", "role:a/y"))
    protocols, columns = protocols_of(table)
    assert [(protocol.name, protocol.splits) for protocol in protocols] == [("a", ("x", "y")), ("b", ("0",))]
    assert columns == ("role:a/x", "role:a/y", "role:b")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("pid",), "1: role: a column is missing; write one of role, role:PROTOCOL"),
        (("role", "role:test"), "1: role:test: role is of test, too; name each split: role:test/A"),
        (("role:a", "role:a/1"), "1: role:a/1: role:a is of a, too; name each split"),
        (("role:a/1", "role:a"), "1: role:a: role:a/1 is of a, too; name each split"),
        (("role:a/1", "Role:a/1"), "1: Role:a/1: role:a/1 is of a, too; name each split"),
        (("role:a/all", "role:a/1"), "1: role:a/all: all selects all splits"),
        (tuple(f"role:p{number}" for number in range(1001)), "1: role: more than 1,000 columns"),
    ],
)
def test_columns_that_are_unclear_are_refused(columns: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        protocols_of(Table(Path("t.csv"), 1, columns))


@pytest.mark.parametrize(
    ("cell", "role"),
    [
        ("", Role.NONE),
        ("Train", Role.TRAIN),
        ("query", Role.QUERY),
        ("gallery", Role.GALLERY),
        ("query+gallery", BOTH),
        ("gallery + query", BOTH),
        ("query gallery", BOTH),
        ("junk", JUNK),
        ("gallery+junk", JUNK),
    ],
)
def test_words_of_roles(cell: str, role: Role) -> None:
    table = Table(Path("t.csv"), 1, ("role",), [Row(2, {"role": cell})])
    assert roles_of(table, ["role"]) == [(role,)]
    assert table.faults == []


def test_rules_of_the_command_line() -> None:
    assert [rule("same-clothes"), rule("a=camera")] == [(None, "same-clothes"), ("a", "camera")]
