"""Train MSTAT with Lightning: `python examples/lightning_module.py --data.shards SET --train.steps 20`.

It needs `pip install lightning`. Any setting of configs/synthetic.yaml may follow.
"""

import sys
from pathlib import Path

import lightning
import torch
from torch.utils.data import DataLoader

import shards
from mstat.config import Config
from mstat.config.cli import load_config
from mstat.data.steps import Steps
from mstat.losses import batch_hard
from mstat.model import MSTAT, NoisyMSTAT
from mstat.training.train import training_sampler


class ReIdentification(lightning.LightningModule):
    """MSTAT with BatchHard on each stage. Lightning switches train and eval mode, and the noise with it."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.model = NoisyMSTAT(MSTAT(config.model), seed=config.seed)
        self.losses: list[float] = []

    def training_step(self, batch: dict[str, torch.Tensor], number: int) -> torch.Tensor:
        """Return the loss of a batch."""
        features = self.model(batch["frames_BTHWC"])
        loss = torch.stack([batch_hard(stage, batch["labels_B"]) for stage in features]).sum()
        self.losses.append(float(loss.detach()))
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimiser."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main(*flags: str) -> list[float]:
    """Train, and return the loss of each step."""
    config = load_config(Path("synthetic.yaml"), flags)
    torch.manual_seed(config.seed)
    reader = shards.open(config.data.shards)
    steps = Steps(reader, training_sampler(reader, config), config, config.train.steps or 20)
    # An item of `Steps` is a whole batch: nothing may divide the steps. Several processes: docs/loops.md.
    trainer = lightning.Trainer(
        max_epochs=1,
        devices=1,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    module = ReIdentification(config)
    trainer.fit(module, DataLoader(steps, batch_size=None, num_workers=config.data.num_workers))
    return module.losses


if __name__ == "__main__":
    main(*sys.argv[1:])
