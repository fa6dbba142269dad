"""Sets with outfits: their index, their protocols' rules, and sets without them, whose bytes stay."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import shards
from shards.__main__ import main
from shards.index import DESCRIPTION_FILE
from shards.records import NO_OUTFIT, DataError, Frame, Protocol, Role, Source, SourceTracklet
from shards.summary import summary
from shards.verify import verify
from shards.write import building, write
from tests.shards.hostile import change_row
from tests.shards.trees import build_mars, mars_tree, picture

RULES = ("camera", "camera-and-outfit", "clothes-changing", "same-clothes")
# Identity, camera, outfit, role: the query 1/1/1, a gallery of its identity, and another query without a match.
ROWS = [
    (1, 1, 1, Role.QUERY),
    (1, 1, 1, Role.GALLERY),
    (1, 1, 2, Role.GALLERY),
    (1, 2, 1, Role.GALLERY),
    (1, 2, 2, Role.GALLERY),
    (2, 1, 1, Role.QUERY | Role.GALLERY),
    (0, 3, NO_OUTFIT, Role.GALLERY),
]


def source(rows: list[tuple[int, int, int, Role]] = ROWS) -> Source:
    tracklets = [
        SourceTracklet(
            key=f"t{number}",
            pid=pid,
            camid=camid,
            num_frames=1,
            roles=(role,) * len(RULES),
            frames=partial(_frames, number),
            outfit=outfit,
        )
        for number, (pid, camid, outfit, role) in enumerate(rows)
    ]
    return Source("dressed", tuple(Protocol(rule, ignore=rule) for rule in RULES), tuple(tracklets))


def _frames(number: int) -> Iterator[Frame]:
    yield Frame(f"{number}.jpg", partial(picture, number))


def build(out: Path, of: Source | None = None) -> Path:
    with building(out) as folder:
        write(of or source(), folder, workers=1, shard_bytes=20_000)
    return out


def test_outfits_and_rules_come_back(tmp_path: Path) -> None:
    """A reader returns outfits and rules; verify, which knows the bytes of the json, is content; WebDataset's json has
    the outfit."""
    out = build(tmp_path / "set")
    reader = shards.open(out)
    assert reader.outfits.tolist() == [row[2] for row in ROWS]
    assert [reader[i].outfit for i in range(len(reader))] == reader.outfits.tolist()
    assert [protocol.ignore for protocol in reader.protocols] == list(RULES)
    assert verify(out) == []
    assert b'"outfit": 2' in next(iter(sorted(out.glob("*.tar")))).read_bytes()


def test_the_summary_counts_valid_queries_by_the_rule(tmp_path: Path) -> None:
    """A query is valid if its rule leaves it a match."""
    counts = {}
    for kept in range(1, 5):  # one gallery tracklet of the identity at a time: same or other camera, outfit
        rows = [ROWS[0], ROWS[kept], *ROWS[5:]]
        protocols = summary(shards.open(build(tmp_path / str(kept), source(rows))))["protocols"]
        counts[kept] = {protocol["name"]: protocol["splits"]["0"]["valid_queries"] for protocol in protocols}
    expected = {1: (0, 0, 0, 0), 2: (0, 1, 0, 0), 3: (1, 1, 0, 1), 4: (1, 1, 1, 0)}
    assert counts == {kept: dict(zip(RULES, values, strict=True)) for kept, values in expected.items()}


def test_a_rule_on_outfits_needs_them(tmp_path: Path) -> None:
    """A compared tracklet of a person without an outfit is refused, since whether it is ignored would be a guess; a
    distractor needs none, nor does a set whose rules look at cameras alone."""
    rows = [*ROWS[:4], (1, 2, NO_OUTFIT, Role.GALLERY), *ROWS[5:]]
    with pytest.raises(DataError, match="t4 has no outfit, but a protocol decides by outfits"):
        build(tmp_path / "refused", source(rows))
    by_camera = replace(source(rows), protocols=tuple(Protocol(rule) for rule in RULES))
    assert shards.open(build(tmp_path / "set", by_camera)).outfits[4] == NO_OUTFIT


def test_a_rule_without_outfits_is_kept(tmp_path: Path) -> None:
    """A set whose protocol has a rule on outfits, and only trains, can be opened."""
    rows = [(pid, 1, NO_OUTFIT, Role.TRAIN) for pid in (1, 2)]
    reader = shards.open(build(tmp_path / "set", source(rows)))
    assert [protocol.ignore for protocol in reader.protocols] == list(RULES)
    assert reader.outfits.tolist() == [NO_OUTFIT] * 2


def test_info_has_outfits_and_rules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`info` counts outfits of identities, and says what each protocol ignores."""
    assert main(["info", str(build(tmp_path / "set"))]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "3 outfits of identities" in output
    assert "a query ignores of its own identity: same camera, or another outfit (rule same-clothes)" in output


def test_sets_without_outfits_keep_their_bytes(tmp_path: Path) -> None:
    """The description of a set without outfits has no entry that earlier versions did not write, and their version; the
    reader says that no tracklet has one."""
    out = build_mars(mars_tree(tmp_path / "tree"), tmp_path / "out")
    content = json.loads((out / DESCRIPTION_FILE).read_text())
    assert content["version"] == 1
    assert "has_outfits" not in content
    assert all(set(protocol) == {"name", "splits", "description", "cmc_only"} for protocol in content["protocols"])
    assert set(shards.open(out).outfits.tolist()) == {NO_OUTFIT}


def test_a_wrong_outfit_or_rule_is_refused(tmp_path: Path) -> None:
    """An index with an impossible outfit, and a description with an unknown rule, are refused."""
    out = build(tmp_path / "set")
    change_row(out, 2, lambda row: {"outfit": -2})
    with pytest.raises(DataError, match="outfit -2"):
        shards.open(out)
    strange = replace(source(), protocols=(*source().protocols[:3], Protocol("other", ignore="hats")))
    with pytest.raises(DataError, match="ignore of other: 'hats'"):
        shards.open(build(tmp_path / "strange", strange))
