"""The classifier of actions: a TimeSformer number for number, which hears the order of frames; and its file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mstat.config import ModelConfig
from mstat.model import draw_noise, num_residuals
from mstat.pretraining.timesformer import Classifier, stack_config
from mstat.weights.checkpoint_keys import hugging_face_name, to_timesformer
from mstat.weights.pretrained import NOWHERE, load_pretrained
from tests.mstat.model.small import SMALL, build, clips

T, CLASSES = 3, 5
SQUARE = dataclasses.replace(SMALL, image_size=(32, 32))


def classifier(config: ModelConfig = SMALL, time: Literal["divided", "none"] = "divided") -> Classifier:
    """A small classifier with no weight at a value that could hide another's: all are drawn but alpha and beta."""
    torch.manual_seed(4)
    model = Classifier(config, CLASSES, T, time)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, mean=float("norm" in name and name.endswith("weight")), std=0.2)
    return model


def test_it_is_a_timesformer(tmp_path: Path) -> None:
    """Logits equal those of transformers' TimesformerForVideoClassification, to 1e-5, on a square grid, with the
    weights of our file; so `time_embed` is added to the patches of each frame and not to the class token."""
    timesformer = pytest.importorskip("transformers.models.timesformer.modeling_timesformer")
    model = classifier(SQUARE)
    official = to_timesformer(model.state_dict(), SQUARE.patch_size)
    theirs = timesformer.TimesformerForVideoClassification(
        timesformer.TimesformerConfig(
            image_size=32,
            patch_size=8,
            num_frames=T,
            hidden_size=32,
            num_hidden_layers=5,
            num_attention_heads=4,
            intermediate_size=128,
            num_labels=CLASSES,
            attn_implementation="eager",
        )
    ).eval()
    renamed = {key: official[str(hugging_face_name(key))] for key in theirs.state_dict()}
    assert len(renamed) == len(official)
    theirs.load_state_dict(renamed)

    frames = clips(2, T, (32, 32))
    pixels = (frames.permute(0, 1, 4, 2, 3) / 255 - 0.45) / 0.225
    (logits,) = model(frames)
    torch.testing.assert_close(logits, theirs(pixels).logits, rtol=1e-5, atol=1e-5)


def test_time_tells_an_order_from_its_reverse() -> None:
    """Frames in reverse change the scores; of the control, which has no time, they do not, whatever the order."""
    frames = clips(2, T)
    order = torch.tensor([2, 0, 1])
    for changed in (frames.flip(1), frames[:, order]):
        (with_time,), (changed_with_time,) = (classifier()(of) for of in (frames, changed))
        assert (with_time - changed_with_time).abs().amax() > 1e-2
        (without,), (changed_without,) = (classifier(time="none")(of) for of in (frames, changed))
        torch.testing.assert_close(without, changed_without, rtol=1e-5, atol=1e-5)


def test_temporal_attention_alone_hears_no_order() -> None:
    """Without `time_embed`, the paper's model, the order of frames is lost: it takes both."""
    model = classifier()
    nn.init.zeros_(model.get_parameter("time_position"))
    frames = clips(2, T)
    torch.testing.assert_close(model(frames)[0], model(frames.flip(1))[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("time", ["divided", "none"])
@pytest.mark.parametrize("grid", ["same", "square"])
def test_an_mstat_starts_from_the_file(time: Literal["divided", "none"], grid: str, tmp_path: Path) -> None:
    """Every weight that an MSTAT of the same `model` section has a place for arrives bit for bit, with the pixel
    normalisation it was trained with; `time_embed`, the head and blocks that are left over are reported as dropped."""
    pretrained = classifier(SMALL if grid == "same" else SQUARE, time)
    path = tmp_path / "model.safetensors"
    save_file(to_timesformer(pretrained.state_dict(), 8), path)
    model = build()
    rows = load_pretrained(model, path)

    dropped = {row.key for row in rows if row.ours == NOWHERE}
    assert {"head.weight", "head.bias"} <= dropped
    assert ("time_embed" in dropped) == (time == "divided")
    assert {key.partition(".norm")[0] for key in dropped if key.endswith(".norm1.weight")} == {"blocks.4"}

    ours, theirs = model.state_dict(), pretrained.state_dict()
    for i, block in enumerate(("stage1.blocks.0", "stage1.blocks.1", "stage2.blocks.0", "stage2.blocks.1")):
        for key in ("spatial.qkv.weight", "spatial.proj.bias", "spatial_norm.weight", "mlp.fc2.weight", "alpha"):
            assert torch.equal(ours[f"{block}.{key}"], theirs[f"stage1.blocks.{i}.{key}"]), (block, key)
        for key in ("temporal.attention.qkv.bias", "temporal.fc.weight", "temporal.norm.bias") * (time == "divided"):
            assert torch.equal(ours[f"{block}.{key}"], theirs[f"stage1.blocks.{i}.{key}"]), (block, key)
    for key in ("patch.weight", "patch.bias", "class_token", "pixel_mean", "pixel_std"):
        assert torch.equal(ours[f"stem.{key}"], theirs[f"stem.{key}"]), key
    if grid == "same":
        assert torch.equal(ours["stem.position"], theirs["stem.position"])
    for stage in ("stage1", "stage2", "stage3"):
        assert torch.equal(ours[f"{stage}.norm.weight"], theirs["stage1.norm.weight"])


def test_any_model_of_the_section_finds_its_blocks(tmp_path: Path) -> None:
    """Also one with STA blocks in the place of its IAPs, which takes one block more; the paper's size makes 12."""
    assert stack_config(ModelConfig()).depths == (12, 0, 0)
    path = tmp_path / "model.safetensors"
    save_file(to_timesformer(classifier().state_dict(), 8), path)
    rows = load_pretrained(build(iap="none"), path)
    assert not [row for row in rows if row.ours == NOWHERE and row.key.startswith("blocks.")]


def test_a_classifier_starts_from_a_classifier(tmp_path: Path) -> None:
    """Pretraining goes on from a TimeSformer, ours or another: everything but the head and `time_embed` is taken."""
    first, second = classifier(), classifier()
    for parameter in second.parameters():
        nn.init.zeros_(parameter)
    path = tmp_path / "model.safetensors"
    save_file(to_timesformer(first.state_dict(), 8), path)
    load_pretrained(second, path)
    different = {
        key
        for key, value in second.state_dict().items()
        if not torch.equal(value, first.state_dict()[key]) and not key.endswith((".alpha", ".beta"))
    }
    assert different == {"head.weight", "head.bias", "time_position"}


def test_another_pixel_normalisation_is_folded_in(tmp_path: Path) -> None:
    """A stack that has begun as a DeiT sees pixels by ImageNet's colours; its file, read with TimeSformer's, sees the
    same."""
    first, second = classifier(), classifier()
    first.stem.pixel_mean.copy_(torch.tensor([0.485, 0.456, 0.406]))
    first.stem.pixel_std.copy_(torch.tensor([0.229, 0.224, 0.225]))
    path = tmp_path / "model.safetensors"
    save_file(to_timesformer(first.state_dict(), 8), path)
    load_pretrained(second, path)
    frames = clips(2, T)
    torch.testing.assert_close(second(frames)[0], first(frames)[0], rtol=1e-4, atol=1e-4)


def test_drop_path_is_that_of_the_stack() -> None:
    """Noise drawn for `model.config` fits: a residual for each branch of each block, none of it shuffling frames."""
    import numpy as np

    model = classifier(dataclasses.replace(SMALL, tps_probability=1.0, drop_path=0.5))
    tps, keep = draw_noise(np.random.default_rng(0), model.config, T)
    assert len(keep) == num_residuals(model.config) == 3 * len(model.stage1.blocks)
    assert (tps == np.arange(T)[:, None]).all()
    frames = clips(1, T)
    ones = torch.ones(1, len(keep))
    assert torch.equal(model(frames, None, ones)[0], model(frames)[0])
    ones[0, 3] = 0  # temporal branch of the second block
    assert not torch.equal(model(frames, None, ones)[0], model(frames)[0])


@pytest.mark.parametrize("image_size", [(224, 224), (224, 112)])
def test_the_cost_is_what_the_docs_say(image_size: tuple[int, int]) -> None:
    """docs/pretraining.md: forward FLOPs of a clip at the paper's size by its formula, within 1 %."""
    config = dataclasses.replace(ModelConfig(), image_size=image_size)
    counter = FlopCounterMode(display=False)
    with torch.device("meta"):
        model = Classifier(config, 400, 8)
        with counter:
            model(torch.empty(1, 8, *image_size, 3, dtype=torch.uint8))
    width, patches, blocks = 768, image_size[0] * image_size[1] // 256, 12
    formula = 8 * patches * (blocks * (34 * width**2 + 4 * width * (patches + 1 + 8)) + 2 * width**2)
    assert counter.get_total_flops() == pytest.approx(formula, rel=0.01)
    assert round(formula / 1e9) == {(224, 224): 391, (224, 112): 193}[image_size]
