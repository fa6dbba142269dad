"""A CNN baseline of re-identification, trained from scratch for a given time: a rival in accuracy.py.

It is the strong baseline of Luo et al. (2019) for tracklets: the features of the frames by a model of torchreid,
averaged; a BNNeck; label-smoothed cross-entropy behind it; BatchHard before it as in that paper, or behind it by cosine
as in our run; AdamW, warm-up and cosine. Batches, augmentation, protocol and frames at test are those of our run.
`python -m benchmarks.cnn CONFIG --model osnet_x0_25 --seconds 200 --out FILE` needs torchreid, which
is in .venv-rivals after `make bench-accuracy`.
"""

from __future__ import annotations

import argparse
import math
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import shards
from benchmarks.harness import load_file
from mstat.config import Config
from mstat.config.cli import load_config
from mstat.data.loader import TrainingBatches, load
from mstat.distributed.engine import Engine
from mstat.evaluation.evaluate import summarise
from mstat.evaluation.trial import Trial
from mstat.files import write_json
from mstat.losses.cross_entropy import cross_entropy
from mstat.losses.triplet import batch_hard
from mstat.training.train import training_sampler

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WARM_UP = 0.05  # share of the time


class CNN(nn.Module):
    """A model of torchreid with a BNNeck: uint8 frames (B, T, H, W, 3) -> features before and behind it, logits."""

    def __init__(self, name: str, num_classes: int) -> None:
        super().__init__()
        # torchreid's own loader of models needs a torchvision with its compiled part.
        module = load_file("torchreid", f"reid/models/{name.partition('_')[0].rstrip('0123456789')}.py")
        self.frames = getattr(module, name)(num_classes, loss="triplet", pretrained=False)
        dim: int = self.frames.feature_dim
        self.neck = nn.BatchNorm1d(dim)
        self.neck.bias.requires_grad_(False)
        self.classifier = nn.Linear(dim, num_classes, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)
        self.frames.classifier = nn.Identity()  # ours follows the mean over frames

    def features(self, frames_BTHWC: torch.Tensor) -> torch.Tensor:
        pixels = frames_BTHWC.flatten(0, 1).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        of_frames = self.frames((pixels - mean) / std)
        of_frames = of_frames[1] if isinstance(of_frames, tuple) else of_frames  # in training: logits, features
        return of_frames.unflatten(0, frames_BTHWC.shape[:2]).mean(1)

    def forward(self, frames_BTHWC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        features_BD = self.features(frames_BTHWC)
        behind_BD = self.neck(features_BD)
        return features_BD, behind_BD, self.classifier(behind_BD)

    def compared(self, frames_BTHWC: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return what the test compares: the feature behind the BNNeck."""
        return (self.neck(self.features(frames_BTHWC)),)


def train(config: Config, options: argparse.Namespace) -> dict[str, Any]:
    """Train for this many seconds, without set-up and evaluation; return scores, steps and parameters."""
    torch.manual_seed(config.seed)
    engine = Engine(config)
    reader = shards.open(config.data.shards)
    sampler = training_sampler(reader, config)
    model = CNN(options.model, len(sampler.pids))
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=options.weight_decay)
    batches = TrainingBatches(reader, sampler, config, 0, 1)
    steps = 0
    with closing(load(batches, range(10**6), config.data.num_workers, False)) as loader:
        for batch in loader:
            if steps == 0:
                began = time.monotonic()  # the workers have started
            share = (time.monotonic() - began) / options.seconds
            if share >= 1:
                break
            factor = share / WARM_UP if share < WARM_UP else 0.5 * (1 + math.cos(math.pi * share))
            for group in optimizer.param_groups:
                group["lr"] = options.lr * factor
            labels_B = batch["labels_n"]
            features_BD, behind_BD, logits = model(batch["frames_BTHWC"])
            if options.metric_on == "neck":
                metric = batch_hard(F.normalize(behind_BD), labels_B, 0.3, "cosine")
            else:
                metric = batch_hard(features_BD, labels_B, 0.3)
            loss = cross_entropy(logits, labels_B, 0.1) + metric
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
    model.eval()
    trial = Trial(engine, reader, config)
    (features_SD,) = trial.extract(model.compared, config.model.image_size)
    scores, _ = trial.rank(features_SD)
    summary = summarise(trial, scores)
    parameters = sum(p.numel() for p in model.frames.parameters())
    return {"mAP": summary["mAP"], "rank1": summary["rank1"], "steps": steps, "parameters": parameters}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="config.yaml of our run")
    parser.add_argument("--model", required=True, help="name of a model in torchreid")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--metric_on", choices=["feature", "neck"], default="neck")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--weight_decay", type=float, default=0.05)
    parser.add_argument("--out", type=Path, required=True)
    options, overrides = parser.parse_known_args()
    config = load_config(options.config, overrides)
    write_json(options.out, train(config, options))


if __name__ == "__main__":
    main()
