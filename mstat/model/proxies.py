"""Proxy embedding modules: learnable queries attend over the tokens (AAP), learnable prototypes re-code them (IAP).

Shapes: B clips, F independent sequences, S tokens in each, D width, h heads of d = D / h, A attribute proxies,
M identity prototypes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mstat.config import ModelConfig
from mstat.model.attention import MLP, Attend, layer_norm
from mstat.model.stem import INIT_STD
from mstat.numerics import at_least_fp32


def anisotropic_(proxies: Tensor) -> Tensor:
    """Fill (A, D) in place with orthogonal rows of length sqrt(D).

    Orthogonal rows make all proxies different. Their length gives entries of variance 1, so the logits vary as much as
    the keys. Unit rows would make the softmax uniform, and all attributes equal.
    """
    return nn.init.orthogonal_(proxies, gain=proxies.shape[1] ** 0.5)


class AAP(nn.Module):
    """Attribute-aware proxies (Eq. 4): multi-head attention whose queries are a learnable matrix, no residual.

    (F, S, D) -> (F, A, D). Keys and values are projected from the normalised tokens.
    """

    def __init__(self, config: ModelConfig, num_proxies: int) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.proxies = nn.Parameter(anisotropic_(torch.empty(num_proxies, config.width)))
        self.norm = layer_norm(config)
        self.attend = Attend()
        self.kv = nn.Linear(config.width, 2 * config.width)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, x_FSD: Tensor) -> Tensor:
        k_FhSd, v_FhSd = self.kv(self.norm(x_FSD)).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        # Copy, because ZeRO packs weights without alignment, and alignment affects rounding in attention on CPUs.
        q_hAd = self.proxies.unflatten(1, (self.num_heads, -1)).transpose(0, 1).clone()
        out_FhAd = self.attend(q_hAd.expand(x_FSD.shape[0], -1, -1, -1), k_FhSd, v_FhSd)
        return self.proj(out_FhAd.transpose(1, 2).flatten(2))

    def attention(self, x_FSD: Tensor) -> Tensor:
        """Return the attention of each proxy over the tokens, (F, A, S), rows of sum 1: the mean over the heads."""
        k_FhSd = self.kv(self.norm(x_FSD)).unflatten(-1, (2, self.num_heads, -1))[:, :, 0].transpose(1, 2)
        q_hAd = self.proxies.unflatten(1, (self.num_heads, -1)).transpose(0, 1)
        return (q_hAd @ k_FhSd.mT / k_FhSd.shape[-1] ** 0.5).softmax(-1).mean(1)


class IAP(nn.Module):
    """Identity-aware prototypes (Eq. 5), followed by an MLP: tokens (B, S, D), class token first -> (B, D).

    Queries come from the tokens; keys and values are learnable. The map (prototypes x tokens) is normalised twice, in
    the order of `config.iap_norm`. Only the class token is used afterwards, so only its row of A V is computed, in
    O(S). The other tokens contribute through the normalisation over tokens.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.norm_order = config.iap_norm
        self.norm = layer_norm(config)
        # A softmax over tokens cancels terms that are equal for all tokens, so a query bias would have no effect.
        self.query = nn.Linear(config.width, config.width, bias=config.iap_norm == "l1-softmax")
        self.keys = nn.Parameter(anisotropic_(torch.empty(config.num_prototypes, config.width)))
        # The spread of values that a new linear layer projects from normalised tokens.
        self.values = nn.Parameter(torch.empty(config.num_prototypes, config.width))
        nn.init.trunc_normal_(self.values, std=INIT_STD * config.width**0.5)
        self.proj = nn.Linear(config.width, config.width)
        self.mlp_norm = layer_norm(config)
        self.mlp = MLP(config)

    def forward(self, x_BSD: Tensor) -> Tensor:
        # scaled_dot_product_attention has one softmax over keys, not a double normalisation.
        q_BhdS = self.query(self.norm(x_BSD)).unflatten(-1, (self.num_heads, -1)).permute(0, 2, 3, 1)
        k_hMd = self.keys.unflatten(1, (self.num_heads, -1)).transpose(0, 1)
        v_hMd = self.values.unflatten(1, (self.num_heads, -1)).transpose(0, 1)
        logits_BhMS = at_least_fp32(k_hMd / k_hMd.shape[2] ** 0.5 @ q_BhdS)
        class_map_BhM = double_norm_of_class_row(logits_BhMS, self.norm_order)
        recoded_Bhd = (class_map_BhM[:, :, None].to(v_hMd.dtype) @ v_hMd)[:, :, 0]
        class_BD = x_BSD[:, 0] + self.proj(recoded_Bhd.flatten(1))
        return class_BD + self.mlp(self.mlp_norm(class_BD))


def double_norm_of_class_row(logits_BhMS: Tensor, order: str) -> Tensor:
    """Return the class token's column, (B, h, M), of the doubly normalised map of float32 logits.

    `softmax-l1`: softmax over tokens, then L1 over prototypes. For one token, this is exp(l_m - logsumexp_s l_ms)
    divided by its sum, a softmax over prototypes that cannot overflow.
    `l1-softmax`: L1 over prototypes, then softmax over tokens, as Eq. 5 is printed.
    """
    if order == "softmax-l1":
        return (logits_BhMS[..., 0] - logits_BhMS.logsumexp(-1)).softmax(-1)
    shares_BhMS = F.normalize(logits_BhMS, p=1, dim=2)
    return (shares_BhMS[..., 0] - shares_BhMS.logsumexp(-1)).exp()
