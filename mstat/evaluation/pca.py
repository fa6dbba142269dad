"""Principal components of features, with the same bits on any number of ranks and threads (CPU).

Sums in floating point depend on their order, and so on the ranks. The unit-length features are therefore rounded to
multiples of 2^-BITS for the covariance alone: products and sums of whole numbers are exact in any order. The rounding
adds a variance of 10^-12 to each of the D dimensions, whose mean variance is at most 1 / D.

FOLDER/pca.safetensors   `mean` (D,) and `components` (D, K), fp32

Shape suffixes: N features, S of this rank, D feature, K components.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mstat.errors import UserError
from mstat.evaluation.narrow_cone import norm
from mstat.numerics import one_thread, spreading

if TYPE_CHECKING:
    from mstat.distributed.engine import Engine

FILE = "pca.safetensors"
BITS = 18
BLOCK = 8192  # features of one matrix product; fp64 holds its sums exactly up to 2^(53 - 2 BITS) = 131,072 of them
TILE = 64  # features that are projected together


@dataclass(frozen=True)
class Pca:
    """Projection of unit-length features on principal components.

    Attributes:
        mean_D: Mean of the unit-length features, fp32.
        components_DK: Components by descending variance, orthonormal columns, fp32. The entry of the largest magnitude
            of each is positive.
    """

    mean_D: Tensor
    components_DK: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """Return the content of pca.safetensors."""
        return {"mean": self.mean_D, "components": self.components_DK.contiguous()}

    def project(self, features_ND: Tensor) -> Tensor:
        """Scale features to length 1, subtract the mean, and project: (N, D) on the CPU -> (N, K) fp32.

        Raises:
            UserError: If the features have another length, or are not finite.
        """
        if features_ND.ndim != 2 or features_ND.shape[1] != len(self.mean_D):
            shape = tuple(features_ND.shape)
            raise UserError(f"features have shape {shape}, but the projection takes (N, {len(self.mean_D)})")
        with spreading(features_ND.device) as spread:
            return torch.cat(spread(self._project, features_ND.split(TILE)))

    def _project(self, rows_ND: Tensor) -> Tensor:
        return (unit_length(rows_ND) - self.mean_D) @ self.components_DK


def unit_length(rows_ND: Tensor) -> Tensor:
    """Return the features scaled to length 1, in fp32."""
    return rows_ND.float() / norm(rows_ND.float())


def learn(engine: Engine, features_SD: Tensor, num_components: int) -> tuple[Pca, float]:
    """Learn the projection from the features of all ranks, in fp64. Every rank calls it.

    Args:
        features_SD: Features of this rank, on the CPU, in whole tiles of TILE except at the end of the set.
        num_components: K, at most D and less than the number of features of all ranks.

    Returns:
        The projection, and the fraction of the variance that it keeps.

    Raises:
        UserError: If K is out of this range, or the features are not finite.
    """
    dim = features_SD.shape[1]
    products_DD = torch.zeros(dim, dim, dtype=torch.long)
    sums_D = torch.zeros(dim, dtype=torch.long)
    for block_ND in features_SD.split(BLOCK) if len(features_SD) else ():
        with spreading(features_SD.device) as spread:
            rounded_ND = torch.cat(spread(_rounded, block_ND.split(TILE)))
        products_DD += (rounded_ND.T @ rounded_ND).long()
        sums_D += rounded_ND.sum(dim=0).long()
    num_features = int(engine.sum(torch.tensor(len(features_SD))))
    if not 1 <= num_components <= min(dim, num_features - 1):
        raise UserError(
            f"{num_components} principal components of {num_features:,} features of {dim:,} dims: there are at most "
            f"{min(dim, num_features - 1):,}"
        )
    products_DD, sums_D = engine.sum(products_DD), engine.sum(sums_D)
    # LAPACK rounds by the number of threads, which differs between ranks and launches.
    with one_thread(torch.device("cpu")):
        result = _components(products_DD, sums_D, num_features, num_components) if engine.is_main else None
    mean_D, components_DK, kept = engine.from_main(result)
    return Pca(mean_D, components_DK), kept


def _rounded(rows_ND: Tensor) -> Tensor:
    return (unit_length(rows_ND) * 2**BITS).round().double()


def _components(
    products_DD: Tensor, sums_D: Tensor, num_features: int, num_components: int
) -> tuple[Tensor, Tensor, float]:
    mean_D = sums_D.double() / num_features
    covariance_DD = (products_DD.double() / num_features - torch.outer(mean_D, mean_D)) / 2.0 ** (2 * BITS)
    variance_D, vectors_DD = torch.linalg.eigh(covariance_DD)  # ascending
    components_DK = vectors_DD.flip(1)[:, :num_components]
    largest_K = components_DK.abs().argmax(dim=0)
    signs_K = components_DK[largest_K, torch.arange(num_components)].sign()
    variance_D = variance_D.clamp(min=0)
    total = float(variance_D.sum())
    kept = float(variance_D[-num_components:].sum()) / total if total else 1.0
    return (mean_D / 2**BITS).float(), (components_DK * signs_K).float().contiguous(), kept
