"""Summary that `info` and builds print: tracklets by protocol, role and camera, and warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from shards.read import Reader
from shards.records import DISTRACTOR_PID, IGNORE_RULES, NO_OUTFIT, WARNINGS, Role
from shards.text import markup, printable

BARS = " ▁▂▃▄▅▆▇█"
MAX_SHOWN = 20  # identities in a warning
MAX_FACT = 400  # characters of a fact at the end of a build: a set may have thousands of names
BINS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)  # frames; the last bin is open
ROLES = ("train", "query", "gallery", "distractors", "junk")


def summary(reader: Reader) -> dict[str, Any]:
    """Return the counts of a set, ready for JSON. Gallery counts exclude junk and include distractors."""
    protocols = [
        {
            "name": protocol.name,
            "description": protocol.description,
            "cmc_only": protocol.cmc_only,
            "ignore": protocol.ignore,
            "splits": {split: _split(reader, protocol.name, split) for split in protocol.splits},
        }
        for protocol in reader.protocols
    ]
    num_bytes = reader.num_bytes
    content = {
        "name": reader.name,
        "checksum": reader.checksum,
        "bytes": sum(shard.bytes for shard in reader.description.shards),
        "shards": len(reader.description.shards),
        **reader.description.counts,
        "encoding": dict(reader.description.encoding),
        "outfits": len(np.unique(np.stack([reader.pids, reader.outfits])[:, reader.outfits != NO_OUTFIT], axis=1).T),
        "facts": dict(reader.facts),
        "lengths": {"from": list(BINS), "tracklets": _histogram(reader.num_frames)},
        "frame_bytes": {
            "min": int(num_bytes.min()),
            "mean": float(num_bytes.mean()),
            "max": int(num_bytes.max()),
        },
        "protocols": protocols,
    }
    return {**content, "warnings": _warnings(content)}


def _histogram(lengths: np.ndarray) -> list[int]:
    """Count the tracklets with BINS[i] frames or more, and fewer than BINS[i + 1]."""
    return np.bincount(np.searchsorted(BINS, lengths, side="right") - 1, minlength=len(BINS)).tolist()


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
    counts: dict[str, Any] = {name: _counts(reader, np.flatnonzero(chosen)) for name, chosen in members.items()}
    cameras: dict[int, dict[str, Any]] = {}
    for name, chosen in members.items():
        rows = np.flatnonzero(chosen)
        rows = rows[np.argsort(reader.camids[rows], kind="stable")]
        camids, starts = np.unique(reader.camids[rows], return_index=True)
        for camid, of_camera in zip(camids.tolist(), np.split(rows, starts[1:]), strict=False):
            cameras.setdefault(camid, {})[name] = _counts(reader, of_camera, cameras=False)
    in_both = np.intersect1d(reader.pids[members["train"]], reader.pids[query | gallery])
    return {
        **counts,
        "valid_queries": num_valid_queries(reader, query, gallery, reader.protocol(protocol).ignore),
        "in_train_and_test": in_both[in_both > 0].tolist(),
        "per_camera": dict(sorted(cameras.items())),
    }


def _counts(reader: Reader, rows: np.ndarray, cameras: bool = True) -> dict[str, Any]:
    pids, lengths = reader.pids[rows], reader.num_frames[rows]
    counts = {
        "identities": len(np.unique(pids[pids > 0])),
        "tracklets": len(rows),
        "frames": int(lengths.sum()),
        "lengths": {
            "min": int(lengths.min()),
            "mean": float(lengths.mean()),
            "max": int(lengths.max()),
            "histogram": _histogram(lengths),
        }
        if len(lengths)
        else None,
    }
    return {**counts, "cameras": np.unique(reader.camids[rows]).tolist()} if cameras else counts


def num_valid_queries(reader: Reader, query: np.ndarray, gallery: np.ndarray, ignore: str = "camera") -> int:
    """Count the queries with a match: a gallery tracklet of the same identity that the rule does not ignore."""
    labels = np.stack([reader.pids, reader.camids, reader.outfits], axis=1)
    searched = np.unique(labels[gallery], axis=0)  # sorted by identity
    requested, counts = np.unique(labels[query], axis=0, return_counts=True)
    first, last = (np.searchsorted(searched[:, 0], requested[:, 0], side=side) for side in ("left", "right"))
    valid = 0
    for (_, camid, outfit), count, start, stop in zip(requested, counts, first, last, strict=True):
        _, camids, outfits = searched[start:stop].T
        same_outfit = (outfits == outfit) & (outfit != NO_OUTFIT)
        valid += int(count) * bool((~IGNORE_RULES[ignore].ignores(camids == camid, same_outfit)).any())
    return valid


def _warnings(content: dict[str, Any]) -> list[str]:
    """Return the warnings of a summary: dropped or doubtful data, and splits without a valid query."""
    lines = [f"{name}: {content['facts'][name]}" for name in WARNINGS if name in content["facts"]]
    for protocol in content["protocols"]:
        for split, counts in protocol["splits"].items():
            label, queries = _label(protocol, split), counts["query"]["tracklets"]
            if queries and not counts["valid_queries"]:
                match = "on another camera" if protocol["ignore"] == "camera" else f"by the rule {protocol['ignore']}"
                lines.append(f"{label}: none of {queries:,} queries has a match {match}; nothing can be scored")
            if queries and (in_both := counts["in_train_and_test"]):
                shown = ", ".join(map(str, in_both[:MAX_SHOWN])) + (", ..." if len(in_both) > MAX_SHOWN else "")
                lines.append(f"{label}: {len(in_both):,} identities are in training and in test: {shown}")
    return lines


def show_facts(facts: Mapping[str, str], console: Console, max_length: int | None = None) -> None:
    """Print the facts of a set that are not warnings, each cut at `max_length`."""
    for name, fact in facts.items():
        if name not in WARNINGS:
            shown = fact if max_length is None or len(fact) <= max_length else f"{fact[:max_length]}... (see info)"
            console.print(printable(f"{name}: {shown}"), highlight=False, markup=False, soft_wrap=True)


def show_warnings(lines: Sequence[str], console: Console) -> None:
    """Print warnings in colours that are legible on light and dark terminals."""
    for line in lines:
        console.print("[black on yellow]warning[/]", end=" ")
        console.print(printable(line), highlight=False, markup=False, style="bold", soft_wrap=True)


def show_built(content: dict[str, Any], console: Console) -> None:
    """Print the end of a build: facts, valid queries of each split, warnings."""
    show_facts(content["facts"], console, MAX_FACT)
    for protocol in content["protocols"]:
        splits: dict[str, list[str]] = {}
        for split, counts in protocol["splits"].items():
            if queries := counts["query"]["tracklets"]:
                splits.setdefault(f"valid queries: {counts['valid_queries']:,} of {queries:,}", []).append(split)
        for text, names in splits.items():
            label = protocol["name"] if len(protocol["splits"]) == 1 else f"{protocol['name']}, {_split_names(names)}"
            console.print(printable(f"{label}: {text}"), highlight=False, markup=False, soft_wrap=True)
    show_warnings(content["warnings"], console)


def _label(protocol: dict[str, Any], split: str) -> str:
    name: str = protocol["name"]
    return name if len(protocol["splits"]) == 1 else f"{name}, split {split}"


def _split_names(names: Sequence[str]) -> str:
    return f"split {names[0]}" if len(names) == 1 else f"splits {', '.join(names)}"


def show(content: dict[str, Any], console: Console) -> None:
    """Print a summary as text and tables."""
    console.print(
        f"[bold]{markup(content['name'])}[/]: {content['tracklets']:,} tracklets, {content['frames']:,} frames, "
        f"{content['identities']:,} identities, {content['cameras']} cameras, {content['bytes'] / 1e6:,.1f} MB in "
        f"{content['shards']} shards"
    )
    if content["outfits"]:
        console.print(f"{content['outfits']:,} outfits of identities", highlight=False)
    console.print(f"checksum {content['checksum']}", highlight=False)
    show_facts(content["facts"], console)
    if content["encoding"]:
        height, width = content["encoding"]["size"]
        console.print(f"frames re-encoded to {height}x{width}, quality {content['encoding']['quality']}")
    sizes = content["frame_bytes"]
    console.print(
        f"a frame has {sizes['min']:,} to {sizes['max']:,} bytes, {sizes['mean']:,.0f} on average", highlight=False
    )
    console.print(
        f"tracklets of {BINS[0]}, {BINS[1]}–{BINS[2] - 1}, {BINS[2]}–{BINS[3] - 1}, ... {BINS[-1]} frames and more: "
        f"|{bars(content['lengths']['tracklets'])}|\n",
        highlight=False,
    )
    for protocol in content["protocols"]:
        splits = list(protocol["splits"].items())
        for split, counts in splits:
            label = _label(protocol, split)
            shown = [role for role in ROLES if counts[role]["lengths"]]
            console.print(f"[bold]{markup(label)}[/]: {markup(protocol['description'])}")
            if protocol["ignore"] != "camera":
                rule = f"{IGNORE_RULES[protocol['ignore']].text} (rule {protocol['ignore']})"
                console.print(f"a query ignores of its own identity: {rule}")
            table = Table(box=None)
            for column in ("role", "identities", "tracklets", "frames", "a tracklet has", "lengths"):
                table.add_column(column, justify="left" if column == "role" else "right", no_wrap=True)
            for role in shown:
                row, lengths = counts[role], counts[role]["lengths"]
                table.add_row(
                    role,
                    f"{row['identities']:,}",
                    f"{row['tracklets']:,}",
                    f"{row['frames']:,}",
                    f"{lengths['min']}–{lengths['max']}, ⌀ {lengths['mean']:.1f}",
                    bars(lengths["histogram"]),
                )
            console.print(table)
            cameras = Table(box=None, title="identities, tracklets and frames of each camera", title_justify="left")
            for column in ("camera", *shown):
                cameras.add_column(column, justify="right", no_wrap=True)
            for camid, camera in counts["per_camera"].items():
                cameras.add_row(str(camid), *(_cell(camera[role]) if role in camera else "–" for role in shown))
            console.print(cameras)
            console.print(f"valid queries: {counts['valid_queries']:,} of {counts['query']['tracklets']:,}\n")
    show_warnings(content["warnings"], console)


def _cell(counts: dict[str, Any]) -> str:
    return f"{counts['identities']:,} {counts['tracklets']:,} {counts['frames']:,}"


def bars(counts: Sequence[int]) -> str:
    """Draw a histogram as text. Every count above 0 is visible."""
    most = max(max(counts), 1)
    return "".join(BARS[-(-count * (len(BARS) - 1) // most)] for count in counts)
