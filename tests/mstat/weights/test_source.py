"""Forms of `model.init` besides one plain file: wrappers, prefixes, shards, folders, other grids."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mstat.config import Config
from mstat.errors import UserError
from mstat.model import MSTAT
from mstat.pretraining.timesformer import Classifier
from mstat.training.task import Task
from mstat.weights.checkpoint_keys import to_timesformer
from mstat.weights.export import export
from mstat.weights.positions import Grid, resize_position, source_grid
from mstat.weights.pretrained import NO_KEY, Row, load_pretrained
from mstat.weights.source import read_source
from tests.mstat.model.small import SMALL, build
from tests.mstat.weights.test_pretrained import assert_equal, saved, state, timesformer_weights, vit_weights


def notes(rows: list[Row]) -> list[str]:
    return [row.action for row in rows if row.key == row.ours == NO_KEY]


def prefixed(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in weights.items()}


@pytest.fixture
def plain(tmp_path: Path) -> dict[str, Tensor]:
    """The state of a model that starts from the plain file."""
    model = build()
    load_pretrained(model, saved(tmp_path / "plain.pth", timesformer_weights()))
    return state(model)


PREFIXES = [
    "module.",
    "backbone.",
    "base.",
    "_orig_mod.",
    "model.",
    "encoder.",
    "module.model.",
    "vit.",
    "a._orig_mod.",
]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_is_taken_off_and_said(tmp_path: Path, plain: dict[str, Tensor], prefix: str) -> None:
    """Any prefix of all names is removed, also a double one."""
    model = build()
    content = prefixed(prefix, timesformer_weights())
    rows = load_pretrained(model, saved(tmp_path / "x.pth", content))
    assert_equal(state(model), plain)
    assert notes(rows) == [f"{prefix!r} removed from the keys"]


def test_a_head_beside_the_model_is_dropped(tmp_path: Path, plain: dict[str, Tensor]) -> None:
    """Keys that do not begin with the prefix are dropped and named."""
    content = {**prefixed("base.", timesformer_weights()), "bottleneck.weight": torch.ones(3)}
    model = build()
    rows = load_pretrained(model, saved(tmp_path / "x.pth", content))
    assert_equal(state(model), plain)
    assert [row.action for row in rows if row.key == "bottleneck.weight"] == ["not part of the model"]


def test_a_wrapper_inside_the_names_is_taken_off(tmp_path: Path, plain: dict[str, Tensor]) -> None:
    """torch.compile of each block leaves `_orig_mod.` in the middle of a name."""
    content = {key.replace(".norm1", "._orig_mod.norm1"): value for key, value in timesformer_weights().items()}
    model = build()
    rows = load_pretrained(model, saved(tmp_path / "x.pth", content))
    assert_equal(state(model), plain)
    assert notes(rows) == ["'_orig_mod.' removed from the keys"]


def test_two_models_in_one_file_are_refused(tmp_path: Path) -> None:
    """A student and its teacher: which one is meant is for the user to say."""
    content = prefixed("student.", vit_weights()) | prefixed("teacher.", vit_weights())
    with pytest.raises(UserError, match=r"several models, whose keys begin with 'student\.', 'teacher\.'"):
        load_pretrained(build(), saved(tmp_path / "x.pth", content))


@pytest.mark.parametrize("wrappers", [["model_state_dict"], ["net"], ["ema"], ["state_dict", "model"], ["my_weights"]])
def test_a_wrapper_is_opened_and_said(tmp_path: Path, plain: dict[str, Tensor], wrappers: list[str]) -> None:
    """Dicts around the weights, also around each other, with an optimiser beside."""
    content: dict[str, Any] = timesformer_weights()
    for wrapper in reversed(wrappers):
        content = {wrapper: content, "optimizer": {"state": {}, "param_groups": []}}
    model = build()
    rows = load_pretrained(model, saved(tmp_path / "x.pth", content))
    assert_equal(state(model), plain)
    assert notes(rows) == [f"weights under {' / '.join(wrappers)!r} in the file"]


def test_a_dict_that_holds_itself_ends(tmp_path: Path) -> None:
    """One line, not a search for ever."""
    content: dict[str, Any] = {}
    content["model"] = content
    with pytest.raises(UserError, match="is a dict, not a tensor"):
        load_pretrained(build(), saved(tmp_path / "x.pth", content))


def test_buffers_of_whole_numbers_are_no_weights(tmp_path: Path, plain: dict[str, Tensor]) -> None:
    """Counts and indices are dropped by name; a weight of whole numbers is refused."""
    buffers = {"bn.num_batches_tracked": torch.tensor(3), "position_ids": torch.arange(4), "mask": torch.tensor([True])}
    model = build()
    rows = load_pretrained(model, saved(tmp_path / "x.pth", {**timesformer_weights(), **buffers}))
    assert_equal(state(model), plain)
    assert {row.key for row in rows if "not a weight" in row.action} == buffers.keys()
    wrong = {**timesformer_weights(), "norm.bias": torch.ones(32, dtype=torch.int8)}
    with pytest.raises(UserError, match=r"weights are not floating-point: norm\.bias"):
        load_pretrained(build(), saved(tmp_path / "y.pth", wrong))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_floats_are_cast_and_said(tmp_path: Path, dtype: torch.dtype) -> None:
    """The numbers are those of a file that was cast before; the note names the type."""
    weights = {key: value.to(dtype) for key, value in timesformer_weights().items()}
    first, second = build(), build()
    rows = load_pretrained(first, saved(tmp_path / "x.safetensors", weights))
    load_pretrained(second, saved(tmp_path / "y.pth", {key: value.float() for key, value in weights.items()}))
    assert_equal(state(first), state(second))
    assert notes(rows) == [f"weights of {str(dtype).removeprefix('torch.')} converted to float32"]


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_sharded_weights_are_read_by_their_index(tmp_path: Path, plain: dict[str, Tensor], suffix: str) -> None:
    """By the folder or the index; a missing part, a part alone and a part elsewhere are refused by name."""
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    weights, places = timesformer_weights(), dict[str, str]()
    for part in range(3):
        name = f"{stem}-{part + 1:05d}-of-00003{suffix}"
        of_part = dict(list(weights.items())[part::3])
        places |= dict.fromkeys(of_part, name)
        saved(tmp_path / name, of_part)
    index = tmp_path / f"{stem}{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    for given in (tmp_path, index):
        model = build()
        rows = load_pretrained(model, given)
        assert_equal(state(model), plain)
        assert f"3 parts of {index.name}" in notes(rows)
    with pytest.raises(UserError, match="part 2 of 3 of sharded weights"):
        load_pretrained(build(), tmp_path / f"{stem}-00002-of-00003{suffix}")
    (tmp_path / f"{stem}-00002-of-00003{suffix}").unlink()
    with pytest.raises(UserError, match="parts are missing"):
        load_pretrained(build(), tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "../x.safetensors"}}))
    with pytest.raises(UserError, match="must be files in the same folder"):
        load_pretrained(build(), index)


def test_a_folder_with_one_file_of_weights_is_that_file(tmp_path: Path, plain: dict[str, Tensor]) -> None:
    """Two are refused by name, none by what there is."""
    folder = tmp_path / "k"
    folder.mkdir()
    (folder / "README.md").write_text("of a model")
    with pytest.raises(UserError, match=r"has no file of weights .* but README\.md"):
        load_pretrained(build(), folder)
    saved(folder / "k600.pyth", timesformer_weights())
    model = build()
    assert notes(load_pretrained(model, folder)) == ["k600.pyth in the folder"]
    assert_equal(state(model), plain)
    saved(folder / "k400.pyth", timesformer_weights())
    with pytest.raises(UserError, match=r"2 files of weights \(k400\.pyth, k600\.pyth\)"):
        load_pretrained(build(), folder)


def exported(folder: Path, model: MSTAT) -> Path:
    """The two files of a run of ours."""
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    export(folder, weights, model.config)
    return folder


def test_our_own_model_at_another_size(tmp_path: Path) -> None:
    """A model on 8 x 2 patches, whose number is that of a square, starts one on 4 x 2: positions, and the proxies that
    stand for patches, are resized as the grid they are, which model.json tells."""
    source = build(seed=1, image_size=(64, 16))
    model = build()
    rows = load_pretrained(model, exported(tmp_path, source))
    for name, value in source.state_dict().items():
        ours = model.state_dict()[name]
        if name == "stem.position" or name.endswith(".temporal.expand.proxies"):
            value = resize_position(value, (4, 2), (8, 2))
        assert torch.equal(ours, value), name
    (row,) = [row for row in rows if row.ours == "stem.position"]
    assert row.action == "2-D bicubic, 8 x 2 -> 4 x 2 (16 -> 8 positions)"

    (tmp_path / "model.json").unlink()
    with pytest.raises(UserError, match=r"16 positions, which may be a grid of 4 x 4 or 8 x 2"):
        load_pretrained(build(), tmp_path)


@pytest.mark.parametrize(
    ("description", "grid"),
    [
        ({"image_size": [64, 16], "patch_size": 8}, (8, 2)),
        ({"image_size": 32, "patch_size": 8}, (4, 4)),
        ({"architecture": "vit", "pretrained_cfg": {"input_size": [3, 64, 16]}}, (8, 2)),
        (None, (4, 4)),
    ],
)
def test_a_description_beside_the_weights_tells_the_grid(tmp_path: Path, description: Any, grid: Grid) -> None:
    """Hugging Face's config.json or timm's; without, as many places as a square has are a square."""
    weights, model = vit_weights(), build()
    if description is not None:
        (tmp_path / "config.json").write_text(json.dumps(description))
    load_pretrained(model, saved(tmp_path / "model.safetensors", weights))
    assert torch.equal(model.stem.position, resize_position(weights["pos_embed"][0, 1:], (4, 2), grid))


def test_a_description_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """Sixteen places are no 5 x 5."""
    (tmp_path / "config.json").write_text(json.dumps({"image_size": 40, "patch_size": 8}))
    path = saved(tmp_path / "model.safetensors", vit_weights())
    with pytest.raises(UserError, match="16 positions, but the description beside the weights has 5 x 5 patches"):
        load_pretrained(build(), path)


@pytest.mark.parametrize(
    ("places", "ours", "squares_first", "grid", "is_guess"),
    [
        (128, (14, 7), True, (16, 8), True),
        (196, (14, 7), True, (14, 14), False),
        (196, (28, 7), True, (14, 14), True),
        (98, (14, 7), True, (14, 7), False),
        (32, (14, 7), True, (8, 4), True),
        (16, (8, 2), False, (8, 2), False),
        (7, (4, 2), True, None, False),
        (0, (4, 2), True, None, False),
    ],
)
def test_grids_by_the_number_of_places(
    places: int, ours: Grid, squares_first: bool, grid: Grid | None, is_guess: bool
) -> None:
    """A square first, then our own grid, then the nearest aspect; what is a guess says so."""
    result = source_grid(places, None, ours, squares_first)
    assert (result.grid, result.guess is not None) == (grid, is_guess)


def test_positions_without_one_for_the_class_token(tmp_path: Path) -> None:
    """timm's `no_embed_class`: all places are patches, and the class token is as it is."""
    weights, model = vit_weights(), build()
    weights["pos_embed"] = weights["pos_embed"][:, 1:]
    load_pretrained(model, saved(tmp_path / "vit.pth", weights))
    assert torch.equal(model.stem.class_token, weights["cls_token"][0, 0])
    assert torch.equal(model.stem.position, resize_position(weights["pos_embed"][0], (4, 2)))


def test_a_task_of_ours_gives_its_model(tmp_path: Path) -> None:
    """Weights of a whole training, as DeepSpeed's own conversion leaves them: heads are dropped by name."""
    torch.manual_seed(1)
    task = Task(Config(model=SMALL), 3)
    model = build()
    rows = load_pretrained(model, saved(tmp_path / "pytorch_model.bin", task.state_dict()))
    assert_equal(state(model), task.model.state_dict())
    assert {row.key for row in rows if row.ours == "dropped"} == {k for k in task.state_dict() if k[:6] != "model."}


def test_a_classifier_of_ours_tells_its_grid(tmp_path: Path) -> None:
    """launch/pretrain.py on frames of 8 x 2 patches: model.json says so, where the number alone would be a square's."""
    torch.manual_seed(1)
    wide = dataclasses.replace(SMALL, image_size=(64, 16))
    weights = to_timesformer(Classifier(wide, 3, num_frames=4).state_dict(), SMALL.patch_size)
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "model.json").write_text(json.dumps({"format": 1, "classifier": {"image_size": [64, 16]}}))
    model = build()
    load_pretrained(model, tmp_path)
    assert torch.equal(model.stem.position, resize_position(weights["pos_embed"][0, 1:], (4, 2), (8, 2)))


@pytest.mark.parametrize(
    "part", ["../x.safetensors", "/x.safetensors", "a/x.safetensors", ["x"], {"x": 1}, None, 3, "a\x1b[2J"]
)
def test_an_index_names_files_beside_it_alone(tmp_path: Path, part: object) -> None:
    """Any other entry gives one line, and nothing outside of the folder is read."""
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": part}}))
    with pytest.raises(UserError, match="its parts must be files in the same folder") as caught:
        read_source(index)
    assert str(caught.value).isprintable()
