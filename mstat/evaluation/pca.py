"""Principal components of features, with the same bits on any number of ranks and threads (CPU).

Features have 19,968 dims at the paper's size, too many for a covariance matrix. The leading components come from
subspace iteration with a random start (Halko et al., SIAM Review 2011, Alg. 4.4): each pass multiplies the covariance
by an orthonormal basis, tile by tile.

Sums in floating point depend on their order, and so on the ranks. Factors of a sum over features are therefore rounded
to multiples of 2^-BITS: products and sums of whole numbers are exact in any order. Unit-length features lose 10^-12 of
variance in each dimension.

FOLDER/pca.safetensors   `mean` (D,) and `components` (D, K), fp32

Shape suffixes: N features, S of this rank, D feature, K components, L vectors of the basis.
"""

from __future__ import annotations

from collections.abc import Iterator
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
BLOCK = 512  # features whose products are summed in fp64, which is exact for at most 2^(53 - 2 BITS - 2) = 32,768
TILE = 64  # features that are projected together; a rank has whole tiles (`mstat.evaluation.extraction.TILE`)
EXTRA = 32  # vectors of the basis beyond K
PASSES = 6


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
    dim, num_features = features_SD.shape[1], int(engine.sum(torch.tensor(len(features_SD))))
    most = min(dim, num_features - 1)
    if not 1 <= num_components <= most:
        raise UserError(
            f"{num_components} principal components of {num_features:,} features of {dim:,} dims: there are at most "
            f"{most:,}"
        )
    sums_D, squares = torch.zeros(dim, dtype=torch.long), torch.zeros(1, dtype=torch.long)
    for tiles in _blocks(features_SD):
        rounded_ND = torch.cat(tiles)
        sums_D += rounded_ND.sum(dim=0).long()
        squares += rounded_ND.square().sum().long()
    mean_D = engine.sum(sums_D).double() / (num_features * 2**BITS)
    with one_thread(features_SD.device):
        total = float(engine.sum(squares)) / (num_features * 4.0**BITS) - float(mean_D.square().sum())
    generator = torch.Generator().manual_seed(0)
    start_DL = torch.randn(dim, min(dim, num_components + EXTRA), generator=generator, dtype=torch.float64)
    basis_DL = _orthonormal(engine, start_DL)
    for _ in range(PASSES):
        product_DL, _ = _multiply(engine, features_SD, mean_D, basis_DL)
        basis_DL = _orthonormal(engine, product_DL)
    _, covariance_LL = _multiply(engine, features_SD, mean_D, basis_DL)
    with one_thread(features_SD.device):  # LAPACK and BLAS round by the number of threads
        result = _leading(basis_DL, covariance_LL / num_features, num_components) if engine.is_main else None
    components_DK, variance_K = engine.from_main(result)
    kept = min(1.0, float(variance_K.sum()) / total) if total > 0 else 1.0
    return Pca(mean_D.float(), components_DK.float()), kept


def _blocks(features_SD: Tensor) -> Iterator[list[Tensor]]:
    """Yield the tiles of a block: unit-length features as multiples of 2^-BITS, whole numbers in fp64."""
    for block_ND in features_SD.split(BLOCK) if len(features_SD) else ():
        with spreading(features_SD.device) as spread:
            tiles = spread(lambda rows_ND: (unit_length(rows_ND) * 2**BITS).round().double(), block_ND.split(TILE))
        yield tiles


def _multiply(engine: Engine, features_SD: Tensor, mean_D: Tensor, basis_DL: Tensor) -> tuple[Tensor, Tensor]:
    """Return N times the covariance of all features multiplied by the basis (D, L), and within it (L, L)."""
    products_DL = torch.zeros(basis_DL.shape, dtype=torch.long)
    within_LL = torch.zeros(basis_DL.shape[1], basis_DL.shape[1], dtype=torch.long)
    sums_L = torch.zeros(basis_DL.shape[1], dtype=torch.long)
    with one_thread(features_SD.device):
        offset_L = mean_D @ basis_DL
    for tiles in _blocks(features_SD):
        with spreading(features_SD.device) as spread:
            coordinates = spread(lambda tile_ND: (tile_ND @ basis_DL - offset_L * 2**BITS).round(), tiles)
        rounded_ND, coordinates_NL = torch.cat(tiles), torch.cat(coordinates)
        products_DL += (rounded_ND.T @ coordinates_NL).long()
        within_LL += (coordinates_NL.T @ coordinates_NL).long()
        sums_L += coordinates_NL.sum(dim=0).long()
    products_DL, within_LL, sums_L = engine.sum(products_DL), engine.sum(within_LL), engine.sum(sums_L)
    scale = 4.0**BITS
    return products_DL.double() / scale - torch.outer(mean_D, sums_L / 2.0**BITS), within_LL.double() / scale


def _orthonormal(engine: Engine, vectors_DL: Tensor) -> Tensor:
    """Return an orthonormal basis of the columns, that of the main process."""
    with one_thread(vectors_DL.device):
        basis_DL = torch.linalg.qr(vectors_DL).Q if engine.is_main else None
    result: Tensor = engine.from_main(basis_DL)
    return result


def _leading(basis_DL: Tensor, covariance_LL: Tensor, num_components: int) -> tuple[Tensor, Tensor]:
    """Return the leading components (D, K) within a basis, and their variances."""
    variance_L, vectors_LL = torch.linalg.eigh(covariance_LL)  # ascending
    components_DK = basis_DL @ vectors_LL.flip(1)[:, :num_components]
    largest_K = components_DK.abs().argmax(dim=0)
    signs_K = components_DK[largest_K, torch.arange(num_components)].sign()
    return (components_DK * signs_K).contiguous(), variance_L.flip(0)[:num_components].clamp(min=0)
