"""Fixtures of the long checks: the record that they write, and the processes of a launch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from benchmarks.harness import save, table

Rows = dict[str, list[Mapping[str, object]]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is a soak test."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.soak)


@pytest.fixture(scope="session")
def tiny_config(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The YAML for short runs, with a loader process, to which things happen, too."""
    path = tmp_path_factory.mktemp("soak") / "tiny.yaml"
    text = tiny_config.read_text()
    assert "num_workers: 0" in text
    path.write_text(text.replace("num_workers: 0", "num_workers: 1"))
    return path


@pytest.fixture(scope="session")
def rows(request: pytest.FixtureRequest) -> Iterator[Rows]:
    """Section -> rows of the record; written at the end where `--record NAME` asks for it."""
    record: Rows = {}
    yield record
    if name := request.config.getoption("--record"):
        checks = f"{request.session.testscollected} checks, {request.session.testsfailed} of them failed."
        setting = "One thread a process; the small configuration of tests/conftest.py."
        sections = [f"## {section}\n\n{_section(of_section)}" for section, of_section in record.items()]
        title = f"{name.capitalize()}: exact through ranks and failures"
        save(name, title, f"{checks} {setting}", *sections, target=name)


def _section(rows: Sequence[Mapping[str, object]]) -> str:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return table(columns, [[row.get(column, "") for column in columns] for row in rows])
