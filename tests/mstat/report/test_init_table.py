"""The table of a start: few lines, and yet every key and every tensor."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from rich.console import Console

from mstat.config import ModelConfig
from mstat.model import MSTAT
from mstat.report.init_table import lines, start_record, start_table
from mstat.weights.pretrained import KEPT, NO_KEY, NOWHERE, Row, load_pretrained
from tests.mstat.weights.test_pretrained import saved, timesformer_weights


def rows_of_the_papers_model(tmp_path: Path) -> list[Row]:
    """Return the rows of a TimeSformer of twelve blocks for stages of 8, 3 and 3, in the sizes of a small model."""
    weights = {f"model.{key}": value for key, value in timesformer_weights(num_blocks=12).items()}
    config = ModelConfig(image_size=(32, 16), patch_size=8, width=32, num_heads=4)
    with torch.device("meta"):
        model = MSTAT(config)
    return load_pretrained(model, saved(tmp_path / "k600.pyth", {"model_state": weights, "epoch": 8}))


def test_a_timesformer_is_told_in_forty_lines(tmp_path: Path) -> None:
    """Blocks, weight and bias, and stages are told together, dropped blocks and new modules as wholes."""
    by_key = {line.key: line for line in lines(rows_of_the_papers_model(tmp_path)) if line.key != NO_KEY}
    assert by_key["model.blocks.{0-7}.attn.qkv.*"][1:] == ("stage1.blocks.{0-7}.spatial.qkv.*", "copied", 16)
    assert by_key["model.blocks.{8-10}.mlp.fc1.*"][1:] == ("stage{2,3}.blocks.{0-2}.mlp.fc1.*", "copied", 6)
    assert by_key["model.blocks.11.*"][1:] == (NOWHERE, "more blocks than model.depths takes", 20)
    assert by_key["model.time_embed"][1:] == (NOWHERE, "MSTAT has no temporal position", 1)
    assert by_key["model.pos_embed"][1:] == ("stem.position", "2-D bicubic, 4 x 4 -> 4 x 2 (16 -> 8 positions)", 1)
    assert by_key["epoch"][1:] == (NOWHERE, "not weights", 1)
    new = [line.ours for line in lines(rows_of_the_papers_model(tmp_path)) if line.action == KEPT]
    assert new == [
        "stage1.blocks.{0-7}.{alpha,beta}",
        "stage1.aap.*",
        "stage{2,3}.blocks.{0-2}.{alpha,beta}",
        "stage{2,3}.iap.*",
        "stage3.class_token",
        "stage3.blocks.{0-2}.temporal.condense.*",
        "stage3.blocks.{0-2}.temporal.expand.*",
    ]
    assert len(lines(rows_of_the_papers_model(tmp_path))) < 45


def test_lines_lose_no_key(tmp_path: Path) -> None:
    """Keys of the lines add up to those of the file (the position's is in two), and the caption says so."""
    rows = rows_of_the_papers_model(tmp_path)
    keys = {row.key for row in rows} - {NO_KEY}
    shown = lines(rows)
    assert sum(line.num_keys for line in shown) == len(keys) + 1
    out = io.StringIO()
    Console(file=out, width=160).print(start_table("k600.pyth", rows))
    dropped = {row.key for row in rows if row.ours == NOWHERE}
    assert f"{len(keys)} keys in the file: {len(keys) - len(dropped)} used, {len(dropped)} dropped." in out.getvalue()


def test_different_actions_are_never_one_line() -> None:
    """Rows are joined only where the same was done with them."""
    rows = [
        Row("blocks.0.a", "b.0.c", "copied"),
        Row("blocks.1.a", "b.1.c", "copied"),
        Row("blocks.2.a", "b.2.c", "cut"),
    ]
    assert [line[:4] for line in lines(rows)] == [
        ("blocks.{0,1}.a", "b.{0,1}.c", "copied", 2),
        ("blocks.2.a", "b.2.c", "cut", 1),
    ]


def test_the_record_has_every_row(tmp_path: Path) -> None:
    """The rows of init.json are not joined, and hold shapes."""
    rows = rows_of_the_papers_model(tmp_path)
    record = start_record("k600.pyth", rows)
    assert len(record["rows"]) == len(rows)
    (position,) = [row for row in record["rows"] if row["ours"] == "stem.position"]
    assert position["shape"] == (1, 17, 32)
