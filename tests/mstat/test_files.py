"""Small files of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from mstat.errors import UserError
from mstat.files import read_json, write_json


def test_what_was_written_is_read(tmp_path: Path) -> None:
    """With names in any letters."""
    write_json(tmp_path / "a.json", {"name": "é"})
    assert read_json(tmp_path / "a.json") == {"name": "é"}


@pytest.mark.parametrize("content", [b'{"a": ', b"", b"[1]", b"null", b'{"a": "\xff"}'])
def test_a_damaged_file_is_named(content: bytes, tmp_path: Path) -> None:
    """Cut, empty, no object, no UTF-8."""
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.json: not (valid JSON|a JSON object)"):
        read_json(tmp_path / "a.json")
