"""The model of the paper: uint8 frames of a clip -> the features of three stages. Start reading in `mstat.py`.

Layers, their randomness and their CPU kernels belong here; mstat/weights has weights in files, mstat/losses has losses.
"""

from mstat.model.mstat import MSTAT, Embedding, feature_dims, join_stages, no_weight_decay
from mstat.model.noisy import NoisyMSTAT
from mstat.model.randomness import draw_noise, num_residuals

__all__ = [
    "MSTAT",
    "Embedding",
    "NoisyMSTAT",
    "draw_noise",
    "feature_dims",
    "join_stages",
    "no_weight_decay",
    "num_residuals",
]
