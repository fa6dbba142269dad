"""The rival of the training step computes what MSTAT computes, or the comparison would be of two things."""

from __future__ import annotations

import torch

from benchmarks import gpu, training_step
from benchmarks.rival import EagerMSTAT
from mstat.config import Config
from mstat.training.task import Task
from tests.mstat.model.small import SMALL, build, clips


def test_the_rival_is_mstat() -> None:
    """Features and the gradient of the patch kernel, through every block and proxy, to 1e-5; alpha of A-STA not 0."""
    model, frames = build(), clips(2, 4)
    rival = EagerMSTAT(model, 4)
    ours, theirs = model(frames), rival(frames)
    assert [f.shape for f in ours] == [f.shape for f in theirs]
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-5)
    generator = torch.Generator().manual_seed(5)
    weights = torch.randn(2, sum(f.shape[1] for f in ours), generator=generator)
    (torch.cat(ours, 1) * weights).sum().backward()
    (torch.cat(theirs, 1) * weights).sum().backward()
    kernel = rival.get_parameter("embed.projection.weight").grad
    assert kernel is not None
    torch.testing.assert_close(model.stem.patch.weight.grad, kernel.flatten(1), rtol=1e-4, atol=1e-4)
    assert kernel.abs().max() > 1e-3


def test_the_rival_takes_the_place_of_the_model() -> None:
    """In a training step of `Task`, the loss is equal to 1e-5."""
    task = Task(Config(model=SMALL), num_classes=3)
    inputs = {"frames_BTHWC": clips(4, 4), "labels_n": torch.tensor([0, 0, 1, 1]), "metric_weight": 1.0}
    ours = task(**inputs, tps_BTN=None, keep_BR=None)["loss"]
    task.model = EagerMSTAT(task.model, 4)  # type: ignore[assignment]
    torch.testing.assert_close(task(**inputs, tps_BTN=None, keep_BR=None)["loss"], ours, rtol=1e-5, atol=1e-5)


def test_as_much_work() -> None:
    """At the paper's size the FLOPs of a step are equal to 1 %."""
    with torch.device("meta"):  # no weights are drawn
        tasks = training_step.our_task(), training_step.rival_task()
    ours, theirs = map(training_step.step_flops, tasks)
    assert abs(ours / theirs - 1) < 0.01
    assert abs(ours / (3 * 231.6e9) - 1) < 0.01  # notes/model.md: a forward pass, three times


def test_ways_of_attention_are_one() -> None:
    """Those that `make bench-gpu` compares give PyTorch's own result."""
    q, k, v = torch.randn(3, 2, 4, 8, 16, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(gpu.by_matmul(q, k, v), expected)
    torch.testing.assert_close(gpu.by_sums(q, k, v), expected)
    rows = gpu.attention_rows(clips=1, num_frames=2, num_tokens=5, num_heads=2, width=8)
    assert len(rows) == 2 * len(gpu.attention_calls())
    assert not any("not here" in milliseconds for _, _, milliseconds, _ in rows)
