"""Random numbers for the model, drawn for each clip: temporal patch shuffling and drop path.

A run must not depend on the rank or worker that loads a clip. Therefore the model draws nothing: the loader has a
generator for each clip, and sends the noise with the frames. Loader workers need only NumPy for this module.
"""

from __future__ import annotations

import numpy as np

from mstat.config import ModelConfig

RESIDUALS_PER_BLOCK = 3  # temporal, spatial, MLP


def block_counts(config: ModelConfig) -> tuple[int, int, int]:
    """Return the blocks of Stages I, II and III: 0 in an absent stage, one more where a block replaces an IAP."""
    first, second, third = config.depths
    if config.iap not in ("II", "both"):
        second += 1
    if config.iap not in ("III", "both"):
        third += 1
    return first, second if "II" in config.stages else 0, third if "III" in config.stages else 0


def num_residuals(config: ModelConfig) -> int:
    """Return R, the number of residual branches with drop path.

    Their order is Stage I's blocks, then Stage II's, then Stage III's, each block as temporal, spatial, MLP. The proxy
    modules (AAP, IAP) have none: they read out the feature of a stage.
    """
    return RESIDUALS_PER_BLOCK * sum(block_counts(config))


def drop_rates(config: ModelConfig) -> np.ndarray:
    """Return each branch's drop probability, (R,): from 0 in the first block up to `drop_path` in the deepest.

    Stages II and III are parallel, both after Stage I, so both count their depth from Stage I's last block.
    """
    first, *parallel = block_counts(config)
    depth = [*range(first)] + [first + i for blocks in parallel for i in range(blocks)]
    deepest = max(first + max(parallel) - 1, 1)
    return np.repeat(config.drop_path * np.array(depth) / deepest, RESIDUALS_PER_BLOCK)


def draw_noise(rng: np.random.Generator, config: ModelConfig, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one training clip's noise; `MSTAT.forward` takes batches of both.

    Returns:
        tps_TN: int64; token (t, n) of the clip comes from frame `tps_TN[t, n]`. With probability `tps_probability`
            `tps_positions` random columns hold one random permutation each (Sec. III-E); all others are 0..T-1.
        keep_R: float32; multiplier of each residual branch: 0 if dropped, else 1 / (1 - rate), which keeps the
            expectation. The order is that of `num_residuals`.
    """
    rates_R = drop_rates(config)
    keep_R = np.where(rng.random(len(rates_R)) < rates_R, 0.0, 1.0 / (1.0 - rates_R)).astype(np.float32)

    height, width = config.image_size
    num_positions = (height // config.patch_size) * (width // config.patch_size)
    tps_TN = np.tile(np.arange(num_frames, dtype=np.int64)[:, None], (1, num_positions))
    if rng.random() < config.tps_probability:
        shuffled = rng.choice(num_positions, size=min(config.tps_positions, num_positions), replace=False)
        tps_TN[:, shuffled] = rng.permuted(tps_TN[:, shuffled], axis=0)
    return tps_TN, keep_R
