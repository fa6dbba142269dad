"""Features on disk: the scores that they give, and files that do not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file

import shards
from mstat.config import Config
from mstat.config.cli import load_config
from mstat.distributed.engine import Engine
from mstat.errors import UserError
from mstat.evaluation.evaluate import evaluate_run
from mstat.evaluation.metrics import MEANS
from mstat.metrics import cmc_map, load_features
from mstat.model import MSTAT
from tests.helpers.distributed import as_launched, run_distributed

FLAGS = ["--data.num_workers", "0", "--eval.features", "true", "--eval.pictures", "false"]


def written(config: Config, folder: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch, as_launched():
        patch.setattr("mstat.evaluation.extraction.TILE", 5)
        patch.setattr("mstat.evaluation.feature_writer.PART_ROWS", 12)
        model, reader = MSTAT(config.model), shards.open(config.data.shards)
        return evaluate_run(Engine(config), model, reader, config, folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ["--eval.occlusion", "0.3"],
        ["--data.protocol", "queries-removed", "--eval.no_positive", "zero", "--eval.stage_norm", "false"],
    ],
)
def test_saved_features_give_the_scores_of_the_run(tiny_config: Path, tmp_path: Path, flags: list[str]) -> None:
    """1 and 3 ranks write the same bytes, with parts that two ranks share. From them come the scores of
    evaluation.json, bitwise; queries in the gallery and degraded queries included."""
    config = load_config(tiny_config, [*FLAGS, *flags])
    evaluation = written(config, tmp_path / "one")
    evaluations = run_distributed(written, 3, config, tmp_path / "three")
    assert json.dumps(evaluations) == json.dumps([evaluation] * 3)
    files = {path.name: path.read_bytes() for path in (tmp_path / "one/features").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "three/features").iterdir()} == files
    assert "features-12-24.safetensors" in files
    three = load_features(tmp_path / "three/features")
    assert sum(three.info["dims"].values()) == three.features_ND.shape[1]
    scores = cmc_map(**three.arguments())
    names = [*MEANS, "rank1", "rank5", "num_query", "num_valid_query", "num_gallery", "cmc"]
    assert {name: scores[name] for name in names} == {name: evaluation[name] for name in names}


@pytest.fixture(scope="module")
def of_run(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    written(load_config(tiny_config, FLAGS), folder)
    return folder / "features"


def change_info(folder: Path) -> None:
    content = json.loads((folder / "features.json").read_text())
    (folder / "features.json").write_text(json.dumps({**content, "version": 9}))


def cut_part(folder: Path) -> None:
    part = next(folder.glob("features-0-*"))
    part.write_bytes(part.read_bytes()[:-9])


def widen_part(folder: Path) -> None:
    part = next(folder.glob("features-0-*"))
    save_file({"features": torch.cat([load_file(part)["features"]] * 2, dim=1)}, part)


def shorten_part(folder: Path) -> None:
    part = next(folder.glob("features-0-*"))
    save_file({"features": load_file(part)["features"][1:]}, part)


def lose_part(folder: Path) -> None:
    next(folder.glob("features-0-*")).unlink()


def rename_column(folder: Path) -> None:
    table = pa.ipc.open_stream((folder / "tracklets.arrow").read_bytes()).read_all()
    table = table.rename_columns(["place", *table.column_names[1:]])
    with pa.OSFile(str(folder / "tracklets.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def lose_labels(folder: Path) -> None:
    table = pa.ipc.open_stream((folder / "tracklets.arrow").read_bytes()).read_all()
    first = table.slice(0, 1).to_pylist()
    table = pa.Table.from_pylist([{**first[0], "gallery": None}, *table.slice(1).to_pylist()], schema=table.schema)
    with pa.OSFile(str(folder / "tracklets.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def change_dtype(folder: Path) -> None:
    content = json.loads((folder / "features.json").read_text())
    (folder / "features.json").write_text(json.dumps({**content, "dtype": "float16"}))


def claim_pca(folder: Path) -> None:
    content = json.loads((folder / "features.json").read_text())
    (folder / "features.json").write_text(json.dumps({**content, "pca": {"dims": 8}}))
    save_file({"mean": torch.zeros(9), "components": torch.zeros(9, 9)}, folder / "pca.safetensors")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (change_info, "not a description of features that this version reads"),
        (cut_part, "cannot be read"),
        (widen_part, "does not fit tracklets.arrow and the other parts"),
        (shorten_part, "rows of fp32"),
        (lose_part, "the features of rows 0 to"),
        (rename_column, "its columns are not those that the writer makes"),
        (lose_labels, "it lacks labels"),
        (change_dtype, "its features are torch.float32, not torch.float16"),
        (claim_pca, "pca.safetensors: does not fit the features"),
        (lambda folder: (folder / "tracklets.arrow").write_bytes(b""), "tracklets.arrow: cannot be read"),
        (lambda folder: (folder / "features.json").unlink(), "--eval.features true writes RUN/features"),
        (lambda folder: (folder / "features.json").write_text("[]"), "not a JSON object"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    of_run: Path, tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    """A missing, cut or foreign file is refused with its name and the way out."""
    folder = shutil.copytree(of_run, tmp_path / "features")
    load_features(folder)
    spoil(folder)
    with pytest.raises(UserError, match=message) as error:
        load_features(folder)
    assert str(folder) in str(error.value)


def test_another_folder_is_not_overwritten(tiny_config: Path, tmp_path: Path) -> None:
    """A folder or link of that name that does not hold features is refused, and stays as it was."""
    config = load_config(tiny_config, FLAGS)
    (tmp_path / "features").mkdir()
    (tmp_path / "features/mine.txt").touch()
    with pytest.raises(UserError, match="holds more than features, or is a link: move it away"):
        written(config, tmp_path)
    assert (tmp_path / "features/mine.txt").is_file()
