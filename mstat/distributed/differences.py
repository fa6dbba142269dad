"""Comparison of the facts of all processes of a launch, by pure functions without heavy imports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SHOWN = 12  # differences in a message; the rest are counted


def differing(facts: Mapping[int, Mapping[str, Any]]) -> dict[str, list[tuple[str, list[int]]]]:
    """Return the facts that differ, by name: each value as text, with the ranks that have it."""
    differences = {}
    for name in dict.fromkeys(name for of_rank in facts.values() for name in of_rank):
        ranks_of: dict[str, list[int]] = {}
        for rank, of_rank in sorted(facts.items()):
            if name in of_rank or "(checksum)" not in name:
                ranks_of.setdefault(_words(name, of_rank), []).append(rank)
        if len(ranks_of) > 1:
            differences[name] = list(ranks_of.items())
    return differences


def complaint(hosts: Mapping[int, str], facts: Mapping[int, Mapping[str, Any]]) -> str | None:
    """Return one sentence that names the differences between ranks; None if there are none."""
    differences = differing(facts)
    if not differences:
        return None

    def place(ranks: Sequence[int]) -> str:
        names = ", ".join(dict.fromkeys(hosts[rank] for rank in ranks))
        return f"{names} ({'rank' if len(ranks) == 1 else 'ranks'} {spans(ranks)})"

    parts = [
        f"{name} is " + ", ".join(f"{value} on {place(ranks)}" for value, ranks in values)
        for name, values in list(differences.items())[:SHOWN]
    ]
    if more := len(differences) - len(parts):
        parts.append(f"and {more} more")
    way_out = "start every machine with the same command, settings, data and code"
    return f"the processes of this launch differ: {'; '.join(parts)}: {way_out}"


def _words(name: str, facts: Mapping[str, Any]) -> str:
    if name not in facts:
        return "not there"
    value = facts[name]
    if "(checksum)" in name or name == "commit":
        return str(value)[:12] + ("-dirty" if str(value).endswith("-dirty") else "")
    return "null" if value is None else str(value)


def spans(ranks: Sequence[int]) -> str:
    """Return ranks as text: 0, 1, 2, 5 -> 0-2, 5."""
    parts: list[list[int]] = []
    for rank in sorted(ranks):
        if parts and rank == parts[-1][-1] + 1:
            parts[-1].append(rank)
        else:
            parts.append([rank])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
