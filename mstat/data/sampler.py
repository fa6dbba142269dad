"""The P x K sampler: the tracklets of a batch as a pure function of seed and step.

The sampler has no state and communicates nothing: every rank computes the same global batch and takes its own slice, at
any step. A pass is ceil(identities / P) batches over one permutation of the identities. Its last batch is filled from
the next pass's permutation, without repeating an identity. An epoch is one pass, or as many batches as the samplers of
the field make of the tracklets; its length alone depends on this choice, the batch of a step does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np

from mstat.errors import UserError

# Streams keep the random numbers of different purposes apart under one seed.
IDENTITIES, TRACKLETS, CLIPS = 0, 1, 2


class Batch(NamedTuple):
    """A global batch, n = P*K; entry i is position i of the batch on any number of ranks.

    tracklets_n  index of a tracklet in the shard set
    labels_n     class number of its identity, 0 .. num_identities-1
    """

    tracklets_n: np.ndarray
    labels_n: np.ndarray


class Sampler(Protocol):
    """The batches of a training. `mstat.training.train.training_sampler` chooses the sampler of a run.

    Attributes:
        pids: Identity of each class number.
        size: Clips of a global batch.
        steps_per_epoch: Batches of an epoch.
    """

    pids: np.ndarray
    size: int
    steps_per_epoch: int

    def batch(self, step: int) -> Batch:
        """Return the global batch of a step, counted from 0: the same one on every rank, at every call."""


class PKSampler:
    """P x K batches over the training tracklets of a set.

    Args:
        tracklets: Indices of the training tracklets.
        pids: Identity of each tracklet.
        camids: Camera of each tracklet.
        num_identities: P.
        num_tracklets: K, per identity: from different cameras if it has them, else other tracklets of the same camera,
            else other clips of a tracklet.
        seed: Seed of all draws.
        epoch: `identities` is one pass over the identities, ceil(identities / P) batches. `tracklets` counts as
            `RandomIdentitySampler.__len__` of torchreid (torchreid/data/sampler.py) and of TF-CLIP
            (datasets/samplers.py) do: an identity of n tracklets gives max(1, floor(n / K)) groups of K, and an epoch
            is floor(groups / P) batches, since their loaders drop an incomplete batch. Their epochs draw an identity
            as often as it has groups; here, every identity remains equally likely. Both stop earlier than they count,
            as soon as fewer than P identities have groups left; torchreid calls its count an estimate.

    Raises:
        UserError: If lengths differ, P or K is less than 1, or there are fewer identities than P.
    """

    def __init__(
        self,
        tracklets: Sequence[int] | np.ndarray,
        pids: Sequence[int] | np.ndarray,
        camids: Sequence[int] | np.ndarray,
        *,
        num_identities: int,
        num_tracklets: int,
        seed: int,
        epoch: Literal["identities", "tracklets"] = "identities",
    ) -> None:
        if not len(tracklets) == len(pids) == len(camids):
            raise UserError(
                f"tracklets, pids and camids have lengths {len(tracklets)}, {len(pids)}, {len(camids)}: make them equal"
            )
        if min(num_identities, num_tracklets) < 1:
            raise UserError("batch.num_identities and batch.num_tracklets must be at least 1")
        self.pids, num_own = np.unique(pids, return_counts=True)  # class number -> pid, and its number of tracklets
        if len(self.pids) < num_identities:
            raise UserError(
                f"batch.num_identities is {num_identities}, but the training set has {len(self.pids)} identities: "
                f"set it to at most {len(self.pids)}"
            )
        self.num_identities, self.num_tracklets, self.seed = num_identities, num_tracklets, seed
        self.size = num_identities * num_tracklets
        self.steps_per_pass = self.steps_per_epoch = -(-len(self.pids) // num_identities)
        if epoch == "tracklets":
            self.steps_per_epoch = int(np.maximum(1, num_own // num_tracklets).sum()) // num_identities
        # class number -> camera -> its tracklets
        self._cameras: list[dict[int, list[int]]] = [{} for _ in self.pids]
        for tracklet, label, camid in zip(tracklets, np.searchsorted(self.pids, pids), camids, strict=True):
            self._cameras[label].setdefault(int(camid), []).append(int(tracklet))

    def batch(self, step: int) -> Batch:
        """Return the global batch of a step, counted from 0."""
        identities = self._identities(step)
        tracklets = [self._tracklets(step, int(label)) for label in identities]
        return Batch(np.concatenate(tracklets), np.repeat(identities, self.num_tracklets))

    def _identities(self, step: int) -> np.ndarray:
        number, batch = divmod(step, self.steps_per_pass)
        start = batch * self.num_identities
        chosen = self._permutation(number)[start : start + self.num_identities]
        missing = self.num_identities - len(chosen)
        if missing:
            following = self._permutation(number + 1)
            chosen = np.concatenate([chosen, following[~np.isin(following, chosen)][:missing]])
        return chosen

    def _permutation(self, number: int) -> np.ndarray:
        return np.random.default_rng([self.seed, IDENTITIES, number]).permutation(len(self.pids))

    def _tracklets(self, step: int, label: int) -> np.ndarray:
        """Draw K tracklets of one identity: cameras in random order, one tracklet of each in turn."""
        rng = np.random.default_rng([self.seed, TRACKLETS, step, label])
        cameras = list(self._cameras[label].values())
        queues = [rng.permutation(cameras[camera]) for camera in rng.permutation(len(cameras))]
        rounds = range(max(len(queue) for queue in queues))
        turns = [queue[turn] for turn in rounds for queue in queues if turn < len(queue)]
        return np.resize(np.array(turns), self.num_tracklets)  # repeats from the first if K is larger
