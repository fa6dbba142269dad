"""What the long checks share: the record they leave, and who belongs to a launch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.record import conditions, save

Rows = dict[str, list[dict[str, object]]]


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
    found: Rows = {}
    yield found
    if name := request.config.getoption("--record"):
        session = request.session
        save(name, _record(found, name, session.testscollected, session.testsfailed))


def _record(found: Rows, name: str, collected: int, failed: int) -> str:
    lines = [f"# {name.capitalize()}: exact through ranks and failures", "", conditions(name), ""]
    lines += [f"{collected} checks, {failed} of them failed. One thread a process; the small configuration of", ""]
    lines[-2] += " tests/conftest.py."
    for section, table in found.items():
        columns = list(dict.fromkeys(column for row in table for column in row))
        lines += [f"## {section}", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        lines += [f"| {' | '.join(str(row.get(column, '')) for column in columns)} |" for row in table]
        lines.append("")
    return "\n".join(lines)
