"""Frame choice: in order, inside the tracklet, evenly repeated where it is too short."""

from __future__ import annotations

import numpy as np
import pytest

from mstat.config import ClipConfig, EvalConfig
from mstat.data.clips import dense_clips, evaluation_clips, spread, training_frames


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


def test_evaluation_segments_are_those_of_training() -> None:
    """The first frame of each part that training draws from, whatever seed and tracklet; short ones repeat evenly."""
    config = EvalConfig(num_frames=4, mode="segments")
    (clip,) = evaluation_clips(21, config, 7)
    draws = [training_frames(21, ClipConfig(num_frames=4), np.random.default_rng(seed)) for seed in range(100)]
    np.testing.assert_array_equal(clip, np.min(draws, axis=0))
    np.testing.assert_array_equal(clip, [0, 5, 10, 15])
    np.testing.assert_array_equal(evaluation_clips(3, config, 7), [[0, 0, 1, 2]])


def test_evaluation_segments_have_a_middle_and_a_drawn_frame() -> None:
    """`segments-middle` takes the middle of each part (the first of two); `segments-drawn` any frame of it, by seed and
    tracklet; of a short tracklet, both take what `segments` takes."""
    (middle,) = evaluation_clips(21, EvalConfig(num_frames=4, mode="segments-middle"), 7)
    np.testing.assert_array_equal(middle, [2, 7, 12, 17])
    drawn = [
        evaluation_clips(21, EvalConfig(num_frames=4, mode="segments-drawn", seed=seed), 7)[0] for seed in range(100)
    ]
    np.testing.assert_array_equal(np.min(drawn, axis=0), [0, 5, 10, 15])
    np.testing.assert_array_equal(np.max(drawn, axis=0), [4, 9, 14, 20])
    seeded = EvalConfig(num_frames=4, mode="segments-drawn", seed=1)
    again, other = (evaluation_clips(21, seeded, tracklet)[0] for tracklet in (7, 8))
    np.testing.assert_array_equal(again, drawn[1])
    assert not np.array_equal(again, other)
    for mode in ("segments-middle", "segments-drawn"):
        np.testing.assert_array_equal(evaluation_clips(3, EvalConfig(num_frames=4, mode=mode), 7), [[0, 0, 1, 2]])


@pytest.mark.parametrize(
    ("num_available", "stride", "expected"),
    [
        (8, 2, [[0, 2, 4, 6], [1, 3, 5, 7]]),
        (11, 2, [[0, 2, 4, 6], [1, 3, 5, 7], [8, 8, 9, 10]]),
        (11, 9, [[0, 2, 4, 6], [1, 3, 5, 7], [8, 8, 9, 10]]),  # the largest stride that fits
        (3, 9, [[0, 0, 1, 2]]),
        (22, 3, [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11], [12, 14, 16, 18], [13, 15, 17, 19], [20, 20, 21, 21]]),
    ],
)
def test_evaluation_strides_cover_every_frame_once(num_available: int, stride: int, expected: list[list[int]]) -> None:
    """Windows of T times stride frames, a smaller stride for the remainder, and the last frames repeated."""
    clips = evaluation_clips(num_available, EvalConfig(num_frames=4, mode="stride", stride=stride), 0)
    np.testing.assert_array_equal(clips, expected)


@pytest.mark.parametrize("stride", [1, 2, 3, 8])
def test_dense_clips_hold_each_frame(stride: int) -> None:
    """As many clips as consecutive ones, of all frames; only the last clip repeats frames."""
    for num_available in range(1, 60):
        clips = dense_clips(num_available, 5, stride)
        assert len(clips) == -(-num_available // 5)
        np.testing.assert_array_equal(np.unique(clips), np.arange(num_available))
        assert len(np.unique(clips[:-1])) == 5 * len(clips[:-1])
