import dataclasses

import torch
import torch.nn.functional as F
from torch import nn

from mstat.model.stem import Stem
from tests.mstat.model.small import SMALL, clips


def stem() -> Stem:
    torch.manual_seed(0)
    return Stem(SMALL)


def test_patch_embedding_is_a_convolution() -> None:
    """The weight, read as (D, 3, P, P), is the kernel of a convolution with stride P on normalised pixels."""
    module, frames = stem(), clips()
    module.pixel_mean.copy_(torch.tensor([0.4, 0.5, 0.6]))
    module.pixel_std.copy_(torch.tensor([0.2, 0.3, 0.4]))
    tokens, _ = module(frames)
    pixels = (frames.flatten(0, 1) / 255 - module.pixel_mean) / module.pixel_std
    kernel = module.patch.weight.view(32, 3, 8, 8)
    expected = F.conv2d(pixels.permute(0, 3, 1, 2), kernel, module.patch.bias, stride=8)
    expected = expected.flatten(2).transpose(1, 2) + module.position
    torch.testing.assert_close(tokens.transpose(1, 2).flatten(0, 1), expected, rtol=1e-5, atol=1e-5)


def test_tps_takes_each_token_from_its_source_frame() -> None:
    """Token (n, t) of the shuffled clip is token (n, tps[t, n]) of the clip; the identity shuffles nothing."""
    module, frames = stem(), clips()
    plain, _ = module(frames)
    identity = torch.arange(4)[None, :, None].expand(2, 4, 8)
    assert torch.equal(module(frames, identity)[0], plain)

    tps = identity.clone()
    tps[1, :, 3] = torch.tensor([2, 0, 3, 1])
    shuffled, _ = module(frames, tps)
    assert torch.equal(shuffled[1, 3], plain[1, 3, [2, 0, 3, 1]])
    same = torch.ones(2, 8, dtype=torch.bool)
    same[1, 3] = False
    assert torch.equal(shuffled[same], plain[same])


def test_a_norm_may_follow() -> None:
    """`stem_norm` normalises all tokens, and the class token, behind the positions."""
    torch.manual_seed(0)
    module = Stem(dataclasses.replace(SMALL, stem_norm=True, norm_eps=1e-5))
    assert module.norm is not None
    nn.init.normal_(module.norm.weight)
    plain = stem()
    plain.load_state_dict(module.state_dict(), strict=False)
    for ours, bare in zip(module(clips()), plain(clips()), strict=True):
        centred = bare - bare.mean(-1, keepdim=True)
        expected = centred / (bare.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt() * module.norm.weight
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_normalisation_travels_with_the_weights() -> None:
    """`pixel_mean` and `pixel_std` are in the state dict, and 0.5 unless somebody sets them."""
    state = stem().state_dict()
    assert torch.equal(state["pixel_mean"], torch.full((3,), 0.5))
    assert torch.equal(state["pixel_std"], torch.full((3,), 0.5))
