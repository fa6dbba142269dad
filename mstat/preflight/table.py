"""Faults of a launch, computed from what its processes observed, and the table that shows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from mstat.console import console
from mstat.distributed.differences import differing, spans
from shards.text import markup

MEGABYTES = 32  # size of the all-reduce, about that of a gradient bucket
NOT_DONE = "not done within"  # start of the error of a rank that only waited for others


@dataclass(frozen=True)
class Expectations:
    """The launch that the user expects.

    Attributes:
        processes: The number of processes on all nodes; None accepts any.
        hosts: Names of the nodes by machine rank, for messages about missing nodes.
        bandwidth: The minimum bandwidth of the all-reduce, in MB/s.
        clips: The clips in a global batch, which limit the number of processes; None is no limit.
    """

    processes: int | None = None
    hosts: Sequence[str] = ()
    bandwidth: float = 0.0
    clips: int | None = None


@dataclass
class Observations:
    """The notes and outcomes that rank 0 received.

    Attributes:
        world_size, local_world_size: The launcher's variables on rank 0.
        notes: By rank: `host`, `machine`, and for the first rank of a node `facts` (mstat/preflight/node.py).
        outcomes: Of forming the group and the all-reduce, by rank: `error`, `device`, `backend`, `seconds`.
    """

    world_size: int
    local_world_size: int
    notes: dict[int, dict[str, Any]]
    outcomes: dict[int, dict[str, Any]] = field(default_factory=dict)

    def nodes(self) -> dict[int, dict[str, Any]]:
        """Return the facts of each node, by its first rank."""
        return {rank: note["facts"] for rank, note in sorted(self.notes.items()) if note["facts"] is not None}

    def bandwidth(self) -> float | None:
        """Return the MB/s over each process's link in an all-reduce; None if a rank has no time.

        An all-reduce of n processes moves 2 (n - 1) / n of the size over each link. The slowest rank counts.
        """
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


def judge(observed: Observations, expected: Expectations) -> list[Fault]:
    """Return all faults, in the order in which to fix them."""
    nodes = observed.nodes()
    of_nodes = [Fault(facts["host"], what, way_out) for facts in nodes.values() for what, way_out in facts["faults"]]
    return [
        *_world(observed, expected),
        *_missing(observed, expected),
        *of_nodes,
        *_differences(nodes),
        *_reduction(observed, expected),
    ]


def _world(observed: Observations, expected: Expectations) -> list[Fault]:
    faults = []
    size = observed.world_size
    if expected.processes is not None and expected.processes != size:
        way_out = "check --num_processes, --num_machines and --multi_gpu of the launcher on every node"
        what = f"{size} processes were launched, but --expect-processes is {expected.processes}"
        faults.append(Fault("launch", what, way_out))
    if expected.clips is not None and size > expected.clips:
        what = f"{size} processes for {expected.clips} clips (batch.num_identities x batch.num_tracklets)"
        faults.append(Fault("launch", what, f"start at most {expected.clips}, or raise --batch.num_identities"))
    return faults


def _missing(observed: Observations, expected: Expectations) -> list[Fault]:
    missing = [rank for rank in range(observed.world_size) if rank not in observed.notes]
    names = {note["machine"]: note["host"] for note in observed.notes.values()}
    by_machine: dict[int, list[int]] = {}
    for rank in missing:
        by_machine.setdefault(rank // observed.local_world_size, []).append(rank)
    faults = []
    for machine, ranks in by_machine.items():
        name = names.get(machine) or name_of(machine, expected.hosts)
        what = f"no answer from {'rank' if len(ranks) == 1 else 'ranks'} {spans(ranks)}"
        faults.append(Fault(name, what, "read its own output; if there is none, the node is down"))
    return faults


def name_of(machine: int, hosts: Sequence[str]) -> str:
    """Return the best available name of a node that has sent nothing."""
    return f"{hosts[machine]} (machine {machine})" if machine < len(hosts) else f"machine {machine}"


def _differences(nodes: dict[int, dict[str, Any]]) -> list[Fault]:
    """Return a fault for each node that differs from the majority; without a majority, from the first node."""
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
        what = f"its code is at commit {short(facts)}, that of the other nodes at {short(like)}"
        what = f"its code differs from the other nodes' at the same commit {short(facts)}" if same else what
        faults.append(Fault(facts["host"], what, "run `git status` and `git pull` there"))
    for package in sorted({name for facts in nodes.values() for name in facts["versions"]}):
        usual, others = odd({rank: facts["versions"].get(package, "not installed") for rank, facts in nodes.items()})
        for rank in others:
            version = nodes[rank]["versions"].get(package, "not installed")
            what = f"{package} is {version} here and {usual} on the other nodes"
            faults.append(Fault(nodes[rank]["host"], what, "install with the same constraints.txt"))
    for name, values in differing({rank: facts["settings"] for rank, facts in nodes.items()}).items():
        usual = max(values, key=lambda entry: len(entry[1]))[0]  # of equally many, the first node's
        for value, ranks in values:
            for rank in ranks if value != usual else ():
                what = f"{name} is {value} here and {usual} on the other nodes"
                faults.append(Fault(nodes[rank]["host"], what, "use the same command and YAML on every node"))
    known = {rank: facts["shards"] for rank, facts in nodes.items() if facts["shards"] is not None}
    usual, others = odd(known) if known else ("", [])
    for rank in others:
        what = f"the checksum of its shards is {known[rank][:12]}, on the other nodes {usual[:12]}"
        faults.append(Fault(nodes[rank]["host"], what, "compare with `python -m shards info`; copy the set again"))
    usual, others = odd({rank: facts["num_gpus"] for rank, facts in nodes.items()})
    for rank in others:
        what = f"torch sees {nodes[rank]['num_gpus']} GPUs here and {usual} on the other nodes"
        faults.append(Fault(nodes[rank]["host"], what, "run `nvidia-smi` there; check the request to the scheduler"))
    return faults


def _reduction(observed: Observations, expected: Expectations) -> list[Fault]:
    """Return faults of the group and the all-reduce. If any rank knows a cause, leave out ranks that only waited."""
    failed = {rank: outcome["error"] for rank, outcome in sorted(observed.outcomes.items()) if outcome["error"]}
    if observed.outcomes and not any(NOT_DONE not in error for error in failed.values()):
        silent = [rank for rank in range(observed.world_size) if rank not in observed.outcomes]
        failed.update(dict.fromkeys(silent, "no answer after the process group was started"))
    else:
        failed = {rank: error for rank, error in failed.items() if NOT_DONE not in error}
    by_error: dict[str, list[int]] = {}
    for rank, error in failed.items():
        by_error.setdefault(error, []).append(rank)
    way_out = "set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to the network between the nodes (docs/multinode.md)"
    faults = [
        Fault(", ".join(dict.fromkeys(observed.notes[rank]["host"] for rank in ranks)), f"all-reduce: {error}", way_out)
        for error, ranks in by_error.items()
    ]
    bandwidth = observed.bandwidth()
    if bandwidth is not None and bandwidth < expected.bandwidth:
        what = f"all-reduce: {bandwidth:,.0f} MB/s, but --min-bandwidth is {expected.bandwidth:,.0f}"
        faults.append(Fault("network", what, way_out))
    return faults


# --- the table -------------------------------------------------------------------------------------------------


def show(observed: Observations, faults: Sequence[Fault]) -> None:
    """Print one table with a row for each node, and the faults below it."""
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
        "space in the run folder",
    ):
        table.add_column(column, overflow="fold")
    nodes = observed.nodes()
    bad = {fault.where for fault in faults}
    reference = next(iter(nodes.values()))["versions"]
    first = next(iter(nodes.values()))["settings"]
    for rank, facts in nodes.items():
        settings = differing({0: first, 1: facts["settings"]})
        ranks = [other for other, note in observed.notes.items() if note["machine"] == observed.notes[rank]["machine"]]
        unequal = [f"{name} {version}" for name, version in facts["versions"].items() if reference.get(name) != version]
        packages = f"torch {facts['versions']['torch']}" if facts["versions"] is reference else "the same"
        table.add_row(
            markup(facts["host"]),
            spans(ranks),
            markup(short(facts)),
            markup("\n".join(unequal) or packages),
            markup("\n".join(f"{name} differs" for name in settings) or "the same"),
            (facts["shards"] or "cannot be read")[:13],
            _gpus(facts),
            _space(facts),
            style="red" if facts["host"] in bad else None,
        )
    out.print(table)
    bandwidth = observed.bandwidth()
    if observed.world_size == 1:
        out.print("one process: no all-reduce")
    elif bandwidth is not None:
        backend = next(iter(observed.outcomes.values()))["backend"]
        reduced = f"all-reduce of {MEGABYTES} MB over {backend}: {bandwidth:,.0f} MB/s per link"
        out.print(f"{observed.world_size} processes; {reduced}", highlight=False)
    for fault in faults:
        text = f"[red]{markup(fault.where)}: {markup(fault.what)}[/]; {markup(fault.way_out)}"
        out.print(text, highlight=False, soft_wrap=True)
    problems = "1 problem" if len(faults) == 1 else f"{len(faults)} problems"
    verdict = f"[red]launch checks: {problems}; not starting[/]" if faults else "launch checks: all good"
    out.print(verdict, highlight=False)


def short(facts: dict[str, Any]) -> str:
    """Return a short commit; without git, the start of the digest of the files."""
    if facts["commit"] is None:
        return f"files {facts['source'][:10]}"
    name, dirty, _ = facts["commit"].partition("-dirty")
    return name[:10] + (" + changes" if dirty else "")


def _gpus(facts: dict[str, Any]) -> str:
    names = Counter(facts["gpus"])
    message = ", ".join(f"{count} x {name}" for name, count in names.items())
    return markup(message or (f"{facts['num_gpus']}" if facts["num_gpus"] else "none"))


def _space(facts: dict[str, Any]) -> str:
    if facts["free"] is None:
        return "?"
    needed = "" if facts["needed"] is None else f" of {human(facts['needed'])}"
    return f"{human(facts['free'])} free{needed}"


def human(size: int) -> str:
    """Return a number of bytes with a decimal unit."""
    power = min(3, max(0, len(str(size)) - 1) // 3)
    return f"{size / 1000**power:.3g} {('B', 'kB', 'MB', 'GB')[power]}"
