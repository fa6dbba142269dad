from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mstat.model import MSTAT
from mstat.weights.checkpoint_keys import hugging_face_name
from mstat.weights.positions import resize_position
from mstat.weights.pretrained import KEPT, NO_KEY, NOWHERE, load_pretrained
from tests.mstat.model.small import build, clips

NUM_BLOCKS = 5  # of which a model of depths (2, 2, 1) uses four


def timesformer_weights(grid: tuple[int, int] = (4, 4), num_blocks: int = NUM_BLOCKS) -> dict[str, Tensor]:
    """Random weights under the official names, for tokens of width 32 and patches of 8 pixels."""
    generator = torch.Generator().manual_seed(7)

    def new(*shape: int) -> Tensor:
        return 0.1 * torch.randn(*shape, generator=generator)

    weights = {
        "cls_token": new(1, 1, 32),
        "pos_embed": new(1, 1 + grid[0] * grid[1], 32),
        "time_embed": new(1, 8, 32),
        "patch_embed.proj.weight": new(32, 3, 8, 8),
        "patch_embed.proj.bias": new(32),
    }
    linears = {"qkv": (96, 32), "proj": (32, 32), "fc1": (128, 32), "fc2": (32, 128), "temporal_fc": (32, 32)}
    modules = ["norm1", "temporal_norm1", "norm2", "attn.qkv", "attn.proj", "temporal_attn.qkv", "temporal_attn.proj"]
    for i in range(num_blocks):
        for module in [*modules, "temporal_fc", "mlp.fc1", "mlp.fc2"]:
            shape = linears.get(module.rpartition(".")[2], (32,))
            weights[f"blocks.{i}.{module}.weight"] = new(*shape)
            weights[f"blocks.{i}.{module}.bias"] = new(shape[0])
    for module, size in (("norm", (32,)), ("head", (11, 32))):
        weights[f"{module}.weight"] = new(*size)
        weights[f"{module}.bias"] = new(size[0])
    return weights


def vit_weights() -> dict[str, Tensor]:
    return {
        key: value
        for key, value in timesformer_weights().items()
        if not key.startswith("time_") and "temporal" not in key
    }


def saved(path: Path, content: Any) -> Path:
    """The file of a state dict, in the container that its suffix asks for."""
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    return path


def state(model: MSTAT) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert torch.equal(value, theirs[key]), key


@pytest.fixture
def official(tmp_path: Path) -> Path:
    content = {f"model.{key}": value for key, value in timesformer_weights().items()}
    return saved(tmp_path / "official.pyth", {"epoch": 3, "model_state": content, "cfg": "TRAIN: true"})


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("with_head", [True, False])
def test_hugging_face_and_official_files_give_the_same_model(tmp_path: Path, suffix: str, with_head: bool) -> None:
    """A file of transformers and the same weights under the official names load bitwise the same MSTAT."""
    timesformer = pytest.importorskip("transformers.models.timesformer.modeling_timesformer")
    settings = timesformer.TimesformerConfig(
        image_size=32,
        patch_size=8,
        hidden_size=32,
        num_hidden_layers=NUM_BLOCKS,
        num_attention_heads=4,
        intermediate_size=128,
        num_frames=8,
    )
    torch.manual_seed(3)
    kind = timesformer.TimesformerForVideoClassification if with_head else timesformer.TimesformerModel
    foreign = kind(settings)
    for parameter in foreign.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    if suffix == ".safetensors":
        foreign.save_pretrained(tmp_path)
        path = tmp_path / "model.safetensors"
    else:
        path = saved(tmp_path / "pytorch_model.bin", foreign.state_dict())
    renamed = {f"model.{hugging_face_name(key)}": value for key, value in foreign.state_dict().items()}
    pyth = saved(tmp_path / "official.pyth", {"model_state": renamed})

    first, second = build(), build()
    rows = load_pretrained(first, path)
    load_pretrained(second, pyth)
    assert_equal(state(first), state(second))
    assert {row.key for row in rows} - {"-"} == set(foreign.state_dict())


def test_official_weights_land_where_the_method_says(official: Path) -> None:
    """Blocks fill Stage I, then Stage II; Stage III copies Stage II's; the final norm goes to every stage."""
    weights, model = timesformer_weights(), build()
    before = state(model)
    rows = load_pretrained(model, official)
    after = state(model)
    for block, index in (
        ("stage1.blocks.1", 1),
        ("stage2.blocks.0", 2),
        ("stage2.blocks.1", 3),
        ("stage3.blocks.0", 2),
    ):
        for ours, theirs in (
            ("spatial_norm.weight", "norm1.weight"),
            ("spatial.qkv.bias", "attn.qkv.bias"),
            ("temporal.norm.bias", "temporal_norm1.bias"),
            ("temporal.attention.proj.weight", "temporal_attn.proj.weight"),
            ("temporal.fc.weight", "temporal_fc.weight"),
            ("mlp_norm.weight", "norm2.weight"),
            ("mlp.fc2.weight", "mlp.fc2.weight"),
        ):
            assert torch.equal(after[f"{block}.{ours}"], weights[f"blocks.{index}.{theirs}"]), (block, ours)
    for stage in ("stage1", "stage2", "stage3"):
        assert torch.equal(after[f"{stage}.norm.weight"], weights["norm.weight"])
    assert torch.equal(after["stem.class_token"], weights["cls_token"][0, 0] + weights["pos_embed"][0, 0])
    assert torch.equal(after["stem.pixel_mean"], torch.full((3,), 0.45))
    assert torch.equal(after["stem.pixel_std"], torch.full((3,), 0.225))

    untouched = {key for key in after if torch.equal(after[key], before[key])}
    own = ("alpha", "beta", "aap.", "iap.", "condense.", "expand.", "stage3.class_token")
    assert untouched == {key for key in after if any(part in key for part in own)}

    dropped = {row.key.removeprefix("model.") for row in rows if row.ours == "dropped"}
    unused = {key for key in weights if key.startswith(("blocks.4.", "time_embed", "head."))}
    assert dropped == {"epoch", "cfg"} | unused
    assert {row.key for row in rows} == {"epoch", "cfg", "-"} | {f"model.{key}" for key in weights}


def test_position_is_resized_in_two_dimensions() -> None:
    """A 4 x 4 plane that varies along rows only becomes a 4 x 2 plane that varies along rows only, as before."""
    ramp = torch.arange(4.0)[:, None, None].expand(4, 4, 6).reshape(16, 6)
    resized = resize_position(ramp, (4, 2)).view(4, 2, 6)
    torch.testing.assert_close(resized, torch.arange(4.0)[:, None, None].expand(4, 2, 6))
    assert resize_position(ramp, (4, 4)) is ramp


def test_position_of_our_own_grid_is_taken_as_it_is(tmp_path: Path) -> None:
    """A checkpoint already on the 4 x 2 grid is not interpolated."""
    weights, model = timesformer_weights(grid=(4, 2)), build()
    load_pretrained(model, saved(tmp_path / "x.pth", weights))
    assert torch.equal(model.stem.position, weights["pos_embed"][0, 1:])


def bicubic(plane: np.ndarray, size: int) -> np.ndarray:
    """Rows of a plane resized by Keys' cubic convolution (a = -0.75) at pixel centres; beyond the border, the border.

    Written out after Keys, IEEE TASSP 29 (1981), as a reference of its own.
    """
    a, (num_rows, *_) = -0.75, plane.shape

    def weight(x: float) -> float:
        x = abs(x)
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
        return near if x <= 1 else far if x < 2 else 0.0

    out = np.zeros((size, *plane.shape[1:]))
    for row in range(size):
        centre = (row + 0.5) * num_rows / size - 0.5
        for source in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            out[row] += weight(centre - source) * plane[np.clip(source, 0, num_rows - 1)]
    return out


@pytest.mark.parametrize(("side", "grid"), [(14, (14, 7)), (14, (16, 8)), (4, (7, 3))])
def test_position_is_bicubic(side: int, grid: tuple[int, int]) -> None:
    """Random places equal a cubic convolution over the rows and then over the columns, computed by hand."""
    rng = np.random.default_rng(1)
    plane = rng.standard_normal((side, side, 5)).astype(np.float32)
    expected = bicubic(bicubic(plane, grid[0]).swapaxes(0, 1), grid[1]).swapaxes(0, 1)
    resized = resize_position(torch.from_numpy(plane).flatten(0, 1), grid)
    np.testing.assert_allclose(resized.numpy(), expected.reshape(-1, 5), atol=2e-6)


def test_a_distilled_vit_gives_all_but_its_distillation(tmp_path: Path) -> None:
    """DeiT's second token, that token's position and its head are dropped, each with a reason; the rest is a ViT's,
    but for the pixels' normalisation."""
    weights, plain, distilled = vit_weights(), build(), build(seed=1)
    load_pretrained(plain, saved(tmp_path / "vit.pth", weights))
    place = torch.ones(1, 1, 32)
    more = {"dist_token": place, "head_dist.weight": torch.ones(11, 32), "head_dist.bias": torch.ones(11)}
    position = torch.cat([weights["pos_embed"][:, :1], place, weights["pos_embed"][:, 1:]], dim=1)
    rows = load_pretrained(distilled, saved(tmp_path / "deit.pth", {**weights, "pos_embed": position, **more}))
    for key, value in distilled.stem.state_dict().items():
        assert torch.equal(value, plain.stem.state_dict()[key]) != key.startswith("pixel_"), key
    assert distilled.stem.pixel_mean.tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert {row.key: row.action for row in rows if row.key in more} == {
        "dist_token": "MSTAT has no distillation token",
        "head_dist.weight": "a classifier of other classes",
        "head_dist.bias": "a classifier of other classes",
    }


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("fc_norm.weight", "it averages the tokens before its last norm"),
        ("norm_pre.weight", "a norm before its first block"),
        ("reg_token", "register tokens"),
        ("blocks.0.ls1.gamma", "LayerScale"),
        ("blocks.3.attn.q_norm.weight", "normalises queries and keys"),
        ("attn_pool.latent", "attention pooling"),
        ("decoder_embed.weight", "save the encoder alone"),
    ],
)
def test_relatives_of_the_vit_are_refused_by_what_they_have(tmp_path: Path, key: str, message: str) -> None:
    """timm's variants that would compute something else: one sentence that names the key, and nothing loaded."""
    weights, model = vit_weights(), build()
    before = state(model)
    path = saved(tmp_path / "vit.safetensors", {**weights, key: torch.ones(32)})
    with pytest.raises(ValueError, match=message) as caught:
        load_pretrained(model, path)
    assert f"({key})" in str(caught.value)
    assert_equal(state(model), before)


@pytest.mark.parametrize("kind", ["timesformer", "vit", "own"])
def test_every_key_and_every_tensor_has_its_row(tmp_path: Path, kind: str) -> None:
    """The rows hold all keys of the file with their shapes, and all tensors of the model: filled, or said to be kept.

    On the meta device, where nothing is filled, they are the same.
    """
    model = build()
    before = state(model)
    content = {"timesformer": timesformer_weights(), "vit": vit_weights(), "own": build(seed=1).state_dict()}[kind]
    path = saved(tmp_path / "x.safetensors", content)
    rows = load_pretrained(model, path)
    assert {row.key: row.shape for row in rows if row.key != NO_KEY} == {k: tuple(v.shape) for k, v in content.items()}
    assert {row.ours for row in rows} - {NOWHERE} == set(before)
    kept = {row.ours for row in rows if row.action == KEPT}
    assert all(torch.equal(value, before[key]) for key, value in state(model).items() if key in kept)
    assert not kept & {row.ours for row in rows if row.action != KEPT}
    with torch.device("meta"):
        hollow = MSTAT(model.config)
    assert load_pretrained(hollow, path) == rows


def test_vit_starts_without_a_voice_over_time(tmp_path: Path) -> None:
    """From a ViT, temporal attention is a copy of the spatial one and silent: by temporal_fc = 0 in an STA, and in an
    A-STA by alpha = 0 alone, so that it can learn. The features are those of its frames without temporal branches."""
    weights, model = vit_weights(), build()
    torch.nn.init.zeros_(model.get_parameter("stage3.blocks.0.alpha"))
    rows = load_pretrained(model, saved(tmp_path / "vit.safetensors", weights))
    after = state(model)
    for block in ("stage1.blocks.0", "stage2.blocks.1", "stage3.blocks.0"):
        assert torch.equal(after[f"{block}.temporal.attention.qkv.weight"], after[f"{block}.spatial.qkv.weight"])
        assert torch.equal(after[f"{block}.temporal.norm.bias"], after[f"{block}.spatial_norm.bias"])
    assert not after["stage1.blocks.0.temporal.fc.weight"].any()
    assert not after["stage2.blocks.0.temporal.fc.bias"].any()
    assert after["stage3.blocks.0.temporal.fc.weight"].any()
    assert torch.equal(after["stem.pixel_mean"], torch.full((3,), 0.5))
    assert {row.key for row in rows} - {"-"} == set(weights)

    without_time = torch.tensor([0.0, 1.0, 1.0]).repeat(2, 5)
    for heard, unheard in zip(model(clips()), model(clips(), None, without_time), strict=True):
        torch.testing.assert_close(heard, unheard)


def test_own_weights_come_back(tmp_path: Path) -> None:
    """A saved state dict of ours, normalisation included, loads bitwise; one of another config is refused."""
    model, other = build(), build(seed=1)
    model.stem.pixel_mean.fill_(0.45)
    path = saved(tmp_path / "model.safetensors", model.state_dict())
    rows = load_pretrained(other, path)
    assert_equal(state(other), state(model))
    assert {(row.key, row.ours) for row in rows} == {(key, key) for key in model.state_dict()}
    with pytest.raises(ValueError, match=r"missing keys: stage1\.blocks\.2"):
        load_pretrained(build(depths=(3, 2, 1)), path)
    with pytest.raises(ValueError, match=r"stage1\.aap\.proxies \(5, 32\)"):
        load_pretrained(build(num_attributes=6), path)


@pytest.mark.parametrize("bnneck", [False, True])
def test_necks_of_another_run_stay_behind(tmp_path: Path, bnneck: bool) -> None:
    """A start from a model with BNNecks fills all but these, whether the new model has its own or none."""
    model, other = build(bnneck=True), build(seed=1, bnneck=bnneck)
    torch.nn.init.normal_(model.get_buffer("necks.II.running_mean"))
    rows = load_pretrained(other, saved(tmp_path / "model.safetensors", model.state_dict()))
    for name, value in other.state_dict().items():
        if name.startswith("necks."):
            assert torch.equal(value, build(bnneck=True).state_dict()[name])
        else:
            assert torch.equal(value, model.state_dict()[name])
    dropped = {row.key for row in rows if row.action == "a BNNeck belongs to its run's classifiers"}
    assert dropped == {name for name in model.state_dict() if name.startswith("necks.")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.update({"blocks.0.gamma": torch.ones(1)}), r"unknown keys: blocks\.0\.gamma; missing keys: none"),
        (lambda w: w.pop("blocks.3.mlp.fc1.bias"), r"missing keys: blocks\.3\.mlp\.fc1\.bias"),
        (lambda w: w.update({"norm.weight": torch.ones(31)}), r"norm\.weight \(31,\) for stage1\.norm\.weight \(32,\)"),
        (lambda w: w.update({"pos_embed": torch.ones(1, 8, 32)}), r"pos_embed \(7, 32\) for stem\.position \(8, 32\)"),
        (lambda w: w.update({"cls_token": torch.ones(32)}), r"cls_token and pos_embed are \(32,\)"),
        (lambda w: w.update({"cls_token": torch.ones(())}), r"cls_token and pos_embed are \(\)"),
        (lambda w: w.update({"pos_embed": torch.ones(1, 17, 31)}), r"cls_token and pos_embed are .* \(1, 17, 31\)"),
        (lambda w: w.update({"pos_embed": torch.ones(0, 17, 32)}), r"cls_token and pos_embed are .* \(0, 17, 32\)"),
        (lambda w: w.update({"patch_embed.proj.weight": torch.ones(())}), r"patch_embed\.proj\.weight \(\)"),
        (lambda w: w["norm.bias"].fill_(float("nan")), r"not finite: norm\.bias"),
        (lambda w: w.pop("patch_embed.proj.weight"), "not a TimeSformer, ViT or MSTAT"),
        (lambda w: w.update({"blocks.0.norm1.weight": "hello"}), r"blocks\.0\.norm1\.weight is a str, not a tensor"),
        (lambda w: [w.pop(k) for k in list(w) if k.startswith(("blocks.3", "blocks.4"))], r"has no blocks \[3\]"),
    ],
)
def test_what_does_not_fit_is_refused_whole(tmp_path: Path, change: Any, message: str) -> None:
    """Unknown, missing, misshapen or strange entries are named with their file, and nothing at all is loaded."""
    weights, model = timesformer_weights(), build()
    change(weights)
    before = state(model)
    path = saved(tmp_path / "broken.pth", weights)
    with pytest.raises(ValueError, match=message) as caught:
        load_pretrained(model, path)
    assert str(path) in str(caught.value)
    assert_equal(state(model), before)


def test_unknown_hugging_face_key_is_refused(tmp_path: Path) -> None:
    """A layout that looks like Hugging Face's but has another key in it is not guessed at."""
    content = {
        "timesformer.embeddings.patch_embeddings.projection.weight": torch.ones(1),
        "timesformer.pooler": torch.ones(1),
    }
    with pytest.raises(ValueError, match=r"timesformer\.pooler"):
        load_pretrained(build(), saved(tmp_path / "x.safetensors", content))
