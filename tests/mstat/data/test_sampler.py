"""The plan: exact P x K batches, reached at once, the same for everyone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from mstat.data.sampler import IDENTITIES, TRACKLETS, PKSampler
from mstat.distributed.gather import slice_bounds


def make(
    num_identities: int = 4, num_tracklets: int = 2, pids: int = 10, seed: int = 0
) -> tuple[PKSampler, dict[int, tuple[int, int]]]:
    """A plan over identities with 1 to 3 cameras and 1 to 3 tracklets in each, and (pid, camid) of each tracklet."""
    rng = np.random.default_rng(5)
    rows = [
        (pid * 7 + 3, camid) for pid in range(pids) for camid in range(1 + pid % 3) for _ in range(rng.integers(1, 4))
    ]
    rng.shuffle(rows)
    tracklets = 100 + np.arange(len(rows))
    plan = PKSampler(
        tracklets,
        [pid for pid, _ in rows],
        [camid for _, camid in rows],
        num_identities=num_identities,
        num_tracklets=num_tracklets,
        seed=seed,
    )
    return plan, dict(zip(tracklets.tolist(), rows, strict=True))


def test_batches_are_p_identities_times_k_tracklets() -> None:
    """Every batch has P different identities, K entries each, and labels that belong to the tracklets."""
    plan, facts = make()
    for step in range(50):
        batch = plan.batch(step)
        assert len(batch.tracklets_n) == len(batch.labels_n) == plan.size == 8
        assert len(set(batch.labels_n)) == 4
        assert all(facts[t][0] == plan.pids[label] for t, label in zip(*batch, strict=True))


@pytest.mark.parametrize("num_tracklets", [2, 3, 4])
def test_cameras_differ_where_they_can(num_tracklets: int) -> None:
    """K entries of an identity come from K cameras, or from all it has; and from K tracklets, or from all it has."""
    plan, facts = make(num_tracklets=num_tracklets)
    cameras: dict[int, set[int]] = {}
    tracklets: dict[int, set[int]] = {}
    for tracklet, (pid, camid) in facts.items():
        cameras.setdefault(pid, set()).add(camid)
        tracklets.setdefault(pid, set()).add(tracklet)
    assert {len(own) for own in cameras.values()} == {1, 2, 3}
    for step in range(50):
        for group in plan.batch(step).tracklets_n.reshape(-1, num_tracklets):
            pid = facts[group[0]][0]
            assert len({facts[t][1] for t in group}) == min(num_tracklets, len(cameras[pid]))
            assert len(set(group)) == min(num_tracklets, len(tracklets[pid]))


def test_more_clips_than_tracklets_repeat_evenly() -> None:
    """If K exceeds an identity's tracklets, each is used before any is used again."""
    plan, facts = make(num_tracklets=7)
    batch = plan.batch(3)
    for label, group in zip(batch.labels_n[::7], batch.tracklets_n.reshape(-1, 7), strict=True):
        own = [t for t, (pid, _) in facts.items() if pid == plan.pids[label]]
        counts = np.unique(group, return_counts=True)[1]
        assert set(group) <= set(own)
        assert len(counts) == min(7, len(own))
        assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("pids", [8, 9, 10, 11])
def test_an_epoch_shows_every_identity(pids: int) -> None:
    """Within ceil(identities / P) batches all identities appear, also where P does not divide their number."""
    plan, _ = make(pids=pids)
    assert plan.steps_per_epoch == -(-pids // 4)
    for epoch in range(5):
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        assert set(np.concatenate([plan.batch(step).labels_n for step in steps])) == set(range(pids))


@pytest.mark.parametrize(("num_tracklets", "steps"), [(1, 9), (2, 4), (4, 3), (9, 2)])
def test_an_epoch_of_tracklets(num_tracklets: int, steps: int) -> None:
    """Identities of 1, 2, 3, 5 and 8 tracklets give max(1, n // K) groups each: 19, 9, 6 or 5, of which two make a
    batch. Its batches are those of an epoch of identities."""
    pids = np.repeat([3, 4, 5, 6, 7], [1, 2, 3, 5, 8])
    sizes = {"num_identities": 2, "num_tracklets": num_tracklets, "seed": 0}
    one, other = (
        PKSampler(np.arange(len(pids)), pids, np.zeros_like(pids), epoch=epoch, **sizes)
        for epoch in ("identities", "tracklets")
    )
    assert (one.steps_per_epoch, other.steps_per_epoch) == (3, steps)
    for step in range(12):
        np.testing.assert_array_equal(one.batch(step).tracklets_n, other.batch(step).tracklets_n)


def test_a_step_is_a_pure_function_of_the_seed() -> None:
    """Step 40 is the same asked first or last, the same in another object, and another one for another seed."""
    (one, _), (two, _), (other, _) = make(), make(), make(seed=1)
    first = two.batch(40)
    for step in range(41):
        last = one.batch(step)
    np.testing.assert_array_equal(first.tracklets_n, last.tracklets_n)
    assert not np.array_equal(first.tracklets_n, other.batch(40).tracklets_n)
    assert not np.array_equal(one.batch(40).tracklets_n, one.batch(41).tracklets_n)


def test_a_reached_step_costs_no_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Step 10^6 draws for itself alone: its epoch's order of identities, and tracklets of its P identities."""
    plan, _ = make(pids=12)
    keys: list[tuple[int, ...]] = []
    default_rng = np.random.default_rng

    def keyed(key: Sequence[int]) -> np.random.Generator:
        keys.append(tuple(key))
        return default_rng(key)

    monkeypatch.setattr(np.random, "default_rng", keyed)
    step = 10**6
    labels = plan.batch(step).labels_n[::2]
    expected = [(0, IDENTITIES, step // plan.steps_per_epoch)] + [(0, TRACKLETS, step, label) for label in labels]
    assert keys == expected


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 5, 6, 12, 24])
def test_slices_are_the_batch(world_size: int) -> None:
    """The ranks' slices follow each other, cover the batch once and differ by one clip at most."""
    bounds = [slice_bounds(24, world_size, rank) for rank in range(world_size)]
    assert [i for start, stop in bounds for i in range(start, stop)] == list(range(24))
    sizes = [stop - start for start, stop in bounds]
    assert max(sizes) - min(sizes) <= 1


def test_too_few_identities_are_refused() -> None:
    """The message names both numbers and the setting to change."""
    with pytest.raises(ValueError, match=r"batch.num_identities is 11, but the training set has 10 identities"):
        make(num_identities=11)


def test_lengths_must_match() -> None:
    """One pid and one camera for every tracklet, or nothing."""
    with pytest.raises(ValueError, match="make them equal"):
        PKSampler([1, 2], [1, 2], [1], num_identities=1, num_tracklets=1, seed=0)
