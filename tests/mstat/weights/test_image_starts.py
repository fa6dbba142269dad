"""Starts from CLIP and DINOv2: number for number the reference ViT, under each layout of keys, or a refusal."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from mstat.config import Config, ModelConfig, PretrainConfig
from mstat.config.cli import override
from mstat.errors import UserError
from mstat.model import MSTAT
from mstat.model.mstat import run_blocks
from mstat.pretraining.timesformer import Classifier
from mstat.weights.export import export, export_classifier, load_model
from mstat.weights.pretrained import NOWHERE, Row, load_pretrained
from tests.mstat.model.small import SMALL, clips
from tests.mstat.weights.test_pretrained import assert_equal, saved, state, vit_weights

D, BLOCKS = 32, 2
# An MSTAT that is a ViT: Stage I alone, whose feature is the normalised class token.
VIT = dataclasses.replace(SMALL, stages=("I",), depths=(BLOCKS, 0, 0), stage1_aap=False)
FOR_CLIP = dataclasses.replace(VIT, stem_norm=True, activation="quick_gelu", norm_eps=1e-5)
FOR_DINO = dataclasses.replace(VIT, layer_scale=1.0, patch_size=14, image_size=(56, 28))


def randomised(module: nn.Module) -> nn.Module:
    """Random values everywhere, so that no tensor can be swapped or left out unseen."""
    generator = torch.Generator().manual_seed(5)
    for name, parameter in module.named_parameters():
        is_norm = parameter.dim() == 1 and name.endswith("weight")
        nn.init.normal_(parameter, mean=float(is_norm), std=0.1, generator=generator)
    return module.eval()


def clip_of_transformers() -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    settings = CLIPVisionConfig(
        hidden_size=D,
        intermediate_size=4 * D,
        num_hidden_layers=BLOCKS,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
    )
    return randomised(CLIPVisionModel(settings))


def dinov2_of_transformers() -> Any:
    from transformers import Dinov2Config, Dinov2Model

    settings = Dinov2Config(
        hidden_size=D, num_hidden_layers=BLOCKS, num_attention_heads=4, image_size=518, patch_size=14
    )
    return randomised(Dinov2Model(settings))


class OpenAIBlock(nn.Module):
    """A block of OpenAI's CLIP, by its names."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(D), nn.LayerNorm(D)
        self.attn = nn.MultiheadAttention(D, 4, batch_first=True)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(D, 4 * D), "c_proj": nn.Linear(4 * D, D)})

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        y = self.mlp["c_fc"](self.ln_2(x))
        return x + self.mlp["c_proj"](y / (1 + torch.exp(-1.702 * y)))


class OpenAIVisual(nn.Module):
    """`visual` of OpenAI's CLIP, by its names, up to its last norm."""

    def __init__(self) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.empty(D))
        self.positional_embedding = nn.Parameter(torch.empty(1 + 4 * 2, D))
        self.proj = nn.Parameter(torch.empty(D, 16))
        self.conv1 = nn.Conv2d(3, D, 8, stride=8, bias=False)
        self.ln_pre, self.ln_post = nn.LayerNorm(D), nn.LayerNorm(D)
        self.transformer = nn.ModuleDict({"resblocks": nn.Sequential(*(OpenAIBlock() for _ in range(BLOCKS)))})

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.conv1(pixels).flatten(2).mT
        x = torch.cat([self.class_embedding.expand(len(patches), 1, -1), patches], dim=1) + self.positional_embedding
        return self.ln_post(self.transformer["resblocks"](self.ln_pre(x)))


def started(config: ModelConfig, path: Path) -> tuple[MSTAT, list[Row]]:
    torch.manual_seed(0)
    model = MSTAT(config)
    return model, load_pretrained(model, path)


def pixels_of(model: MSTAT, frames: Tensor) -> Tensor:
    """Frames as the reference wants them: (frames, 3, H, W), normalised with what came with the weights."""
    return ((frames[:, 0] / 255 - model.stem.pixel_mean) / model.stem.pixel_std).permute(0, 3, 1, 2)


@torch.no_grad()
def assert_is_the_vit(model: MSTAT, frames: Tensor, theirs: Tensor, norm_all: bool) -> None:
    """The tokens behind the blocks, class token first, and the feature, are the reference's to 1e-5."""
    tokens, cls = model.stem(frames)
    tokens, cls = run_blocks(model.stage1.blocks, tokens, cls, None)
    ours = torch.cat([cls[:, None], tokens.flatten(1, 2)], dim=1)
    torch.testing.assert_close(model.stage1.norm(ours) if norm_all else ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("as_folder", [True, False])
def test_clip_of_hugging_face(tmp_path: Path, as_folder: bool) -> None:
    """CLIPVisionModel on frames of another grid, and its pooled output; OpenAI's normalisation; every key has a row."""
    foreign = clip_of_transformers()
    if as_folder:
        foreign.save_pretrained(tmp_path)
        path = tmp_path
    else:
        weights = {f"vision_model.{key}": value for key, value in foreign.state_dict().items()}
        text = {"text_model.final_layer_norm.weight": torch.ones(8), "visual_projection.weight": torch.ones(16, D)}
        numbers = {"vision_model.embeddings.position_ids": torch.arange(17)[None]}
        path = saved(tmp_path / "pytorch_model.bin", {**weights, **text, **numbers})
    model, rows = started(FOR_CLIP, path)
    assert model.stem.pixel_mean.tolist() == pytest.approx([0.4815, 0.4578, 0.4082], abs=1e-4)
    assert model.stem.pixel_std.tolist() == pytest.approx([0.2686, 0.2613, 0.2758], abs=1e-4)
    assert not model.stem.patch.bias.any()
    frames = clips(3, 1)
    with torch.no_grad():
        theirs = foreign(pixels_of(model, frames), interpolate_pos_encoding=True)
        assert_is_the_vit(model, frames, theirs.last_hidden_state, norm_all=False)
        torch.testing.assert_close(model(frames)[0], theirs.pooler_output, rtol=1e-5, atol=1e-5)
    if not as_folder:
        assert {row.key for row in rows} == {*weights, *text, *numbers, "-"}
        of_qkv = {row.key: row for row in rows if row.ours == "stage1.blocks.1.spatial.qkv.bias"}
        assert set(of_qkv) == {f"vision_model.encoder.layers.1.self_attn.{part}_proj.bias" for part in "qkv"}
        assert all(row.shape == (D,) and row.action.endswith("joined") for row in of_qkv.values())
        reasons = {row.key: row.action for row in rows if row.ours == NOWHERE}
        assert reasons == {
            "text_model.final_layer_norm.weight": "not part of the model",
            "visual_projection.weight": "CLIP's projection to the space of its texts",
            "vision_model.embeddings.position_ids": "a buffer of torch.int64, not a weight",
        }


@pytest.mark.parametrize("as_folder", [True, False])
def test_dinov2_of_hugging_face(tmp_path: Path, as_folder: bool) -> None:
    """Dinov2Model, its 37 x 37 positions resized to 4 x 2; ImageNet's normalisation; no mask token."""
    foreign = dinov2_of_transformers()
    if as_folder:
        foreign.save_pretrained(tmp_path)
        path = tmp_path
    else:
        path = saved(tmp_path / "dinov2.pth", foreign.state_dict())
    model, rows = started(FOR_DINO, path)
    assert model.stem.pixel_mean.tolist() == pytest.approx([0.485, 0.456, 0.406])
    frames = clips(3, 1, (56, 28))
    with torch.no_grad():
        theirs = foreign(pixels_of(model, frames)).last_hidden_state
        assert_is_the_vit(model, frames, theirs, norm_all=True)
        torch.testing.assert_close(model(frames)[0], theirs[:, 0], rtol=1e-5, atol=1e-5)
    dropped = {row.key: row.action for row in rows if row.ours == NOWHERE}
    assert dropped == {"embeddings.mask_token": "it replaces masked patches, which only pretraining has"}


def test_temporal_attention_is_silent_on_any_clip(tmp_path: Path) -> None:
    """Frames of a longer clip are transformed as in their model without temporal branches, LayerScale or not."""
    path = saved(tmp_path / "dinov2.pth", dinov2_of_transformers().state_dict())
    config = dataclasses.replace(FOR_DINO, stages=("I", "II", "III"), depths=(1, 1, 1), stage1_aap=True)
    model, _ = started(config, path)
    frames = clips(2, 3, (56, 28))
    with torch.no_grad():
        without_time = model(frames, None, torch.tensor([0.0, 1.0, 1.0]).repeat(2, 3))
        for heard, unheard in zip(model(frames), without_time, strict=True):
            torch.testing.assert_close(heard, unheard)
    for name in ("stage2.blocks.0.spatial_scale.gamma", "stage3.blocks.0.mlp_scale.gamma"):
        assert name in state(model)


@pytest.mark.parametrize("prefix", ["visual.", ""])
def test_clip_of_openai(tmp_path: Path, prefix: str) -> None:
    """OpenAI's keys, also in half precision and beside a text model: its `visual` number for number."""
    foreign = randomised(OpenAIVisual()).half().float()
    weights = {prefix + key: value.half() for key, value in foreign.state_dict().items()}
    text = {"transformer.resblocks.0.ln_1.weight": torch.ones(8), "logit_scale": torch.ones(())} if prefix else {}
    model, rows = started(FOR_CLIP, saved(tmp_path / "clip.pt", {**weights, **text}))
    frames = clips(3, 1)
    assert_is_the_vit(model, frames, foreign(pixels_of(model, frames)).detach(), norm_all=True)
    assert {row.key for row in rows} - {"-"} == {*weights, *text}
    reasons = {row.key: row.action for row in rows if row.ours == NOWHERE}
    assert reasons == {prefix + "proj": "CLIP's projection to the space of its texts"} | dict.fromkeys(
        text, "not part of the model"
    )


# timm's keys, as its converters of OpenAI's CLIP and of DINOv2 make them.
OPENAI_TO_TIMM = {
    r"^class_embedding$": "cls_token",
    r"^positional_embedding$": "pos_embed",
    r"^conv1": "patch_embed.proj",
    r"^ln_pre": "norm_pre",
    r"^ln_post": "norm",
    r"^transformer\.resblocks": "blocks",
    r"\.ln_": ".norm",
    r"in_proj_": "qkv.",
    r"out_proj": "proj",
    r"c_fc": "fc1",
    r"c_proj": "fc2",
}
DINOV2_TO_TIMM = {
    r"^embeddings\.position_embeddings": "pos_embed",
    r"^embeddings\.patch_embeddings\.projection": "patch_embed.proj",
    r"^embeddings\.": "",
    r"^encoder\.layer": "blocks",
    r"attention\.o_proj": "attn.proj",
    r"layer_scale(\d)\.lambda1": r"ls\1.gamma",
    r"^layernorm": "norm",
}


def under_timms_names(weights: dict[str, Tensor], table: dict[str, str]) -> dict[str, Tensor]:
    renamed = {}
    for key, value in weights.items():
        for pattern, theirs in table.items():
            key = re.sub(pattern, theirs, key)
        renamed[key] = value
    for name in [name for name in renamed if ".q_proj." in name]:
        parts = [renamed.pop(name.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
        renamed[name.replace("attention.q_proj", "attn.qkv")] = torch.cat(parts)
    return renamed


def test_timms_names_give_the_same_model(tmp_path: Path) -> None:
    """vit_base_patch16_clip_224 and vit_base_patch14_dinov2 at a small width: bitwise what the other layouts give."""
    clip, dino = randomised(OpenAIVisual()).state_dict(), dinov2_of_transformers().state_dict()
    of_timm = under_timms_names(clip, OPENAI_TO_TIMM)
    of_timm |= {"cls_token": of_timm["cls_token"][None, None], "pos_embed": of_timm["pos_embed"][None]}
    of_timm |= {"head.weight": of_timm.pop("proj").T.contiguous(), "head.bias": torch.zeros(16)}
    assert {"norm_pre.weight", "blocks.1.attn.qkv.bias", "blocks.0.mlp.fc2.weight", "norm.bias"} < set(of_timm)
    first, _ = started(FOR_CLIP, saved(tmp_path / "openai.pt", clip))
    second, _ = started(FOR_CLIP, saved(tmp_path / "timm.safetensors", of_timm))
    assert_equal(state(first), state(second))

    of_timm = under_timms_names(dino, DINOV2_TO_TIMM)
    assert {"mask_token", "blocks.1.ls1.gamma", "blocks.0.attn.qkv.weight", "blocks.1.mlp.fc1.bias"} < set(of_timm)
    first, _ = started(FOR_DINO, saved(tmp_path / "dinov2.pth", dino))
    second, _ = started(FOR_DINO, saved(tmp_path / "dinov2_timm.pth", of_timm))
    assert_equal(state(first), state(second))


@pytest.mark.parametrize("kind", ["clip", "dinov2"])
def test_the_settings_to_use_are_named(tmp_path: Path, kind: str) -> None:
    """With other settings nothing is loaded, and one line has the flags with which it works."""
    foreign, fitting = (clip_of_transformers(), FOR_CLIP) if kind == "clip" else (dinov2_of_transformers(), FOR_DINO)
    foreign.save_pretrained(tmp_path)
    plain = dataclasses.replace(VIT, image_size=fitting.image_size, patch_size=7 if kind == "dinov2" else 8)
    model = MSTAT(plain)
    before = state(model)
    with pytest.raises(UserError, match="these weights need other settings: --model") as caught:
        load_pretrained(model, tmp_path)
    assert_equal(state(model), before)
    message = str(caught.value)
    assert "\n" not in message
    words = message.partition("settings: ")[2].partition(";")[0].split()
    flags = {flag.removeprefix("--"): value for flag, value in zip(words[::2], words[1::2], strict=True)}
    config = override(Config(model=plain), flags).model
    assert config == fitting
    load_pretrained(MSTAT(config), tmp_path)


@pytest.mark.parametrize(
    ("change", "flags"),
    [
        ({"stem_norm": True}, "--model.stem_norm false"),
        ({"layer_scale": 0.1}, "--model.layer_scale null"),
        ({"activation": "quick_gelu"}, "--model.activation gelu"),
        ({"norm_eps": 1e-5}, "--model.norm_eps 1.0e-06"),
    ],
)
def test_a_plain_vit_needs_the_defaults(tmp_path: Path, change: dict[str, Any], flags: str) -> None:
    """The other way round, too."""
    path = saved(tmp_path / "vit.pth", vit_weights())
    with pytest.raises(UserError, match=flags):
        load_pretrained(MSTAT(dataclasses.replace(SMALL, **change)), path)


@pytest.mark.parametrize(
    ("description", "activation"),
    [
        ({"hidden_act": "gelu"}, "gelu"),
        ({"vision_config": {"hidden_act": "gelu", "image_size": 32, "patch_size": 8}}, "gelu"),
        ({"vision_config": {}}, "quick_gelu"),
        ({"architecture": "vit_base_patch16_clip_224", "pretrained_cfg": {"input_size": [3, 32, 32]}}, "gelu"),
        (
            {
                "architecture": "vit_base_patch16_clip_224",
                "pretrained_cfg": {"input_size": [3, 32, 32], "tag": "openai", "mean": [0.5] * 3, "std": [0.25] * 3},
            },
            "quick_gelu",
        ),
        ({"architecture": "vit_base_patch16_clip_quickgelu_224", "pretrained_cfg": {"input_size": [3, 32, 32]}},
         "quick_gelu"),
    ],
)  # fmt: skip
def test_a_description_states_the_activation(tmp_path: Path, description: dict[str, Any], activation: str) -> None:
    """LAION's CLIPs have OpenAI's keys, but GELU: the config.json of Hugging Face or timm beside them counts."""
    saved(tmp_path / "model.safetensors", clip_of_transformers().state_dict())
    (tmp_path / "config.json").write_text(json.dumps(description))
    with_gelu = dataclasses.replace(FOR_CLIP, activation="gelu")
    fitting, other = (with_gelu, FOR_CLIP) if activation == "gelu" else (FOR_CLIP, with_gelu)
    with pytest.raises(UserError, match=f"settings: --model.activation {activation}"):
        started(other, tmp_path)
    model, _ = started(fitting, tmp_path)
    stated = description.get("pretrained_cfg", {}).get("mean")
    assert model.stem.pixel_mean[0].item() == pytest.approx(stated[0] if stated else 0.48145466)


def test_what_mstat_cannot_compute_is_refused(tmp_path: Path) -> None:
    """An activation that MSTAT lacks, register tokens, and queries of another shape than keys."""
    weights = clip_of_transformers().state_dict()
    path = saved(tmp_path / "model.safetensors", weights)
    (tmp_path / "config.json").write_text('{"hidden_act": "gelu_new"}')
    with pytest.raises(UserError, match="trained with the activation gelu_new, which MSTAT lacks"):
        started(FOR_CLIP, path)
    weights["encoder.layers.1.self_attn.k_proj.weight"] = torch.ones(3, D)
    with pytest.raises(UserError, match=r"shapes differ: encoder\.layers\.1\.self_attn\.q_proj\.weight, "):
        started(FOR_CLIP, saved(tmp_path / "clip.pth", weights))
    del weights["encoder.layers.1.self_attn.k_proj.weight"]
    with pytest.raises(UserError, match=r"missing keys: blocks\.1\.attn\.qkv\.weight"):
        started(FOR_CLIP, saved(tmp_path / "clip.pth", weights))
    weights = dinov2_of_transformers().state_dict()
    weights["embeddings.register_tokens"] = torch.ones(1, 4, D)
    with pytest.raises(
        UserError, match=r"register tokens, which its patches attend to \(embeddings\.register_tokens\)"
    ):
        started(FOR_DINO, saved(tmp_path / "registers.pth", weights))


def test_the_settings_travel_with_a_trained_model(tmp_path: Path) -> None:
    """`mstat.load` rebuilds the model, and another start from it needs the same settings."""
    config = dataclasses.replace(FOR_CLIP, layer_scale=0.1)
    torch.manual_seed(2)
    model = MSTAT(config)
    export(tmp_path, {f"model.{name}": value for name, value in model.state_dict().items()}, config)
    loaded = load_model(tmp_path)
    assert loaded.config == config
    frames = clips(1, 2)
    with torch.no_grad():
        assert torch.equal(loaded(frames)[0], model(frames)[0])
    again, _ = started(config, tmp_path)
    assert_equal(state(again), state(model))
    with pytest.raises(UserError, match=r"settings: --model\.activation quick_gelu --model\.norm_eps 1\.0e-05$"):
        started(dataclasses.replace(config, activation="gelu", norm_eps=1e-6), tmp_path)


@pytest.mark.parametrize("time", ["divided", "none"])
def test_a_classifier_of_actions_passes_its_start_on(tmp_path: Path, time: Literal["divided", "none"]) -> None:
    """launch/pretrain.py from a LAION CLIP: its file has the norm and the factors, and states what has no key."""
    config = Config(
        model=dataclasses.replace(SMALL, stem_norm=True, layer_scale=0.5, norm_eps=1e-4), pretrain=PretrainConfig(time)
    )
    torch.manual_seed(2)
    classifier = randomised(Classifier(config.model, 2, num_frames=8, time=time))
    export_classifier(tmp_path, {f"model.{k}": v for k, v in classifier.state_dict().items()}, config, ["a", "b"])
    model, _ = started(config.model, tmp_path)
    theirs, ours = classifier.state_dict(), state(model)
    for name in ("stem.norm.weight", "stem.norm.bias", "stage1.blocks.1.spatial_scale.gamma", "stem.pixel_mean"):
        assert torch.equal(ours[name], theirs[name]), name
    assert torch.equal(ours["stage3.blocks.0.mlp_scale.gamma"], theirs["stage1.blocks.2.mlp_scale.gamma"])
    with pytest.raises(UserError, match=r"settings: --model\.activation gelu --model\.norm_eps 1\.0e-04$"):
        started(dataclasses.replace(config.model, activation="quick_gelu", norm_eps=1e-5), tmp_path)


def checkpoint_of(folder: Path, module: nn.Module, config: ModelConfig) -> Path:
    """The files of a checkpoint that a start reads."""
    folder.mkdir()
    torch.save({"task": {f"model.{name}": value for name, value in module.state_dict().items()}}, folder / "weights.pt")
    meta = {"step": 3, "world_size": 1, "bytes": {"weights.pt": (folder / "weights.pt").stat().st_size}}
    (folder / "checkpoint.json").write_text(json.dumps({**meta, "model": dataclasses.asdict(config)}))
    return folder


def test_a_checkpoint_states_them_too(tmp_path: Path) -> None:
    """Of a run, and of launch/pretrain.py, whose pixels are its own and not CLIP's."""
    config = dataclasses.replace(SMALL, stem_norm=True)  # GELU, unlike OpenAI's
    model = MSTAT(config)
    path = checkpoint_of(tmp_path / "step-000000003", model, config)
    again, _ = started(config, path)
    assert_equal(state(again), state(model))
    with pytest.raises(UserError, match=r"settings: --model\.activation gelu$"):
        started(dataclasses.replace(config, activation="quick_gelu"), path)
    classifier = Classifier(config, 2, num_frames=8, time="none")
    (tmp_path / "pretraining").mkdir()
    again, _ = started(config, checkpoint_of(tmp_path / "pretraining" / "step-000000003", classifier, config))
    assert torch.equal(again.stem.pixel_mean, classifier.stem.pixel_mean)
