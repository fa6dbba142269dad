import dataclasses
import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from mstat.config import ModelConfig
from mstat.model import MSTAT, draw_noise, feature_dims, no_weight_decay
from mstat.model.mstat import join
from mstat.model.sta import STA, AttributeSTA
from tests.mstat.model.small import SMALL, build, clips


def noise(model: MSTAT, batch: int, frames: int) -> tuple[Tensor, Tensor]:
    draws = [draw_noise(np.random.default_rng(i), model.config, frames) for i in range(batch)]
    return torch.from_numpy(np.stack([d[0] for d in draws])), torch.from_numpy(np.stack([d[1] for d in draws]))


def loss(features: tuple[Tensor, ...]) -> Tensor:
    """Something with a gradient in every direction; a norm's own output has a mean square of 1 whatever happens."""
    generator = torch.Generator().manual_seed(5)
    return sum(
        ((f * torch.randn(f.shape, generator=generator).to(f.device)).sum() for f in features), torch.tensor(0.0)
    )


@pytest.fixture(scope="module")
def paper_model() -> MSTAT:
    torch.manual_seed(0)
    return MSTAT(ModelConfig())


@pytest.mark.slow
def test_paper_size_takes_a_training_step(paper_model: MSTAT) -> None:
    """The paper's model: features of 18,432, 768 and 768 numbers, and finite gradients for all of its parameters."""
    frames = clips(1, 8, (224, 112))
    features = paper_model(frames, *noise(paper_model, 1, 8))
    assert [tuple(f.shape) for f in features] == [(1, 18432), (1, 768), (1, 768)]
    assert feature_dims(paper_model.config) == (18432, 768, 768)
    loss(features).backward()
    for name, parameter in paper_model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    kernel = paper_model.stem.patch.weight.grad
    assert kernel is not None
    assert kernel.abs().max() > 0
    paper_model.zero_grad()


@pytest.mark.slow
def test_paper_size_takes_longer_clips(paper_model: MSTAT) -> None:
    """T is free: the model that trains on 8 frames embeds 12, and another size of frame, into 19,968 numbers."""
    features = paper_model.embed(clips(1, 12, (128, 64)).numpy())
    assert features.shape == (1, 19968)
    assert features.dtype == torch.float32


def test_order_of_frames_does_not_matter() -> None:
    """Permuting the frames leaves all features as they are, to 1e-5 of their length."""
    model, frames = build(), clips(frames=6)
    for before, after in zip(model(frames), model(frames[:, [3, 0, 5, 1, 4, 2]]), strict=True):
        assert ((before - after).norm(dim=1) < 1e-5 * before.norm(dim=1)).all()


def test_tps_changes_the_clip_that_it_strikes() -> None:
    """The identity is no noise; one shuffled position changes all three features of its clip, and of no other."""
    model, frames = build(), clips()
    plain = model(frames)
    tps = torch.arange(4)[None, :, None].repeat(2, 1, 8)
    for before, after in zip(plain, model(frames, tps), strict=True):
        assert torch.equal(before, after)
    tps[1, :, 2] = torch.tensor([1, 2, 3, 0])
    for before, after in zip(plain, model(frames, tps), strict=True):
        torch.testing.assert_close(before[0], after[0])
        assert not torch.allclose(before[1], after[1], rtol=1e-3, atol=1e-3)


def test_drop_path_finds_its_block() -> None:
    """Multipliers go to Stage I, II, III in turn: dropping one stage's branches leaves a parallel stage untouched."""
    model, frames = build(), clips()
    plain = model(frames)
    changed = []
    for stage in range(3):
        first, last = 3 * sum(SMALL.depths[:stage]), 3 * sum(SMALL.depths[: stage + 1])
        keep = torch.ones(2, 15)
        keep[:, first:last] = 0
        dropped = model(frames, None, keep)
        changed.append([not torch.allclose(a, b, atol=1e-4) for a, b in zip(plain, dropped, strict=True)])
    assert changed == [[True, True, True], [False, True, False], [False, False, True]]


@torch.no_grad()
def test_features_do_not_depend_on_where_weights_lie() -> None:
    """ZeRO packs weights without alignment, a file gives them back aligned: the features are bitwise the same.

    Kernels may round by the address of their input; of those in use, attention on CPUs does."""
    model, frames = build(), clips()
    expected = model(frames)
    packed = torch.empty(1 + sum(parameter.numel() for parameter in model.parameters()))
    place = 1
    for parameter in model.parameters():
        view = packed[place : place + parameter.numel()].view(parameter.shape).copy_(parameter)
        place += parameter.numel()
        parameter.data = view
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(model(frames), expected, strict=True))


def test_noise_is_the_only_chance() -> None:
    """The same call twice, in training mode or not, gives the same features; so does the same seed of weights."""
    model, frames = build(), clips()
    once = model.train()(frames, *noise(model, 2, 4))
    for again in (model.eval()(frames, *noise(model, 2, 4)), build()(frames, *noise(model, 2, 4))):
        assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert not torch.equal(once[0], build(seed=1)(frames, *noise(model, 2, 4))[0])


@pytest.mark.slow
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("changes", [{}, {"tps_block": 1}, {"iap": "none"}])
def test_recomputed_blocks_give_the_same_gradients(changes: dict[str, Any], precision: torch.dtype) -> None:
    """Activation checkpointing: every block is computed twice in a step and once without gradients; every feature and
    gradient of every parameter is the same to the bit, with TPS and drop path, in fp32 and under autocast."""
    features, gradients, calls = [], [], []
    for recompute in (False, True):
        model, frames = build(drop_path=0.5, tps_probability=1.0, **changes), clips()
        tps, keep = noise(model, 2, 4)
        blocks = [module for module in model.modules() if isinstance(module, STA)]
        if recompute:
            model.recompute_blocks()
        counted: list[int] = []
        for block in blocks:
            block.register_forward_pre_hook(lambda *_, counted=counted: counted.append(1))
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            features.append(model(frames, tps, keep))
        loss(features[-1]).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
        with torch.no_grad():
            model(frames)
        calls.append(len(counted) / len(blocks))
    assert calls == [2, 3]
    assert all(torch.equal(a, b) for a, b in zip(*features, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


BASELINE: dict[str, Any] = {"stages": ("I",), "stage1_aap": False, "depths": (5, 0, 0)}


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"iap_norm": "l1-softmax"},
        {"stage1_aap": False, "stage3_asta": False},
        {"iap": "none"},
        {"tps_block": 1},
        {"stages": ("I", "III")},
        BASELINE,
    ],
)
def test_every_parameter_learns(changes: dict[str, Any]) -> None:
    """In a training step every parameter, in every variant of the model, gets a gradient that is not zero."""
    model = build(**changes)
    features = model(clips(), *noise(model, 2, 4))
    assert tuple(f.shape[1] for f in features) == feature_dims(model.config)
    loss(features).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_a_stage_that_is_left_out_changes_no_other() -> None:
    """With the weights of the whole model, fewer stages give the features of those that are left."""
    whole, frames = build(), clips()
    for stages in (("I",), ("I", "II"), ("I", "III")):
        part = MSTAT(dataclasses.replace(SMALL, stages=stages))
        part.load_state_dict({key: value for key, value in whole.state_dict().items() if key in part.state_dict()})
        kept = [feature for stage, feature in zip(SMALL.stages, whole(frames), strict=True) if stage in stages]
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(part(frames), kept, strict=True))


def test_an_sta_stands_for_an_iap() -> None:
    """Without its IAP a stage has one more block, an STA in Stage III too, and gives its class token."""
    model = build(iap="II")
    assert model.stage2 is not None
    assert model.stage3 is not None
    assert [len(model.stage2.blocks), len(model.stage3.blocks)] == [2, 2]
    assert [type(block) for block in model.stage3.blocks] == [AttributeSTA, STA]
    assert (model.stage2.iap is None, model.stage3.iap is None) == (False, True)
    _, tokens, _ = model.stage1(*model.stem(clips()), None, None)
    cls = model.get_parameter("stage3.class_token").expand(2, -1)
    for block in model.stage3.blocks:
        tokens, cls = block(tokens, cls)
    torch.testing.assert_close(model(clips())[2], model.stage3.norm(cls))


def test_tps_can_wait_for_a_block() -> None:
    """Before block 1: the tokens that block 0 gives are shuffled, by hand here; at the stem is another clip."""
    model, frames = build(tps_block=1), clips()
    tps, _ = noise(model, 2, 4)
    tps[:, :, 3] = torch.tensor([2, 0, 3, 1])
    tokens, cls = model.stage1.blocks[0](*model.stem(frames))
    shuffled = torch.stack(
        [torch.stack([tokens[b, n, tps[b, :, n]] for n in range(tokens.shape[1])]) for b in range(2)]
    )
    tokens, cls = model.stage1.blocks[1](shuffled, cls)
    assert model.stage1.aap is not None
    expected = model.stage1.norm(model.stage1.aap(join(cls, tokens))).flatten(1)
    torch.testing.assert_close(model(frames, tps)[0], expected)
    assert not torch.allclose(build()(frames, tps)[0], expected, atol=1e-3)


def test_the_baseline_is_a_divided_space_time_transformer() -> None:
    """One stage without attributes: the class token after all blocks, normalised, each block TimeSformer's layer."""
    model = build(**BASELINE)
    tokens, cls = model.stem(clips())
    for block in model.stage1.blocks:
        assert type(block) is STA
        tokens, cls = block(tokens, cls)
    (feature,) = model(clips())
    torch.testing.assert_close(feature, model.stage1.norm(cls))
    assert not [name for name, _ in model.named_parameters() if "aap" in name or "iap" in name or "stage2" in name]


def test_stages_two_and_three_stand_side_by_side() -> None:
    """Stage III's feature depends on Stage I's weights and its own, not on Stage II's, and the other way round."""
    model = build()
    assert model.stage2 is not None
    assert model.stage3 is not None
    for feature, other in ((1, model.stage3), (2, model.stage2)):
        model.zero_grad()
        model(clips())[feature].square().sum().backward()
        assert all(parameter.grad is None for parameter in other.parameters())
        assert model.get_parameter("stage1.blocks.0.mlp.fc1.weight").grad is not None
        assert model.get_parameter("stage1.aap.proxies").grad is None, "the AAP is a side exit of Stage I"


def test_embed_joins_the_features() -> None:
    """At the model's own size `embed` is the concatenation of forward's features, from an array or a tensor."""
    model, frames = build(), clips()
    joined = torch.cat(model(frames), 1)
    assert torch.equal(model.embed(frames), joined)
    assert torch.equal(model.embed(frames.numpy()), joined)
    assert not model.embed(frames).requires_grad


def test_embed_resizes() -> None:
    """Frames of one colour are the same clip at any size; a finer grid of pixels is averaged, not sampled."""
    model = build()
    colour = torch.tensor([10, 200, 77], dtype=torch.uint8)
    small, large = colour.expand(1, 2, 32, 16, 3), colour.expand(1, 2, 70, 45, 3)
    torch.testing.assert_close(model.embed(large), model.embed(small))

    checkers = (torch.arange(128)[:, None] + torch.arange(64)).remainder(2).mul(254).to(torch.uint8)
    grey = torch.full((1, 2, 32, 16, 3), 127, dtype=torch.uint8)
    cosine = F.cosine_similarity(
        model.embed(checkers[None, None, :, :, None].expand(1, 2, -1, -1, 3)), model.embed(grey)
    )
    assert cosine > 0.999


@pytest.mark.parametrize("frames", [clips().float(), clips(size=(16, 32)), clips()[0]])
def test_forward_refuses_other_frames(frames: Tensor) -> None:
    """Frames that are not uint8 B, T, H, W, 3 at the model's size are refused, with the size that is wanted."""
    with pytest.raises(ValueError, match=re.escape("(B, T, 32, 16, 3)")):
        build()(frames)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"image_size": (30, 16)}, "image_size"),
        ({"num_heads": 5}, "num_heads"),
        ({"drop_path": 1.0}, "drop_path"),
        ({"tps_probability": 1.5}, "tps_probability"),
        ({"depths": (2, 1)}, "depths"),
        ({"stages": ("II",)}, "stages"),
        ({"tps_block": 2}, "tps_block"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict[str, Any], field: str) -> None:
    """The error names the field."""
    with pytest.raises(ValueError, match=f"model.{field}"):
        build(**changes)


def test_weight_decay_is_for_matrices() -> None:
    """Linear weights decay; biases, norms, alpha, beta, proxies, prototypes, class tokens and positions do not."""
    for name, parameter in build().named_parameters():
        is_matrix = name.endswith("weight") and "norm" not in name
        assert no_weight_decay(name, parameter) is not is_matrix, name


class SeenTypes(TorchDispatchMode):
    """Collects the types of the operands of matrix products and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.types: dict[str, set[torch.dtype]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in ("mm", "addmm", "bmm") or "dot_product" in str(func):
            self.types.setdefault(func.overloadpacket.__name__, set()).update(
                a.dtype for a in args if isinstance(a, Tensor) and a.is_floating_point()
            )
        return func(*args, **(kwargs or {}))


def test_autocast_computes_in_bf16_and_answers_in_fp32() -> None:
    """Under bf16 autocast all products and attentions are bf16, features are fp32 and near those of fp32."""
    model, frames = build(), clips(frames=40)  # whose 321 tokens are too many for a map of scores
    exact = model(frames)
    with SeenTypes() as seen, torch.autocast("cpu", dtype=torch.bfloat16):
        features = model(frames)
    assert any("dot_product" in name for name in seen.types), "attention did not go through a fused kernel"
    assert {"addmm", "bmm"} <= set(seen.types)
    assert set.union(*seen.types.values()) == {torch.bfloat16}
    for feature, reference in zip(features, exact, strict=True):
        assert feature.dtype == torch.float32
        assert (F.cosine_similarity(feature, reference) > 0.999).all()


@pytest.mark.slow
def test_blocks_compile_whole() -> None:
    """Every block is one graph, which two clips and noise go through too, with the features and gradients of the
    model that is not compiled; names of weights stay. (What a C++ compiler makes of it: tests/soak.)"""
    plain, compiled = build(), build()
    compiled.compile_blocks(backend="aot_eager")
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    frames = clips(2, 8)
    for arguments in ((), noise(plain, 2, 8)):
        for model in (plain, compiled):
            model.zero_grad()
            loss(model(frames, *arguments)).backward()
        for (name, own), other in zip(compiled.named_parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(own.grad, other.grad, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_fused_attention_runs_on_the_gpu() -> None:
    """With the math kernel forbidden, a bf16 and an fp32 training step run, and fp32 is near the CPU's."""
    config: dict[str, Any] = {"image_size": (64, 32), "width": 256, "depths": (1, 1, 1)}
    reference, model = build(**config), build(**config).cuda()
    frames = clips(2, 8, (64, 32))
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]):
        for enabled in (True, False):
            model.zero_grad()
            with torch.autocast("cuda", dtype=torch.bfloat16, enabled=enabled):
                features = model(frames.cuda())
            loss(features).backward()
            assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    for feature, expected in zip(features, reference(frames), strict=True):
        assert (F.cosine_similarity(feature.cpu(), expected) > 0.999).all()
