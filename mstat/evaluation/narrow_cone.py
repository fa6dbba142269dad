"""Features in a narrow cone as small differences from a common vector, so that fp32 separates near neighbours.

If all cosine similarities are about 1 - 1e-6, fp32 keeps a single digit of the 1e-6. With a common vector m and the
differences du and dv of two unit vectors u and v from m,

    cos(u, v) = 1 - |u - v|^2 / 2 = 1 - |du|^2 / 2 - |dv|^2 / 2 + du . dv

and every term but the 1 is as small as the distance, so fp32 keeps seven digits of the distance. Any m inside the cone
works, but the differences must be exact. Therefore m has 12 bits, the length of a feature is split into two numbers of
12 bits, and fp32 holds their products exactly on any machine.

Shape suffixes: N features, T features of a tile, D feature dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mstat.errors import UserError

NARROW = 0.75  # mean cosine similarity of the queries; with less, fp32 has digits enough
SAMPLE = 256  # most queries whose mean is the common vector
EQUAL, CLOSE = 1e-12, 1e-8  # largest cosine distance that is rounding alone, and that rounding may reorder
CACHED = 2**19  # numbers; larger arrays need new memory pages, which cost more than the arithmetic
SHORTEST = 1e-12  # a shorter feature counts as zero: its cosine similarity to all others is 0


def common_vector(features_ND: Tensor) -> Tensor | None:
    """Return the common vector (D,), fp32 with 12 bits, or None if the features form no narrow cone.

    It depends on these features alone, so it has the same bits on every rank.
    """
    if not features_ND.numel():
        return None
    sample_ND = features_ND[:: -(-len(features_ND) // SAMPLE)].double()
    mean_D = (sample_ND / norm(sample_ND)).sum(dim=0) / len(sample_ND)  # a column is summed by one thread
    return _coarse(mean_D) if float(mean_D.square().sum()) > NARROW else None


def norm(features_ND: Tensor) -> Tensor:
    """Return the length (N, 1) of each feature, at least SHORTEST.

    Raises:
        UserError: If a feature is not finite.
    """
    norm_N1 = torch.linalg.vector_norm(features_ND, dim=1, keepdim=True)
    if not norm_N1.isfinite().all():
        raise UserError("features are not finite: check the weights for inf or NaN, and embed these tracklets again")
    return norm_N1.clamp(min=SHORTEST)


def precise_norm(features_ND: Tensor) -> Tensor:
    """Compute `norm` more precisely: `vector_norm` sums sequentially, which loses digits."""
    square_N1 = torch.cat([rows.square().sum(dim=1, keepdim=True) for rows in features_ND.split(_rows(features_ND))])
    norm_N1 = square_N1.sqrt()
    # Squares may overflow; `vector_norm` scales them.
    return norm_N1.clamp(min=SHORTEST) if norm_N1.isfinite().all() else norm(features_ND)


def differences(features_TD: Tensor, norm_T1: Tensor, common_D: Tensor, out: Tensor | None = None) -> Tensor:
    """Return the differences (T, D) fp32 of the features from the common vector times the feature's length.

    Args:
        out: Tensor to write to, or None.
    """
    dtype = torch.promote_types(features_TD.dtype, torch.float32)
    coarse_T1 = _coarse(norm_T1).to(dtype)
    fine_T1, common_D = norm_T1 - coarse_T1, common_D.to(dtype)
    difference_TD = features_TD.new_empty(features_TD.shape, dtype=torch.float32) if out is None else out
    parts = (tensor.split(_rows(features_TD)) for tensor in (features_TD, coarse_T1, fine_T1, difference_TD))
    for rows, coarse, fine, written in zip(*parts, strict=True):
        exact = written if dtype == torch.float32 else torch.empty_like(rows, dtype=dtype)
        torch.addcmul(rows.to(dtype), common_D, coarse, value=-1, out=exact).addcmul_(common_D, fine, value=-1)
        if exact is not written:
            written.copy_(exact)
    return difference_TD


def half_square(difference_ND: Tensor, norm_N1: Tensor) -> Tensor:
    """Return |d|^2 / 2 (N,) of `differences`; zero features get the value that makes all their similarities 0."""
    rows = _rows(difference_ND)
    parts = zip(difference_ND.split(rows), norm_N1.split(rows), strict=True)
    square_N = torch.cat([(difference / length).square().sum(dim=1) for difference, length in parts])
    return (square_N + (norm_N1 <= SHORTEST).squeeze(1)) / 2


def measure(features_ND: Tensor, common_D: Tensor) -> tuple[Tensor, Tensor]:
    """Return the length (N, 1) and `half_square` (N,) of each feature, in fp32, one part of the rows at a time."""
    norm_N1 = precise_norm(features_ND).float()
    rows = _rows(features_ND)
    parts = zip(features_ND.split(rows), norm_N1.split(rows), strict=True)
    return norm_N1, torch.cat([half_square(differences(*part, common_D), part[1]) for part in parts])


def spread(features_ND: Tensor, origin_D: Tensor) -> float:
    """Return the largest cosine distance of a feature from `origin_D`, or the first one found that exceeds CLOSE."""
    origin_D = origin_D.double() / norm(origin_D.double()[None])[0]
    largest = 0.0
    for rows_ND in features_ND.split(64) if len(features_ND) else ():
        unit_ND = rows_ND.double() / norm(rows_ND.double())
        largest = max(largest, float((unit_ND - origin_D.to(unit_ND.device)).square().sum(dim=1).max()) / 2)
        if largest > CLOSE:
            break
    return largest


def collapse(distance: float) -> str | None:
    """Return the warning for features of this `spread`, or None if they are distinct enough."""
    if distance <= EQUAL:
        return "all tracklets have the same feature, so their ranks are the order of the gallery"
    if distance <= CLOSE:
        return f"all features lie within a cosine distance of {distance:.0e}, so rounding decides ranks"
    return None


def _rows(features_ND: Tensor) -> int:
    """Return the number of features per pass: on a CPU as many as fit into its cache."""
    return max(1, CACHED // max(1, features_ND.shape[1]) if features_ND.is_cpu else len(features_ND))


def _coarse(values: Tensor) -> Tensor:
    """Round values to 12 bits, half of the 24 of fp32."""
    return ((values.float().contiguous().view(torch.int32) + 2**11) & -(2**12)).view(torch.float32)
