"""What `info` shows: how many identities, tracklets and frames each protocol has in each role."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from shards.read import Reader
from shards.records import DISTRACTOR_PID, Role

ROLES = ("train", "query", "gallery", "distractors", "junk")


def summary(reader: Reader) -> dict[str, Any]:
    """Counts of a set, JSON-ready. The gallery is counted without junk, and with distractors (also counted apart)."""
    protocols = [
        {
            "name": protocol.name,
            "description": protocol.description,
            "cmc_only": protocol.cmc_only,
            "splits": {split: _split(reader, protocol.name, split) for split in protocol.splits},
        }
        for protocol in reader.protocols
    ]
    return {
        "name": reader.name,
        "checksum": reader.checksum,
        "bytes": sum(shard.bytes for shard in reader.description.shards),
        "shards": len(reader.description.shards),
        **reader.description.counts,
        "encoding": dict(reader.description.encoding),
        "facts": dict(reader.facts),
        "protocols": protocols,
    }


def _split(reader: Reader, protocol: str, split: str) -> dict[str, Any]:
    roles = reader.roles(protocol, split)
    query, junk = (roles & Role.QUERY) > 0, (roles & Role.JUNK) > 0
    gallery = ((roles & Role.GALLERY) > 0) & ~junk
    members = {
        "train": (roles & Role.TRAIN) > 0,
        "query": query,
        "gallery": gallery,
        "distractors": gallery & (reader.pids == DISTRACTOR_PID),
        "junk": junk,
    }
    counts: dict[str, Any] = {name: _counts(reader, chosen) for name, chosen in members.items()}
    return {**counts, "valid_queries": num_valid_queries(reader, query, gallery)}


def _counts(reader: Reader, chosen: np.ndarray) -> dict[str, Any]:
    pids, lengths = reader.pids[chosen], reader.num_frames[chosen]
    return {
        "identities": len(np.unique(pids[pids > 0])),
        "tracklets": int(chosen.sum()),
        "frames": int(lengths.sum()),
        "cameras": np.unique(reader.camids[chosen]).tolist(),
        "lengths": {"min": int(lengths.min()), "mean": float(lengths.mean()), "max": int(lengths.max())}
        if len(lengths)
        else None,
    }


def num_valid_queries(reader: Reader, query: np.ndarray, gallery: np.ndarray) -> int:
    """Queries whose identity another camera has in the gallery; the others have nothing to find."""
    cameras: dict[int, set[int]] = {}
    for pid, camid in zip(reader.pids[gallery].tolist(), reader.camids[gallery].tolist(), strict=True):
        cameras.setdefault(pid, set()).add(camid)
    asked = zip(reader.pids[query].tolist(), reader.camids[query].tolist(), strict=True)
    return sum(bool(cameras.get(pid, set()) - {camid}) for pid, camid in asked)


def show(content: dict[str, Any], console: Console) -> None:
    """Print a summary for people."""
    console.print(
        f"[bold]{content['name']}[/]: {content['tracklets']:,} tracklets, {content['frames']:,} frames, "
        f"{content['identities']:,} identities, {content['cameras']} cameras, {content['bytes'] / 1e6:,.1f} MB in "
        f"{content['shards']} shards"
    )
    console.print(f"checksum {content['checksum']}", highlight=False)
    for name, fact in content["facts"].items():
        console.print(f"{name}: {fact}", highlight=False)
    for protocol in content["protocols"]:
        for split, counts in protocol["splits"].items():
            label = protocol["name"] if len(protocol["splits"]) == 1 else f"{protocol['name']}, split {split}"
            table = Table(title=f"{label}: {protocol['description']}", title_justify="left", title_style="bold")
            for column in ("role", "identities", "tracklets", "frames", "cameras", "lengths"):
                table.add_column(column, justify="left" if column == "role" else "right")
            for role in ROLES:
                row, lengths = counts[role], counts[role]["lengths"]
                if lengths:
                    table.add_row(
                        role,
                        f"{row['identities']:,}",
                        f"{row['tracklets']:,}",
                        f"{row['frames']:,}",
                        str(len(row["cameras"])),
                        f"{lengths['min']}–{lengths['max']}, mean {lengths['mean']:.1f}",
                    )
            console.print(table)
            console.print(f"valid queries: {counts['valid_queries']:,} of {counts['query']['tracklets']:,}\n")
