"""Frame choice: in order, inside the tracklet, evenly repeated where it is too short."""

from __future__ import annotations

import numpy as np
import pytest

from mstat.config import ClipConfig, EvalConfig
from mstat.data.clips import evaluation_clips, spread, training_frames


@pytest.mark.parametrize("num_available", [1, 2, 7, 8, 9, 20, 920])
@pytest.mark.parametrize("sampling", ["segments", "stride"])
def test_training_frames_are_in_order_and_inside(num_available: int, sampling: str) -> None:
    """T numbers of 0 .. n-1 that never fall; all different where the tracklet has T frames."""
    config = ClipConfig(num_frames=8, sampling=sampling)  # type: ignore[arg-type]
    for seed in range(30):
        numbers = training_frames(num_available, config, np.random.default_rng(seed))
        assert numbers.shape == (8,)
        assert numbers.min() >= 0
        assert numbers.max() < num_available
        steps = np.diff(numbers)
        assert (steps >= (1 if num_available >= 8 else 0)).all()


def test_segments_reach_every_frame() -> None:
    """One frame of each equal part, and each frame of a part has its chance."""
    seen = {
        (position, int(number))
        for seed in range(300)
        for position, number in enumerate(training_frames(20, ClipConfig(num_frames=4), np.random.default_rng(seed)))
    }
    assert seen == {(number // 5, number) for number in range(20)}


def test_stride_is_kept_where_it_fits() -> None:
    """T frames at the asked stride, a smaller one only where the tracklet is too short for it."""
    config = ClipConfig(num_frames=4, sampling="stride", stride=3)
    rng = np.random.default_rng(0)
    assert set(np.diff(training_frames(10, config, rng))) == {3}
    assert set(np.diff(training_frames(9, config, rng))) == {2}
    starts = {int(training_frames(12, config, np.random.default_rng(s))[0]) for s in range(50)}
    assert starts == {0, 1, 2}


def test_short_tracklets_repeat_evenly() -> None:
    """Frame floor(i n / T), as the paper's field has it."""
    np.testing.assert_array_equal(spread(3, 8), [0, 0, 0, 1, 1, 1, 2, 2])
    np.testing.assert_array_equal(training_frames(3, ClipConfig(), np.random.default_rng(0)), spread(3, 8))


def test_evaluation_sample_is_fixed_by_seed_and_tracklet() -> None:
    """32 different frames in order, the same each time, others for another tracklet or seed."""
    config = EvalConfig(num_frames=32)
    (clip,) = evaluation_clips(100, config, 7)
    assert len(set(clip)) == 32
    assert (np.diff(clip) > 0).all()
    np.testing.assert_array_equal(clip, evaluation_clips(100, config, 7)[0])
    assert not np.array_equal(clip, evaluation_clips(100, config, 8)[0])
    assert not np.array_equal(clip, evaluation_clips(100, EvalConfig(num_frames=32, seed=1), 7)[0])


def test_evaluation_clips_cover_every_frame_once() -> None:
    """Consecutive clips; only the last one repeats frames, evenly, and only its own."""
    clips = evaluation_clips(11, EvalConfig(num_frames=4, mode="clips"), 0)
    np.testing.assert_array_equal(np.stack(clips), [[0, 1, 2, 3], [4, 5, 6, 7], [8, 8, 9, 10]])
