from __future__ import annotations

import re
from pathlib import Path

import pytest

from shards.records import DataError
from shards.sources.table import Table, read_table

NAMES, REQUIRED = ("path", "pid", "note"), ("path", "pid")


def read(path: Path, data: str | bytes) -> Table:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return read_table(path, NAMES, REQUIRED, re.compile("role:[a-z]+"), "role:NAME")


@pytest.mark.parametrize("separator", [",", ";", "\t", ", "])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_separators_line_ends_and_marks(tmp_path: Path, separator: str, end: str, mark: str) -> None:
    """Tables of all programs are the same: separators, line ends, a mark of order, quotes, spaces, empty lines, names
    in any case and order; a row has the number of its line."""
    lines = ["Pid|path|role:x", '1|"a,b;c"|', "", ' 2 |"d ""e"" "|train']
    table = read(tmp_path / "t.csv", mark + end.join(line.replace("|", separator) for line in lines))
    assert table.columns == ("pid", "path", "role:x")
    assert [(row.line, row.cells) for row in table.rows] == [
        (2, {"pid": "1", "path": "a,b;c", "role:x": ""}),
        (4, {"pid": "2", "path": 'd "e"', "role:x": "train"}),
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "t.csv: empty; its first line names the columns: path, pid"),
        (b"path,pid\n", "t.csv: no row below the names"),
        (b"path,pid\na,\xff\n", "t.csv:2: not UTF-8 .byte 0xff.; save it as CSV in UTF-8"),
        (b"path,pid\n\na\0,1\n", "t.csv:3: a NUL byte"),
        ("path,pid\na,1\n".encode("utf-16"), "t.csv: UTF-16; save it as CSV in UTF-8"),
        (b"PK\x03\x04xx", "t.csv: a spreadsheet, not text; save it as CSV"),
        (b'path,pid\na,1\n"b,1\nc,1\n', "t.csv:3: not a row of CSV .*is a quote not closed"),
        (b'path,pid\n"a"b,1\n', "t.csv:2: not a row of CSV"),
        (b'path,pid\n"a\nb",1\n', "t.csv:2: path: contains a line end"),
        (b'path,pid\n"a\nb",1\nc\n', r"t.csv:2: path: .*\n.*t.csv:4: 1 cell"),
        (b"path,pid\na\x1b[2J,1\n", "t.csv:2: path: contains a line end or control character"),
        (b"path,pid\n" + b"a" * 1001 + b",1\n", "t.csv:2: path: longer than 1,000 characters"),
        (b"path,pid\n" + b"a" * 200_000 + b",1\n", "t.csv:2: not a row of CSV"),
        (b"a/1,7\na/2,8\n", "t.csv:1: 'a/1': an unknown column; columns are path, pid, note, role:NAME"),
        (
            b"pth,pid\na,1\n",
            r"t.csv:1: 'pth': an unknown column; did you mean path\?.*\n.*:1: path: a column is missing",
        ),
        (b"\n\npath,Pid,pid\na,1,1\n", "t.csv:3: 'pid': the name of two columns"),
        (b",path,pid\n0,a,1\n", "t.csv:1: column 1: has no name; remove it .in pandas"),
        (b"path,pid\na,1\nb\n", "t.csv:3: 1 cell, but the header has 2 columns"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    """Files that are no text or no table, and cells that are damage, by line and column."""
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path / "t.csv", data).check()
    assert not any(ord(letter) < 32 and letter != "\n" for letter in str(caught.value))


def test_a_missing_file_or_a_folder(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "no.csv", "no.csv: no such file"), (tmp_path, "no regular file")):
        with pytest.raises(DataError, match=message):
            read_table(path, NAMES, REQUIRED, re.compile("x"), "x")
