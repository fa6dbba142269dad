"""Adapters of PEFT see plain linear layers: a model with LoRA is the model with the product added to its weights."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model

from mstat.model.cpu import use_cpu_kernels
from tests.mstat.model.small import build, clips

RANK = 2
TARGETS = ["qkv", "kv", "query", "proj", "fc", "fc1", "fc2", "patch"]  # every linear layer


@pytest.mark.parametrize("alpha", [0.5, 64])
@pytest.mark.parametrize("kernels", ["PyTorch's", "ours before", "ours after"])
def test_lora_adds_to_every_linear_layer(alpha: float, kernels: str) -> None:
    """W + alpha / r B A in place of W gives the same features, at any alpha, with PyTorch's kernels or ours for CPUs,
    whether these are put on before the adapters or after."""
    model, merged = build(), build()
    before = model.embed(clips(4, 8))
    if kernels == "ours before":
        use_cpu_kernels(model)
    adapted = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=alpha, target_modules=TARGETS))  # type: ignore[arg-type]
    if kernels == "ours after":
        use_cpu_kernels(adapted)
    generator = torch.Generator().manual_seed(0)
    factors = {}
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            with torch.no_grad():
                parameter.normal_(0, 0.1 / alpha**0.5, generator=generator)
            factors[name.removeprefix("base_model.model.").replace(".default.weight", "")] = parameter.detach()
    linear = {name: m for name, m in merged.named_modules() if isinstance(m, torch.nn.Linear)}
    assert {name.rpartition(".lora_")[0] for name in factors} == set(linear)
    for name, layer in linear.items():
        layer.weight.data += alpha / RANK * factors[f"{name}.lora_B"] @ factors[f"{name}.lora_A"]
    expected = merged.embed(clips(4, 8))
    assert (expected - before).norm() > 0.05 * before.norm()
    torch.testing.assert_close(adapted.embed(clips(4, 8)), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(adapted.merge_and_unload().embed(clips(4, 8)), expected, rtol=1e-4, atol=1e-4)  # type: ignore[operator]
