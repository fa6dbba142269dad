"""Train MSTAT with the Trainer of Transformers: `python examples/hf_trainer.py --data.shards SET --run OUT`.

Any setting of configs/synthetic.yaml may follow, such as --train.steps 20.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainingArguments

import shards
from mstat.config import Config
from mstat.config.cli import load_config
from mstat.data.steps import Steps
from mstat.losses import batch_hard
from mstat.model import MSTAT, NoisyMSTAT
from mstat.training.train import training_sampler


class ReIdentification(nn.Module):
    """MSTAT with BatchHard on each stage: a dict with `loss`, as the Trainer expects it."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.model = NoisyMSTAT(MSTAT(config.model), seed=config.seed)

    def forward(self, frames_BTHWC: Tensor, labels_B: Tensor) -> dict[str, Tensor]:
        features = self.model(frames_BTHWC)
        return {"loss": torch.stack([batch_hard(stage, labels_B) for stage in features]).sum()}


class StepTrainer(Trainer):
    """Takes the items of `Steps`, which are whole batches, in their order."""

    def _get_train_sampler(self, *arguments: Any) -> SequentialSampler:
        assert isinstance(self.train_dataset, Steps)
        return SequentialSampler(self.train_dataset)


def main(*flags: str) -> list[float]:
    """Train, and return the loss of each step."""
    config = load_config(Path("synthetic.yaml"), flags)
    torch.manual_seed(config.seed)
    reader = shards.open(config.data.shards)
    steps = Steps(reader, training_sampler(reader, config), config, config.train.steps or 20)
    arguments = TrainingArguments(
        config.run,
        num_train_epochs=1,
        per_device_train_batch_size=1,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        remove_unused_columns=False,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=[],
        dataloader_num_workers=config.data.num_workers,
    )
    if arguments.world_size > 1 or arguments.n_gpu > 1:
        sys.exit("this example is for one process and one GPU (docs/loops.md)")  # the Trainer would divide the steps
    trainer = StepTrainer(ReIdentification(config), arguments, lambda items: items[0], steps)
    trainer.train()
    return [record["loss"] for record in trainer.state.log_history if "loss" in record]


if __name__ == "__main__":
    main(*sys.argv[1:])
