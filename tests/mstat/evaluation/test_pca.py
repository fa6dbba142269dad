"""Principal components: those of scikit-learn, with the same bits on any number of ranks and threads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.decomposition import PCA

from mstat.config import Config
from mstat.config.cli import load_config
from mstat.distributed.engine import Engine
from mstat.errors import UserError
from mstat.evaluation.pca import TILE, Pca, learn, unit_length
from mstat.evaluation.ranking import gallery_slices
from tests.helpers.distributed import as_launched, run_distributed

NUM, DIM, KEPT = 700, 90, 6


def features() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    mixture = torch.randn(DIM, DIM, generator=generator) * 0.95 ** torch.arange(DIM)
    return 3 + torch.randn(NUM, DIM, generator=generator) @ mixture.T


@pytest.fixture
def config(tiny_config: Path) -> Config:
    return load_config(tiny_config)


def of_rank(config: Config) -> tuple[torch.Tensor, torch.Tensor, float, torch.Tensor]:
    with as_launched():
        engine = Engine(config)
        torch.set_num_threads(3 if engine.world_size == 1 else 1)
        start, stop = gallery_slices(NUM, engine.world_size, TILE)[engine.rank]
        pca, kept = learn(engine, features()[start:stop], KEPT)
        return pca.mean_D, pca.components_DK, kept, pca.project(features()[start:stop])


def test_the_components_are_those_of_scikit_learn(config: Config) -> None:
    """Of unit-length features: mean, components up to sign, kept variance, and projected features."""
    mean_D, components_DK, kept, projected_NK = of_rank(config)
    unit_ND = unit_length(features()).double().numpy()
    oracle = PCA(KEPT, svd_solver="full").fit(unit_ND)
    torch.testing.assert_close(mean_D.double(), torch.from_numpy(oracle.mean_), rtol=0, atol=1e-6)
    components_KD = torch.from_numpy(oracle.components_)
    signs_K1 = (components_KD * components_DK.T).sum(dim=1, keepdim=True).sign()
    torch.testing.assert_close(components_DK.T.double(), components_KD * signs_K1, rtol=0, atol=1e-4)
    expected = torch.from_numpy(oracle.transform(unit_ND)) * signs_K1.T
    torch.testing.assert_close(projected_NK.double(), expected, rtol=0, atol=1e-4)
    assert kept == pytest.approx(oracle.explained_variance_ratio_.sum(), abs=1e-6)
    assert (components_DK.gather(0, components_DK.abs().argmax(dim=0, keepdim=True)) > 0).all()


def test_ranks_and_threads_change_no_bit(config: Config) -> None:
    """Components and projected features are equal on one rank of three threads and three ranks of one."""
    whole: Any = of_rank(config)
    by_rank = run_distributed(of_rank, 3, config)
    for ranked in by_rank:
        assert all(torch.equal(ranked[i], whole[i]) for i in (0, 1))
        assert ranked[2] == whole[2]
    assert torch.equal(torch.cat([ranked[3] for ranked in by_rank]), whole[3])


def test_too_many_components_are_refused(config: Config) -> None:
    """N features have at most N - 1 components, and never more than dims; the projection takes its own length only."""
    engine = Engine(config)
    for rows, count in ((features()[:5], 5), (features(), DIM + 1)):
        with pytest.raises(UserError, match=f"there are at most {count - 1}"):
            learn(engine, rows, count)
    with pytest.raises(UserError, match=r"takes \(N, 90\)"):
        Pca(torch.zeros(DIM), torch.zeros(DIM, 2)).project(torch.zeros(3, 7))


def test_equal_features_have_no_variance(config: Config) -> None:
    """They are projected to zero."""
    equal = torch.ones(70, 4)
    pca, kept = learn(Engine(config), equal, 2)
    assert kept == 1.0
    torch.testing.assert_close(pca.project(equal), torch.zeros(70, 2), rtol=0, atol=1e-5)
