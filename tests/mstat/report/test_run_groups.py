"""Runs of a comparison: their names, their groups, and what speaks against comparing them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mstat.report.run_groups import compared, differing, grouped, why_not_comparable
from tests.mstat.report.conftest import make_evaluation


def make(folder: Path, seed: int = 0, lr: float = 0.1, checksum: str = "abc", **evaluation: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"run: {folder}\nseed: {seed}\noptim: {{lr: {lr}, name: sgd}}\n")
    (folder / "environment.json").write_text(json.dumps({"shards_checksum": checksum}))
    (folder / "evaluation.json").write_text(json.dumps(make_evaluation() | evaluation))
    return folder


def test_names_tell_the_runs_apart(tmp_path: Path) -> None:
    """The folder's name where that is enough, else more of the path; one run twice is refused."""
    one, two = make(tmp_path / "a" / "seed-0"), make(tmp_path / "b" / "seed-0")
    three = make(tmp_path / "b" / "seed-1")
    assert [run.name for run in compared([one, three])] == ["seed-0", "seed-1"]
    assert [run.name for run in compared([one, two, three])] == ["a/seed-0", "b/seed-0", "b/seed-1"]
    with pytest.raises(ValueError, match=r"seed-0: given twice"):
        compared([one, two, tmp_path / "a" / ".." / "a" / "seed-0"])


def test_seeds_are_one_group_with_their_mean(tmp_path: Path) -> None:
    """Same settings but the seed: mean and sample deviation, in the place of the first; others stay alone."""
    paths = [make(tmp_path / "x" / f"seed-{seed}", seed, rank1=0.5 + seed / 10) for seed in range(3)]
    paths.insert(1, make(tmp_path / "y" / "seed-0", lr=0.2))
    one, other = grouped(compared(paths))
    assert (one.name, other.name) == ("x (3 seeds)", "y/seed-0")
    assert one.evaluation["rank1"] == pytest.approx(0.6)
    assert one.evaluation["sd"]["rank1"] == pytest.approx(0.1)
    assert "sd" not in other.evaluation


def test_groups_of_the_same_place_are_named_by_their_runs(tmp_path: Path) -> None:
    """No two groups of one name."""
    paths = [make(tmp_path / f"{name}{seed}", seed, lr) for name, lr in (("p", 1), ("q", 2)) for seed in range(3)]
    assert [group.name for group in grouped(compared(paths))] == ["p0 and 2 more", "q0 and 2 more"]
    assert [group.name for group in grouped(compared(paths[:2]))] == ["p0, p1"]


def test_scores_of_other_terms_are_no_seeds(tmp_path: Path) -> None:
    """Scores of other frames, another split or other shards are not averaged, and the reason is given."""
    paths = [
        make(tmp_path / "a", num_frames=8),
        make(tmp_path / "b", seed=1, num_frames=32, split="1"),
        make(tmp_path / "c", seed=2, num_frames=8, checksum="other"),
    ]
    runs = compared(paths)
    assert len(grouped(runs)) == 3
    assert why_not_comparable(runs) == [
        "different split: 0 (a, c); 1 (b)",
        "different frames of a tracklet: 8 (a, c); 32 (b)",
        "different shards: abc (a, b); other (c)",
    ]
    assert why_not_comparable(runs[:1]) == []


def test_settings_that_differ(tmp_path: Path) -> None:
    """By dotted key, the folder's name aside; what a config.yaml lacks is not null; without one, none is known."""
    one, two = make(tmp_path / "a"), make(tmp_path / "b", lr=0.5)
    (two / "config.yaml").write_text((two / "config.yaml").read_text() + "resume: null\n")
    runs = compared([one, two])
    assert differing(runs) == {"optim.lr": [0.1, 0.5], "resume": [..., None]}
    (one / "config.yaml").write_text("[")
    runs = compared([one, two])
    assert runs[0].settings == {}
    assert len(grouped(runs)) == 2


def test_the_scored_set_counts_not_the_trained_one(tmp_path: Path) -> None:
    """Seeds of one training scored on two data sets are no group; runs trained on two and scored on one are comparable;
    an evaluation of an earlier version, which names no set, is of the run's own."""
    other = {"name": "other", "checksum": "def"}
    paths = [make(tmp_path / "a"), make(tmp_path / "b", seed=1, dataset=other)]
    runs = compared(paths)
    assert len(grouped(runs)) == 2
    assert why_not_comparable(runs) == ["different shards: abc (a); def (b)"]
    runs = compared([paths[1], make(tmp_path / "c", checksum="def")])
    assert why_not_comparable(runs) == []
    settings = [{"occlusion": part, "degrade": "queries"} for part in (0.1, 0.5)]
    runs = compared([make(tmp_path / f"d{n}", seed=n, eval=of_run) for n, of_run in enumerate(settings)])
    assert len(grouped(runs)) == 2
    assert why_not_comparable(runs) == ["different occlusion: 0.1 (d0); 0.5 (d1)"]
    settings = [{"num_frames": 4}, {"num_frames": 4, "flip": None}, {"num_frames": 4, "flip": True}]
    runs = compared([make(tmp_path / f"e{n}", seed=n, eval=of_run) for n, of_run in enumerate(settings)])
    assert len(grouped(runs)) == 2  # the first is of a version without the setting
    assert why_not_comparable(runs) == [
        "different averaging with the mirror image (eval.flip): False (e0, e1); True (e2)"
    ]
