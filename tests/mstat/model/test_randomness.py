import subprocess
import sys

import numpy as np

from mstat.config import ModelConfig
from mstat.model.randomness import draw_noise, drop_rates, num_residuals


def test_a_clip_has_the_noise_of_its_generator() -> None:
    """The same generator gives the same noise; nothing else has a say."""
    config = ModelConfig(tps_probability=1.0)
    for (tps, keep), (tps_again, keep_again) in [
        (draw_noise(np.random.default_rng([3, i]), config, 8), draw_noise(np.random.default_rng([3, i]), config, 8))
        for i in range(20)
    ]:
        np.testing.assert_array_equal(tps, tps_again)
        np.testing.assert_array_equal(keep, keep_again)
        assert (tps.dtype, tps.shape) == (np.dtype(np.int64), (8, 98))
        assert (keep.dtype, keep.shape) == (np.dtype(np.float32), (num_residuals(config),))


def test_tps_permutes_five_positions_of_one_clip_in_five() -> None:
    """A struck clip has exactly `tps_positions` columns drawn, each a permutation; about `tps_probability` are."""
    config = ModelConfig()
    rng = np.random.default_rng(0)
    struck, columns, permutations = 0, 0, set[tuple[int, ...]]()
    for _ in range(2000):
        tps, _ = draw_noise(rng, config, 8)
        np.testing.assert_array_equal(np.sort(tps, axis=0), np.tile(np.arange(8)[:, None], (1, 98)))
        moved = np.flatnonzero((tps != np.arange(8)[:, None]).any(0))
        assert len(moved) <= config.tps_positions
        struck += len(moved) > 0
        columns += len(moved)
        permutations.update(tuple(tps[:, n]) for n in moved)
    # Of 8! permutations one is the identity, so nearly every struck column shows; 4 standard deviations of 2000 draws.
    assert abs(struck / 2000 - 0.2) < 0.036
    assert columns > 4.9 * struck
    assert len(permutations) > 0.95 * columns, "positions of one clip share a permutation"


def test_tps_strikes_no_more_positions_than_there_are() -> None:
    """A grid of two patches is shuffled at both."""
    config = ModelConfig(image_size=(32, 16), tps_probability=1.0)
    tps, _ = draw_noise(np.random.default_rng(1), config, 8)
    assert tps.shape == (8, 2)
    assert (tps != np.arange(8)[:, None]).any(0).all()


def test_drop_path_grows_over_depth_and_keeps_its_expectation() -> None:
    """Rates rise linearly from 0 to `drop_path`; Stages II and III start at the same depth; the mean factor is 1."""
    config = ModelConfig(drop_path=0.4)
    rates = drop_rates(config)
    per_block = rates.reshape(-1, 3)
    assert (per_block == per_block[:, :1]).all()
    np.testing.assert_allclose(per_block[:11, 0], np.linspace(0, 0.4, 11))
    np.testing.assert_array_equal(per_block[8:11], per_block[11:14])

    rng = np.random.default_rng(2)
    keep = np.stack([draw_noise(rng, config, 2)[1] for _ in range(4000)])
    np.testing.assert_allclose((keep == 0).mean(0), rates, atol=0.035)
    np.testing.assert_allclose(keep.max(0), 1 / (1 - rates), rtol=1e-6)
    np.testing.assert_allclose(keep.mean(0), 1, atol=0.06)


def test_noise_can_be_turned_off() -> None:
    """Probability 0 and rate 0 give the identity and ones."""
    tps, keep = draw_noise(np.random.default_rng(0), ModelConfig(tps_probability=0, drop_path=0), 4)
    np.testing.assert_array_equal(tps, np.tile(np.arange(4)[:, None], (1, 98)))
    np.testing.assert_array_equal(keep, np.ones(42))


def test_noise_imports_no_torch_of_its_own() -> None:
    """The file itself needs NumPy alone: read without its package, it leaves torch out."""
    code = (
        "import importlib.util, sys; import mstat.config;"
        "spec = importlib.util.spec_from_file_location('noise', sys.argv[1]);"
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module);"
        "sys.exit('torch' in sys.modules)"
    )
    path = sys.modules[draw_noise.__module__].__file__
    assert path is not None
    subprocess.run([sys.executable, "-c", code, path], check=True)
