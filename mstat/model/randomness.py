"""The model's randomness, drawn outside the model: temporal patch shuffling and drop path, one clip at a time.

A run must not depend on which rank or worker meets a clip. So the model draws nothing itself: whoever plans a batch
gives every clip its own generator, and what is drawn here travels with the frames. NumPy alone, for loader workers.
"""

from __future__ import annotations

import numpy as np

from mstat.config import ModelConfig

RESIDUALS_PER_BLOCK = 3  # temporal, spatial, MLP


def block_counts(config: ModelConfig) -> tuple[int, int, int]:
    """Blocks of Stages I, II and III: none in a stage that is left out, one more where a block stands for an IAP."""
    first, second, third = config.depths
    if config.iap not in ("II", "both"):
        second += 1
    if config.iap not in ("III", "both"):
        third += 1
    return first, second if "II" in config.stages else 0, third if "III" in config.stages else 0


def num_residuals(config: ModelConfig) -> int:
    """R, residual branches with drop path.

    Their order: Stage I's blocks, then Stage II's, then Stage III's, each block as temporal, spatial, MLP. The proxy
    modules (AAP, IAP) have none: they are where a stage reads out its feature.
    """
    return RESIDUALS_PER_BLOCK * sum(block_counts(config))


def drop_rates(config: ModelConfig) -> np.ndarray:
    """Probability, (R,), that a branch is dropped: from 0 in the first block up to `drop_path` in the deepest.

    Stages II and III stand side by side, both on Stage I, so both count their depth from Stage I's last block.
    """
    first, *parallel = block_counts(config)
    depth = [*range(first)] + [first + i for blocks in parallel for i in range(blocks)]
    deepest = max(first + max(parallel) - 1, 1)
    return np.repeat(config.drop_path * np.array(depth) / deepest, RESIDUALS_PER_BLOCK)


def draw_noise(rng: np.random.Generator, config: ModelConfig, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one training clip's noise; `MSTAT.forward` takes batches of both.

    Returns:
        tps_TN: int64; token (t, n) of the clip comes from frame `tps_TN[t, n]`. With probability `tps_probability`
            the `tps_positions` columns that are struck hold one random permutation each (Sec. III-E); all others
            are 0..T-1.
        keep_R: float32; what each residual branch is multiplied by: 0 where dropped, else 1 / (1 - rate), which
            keeps its expectation. `num_residuals` tells the order.
    """
    rates_R = drop_rates(config)
    keep_R = np.where(rng.random(len(rates_R)) < rates_R, 0.0, 1.0 / (1.0 - rates_R)).astype(np.float32)

    height, width = config.image_size
    num_positions = (height // config.patch_size) * (width // config.patch_size)
    tps_TN = np.tile(np.arange(num_frames, dtype=np.int64)[:, None], (1, num_positions))
    if rng.random() < config.tps_probability:
        struck = rng.choice(num_positions, size=min(config.tps_positions, num_positions), replace=False)
        tps_TN[:, struck] = rng.permuted(tps_TN[:, struck], axis=0)
    return tps_TN, keep_R
