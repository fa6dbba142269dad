"""Evaluation: sharded extraction and counting give what a plain loop over tracklets gives."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

import shards
from mstat.config import Config, changed
from mstat.config.cli import load_config
from mstat.data.clips import evaluation_clips
from mstat.data.corruptions import occlude, shrink
from mstat.distributed.engine import Engine
from mstat.evaluation.evaluate import degradation, evaluate, score
from mstat.evaluation.extraction import Extraction
from mstat.evaluation.metrics import cmc_map
from mstat.evaluation.trial import Trial
from mstat.model import MSTAT
from shards.images import resize
from shards.records import Role
from tests.helpers.distributed import run_distributed


@pytest.fixture(params=["sample", "clips"])
def config(request: pytest.FixtureRequest, tiny_config: Path) -> Config:
    return load_config(tiny_config, ["--eval.mode", request.param, "--data.num_workers", "0"])


@pytest.mark.slow
def test_features_and_scores_equal_a_plain_loop(config: Config) -> None:
    """Each tracklet's clips embedded one by one and averaged; all seven subsets of stages; junk does not count."""
    reader = shards.open(config.data.shards)
    torch.manual_seed(0)
    model = MSTAT(config.model)
    engine = Engine(config)
    trial = Trial(engine, reader, config)
    parts = trial.extract(model, config.model.image_size)
    for row in range(0, len(trial.tracklets), 7):
        tracklet = int(trial.tracklets[row])
        clips = evaluation_clips(int(reader.num_frames[tracklet]), config.eval, tracklet)
        frames = np.stack([reader.frames(tracklet, numbers, size=config.model.image_size) for numbers in clips])
        feature = model.embed(frames).mean(0)
        torch.testing.assert_close(torch.cat([part[row] for part in parts]), feature, rtol=1e-4, atol=1e-5)

    evaluation = evaluate(engine, model, reader, config).files["evaluation.json"]
    assert set(evaluation["stages"]) == {"I", "II", "III", "I+II", "I+III", "II+III", "I+II+III"}
    roles = reader.roles()
    gallery, queries = trial.tracklets[: trial.num_gallery], trial.tracklets[trial.queries]
    for name, chosen in (("II", [1]), ("I+III", [0, 2]), ("I+II+III", [0, 1, 2])):
        features = torch.cat([parts[i] / parts[i].norm(dim=1, keepdim=True) for i in chosen], dim=1)
        expected = cmc_map(
            features[trial.queries],
            reader.pids[queries],
            reader.camids[queries],
            features[: trial.num_gallery],
            reader.pids[gallery],
            reader.camids[gallery],
            junk=(roles[gallery] & Role.JUNK) > 0,
        )
        scores = evaluation["stages"][name]
        assert {key: scores[key] for key in ("rank1", "num_query", "num_valid_query", "num_gallery")} == {
            key: expected[key] for key in ("rank1", "num_query", "num_valid_query", "num_gallery")
        }
        assert scores["mAP"] == pytest.approx(expected["mAP"], abs=1e-9)

    assert {entry["query"] for entry in evaluation["cameras"]} == set(reader.camids[queries].tolist())
    for entry in evaluation["cameras"]:
        is_query = reader.camids[queries] == entry["query"]
        is_gallery = reader.camids[gallery] == entry["gallery"]
        expected = cmc_map(
            features[trial.queries][is_query],
            reader.pids[queries[is_query]],
            reader.camids[queries[is_query]],
            features[: trial.num_gallery][is_gallery],
            reader.pids[gallery[is_gallery]],
            reader.camids[gallery[is_gallery]],
            junk=(roles[gallery[is_gallery]] & Role.JUNK) > 0,
        )
        assert (entry["rank1"], entry["num_valid_query"]) == (expected["rank1"], expected["num_valid_query"])
        assert entry["mAP"] == pytest.approx(expected["mAP"], abs=1e-9)


def test_features_are_averaged_with_those_of_the_mirror_image(tiny_config: Path) -> None:
    """`eval.flip` averages each stage's feature of a clip and of the clip mirrored left to right."""
    flags = ["--eval.mode", "segments", "--eval.flip", "true", "--data.num_workers", "0"]
    config = load_config(tiny_config, flags)
    reader = shards.open(config.data.shards)
    torch.manual_seed(0)
    model = MSTAT(config.model)
    tracklets = np.array([3, 8])
    parts = Extraction(Engine(config), reader, config, tracklets).extract(model, config.model.image_size)
    for row, tracklet in enumerate(tracklets.tolist()):
        (numbers,) = evaluation_clips(int(reader.num_frames[tracklet]), config.eval, tracklet)
        frames = reader.frames(tracklet, numbers, size=config.model.image_size)
        plain, mirrored = model.embed(frames[None]), model.embed(frames[None, :, :, ::-1].copy())
        assert (plain - mirrored).abs().max() > 1e-3
        feature = torch.cat([part[row] for part in parts])
        torch.testing.assert_close(feature, (plain + mirrored)[0] / 2, rtol=1e-4, atol=1e-5)


def scored_in_small_tiles(configs: Sequence[Config]) -> list[dict[str, Any]]:
    """Return this rank's features and scores for each configuration; tiles of 5 give each of five ranks tracklets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mstat.evaluation.extraction.TILE", 5)
        if dist.is_initialized():  # as the launcher tells it to the engine, which takes fewer threads for more ranks
            rank, world_size = str(dist.get_rank()), str(dist.get_world_size())
            ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
            for name, value in {**ranks, "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
                patch.setenv(name, value)
        engine = Engine(configs[0])
        results = []
        for config in configs:
            torch.manual_seed(0)
            model = MSTAT(config.model)
            trial = Trial(engine, shards.open(config.data.shards), config)
            features = torch.cat(trial.extract(model, config.model.image_size), dim=1)
            scores, nearest = trial.rank(features)
            tensors = [scores.average_precision_Q, scores.first_hit_Q, *nearest(range(len(trial.queries)))]
            tensors.append(trial.collect(features, trial.shown()))
            tables = [trial.distances(features, scores), trial.camera_pairs(features)]
            if config is configs[0]:
                tensors.append(trial.rerank(features).average_precision_Q)
                tables += [trial.verification(features), trial.open_set(features)]
            results.append({"bounds": trial.bounds, "features": features, "tensors": tensors, "tables": tables})
        return results


@pytest.mark.slow
def test_any_number_of_ranks_gives_the_same_bits(tiny_config: Path) -> None:
    """1, 2, 3, 5 ranks, ragged slices: each tracklet is embedded by one rank; features and scores bitwise equal."""
    spoilt = ["--eval.occlusion", "0.3", "--eval.resolution", "12"]
    reranked = ["--eval.rerank", "k-reciprocal", "--eval.rerank_k1", "6", "--eval.rerank_k2", "3"]
    reranked += ["--eval.expansion", "2", "--eval.expansion_alpha", "3"]
    flipped = ["--eval.mode", "stride", "--eval.stride", "2", "--eval.flip", "true"]
    ways = (
        ["--eval.mode", "sample"],
        ["--eval.mode", "clips", *reranked],
        flipped,
        spoilt,
        [*spoilt, "--eval.degrade", "all"],
    )
    configs = [load_config(tiny_config, [*way, "--data.num_workers", "0"]) for way in ways]
    alone = scored_in_small_tiles(configs)
    for world_size in (2, 3, 5):
        by_rank = run_distributed(scored_in_small_tiles, world_size, configs)
        for one, *ranks in zip(alone, *by_rank, strict=True):
            assert [row for part in ranks for row in range(*part["bounds"])] == list(range(one["bounds"][1]))
            sizes = [len(part["features"]) for part in ranks]
            assert min(sizes) > 0
            assert len(set(sizes)) > 1
            assert torch.equal(torch.cat([part["features"] for part in ranks]), one["features"])
            assert all(part["tables"] == one["tables"] for part in ranks)
            for part in ranks:
                assert all(torch.equal(*pair) for pair in zip(part["tensors"], one["tensors"], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("degrade", ["queries", "all"])
def test_degraded_frames_are_of_whom_they_should_be(config: Config, degrade: str) -> None:
    """Features of degraded queries equal a plain loop that spoils each frame; a gallery of good ones is as it was.

    A query that is in the gallery is not compared with itself, and scores count as ever.
    """
    reader, engine = shards.open(config.data.shards), Engine(config)
    torch.manual_seed(0)
    model = MSTAT(config.model)
    good = Trial(engine, reader, config)
    of_good = torch.cat(good.extract(model, config.model.image_size), dim=1)
    settings = dataclasses.replace(config.eval, occlusion=0.4, resolution=20, degrade=degrade)  # type: ignore[arg-type]
    trial = Trial(engine, reader, dataclasses.replace(config, eval=settings))
    features = torch.cat(trial.extract(model, config.model.image_size), dim=1)
    assert trial.num_gallery == good.num_gallery
    assert sorted(trial.tracklets[trial.queries]) == sorted(good.tracklets[good.queries])
    for row in [0, 5, *trial.queries[::5].tolist()]:
        tracklet = int(trial.tracklets[row])
        clips = evaluation_clips(int(reader.num_frames[tracklet]), settings, tracklet)
        if degrade == "all" or row in trial.queries:
            small = [resize(shrink(reader.frames(tracklet, numbers), 20), (32, 16)) for numbers in clips]
            frames = np.stack([occlude(clip, 0.4, settings.seed, tracklet) for clip in small])
        else:
            frames = np.stack([reader.frames(tracklet, numbers, size=(32, 16)) for numbers in clips])
        torch.testing.assert_close(features[row], model.embed(frames).mean(0), rtol=1e-4, atol=1e-5)
    if degrade == "queries":
        assert torch.equal(features[: trial.num_gallery], of_good[: good.num_gallery])

    def compared(trial: Trial) -> list[tuple[int, int, int]]:
        scores, _ = trial.rank(features if trial is not good else of_good)
        summary = scores.summary()
        return [summary[key] for key in ("num_query", "num_valid_query", "num_gallery")]

    assert compared(trial) == compared(good)
    trial_nearest = trial.rank(features)[1](range(len(trial.queries)))[1]
    for query, places in enumerate(trial_nearest.tolist()):
        assert trial.tracklets[trial.queries[query]] not in [trial.tracklets[place] for place in places if place >= 0]
    assert len(set(trial.tracklets[trial.shown()])) == len(trial.shown())


def test_a_known_gallery_is_not_embedded_again(config: Config) -> None:
    """With the features of another trial's gallery, the same bits come out and only queries are embedded."""
    reader, engine = shards.open(config.data.shards), Engine(config)
    torch.manual_seed(0)
    model, embedded = MSTAT(config.model), []

    def counting(frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
        embedded.append(len(frames))  # several threads do
        return model(frames)

    def trial(occlusion: float) -> Trial:
        return Trial(
            engine, reader, dataclasses.replace(config, eval=dataclasses.replace(config.eval, occlusion=occlusion))
        )

    first = trial(0.2).extract(counting, config.model.image_size)
    of_all = sum(embedded)
    embedded.clear()
    fresh = trial(0.5).extract(counting, config.model.image_size)
    assert sum(embedded) == of_all
    embedded.clear()
    reused = trial(0.5).extract(counting, config.model.image_size, first)
    assert sum(embedded) < of_all / 2
    assert all(torch.equal(*pair) for pair in zip(fresh, reused, strict=True))
    assert not torch.equal(torch.cat(fresh, 1), torch.cat(first, 1))


def test_degraded_scores_say_so(config: Config) -> None:
    """In evaluation.json and wherever its warnings are shown."""
    spoilt = dataclasses.replace(config.eval, occlusion=0.3, resolution=16)
    assert degradation(config.eval) == []
    assert degradation(spoilt) == ["the frames of queries were degraded (occlusion 0.3, resolution 16)"]
    config = dataclasses.replace(config, eval=spoilt)
    torch.manual_seed(0)
    evaluation = score(Engine(config), MSTAT(config.model), shards.open(config.data.shards), config).evaluation
    assert evaluation["warnings"][-1] == degradation(spoilt)[0]


def test_rankings_are_the_hardest_queries_with_their_nearest(config: Config) -> None:
    """Lowest average precision first; neighbours by falling similarity; right means the same identity."""
    reader = shards.open(config.data.shards)
    torch.manual_seed(0)
    files = evaluate(Engine(config), MSTAT(config.model), reader, config).files
    evaluation, queries = files["evaluation.json"], files["rankings.json"]["queries"]
    (typical,) = files["rankings.json"]["typical"]
    assert typical["ap"] >= evaluation["mAP"]  # a single one is the best
    assert len(queries) == 3
    assert [query["ap"] for query in queries] == sorted(query["ap"] for query in queries)
    assert queries[0]["ap"] <= evaluation["mAP"]
    for query in queries:
        similarities = [entry["similarity"] for entry in query["gallery"]]
        assert similarities == sorted(similarities, reverse=True)
        for entry in query["gallery"]:
            tracklet = reader[entry["index"]]
            assert (tracklet.key, tracklet.pid, tracklet.camid) == (entry["key"], entry["pid"], entry["camid"])
            assert entry["correct"] == (tracklet.pid == query["pid"])
            assert (tracklet.pid, tracklet.camid) != (query["pid"], query["camid"])
        first = next((entry["rank"] for entry in query["gallery"] if entry["correct"]), None)
        assert first == (query["first_hit"] if query["first_hit"] <= 10 else None)


def test_queries_and_groups_are_those_of_the_trial(tiny_config: Path) -> None:
    """queries.json has every query with its scores, whose mean is the score; groups share them out, with intervals."""
    config = load_config(tiny_config, ["--eval.mode", "sample", "--data.num_workers", "0"])
    reader = shards.open(config.data.shards)
    torch.manual_seed(0)
    files = evaluate(Engine(config), MSTAT(config.model), reader, config).files
    evaluation, queries = files["evaluation.json"], files["queries.json"]
    assert {key: queries[key] for key in ("dataset", "protocol", "split", "eval")} == {
        key: evaluation[key] for key in ("dataset", "protocol", "split", "eval")
    }
    tracklets = np.flatnonzero(reader.roles() & Role.QUERY)
    assert sorted(queries["key"]) == sorted(reader[int(index)].key for index in tracklets)
    lengths = {reader[int(index)].key: int(reader.num_frames[index]) for index in tracklets}
    valid = [q for q, hit in enumerate(queries["first_hit"]) if hit is not None]
    for name in ("mAP", "mINP", "mAP_trapezoidal"):
        assert np.mean([queries[name][q] for q in valid]) == pytest.approx(evaluation[name], abs=1e-12)
    assert np.mean([queries["first_hit"][q] == 1 for q in valid]) == pytest.approx(evaluation["rank1"], abs=1e-12)
    for groups in (evaluation["by_matches"], evaluation["by_length"]):
        assert sum(group["num_valid_query"] for group in groups.values()) == len(valid)
    for name, group in evaluation["by_length"].items():
        low, high = (int(bound) for bound in f"{name}-{name}".split("-")[:2])
        chosen = [q for q in valid if low <= lengths[queries["key"][q]] <= high]
        assert group["mAP"] == pytest.approx(np.mean([queries["mAP"][q] for q in chosen]), abs=1e-12)
    assert {"tpr_at_0.1", "eer"} <= set(evaluation["verification"]["cosine"]["intervals"])
    open_set = evaluation["open_set"]["cosine"]
    assert open_set["num_removed"] == len(set(queries["pid"])) // 2
    assert json.loads(json.dumps(files)) == files


def test_scores_after_reranking_stand_apart(tiny_config: Path) -> None:
    """All other entries are those without it; with lambda 1 and no expansion the scores are the official ones."""
    config = load_config(tiny_config, ["--data.num_workers", "0", "--eval.baselines", "false"])
    reader, engine = shards.open(config.data.shards), Engine(config)
    torch.manual_seed(0)
    model = MSTAT(config.model)

    def evaluation(**settings: object) -> dict[str, Any]:
        requested = changed(config, {f"eval.{name}": value for name, value in settings.items()})
        return evaluate(engine, model, reader, requested).files["evaluation.json"]

    plain = evaluation()
    assert "reranked" not in plain
    same = evaluation(rerank="k-reciprocal", rerank_lambda=1.0)
    reranked = same.pop("reranked")
    assert same == plain
    assert {key: reranked[key] for key in (*plain["intervals"], "cmc", "intervals")} == {
        key: plain[key] for key in (*plain["intervals"], "cmc", "intervals")
    }
    assert reranked["settings"] == {"rerank": "k-reciprocal", "rerank_k1": 20, "rerank_k2": 6, "rerank_lambda": 1.0}
    other = evaluation(expansion=2)["reranked"]
    assert other["settings"] == {"expansion": 2, "expansion_alpha": 0.0}
    assert other["mAP"] != plain["mAP"]
    assert evaluation(expansion=2, rerank="k-reciprocal", rerank_k1=3)["reranked"]["mAP"] != other["mAP"]


def test_an_unknown_protocol_is_refused(config: Config, tiny_shards: Path) -> None:
    """The message names those there are."""
    config = changed(config, {"data.protocol": "offical"})
    with pytest.raises(ValueError, match="official"):
        Trial(Engine(config), shards.open(tiny_shards), config)


@pytest.mark.slow
def test_the_plane_holds_the_first_third_of_the_people(config: Config) -> None:
    """Every tracklet of theirs, queries and gallery, no junk and no distractor, each at a place of its own."""
    config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, pictures=True))
    reader = shards.open(config.data.shards)
    torch.manual_seed(0)
    engine = Engine(config)
    embedding = evaluate(engine, MSTAT(config.model), reader, config).files["embedding.json"]
    tested = reader.pids[Trial(engine, reader, config).tracklets]
    people = np.unique(tested[tested > 0])
    people = people[: len(people) // 3]
    assert len(people) >= 2
    assert sorted(embedding["pids"]) == sorted(tested[np.isin(tested, people)].tolist())
    assert len({tuple(point) for point in embedding["points"]}) == len(embedding["pids"])
