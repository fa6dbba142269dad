"""Sets whose checksums fit, and whose values do not."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import shards
from shards.__main__ import main
from shards.index import DESCRIPTION_FILE, INDEX_FILE
from shards.index_checks import check_table
from shards.records import DataError
from shards.summary import summary
from shards.verify import verify
from tests.shards.hostile import change_row, describe, fit_index, read_index, rewrite_index
from tests.shards.trees import build_mars, mars_tree


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    return build_mars(mars_tree(folder / "tree"), folder / "out", shard_bytes=1 << 14)


@pytest.fixture
def out(built: Path, tmp_path: Path) -> Path:
    """A copy of a set of several shards, to be spoilt."""
    return Path(shutil.copytree(built, tmp_path / "set"))


def refusal(out: Path) -> str:
    """Return the error of a reader and of `verify`; one line."""
    with pytest.raises(DataError) as error:
        shards.open(out)
    assert verify(out) == [str(error.value)]
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_way_of_rewriting_is_no_fault(out: Path) -> None:
    """An index that says the same in other record batches is read alike."""
    keys = read_index(out)["key"].to_pylist()
    rewrite_index(out, pa.Table.from_batches(read_index(out).to_batches(max_chunksize=3)))
    reader = shards.open(out)
    assert [reader[i].key for i in range(len(reader))] == keys
    assert verify(out) == []


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"key": "../0001"}, "key '../0001'"),
        ({"key": "a\x1b[2J"}, r"key 'a\x1b[2J'"),
        ({"key": ""}, "key ''"),
        ({"key": "0001C2T0002"}, "two tracklets have one key"),
        ({"key": None}, "a value is missing"),
        ({"pid": -2}, "identity -2"),
        ({"pid": 2**62}, "5 identities, not the 4 of counts"),
        ({"camid": -1}, "camera -1"),
        ({"camid": 77}, "cameras, not the 5 of counts"),
        ({"shard": -1}, "0001C1T0001: shard -1"),
        ({"shard": 8}, "0001C1T0001: shard 8"),
        ({"shard": 2**62}, f"0001C1T0001: shard {2**62}"),
        ({"roles": []}, "0001C1T0001: 0 roles, not 2"),
        ({"roles": [1]}, "0001C1T0001: 1 roles, not 2"),
        ({"roles": [1, 1, 1]}, "0001C1T0001: 3 roles, not 2"),
        ({"roles": [1, 16]}, "role 16"),
        ({"roles": [None, 1]}, "a value is missing"),
        ({"offsets": [], "sizes": [], "crc32": []}, "0001C1T0001: 0 frames"),
        ({"offsets": [1024]}, "0001C1T0001: 1 offsets, not one per frame"),
        ({"crc32": [1, 2, 3, 4]}, "0001C1T0001: 4 crc32, not one per frame"),
        ({"offsets": [1024], "sizes": [9], "crc32": [0]}, "35 frames, not the 37 of counts"),
        ({"sizes": [9, 0, 9]}, "0001C1T0001: a frame of 0 bytes at"),
        ({"sizes": [9, -1, 9]}, "0001C1T0001: a frame of -1 bytes at"),
        ({"sizes": [9, 9, 2**31 - 1]}, f"0001C1T0001: a frame of {2**31 - 1} bytes at"),
        ({"offsets": [1024, 2**62, 1024]}, f"a frame of 1260 bytes at {2**62}"),
        ({"offsets": [1024, -(2**62), 1024]}, f"a frame of 1260 bytes at {-(2**62)}"),
        ({"offsets": [1024, 0, 1024]}, "a frame of 1260 bytes at 0"),
    ],
)
def test_an_invalid_value_of_a_row_is_one_message(out: Path, values: dict[str, Any], reason: str) -> None:
    """Reading it would lead out of the shard, the description or the mapped memory; the value is named."""
    change_row(out, 0, lambda row: values)
    assert reason in refusal(out)


def test_a_row_less_is_noticed(out: Path) -> None:
    """The description counts the rows."""
    rewrite_index(out, read_index(out).slice(1))
    assert "9 tracklets, not the 10 of counts" in refusal(out)
    rewrite_index(out, read_index(out).slice(0, 0))
    assert "no tracklet" in refusal(out)


def test_lists_that_begin_elsewhere_are_refused(out: Path) -> None:
    """Frames of a row are looked up by the offsets of one column in all three."""
    table = read_index(out)
    crc32 = table["crc32"].combine_chunks()
    moved = pa.ListArray.from_arrays(
        pa.array(crc32.offsets.to_numpy() + 1), pa.array(np.append(np.uint32(0), crc32.values.to_numpy()))
    )
    moved_table = table.set_column(table.schema.get_field_index("crc32"), table.schema.field("crc32"), moved)
    moved_table.validate(full=True)
    with pytest.raises(ValueError, match="crc32 do not begin where sizes begin"):
        check_table(moved_table, shards.open(out).description)


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed_buffers_are_refused(out: Path, compression: str) -> None:
    """They would unpack to any size in memory; the writer makes none."""
    rewrite_index(out, read_index(out), compression=compression)
    assert "compressed" in refusal(out)


def as_dictionary(table: pa.Table) -> pa.Table:
    return table.set_column(0, "key", table["key"].dictionary_encode())


def with_run_ends(table: pa.Table) -> pa.Table:
    """One value, which stands for as many as the file likes."""
    ends = pa.RunEndEncodedArray.from_arrays(pa.array([len(table)], pa.int64()), pa.array([1], pa.int64()))
    return table.set_column(1, "pid", ends)


@pytest.mark.parametrize(
    "change",
    [
        as_dictionary,
        with_run_ends,
        lambda table: table.drop_columns(["sizes"]),
        lambda table: table.append_column("more", pa.nulls(len(table))),
        lambda table: table.set_column(1, "pid", table["pid"].cast(pa.int32())),
        lambda table: table.set_column(0, "key", table["key"].cast(pa.large_string())),
    ],
)
def test_other_columns_are_refused(out: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Kinds that unpack, columns too many, too few, or of other types."""
    rewrite_index(out, change(read_index(out)))
    assert "cannot be read" in refusal(out)


def test_offsets_that_lead_out_of_the_mapped_file_are_refused(out: Path) -> None:
    """Those of strings and lists, which Arrow does not look at when it opens a file: reading by them would crash."""
    path = out / INDEX_FILE
    whole = path.read_bytes()
    table = read_index(out)
    for name in ("key", "sizes", "roles"):
        column = table[name].combine_chunks()
        offsets = np.frombuffer(column.buffers()[1], np.int32)[: len(column) + 1].tobytes()
        at = whole.index(offsets)
        for value in (2**31 - 1, -(2**31), 1 << 20):
            path.write_bytes(whole[: at + 8] + struct.pack("<i", value) + whole[at + 12 :])
            fit_index(out)
            refusal(out)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["counts"].update(frames=10**30),
        lambda content: content["counts"].update(frames="1"),
        lambda content: content["counts"].update(frames=True),
        lambda content: content["counts"].pop("cameras"),
        lambda content: content.update(counts=[]),
        lambda content: content["shards"][0].update(bytes=-1),
        lambda content: content["shards"][0].update(bytes=1e999),
        lambda content: content["shards"].append(content["shards"][0]),
        lambda content: content.update(name=None),
        lambda content: content.update(name="x" * 5000),
        lambda content: content.update(facts={"a": float("nan")}),
        lambda content: content.update(facts=["a"]),
        lambda content: content.update(encoding={"size": [1e400, 1], "quality": 90}),
        lambda content: content.update(encoding={"size": 3, "quality": 90}),
        lambda content: content.update(protocols=[]),
        lambda content: content["protocols"].append(content["protocols"][0]),
        lambda content: content["protocols"][0].update(splits=[]),
        lambda content: content["protocols"][0].update(splits=["0", "0"]),
        lambda content: content["protocols"][0].update(splits=[str(n) for n in range(100_000)]),
        lambda content: content["protocols"][0].update(description=7),
        lambda content: content["protocols"][0].update(cmc_only="no"),
        lambda content: content["protocols"][0].update(name=["official"]),
    ],
)
def test_an_invalid_description_is_one_message(out: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Values of another kind, missing, absurd or twice there."""
    describe(out, change)
    assert f"{out / DESCRIPTION_FILE}: damaged" in refusal(out)


def test_json_without_end_is_refused(out: Path) -> None:
    """Nested too deeply for Python, or larger than any description is."""
    (out / DESCRIPTION_FILE).write_text("[" * 100_000)
    assert "damaged" in refusal(out)
    with (out / DESCRIPTION_FILE).open("wb") as file:
        file.truncate(1 << 40)  # of which the disk holds nothing
    assert "larger than" in refusal(out)


ESCAPE = "\x1b]0;owned\x07\x9b2J\u202e[red]x[/red]"


def test_nothing_of_a_set_steers_the_terminal(out: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Names, facts, protocols and descriptions are shown with their escapes, and brackets as brackets."""

    def change(content: dict[str, Any]) -> None:
        content["name"] = content["protocols"][0]["name"] = ESCAPE
        content["protocols"][0]["description"] = ESCAPE
        content["protocols"][0]["splits"] = [ESCAPE]
        content["facts"] = {ESCAPE: ESCAPE, "partial": ESCAPE}

    describe(out, change)
    assert main(["info", str(out)]) == 0
    assert main(["show", str(out), "0001C1T0001", "--out", str(tmp_path / "sheet.png")]) == 0
    assert main(["show", str(out), ESCAPE]) == 2
    assert main(["info", str(out / ESCAPE.replace("/", "-"))]) == 1
    captured = capsys.readouterr()
    for text in (captured.out, captured.err):
        assert r"\x1b]0;owned\x07\x9b2J\u202e[red]x" in text
        assert all(c.isprintable() or c == "\n" for c in text)
    assert main(["info", str(out), "--json"]) == 0
    text = capsys.readouterr().out
    assert all(c == "\n" or " " <= c <= "~" for c in text)
    assert json.loads(text)["name"] == ESCAPE


def test_each_camera_is_counted(out: Path) -> None:
    """Of a set with a camera for each tracklet, all of one identity."""
    rows = read_index(out).to_pylist()
    many = 500
    table = pa.Table.from_pylist(
        [{**rows[0], "key": f"k{i}", "camid": i, "roles": [6, 6]} for i in range(many)], schema=read_index(out).schema
    )
    rewrite_index(out, table)
    frames = many * len(rows[0]["sizes"])
    counts = {"tracklets": many, "frames": frames, "identities": 1, "cameras": many}
    describe(out, lambda content: content.update(counts=counts))
    content = summary(shards.open(out))
    split = content["protocols"][0]["splits"]["0"]
    assert split["valid_queries"] == many
    assert len(split["per_camera"]) == many
    assert split["per_camera"][7]["query"]["frames"] == len(rows[0]["sizes"])
