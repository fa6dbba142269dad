"""Content of the files beside evaluation.json: rankings, scores of every query, and the plane of the t-SNE."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from mstat.evaluation.metrics import MEANS, Scores
from mstat.evaluation.per_query import columns
from mstat.evaluation.trial import Trial


def queries(trial: Trial, scores: Scores) -> dict[str, list[Any]]:
    """Return the query tracklets and their scores, one list for each quantity."""
    tracklets = trial.tracklets[trial.queries]
    return {
        "key": trial.reader.keys(tracklets),
        "pid": trial.reader.pids[tracklets].tolist(),
        "camid": trial.reader.camids[tracklets].tolist(),
        **columns(scores, () if trial.cmc_only else MEANS),
    }


def embedding(trial: Trial, features_SD: torch.Tensor) -> dict[str, Any]:
    """Embed the tracklets of the first third of the test identities in two dimensions, by t-SNE of cosine distances."""
    from sklearn.manifold import TSNE  # takes a second to import

    places = trial.shown()
    unit_ND = torch.nn.functional.normalize(trial.collect(features_SD, places).double())
    centred_ND = unit_ND - unit_ND.mean(dim=0)  # in fp64, so that fp32 keeps small differences
    # Equal features differ from their mean by its rounding at most. They have no principal direction: scikit-learn
    # would start from NaN and crash.
    is_collapsed = bool(centred_ND.abs().max() < 1e-12)
    features = (torch.zeros_like(centred_ND) if is_collapsed else centred_ND).float().numpy()
    perplexity = min(30.0, max(1.0, (len(features) - 1) / 3))
    init = "random" if is_collapsed else "pca"
    tsne = TSNE(perplexity=perplexity, init=init, random_state=trial.config.eval.seed)
    points = tsne.fit_transform(features) if len(features) > 2 else features[:, :2]
    pids = trial.reader.pids[trial.tracklets[places]]
    return {"points": points.astype(float).round(4).tolist(), "pids": pids.tolist()}


def rankings(
    trial: Trial, scores: Scores, nearest: Callable[[Sequence[int]], tuple[torch.Tensor, torch.Tensor]]
) -> dict[str, list[dict[str, Any]]]:
    """Return queries with their nearest gallery tracklets.

    `queries` are the hardest, in ascending order of average precision. `typical` has a third as many, evenly spaced
    from the best to the worst, because failures alone would misrepresent the model.
    """
    reader = trial.reader
    valid = torch.nonzero(scores.first_hit_Q > 0).flatten()
    worst_first = valid[scores.average_precision_Q[valid].argsort(stable=True)]
    hardest = worst_first[: trial.config.eval.num_rankings].tolist()
    num_typical = min(-(-trial.config.eval.num_rankings // 3), len(worst_first))
    typical = worst_first.flip(0)[np.linspace(0, len(worst_first) - 1, num_typical).round().astype(int)].tolist()
    chosen = [*hardest, *typical]
    similarities, items = nearest(chosen)
    num_positives = torch.bincount(trial.pairs.positives_2P[0], minlength=len(trial.queries))

    def labels(place: int) -> dict[str, Any]:
        tracklet = reader[int(trial.tracklets[place])]
        index = int(trial.tracklets[place])
        return {"index": index, "key": tracklet.key, "pid": tracklet.pid, "camid": tracklet.camid}

    rows = []
    for query, places, similarity in zip(chosen, items.tolist(), similarities.tolist(), strict=True):
        requested = labels(int(trial.queries[query]))
        gallery = [
            {"rank": rank, **labels(place), "similarity": near}
            for rank, (place, near) in enumerate(zip(places, similarity, strict=True), 1)
            if place >= 0
        ]
        rows.append(
            {
                **requested,
                "ap": float(scores.average_precision_Q[query]),
                "first_hit": int(scores.first_hit_Q[query]),
                "num_positives": int(num_positives[query]),
                "gallery": [{**entry, "correct": entry["pid"] == requested["pid"]} for entry in gallery],
            }
        )
    return {"queries": rows[: len(hardest)], "typical": rows[len(hardest) :]}
