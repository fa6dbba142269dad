"""Train MSTAT in a plain PyTorch loop: `python examples/plain_pytorch.py --data.shards SET --train.steps 20`.

SET is a folder made by `python -m shards build`. Any setting of configs/synthetic.yaml may follow; loss, optimiser and
schedule are this file's.
"""

import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader

import shards
from mstat.config.cli import load_config
from mstat.data.steps import Steps
from mstat.losses import batch_hard
from mstat.model import MSTAT, NoisyMSTAT
from mstat.training.train import training_sampler


def main(*flags: str) -> list[float]:
    """Train, and return the loss of each step."""
    config = load_config(Path("synthetic.yaml"), flags)
    torch.manual_seed(config.seed)
    reader = shards.open(config.data.shards)
    steps = Steps(reader, training_sampler(reader, config), config, config.train.steps or 20)
    # It draws temporal patch shuffling and drop path in train mode.
    model = NoisyMSTAT(MSTAT(config.model), seed=config.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    model.train()
    for batch in DataLoader(steps, batch_size=None, num_workers=config.data.num_workers):
        features = model(batch["frames_BTHWC"])  # one tensor for each stage
        loss = torch.stack([batch_hard(stage, batch["labels_B"]) for stage in features]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        print(f"step {len(losses)}: loss {losses[-1]:.3f}")
    return losses


if __name__ == "__main__":
    main(*sys.argv[1:])
