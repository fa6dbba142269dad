"""What is wrong, out of what processes said: each kind of fault, by the node it is on."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from mstat.preflight.table import Asked, Fault, Found, judge, show, spans

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


def healthy(nodes: int = 3, each: int = 2) -> Found:
    """`nodes` nodes of `each` ranks on which all is well."""
    notes = {}
    for rank in range(nodes * each):
        machine = rank // each
        facts = {**copy.deepcopy(FACTS), "host": f"node{machine}"} if rank % each == 0 else None
        notes[rank] = {"host": f"node{machine}", "machine": machine, "facts": facts}
    outcomes = {rank: {"error": None, "device": "A100", "backend": "nccl", "seconds": 0.004} for rank in notes}
    return Found(nodes * each, each, notes, dict.fromkeys(range(0, nodes * each, each), (0.0, 0.001)), outcomes)


def told(found: Found, asked: Asked | None = None) -> list[str]:
    return [f"{fault.where}: {fault.what}" for fault in judge(found, asked or Asked())]


def test_all_is_well() -> None:
    """No fault; the bandwidth counts what an all-reduce moves over a link."""
    assert told(healthy(), Asked(processes=6, clips=24)) == []
    assert healthy().bandwidth() == pytest.approx(2 * 5 / 6 * 32 / 0.004)


@pytest.mark.parametrize(("change", "what"), [
    ({"commit": "b" * 40, "source": "s1"}, f"its code is commit {'b' * 10}, the others' {'a' * 10}"),
    ({"source": "s1"}, f"its code differs from the others', at the same commit {'a' * 10}"),
    ({"versions": {"python": "3.11.2", "torch": "2.12.0"}}, "torch is 2.12.0, the others have 2.13.0"),
    ({"versions": {"python": "3.11.2"}}, "torch is not installed, the others have 2.13.0"),
    ({"settings": {"optim.lr": 0.001, "seed": 1, "loss.margin": 0.3}}, "seed is 1, the others' 0"),
    ({"settings": {"optim.lr": 0.001, "seed": 0, "loss.margin": None}}, "loss.margin is null, the others' 0.3"),
    ({"shards": "d" * 64}, f"its shards are {'d' * 12}, the others' {'c' * 12}"),
    ({"num_gpus": 7}, "torch sees 7 GPUs, on the other nodes 8"),
    ({"faults": [("GPU 3: 1 uncorrected memory errors (ECC)", "reset")]}, "GPU 3: 1 uncorrected memory errors (ECC)"),
])  # fmt: skip
@pytest.mark.parametrize("node", [0, 2])
def test_the_odd_node_is_named(node: int, change: dict[str, Any], what: str) -> None:
    """The one that is not like most, also where it is the first."""
    found = healthy()
    found.notes[2 * node]["facts"].update(change)
    assert told(found) == [f"node{node}: {what}"]


def test_of_two_nodes_the_first_is_the_measure() -> None:
    """Where no value is that of most."""
    found = healthy(nodes=2)
    found.notes[2]["facts"]["shards"] = "d" * 64
    assert told(found) == [f"node1: its shards are {'d' * 12}, the others' {'c' * 12}"]


def test_a_clock_counts_where_it_is_surely_wrong() -> None:
    """The uncertainty of a slow network is taken off."""
    found = healthy()
    found.clocks.update({2: (-2.0, 0.5), 4: (2.0, 1.5)})
    assert told(found) == ["node1: its clock is -2.0 s off rank 0's"]


def test_a_wrong_world() -> None:
    """Too few, or more than there are clips."""
    assert told(healthy(), Asked(processes=16)) == ["launch: 6 processes were launched, 16 are asked for"]
    assert told(healthy(), Asked(clips=4))[0].startswith("launch: 6 processes for 4 clips")


def test_who_does_not_come_is_named_as_far_as_known() -> None:
    """By the host of a neighbour, by the list of hosts, by its number."""
    found = healthy()
    for rank in (3, 4, 5):
        del found.notes[rank]
    found.outcomes = {}
    assert told(found) == ["node1: no answer from rank 3", "machine 2: no answer from ranks 4-5"]
    assert told(found, Asked(hosts=("a", "b", "c")))[1] == "c (machine 2): no answer from ranks 4-5"


def test_who_only_waited_is_not_blamed() -> None:
    """Beside a rank that says what failed; where none does, all that did not finish are named."""
    found = healthy()
    waited = {"error": "not done within 60 s", "device": None, "backend": None, "seconds": None}
    found.outcomes = {rank: dict(waited) for rank in range(5)}
    assert [line.partition(":")[0] for line in told(found)] == ["node0, node1, node2", "node2"]
    found.outcomes[3]["error"] = "RuntimeError: connectFullMesh failed"
    assert told(found) == ["node1: all-reduce: RuntimeError: connectFullMesh failed"]


def test_a_slow_network() -> None:
    """Only where a least bandwidth is asked for."""
    slow = healthy()
    slow.outcomes[5]["seconds"] = 4.0
    assert told(slow) == []
    assert told(slow, Asked(bandwidth=100)) == ["network: all-reduce: 13 MB/s, at least 100 are asked for"]


def test_the_table_says_it_all(capsys: pytest.CaptureFixture[str]) -> None:
    """A row a node, what is wrong below it, brackets as they are."""
    found = healthy()
    show(found, [Fault("node1", "an [error]", "mend it")])
    printed = capsys.readouterr().out
    for part in ("node0", "node2", "8 x NVIDIA A100", "0-1", "1e+03 GB free of 1 GB", "node1: an [error]; mend it"):
        assert part in printed
    assert "6 processes; all-reduce of 32 MB over nccl: 13,333 MB/s a link" in printed
    assert "launch checks: 1 wrong, nothing is started" in printed


def test_the_table_names_the_settings_that_differ(capsys: pytest.CaptureFixture[str]) -> None:
    """By their keys, in the row of the node; each is a fault of its own."""
    found = healthy()
    found.notes[4]["facts"]["settings"].update({"seed": 1, "optim.lr": 0.01})
    faults = judge(found, Asked())
    assert [fault.what for fault in faults] == ["optim.lr is 0.01, the others' 0.001", "seed is 1, the others' 0"]
    show(found, faults)
    printed = capsys.readouterr().out
    assert "launch checks: 2 wrong, nothing is started" in printed
    assert "node2: seed is 1, the others' 0" in printed


def test_spans() -> None:
    """Ranks as people write them."""
    assert spans([7, 0, 1, 2, 5]) == "0-2, 5, 7"
