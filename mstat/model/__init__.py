"""The model: a clip of uint8 frames -> the features of three stages. `mstat.py` is the place to start reading."""

from mstat.model.classifier import Classifier
from mstat.model.mstat import MSTAT, feature_dims, no_weight_decay
from mstat.model.noise import draw_noise, num_residuals
from mstat.model.pretrained import load_pretrained

__all__ = [
    "MSTAT",
    "Classifier",
    "draw_noise",
    "feature_dims",
    "load_pretrained",
    "no_weight_decay",
    "num_residuals",
]
