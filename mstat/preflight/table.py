"""Faults of a launch, from the notes of its processes, and the table that shows them. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from mstat.console import console
from mstat.distributed.differences import differing, spans
from shards.text import markup

MEGABYTES = 32  # of the all-reduce, about a bucket of gradients
NOT_DONE = "not done within"  # of an error that only says that others did not come


@dataclass(frozen=True)
class Asked:
    """The expected launch.

    Attributes:
        processes: Of all nodes together; None takes what has come.
        hosts: Names of the nodes, in the order of their machine ranks, for those who do not come.
        skew: Largest difference of clocks, in seconds.
        bandwidth: Least bandwidth of the all-reduce, in MB/s.
        clips: In a global batch: more processes than that are refused.
    """

    processes: int | None = None
    hosts: Sequence[str] = ()
    skew: float = 1.0
    bandwidth: float = 0.0
    clips: int | None = None


@dataclass
class Found:
    """The notes that rank 0 has received.

    Attributes:
        world_size, local_world_size: As the launcher says on rank 0.
        notes: By rank: `host`, `machine`, and for the first rank of a node `facts` (mstat/preflight/node.py).
        clocks: By rank: seconds ahead of rank 0, and how far that may be wrong; None where it did not answer.
        outcomes: By rank, of group and all-reduce: `error`, `device`, `backend`, `seconds`.
    """

    world_size: int
    local_world_size: int
    notes: dict[int, dict[str, Any]]
    clocks: dict[int, tuple[float, float] | None] = field(default_factory=dict)
    outcomes: dict[int, dict[str, Any]] = field(default_factory=dict)

    def nodes(self) -> dict[int, dict[str, Any]]:
        """Facts by the first rank of each node."""
        return {rank: note["facts"] for rank, note in sorted(self.notes.items()) if note["facts"] is not None}

    def bandwidth(self) -> float | None:
        """MB/s over each process's link in an all-reduce, by the slowest rank: it moves 2 (n - 1) / n of the size."""
        seconds = [outcome["seconds"] for outcome in self.outcomes.values()]
        if len(seconds) < self.world_size or not all(seconds):
            return None
        return 2 * (self.world_size - 1) / self.world_size * MEGABYTES / max(seconds)


@dataclass(frozen=True)
class Fault:
    """A fault: its place, its cause, and the way out."""

    where: str
    what: str
    way_out: str


def judge(result: Found, requested: Asked) -> list[Fault]:
    """All that is wrong, in the order in which to mend it."""
    faults = [*_world(result, requested), *_missing(result, requested)]
    nodes = result.nodes()
    for rank, facts in nodes.items():
        faults += [Fault(facts["host"], what, way_out) for what, way_out in facts["faults"]]
        clock = result.clocks.get(rank)
        if clock is not None and abs(clock[0]) - clock[1] > requested.skew:
            what = f"its clock is {clock[0]:+.1f} s off rank 0's"
            faults.append(Fault(facts["host"], what, "let NTP or chrony set it"))
    faults += _differences(nodes)
    faults += _reduction(result, requested)
    return faults


def _world(result: Found, requested: Asked) -> list[Fault]:
    faults = []
    size = result.world_size
    if requested.processes is not None and requested.processes != size:
        way_out = "--num_processes, --num_machines and --multi_gpu of the launcher, on every node"
        faults.append(Fault("launch", f"{size} processes were launched, {requested.processes} are asked for", way_out))
    if requested.clips is not None and size > requested.clips:
        what = f"{size} processes for {requested.clips} clips (batch.num_identities x batch.num_tracklets)"
        faults.append(Fault("launch", what, f"start at most {requested.clips}, or raise --batch.num_identities"))
    return faults


def _missing(result: Found, requested: Asked) -> list[Fault]:
    missing = [rank for rank in range(result.world_size) if rank not in result.notes]
    names = {note["machine"]: note["host"] for note in result.notes.values()}
    by_machine: dict[int, list[int]] = {}
    for rank in missing:
        by_machine.setdefault(rank // result.local_world_size, []).append(rank)
    faults = []
    for machine, ranks in by_machine.items():
        name = names.get(machine) or name_of(machine, requested.hosts)
        what = f"no answer from {'rank' if len(ranks) == 1 else 'ranks'} {spans(ranks)}"
        faults.append(Fault(name, what, "its own output says why, or it is down"))
    return faults


def name_of(machine: int, hosts: Sequence[str]) -> str:
    """The best name there is for a node that has said nothing."""
    return f"{hosts[machine]} (machine {machine})" if machine < len(hosts) else f"machine {machine}"


def _differences(nodes: dict[int, dict[str, Any]]) -> list[Fault]:
    """Return the nodes that differ from most of them; compare with the first node if no value has a majority."""
    faults = []

    def odd(values: dict[int, Any]) -> tuple[Any, list[int]]:
        counts = Counter(values.values())
        most = max(counts.values())
        usual = next(value for value in values.values() if counts[value] == most)
        return usual, [rank for rank, value in values.items() if value != usual]

    usual: Any
    usual, others = odd({rank: facts["source"] for rank, facts in nodes.items()})
    for rank in others:
        facts = nodes[rank]
        like = next(other for other in nodes.values() if other["source"] == usual)
        same = facts["commit"] == like["commit"]
        what = f"its code is commit {short(facts)}, the others' {short(like)}"
        what = f"its code differs from the others', at the same commit {short(facts)}" if same else what
        faults.append(Fault(facts["host"], what, "`git status` and `git pull` there"))
    for package in sorted({name for facts in nodes.values() for name in facts["versions"]}):
        usual, others = odd({rank: facts["versions"].get(package, "not installed") for rank, facts in nodes.items()})
        for rank in others:
            what = f"{package} is {nodes[rank]['versions'].get(package, 'not installed')}, the others have {usual}"
            faults.append(Fault(nodes[rank]["host"], what, "install with the same constraints.txt"))
    for name, values in differing({rank: facts["settings"] for rank, facts in nodes.items()}).items():
        usual = max(values, key=lambda entry: len(entry[1]))[0]  # of equally many, the first node's
        for value, ranks in values:
            for rank in ranks if value != usual else ():
                what = f"{name} is {value}, the others' {usual}"
                faults.append(Fault(nodes[rank]["host"], what, "the same command and YAML on every node"))
    known = {rank: facts["shards"] for rank, facts in nodes.items() if facts["shards"] is not None}
    usual, others = odd(known) if known else ("", [])
    for rank in others:
        what = f"its shards are {known[rank][:12]}, the others' {usual[:12]}"
        faults.append(Fault(nodes[rank]["host"], what, "`python -m shards info` shows both; copy the set anew"))
    usual, others = odd({rank: facts["num_gpus"] for rank, facts in nodes.items()})
    for rank in others:
        what = f"torch sees {nodes[rank]['num_gpus']} GPUs, on the other nodes {usual}"
        faults.append(Fault(nodes[rank]["host"], what, "`nvidia-smi` there; what was asked of the scheduler"))
    return faults


def _reduction(result: Found, requested: Asked) -> list[Fault]:
    """Errors of group and all-reduce. Those who only waited are not named beside one who says why."""
    failed = {rank: outcome["error"] for rank, outcome in sorted(result.outcomes.items()) if outcome["error"]}
    if result.outcomes and not any(NOT_DONE not in error for error in failed.values()):
        silent = [rank for rank in range(result.world_size) if rank not in result.outcomes]
        failed.update(dict.fromkeys(silent, "no answer once the group was to be made"))
    else:
        failed = {rank: error for rank, error in failed.items() if NOT_DONE not in error}
    by_error: dict[str, list[int]] = {}
    for rank, error in failed.items():
        by_error.setdefault(error, []).append(rank)
    way_out = "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME must name the network between the nodes (docs/multinode.md)"
    faults = [
        Fault(", ".join(dict.fromkeys(result.notes[rank]["host"] for rank in ranks)), f"all-reduce: {error}", way_out)
        for error, ranks in by_error.items()
    ]
    bandwidth = result.bandwidth()
    if bandwidth is not None and bandwidth < requested.bandwidth:
        what = f"all-reduce: {bandwidth:,.0f} MB/s, at least {requested.bandwidth:,.0f} are asked for"
        faults.append(Fault("network", what, way_out))
    return faults


# --- the table -------------------------------------------------------------------------------------------------


def show(result: Found, faults: Sequence[Fault]) -> None:
    """One table, a row a node; below it, what is wrong."""
    out = console()
    table = Table(title="launch checks", title_justify="left")
    for column in (
        "node",
        "ranks",
        "commit",
        "packages",
        "settings",
        "shards",
        "GPUs",
        "clock",
        "room in the run folder",
    ):
        table.add_column(column, overflow="fold")
    nodes = result.nodes()
    bad = {fault.where for fault in faults}
    reference = next(iter(nodes.values()))["versions"]
    first = next(iter(nodes.values()))["settings"]
    for rank, facts in nodes.items():
        unlike = differing({0: first, 1: facts["settings"]})
        ranks = [other for other, note in result.notes.items() if note["machine"] == result.notes[rank]["machine"]]
        differs = [f"{name} {version}" for name, version in facts["versions"].items() if reference.get(name) != version]
        packages = f"torch {facts['versions']['torch']}" if facts["versions"] is reference else "the same"
        table.add_row(
            markup(facts["host"]),
            spans(ranks),
            markup(short(facts)),
            markup("\n".join(differs) or packages),
            markup("\n".join(f"{name} differs" for name in unlike) or "the same"),
            (facts["shards"] or "cannot be read")[:13],
            _gpus(facts),
            _clock(result.clocks.get(rank), rank),
            _room(facts),
            style="red" if facts["host"] in bad else None,
        )
    out.print(table)
    bandwidth = result.bandwidth()
    if result.world_size == 1:
        out.print("one process: nothing to reduce")
    elif bandwidth is not None:
        backend = next(iter(result.outcomes.values()))["backend"]
        text = (
            f"{result.world_size} processes; all-reduce of {MEGABYTES} MB over {backend}: {bandwidth:,.0f} MB/s a link"
        )
        out.print(text, highlight=False)
    for fault in faults:
        text = f"[red]{markup(fault.where)}: {markup(fault.what)}[/]; {markup(fault.way_out)}"
        out.print(text, highlight=False, soft_wrap=True)
    verdict = f"[red]launch checks: {len(faults)} wrong, nothing is started[/]" if faults else "launch checks: all good"
    out.print(verdict, highlight=False)


def short(facts: dict[str, Any]) -> str:
    """A commit as people write it; without git, the beginning of the digest of the files."""
    if facts["commit"] is None:
        return f"files {facts['source'][:10]}"
    name, dirty, _ = facts["commit"].partition("-dirty")
    return name[:10] + (" + changes" if dirty else "")


def _gpus(facts: dict[str, Any]) -> str:
    names = Counter(facts["gpus"])
    message = ", ".join(f"{count} x {name}" for name, count in names.items())
    return markup(message or (f"{facts['num_gpus']}" if facts["num_gpus"] else "none"))


def _clock(clock: tuple[float, float] | None, rank: int) -> str:
    if rank == 0:
        return "is compared with"
    return "no answer" if clock is None else f"{1000 * clock[0]:+.1f} ± {1000 * clock[1]:.1f} ms"


def _room(facts: dict[str, Any]) -> str:
    if facts["free"] is None:
        return "?"
    needed = "" if facts["needed"] is None else f" of {human(facts['needed'])}"
    return f"{human(facts['free'])} free{needed}"


def human(size: int) -> str:
    """Bytes as people write them."""
    power = min(3, max(0, len(str(size)) - 1) // 3)
    return f"{size / 1000**power:.3g} {('B', 'kB', 'MB', 'GB')[power]}"
