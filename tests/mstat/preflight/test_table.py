"""Faults from observations: each kind of fault is found, and its node is named."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from mstat.distributed.differences import spans
from mstat.preflight.table import Expectations, Fault, Observations, judge, show

FACTS: dict[str, Any] = {
    "host": "node0",
    "commit": "a" * 40,
    "source": "s0",
    "versions": {"python": "3.11.2", "torch": "2.13.0"},
    "settings": {"optim.lr": 0.001, "seed": 0, "loss.margin": 0.3},
    "shards": "c" * 64,
    "num_gpus": 8,
    "gpus": ["NVIDIA A100"] * 8,
    "free": 10**12,
    "needed": 10**9,
    "faults": [],
}


def healthy(nodes: int = 3, each: int = 2) -> Observations:
    """Return the observations of `nodes` healthy nodes with `each` ranks."""
    notes = {}
    for rank in range(nodes * each):
        machine = rank // each
        facts = {**copy.deepcopy(FACTS), "host": f"node{machine}"} if rank % each == 0 else None
        notes[rank] = {"host": f"node{machine}", "machine": machine, "facts": facts}
    outcomes = {rank: {"error": None, "device": "A100", "backend": "nccl", "seconds": 0.004} for rank in notes}
    return Observations(nodes * each, each, notes, outcomes)


def faults_of(observed: Observations, expected: Expectations | None = None) -> list[str]:
    return [f"{fault.where}: {fault.what}" for fault in judge(observed, expected or Expectations())]


def test_all_is_well() -> None:
    """No fault; the bandwidth counts the bytes that an all-reduce moves over each link."""
    assert faults_of(healthy(), Expectations(processes=6, clips=24)) == []
    assert healthy().bandwidth() == pytest.approx(2 * 5 / 6 * 32 / 0.004)


@pytest.mark.parametrize(("change", "what"), [
    ({"commit": "b" * 40, "source": "s1"}, f"its code is at commit {'b' * 10}, that of the other nodes at {'a' * 10}"),
    ({"source": "s1"}, f"its code differs from the other nodes' at the same commit {'a' * 10}"),
    ({"versions": {"python": "3.11.2", "torch": "2.12.0"}}, "torch is 2.12.0 here and 2.13.0 on the other nodes"),
    ({"versions": {"python": "3.11.2"}}, "torch is not installed here and 2.13.0 on the other nodes"),
    ({"settings": {"optim.lr": 0.001, "seed": 1, "loss.margin": 0.3}}, "seed is 1 here and 0 on the other nodes"),
    ({"settings": {"optim.lr": 0.001, "seed": 0, "loss.margin": None}},
     "loss.margin is null here and 0.3 on the other nodes"),
    ({"shards": "d" * 64}, f"the checksum of its shards is {'d' * 12}, on the other nodes {'c' * 12}"),
    ({"num_gpus": 7}, "torch sees 7 GPUs here and 8 on the other nodes"),
    ({"faults": [("GPU 3: 1 uncorrected memory errors (ECC)", "reset")]}, "GPU 3: 1 uncorrected memory errors (ECC)"),
])  # fmt: skip
@pytest.mark.parametrize("node", [0, 2])
def test_the_odd_node_is_named(node: int, change: dict[str, Any], what: str) -> None:
    """The node that differs from the majority is named, also if it is the first."""
    observed = healthy()
    observed.notes[2 * node]["facts"].update(change)
    assert faults_of(observed) == [f"node{node}: {what}"]


def test_the_first_of_two_nodes_is_the_reference() -> None:
    """Without a majority, the second node is named."""
    observed = healthy(nodes=2)
    observed.notes[2]["facts"]["shards"] = "d" * 64
    assert faults_of(observed) == [f"node1: the checksum of its shards is {'d' * 12}, on the other nodes {'c' * 12}"]


def test_a_wrong_number_of_processes() -> None:
    """Too few, or more than clips in a batch."""
    assert faults_of(healthy(), Expectations(processes=16)) == [
        "launch: 6 processes were launched, but --expect-processes is 16"
    ]
    assert faults_of(healthy(), Expectations(clips=4))[0].startswith("launch: 6 processes for 4 clips")


def test_missing_nodes_are_named() -> None:
    """By the host of another rank, by the list of hosts, or by the machine number."""
    observed = healthy()
    for rank in (3, 4, 5):
        del observed.notes[rank]
    observed.outcomes = {}
    assert faults_of(observed) == ["node1: no answer from rank 3", "machine 2: no answer from ranks 4-5"]
    assert faults_of(observed, Expectations(hosts=("a", "b", "c")))[1] == "c (machine 2): no answer from ranks 4-5"


def test_ranks_that_only_waited_are_left_out() -> None:
    """If a rank reports a cause, only that rank is named; otherwise all ranks that did not finish are."""
    observed = healthy()
    waited = {"error": "not done within 60 s", "device": None, "backend": None, "seconds": None}
    observed.outcomes = {rank: dict(waited) for rank in range(5)}
    assert [line.partition(":")[0] for line in faults_of(observed)] == ["node0, node1, node2", "node2"]
    observed.outcomes[3]["error"] = "RuntimeError: connectFullMesh failed"
    assert faults_of(observed) == ["node1: all-reduce: RuntimeError: connectFullMesh failed"]


def test_a_slow_network() -> None:
    """It is a fault only below `--min-bandwidth`."""
    slow = healthy()
    slow.outcomes[5]["seconds"] = 4.0
    assert faults_of(slow) == []
    assert faults_of(slow, Expectations(bandwidth=100)) == ["network: all-reduce: 13 MB/s, but --min-bandwidth is 100"]


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    """A row for each node, the faults below it, and brackets unchanged."""
    observed = healthy()
    show(observed, [Fault("node1", "an [error]", "mend it")])
    printed = capsys.readouterr().out
    for part in ("node0", "node2", "8 x NVIDIA A100", "0-1", "1e+03 GB free of 1 GB", "node1: an [error]; mend it"):
        assert part in printed
    assert "6 processes; all-reduce of 32 MB over nccl: 13,333 MB/s per link" in printed
    assert "launch checks: 1 problem; not starting" in printed


def test_the_table_names_the_settings_that_differ(capsys: pytest.CaptureFixture[str]) -> None:
    """By their keys, in the row of the node; each setting is one fault."""
    observed = healthy()
    observed.notes[4]["facts"]["settings"].update({"seed": 1, "optim.lr": 0.01})
    faults = judge(observed, Expectations())
    assert [fault.what for fault in faults] == [
        "optim.lr is 0.01 here and 0.001 on the other nodes",
        "seed is 1 here and 0 on the other nodes",
    ]
    show(observed, faults)
    printed = capsys.readouterr().out
    assert "launch checks: 2 problems; not starting" in printed
    assert "node2: seed is 1 here and 0 on the other nodes" in printed


def test_spans() -> None:
    """Ranks become ranges."""
    assert spans([7, 0, 1, 2, 5]) == "0-2, 5, 7"
