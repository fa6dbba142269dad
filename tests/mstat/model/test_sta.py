import dataclasses
from typing import TypeVar

import pytest
import torch
from torch import nn

from mstat.model.sta import STA, AttributeSTA
from mstat.weights.checkpoint_keys import BLOCK_KEYS, hugging_face_name
from tests.mstat.model.small import SMALL

M = TypeVar("M", bound=nn.Module)

B, N, T, D = 2, 8, 8, 32


def tokens() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(B, N, T, D, generator=generator), torch.randn(B, D, generator=generator)


def randomised(block: M) -> M:
    """Random norms and biases too, so that none of them can be swapped unseen; alpha and beta stay."""
    generator = torch.Generator().manual_seed(2)
    for name, parameter in block.named_parameters():
        if name not in ("alpha", "beta"):
            nn.init.normal_(
                parameter, mean=float("norm" in name and name.endswith("weight")), std=0.2, generator=generator
            )
    return block


def test_sta_is_a_timesformer_layer() -> None:
    """With alpha = beta = 1 an STA block equals a divided space-time layer of transformers to 1e-5.

    T = 8 frames on a 4 x 2 grid, random weights carried over by the importer's key map. Hugging Face flattens tokens
    as (row, column, frame), class token first.
    """
    timesformer = pytest.importorskip("transformers.models.timesformer.modeling_timesformer")
    settings = timesformer.TimesformerConfig(
        image_size=16,  # of which the layer takes the number of columns
        patch_size=8,
        num_frames=T,
        hidden_size=D,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=4 * D,
        hidden_dropout_prob=0.0,
        attn_implementation="eager",
    )
    layer = randomised(timesformer.TimesformerLayer(settings, 0)).eval()
    weights = {}
    for key, value in layer.state_dict().items():
        name = hugging_face_name(f"encoder.layer.0.{key}")
        assert name is not None, key
        weights[BLOCK_KEYS[name.removeprefix("blocks.0.")]] = value
    block = STA(SMALL)
    missing, unexpected = block.load_state_dict(weights, strict=False)
    assert (missing, unexpected) == (["alpha", "beta"], [])

    patches, cls = tokens()
    ours, our_class = block(patches, cls)
    theirs = layer(torch.cat([cls[:, None], patches.flatten(1, 2)], 1))[0]
    torch.testing.assert_close(our_class, theirs[:, 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.flatten(1, 2), theirs[:, 1:], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(ours, patches, atol=0.1), "the layer did nothing"


@pytest.mark.parametrize("kind", [STA, AttributeSTA])
def test_drop_path_drops_a_branch(kind: type[STA]) -> None:
    """A residual times 0 is a block without that branch, clip by clip; times 1 it is the plain block."""
    block = randomised(kind(SMALL))
    nn.init.constant_(block.alpha, 0.5)
    patches, cls = tokens()
    plain, plain_class = block(patches, cls)
    ones = block(patches, cls, torch.ones(B, 3))
    assert torch.equal(ones[0], plain)
    assert torch.equal(ones[1], plain_class)

    for branch in range(3):
        keep = torch.ones(B, 3)
        keep[1, branch] = 0
        dropped, dropped_class = block(patches, cls, keep)
        torch.testing.assert_close(dropped[0], plain[0])
        assert not torch.allclose(dropped[1], plain[1], atol=1e-2)
        assert not torch.allclose(dropped_class[1], plain_class[1], atol=1e-2)
    nothing, nothing_class = block(patches, cls, torch.zeros(B, 3))
    assert torch.equal(nothing, patches)
    assert torch.equal(nothing_class, cls)


def test_drop_path_scales_what_it_keeps() -> None:
    """A multiplier scales the residual: twice the temporal residual alone is twice the way from the input."""
    block = randomised(STA(SMALL))
    patches, cls = tokens()
    once, _ = block(patches, cls, torch.tensor([[1.0, 0.0, 0.0]] * B))
    twice, _ = block(patches, cls, torch.tensor([[2.0, 0.0, 0.0]] * B))
    torch.testing.assert_close(twice - patches, 2 * (once - patches), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("drop", [False, True])
def test_alpha_and_beta_scale_residuals(drop: bool) -> None:
    """Output and gradients are those of x + alpha * branch(x), written out; at 0 alpha has a gradient too."""
    block = randomised(STA(SMALL)).double()
    patches, cls = (part.double() for part in tokens())
    keep = torch.tensor([[0.5, 2.0, 0.0]] * B, dtype=torch.double) if drop else None
    for value in (0.0, 0.7):
        nn.init.constant_(block.alpha, value)
        nn.init.constant_(block.beta, value)
        multipliers = [1.0, 1.0, 1.0] if keep is None else keep[0].tolist()
        x = patches + value * multipliers[0] * block.temporal(patches)
        joined = torch.cat([cls[:, None, None].expand(-1, patches.shape[2], -1, -1), x.transpose(1, 2)], dim=2)
        mixed = block.spatial(block.spatial_norm(joined).flatten(0, 1)).view_as(joined) * value * multipliers[1]
        x, own = x + mixed[:, :, 1:].transpose(1, 2), cls + mixed[:, :, 0].mean(1)
        expected = x + multipliers[2] * block.mlp(block.mlp_norm(x))
        expected_class = own + multipliers[2] * block.mlp(block.mlp_norm(own))
        ours, our_class = block(patches, cls, keep)
        torch.testing.assert_close(ours, expected)
        torch.testing.assert_close(our_class, expected_class)
        gradients = torch.autograd.grad(ours.square().sum(), [block.alpha, block.beta])
        assert all(gradient.abs() > 1e-3 for gradient in gradients)


def test_attribute_block_starts_without_a_voice() -> None:
    """A new A-STA (alpha = 0) passes tokens on as if its temporal part were dropped."""
    block = AttributeSTA(SMALL)
    patches, cls = tokens()
    torch.testing.assert_close(block(patches, cls)[0], block(patches, cls, torch.tensor([[0.0, 1.0, 1.0]] * B))[0])


def test_attribute_block_starts_as_the_setting_says() -> None:
    """`model.asta_alpha` is the first weight of its temporal residual; an STA keeps 1."""
    config = dataclasses.replace(SMALL, asta_alpha=0.1)
    torch.testing.assert_close(AttributeSTA(config).alpha.data, torch.tensor([0.1]))
    assert STA(config).alpha.item() == 1


def test_temporal_attention_joins_frames_of_one_position_only() -> None:
    """A token that changes moves the temporal residual of its own position alone, in all frames (Eq. 2)."""
    branch = randomised(STA(SMALL).temporal)
    patches, _ = tokens()
    changed = patches.clone()
    changed[0, 3, 5] *= -1
    moved = (branch(changed) - branch(patches)).abs().amax(-1) > 1e-6
    expected = torch.zeros(B, N, T, dtype=torch.bool)
    expected[0, 3] = True
    assert torch.equal(moved, expected)


def test_attribute_exchange_joins_all_positions_of_a_clip() -> None:
    """In A-STA a changed token reaches every position and frame of its clip, and no other clip."""
    branch = randomised(AttributeSTA(dataclasses.replace(SMALL, num_temporal_attributes=3)).temporal)
    patches, _ = tokens()
    changed = patches.clone()
    changed[0, 3, 5] *= -1
    moved = (branch(changed) - branch(patches)).abs().amax(-1)
    assert (moved[0] > 1e-6).all()
    assert (moved[1] < 1e-6).all()
