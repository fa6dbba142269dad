"""Changes of bytes, lines and JSON values, drawn by a generator that the caller seeds."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

# Values that readers must expect in the place of any other.
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**63,
    10**400,
    -(2**63) - 1,
    0.5,
    1e308,
    -1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "no",
    "../../x",
    "/dev/zero",
    "\x1b[2J",
    "a\nb",
    "\u202e",
    "9" * 5000,
    "reference://x::y",
    "http://127.0.0.1:9/x",
    [],
    {},
    [[]],
    {"class_path": "tests.fuzz.never_imported.Thing"},
    ["x"] * 1000,
)


def mutate_bytes(data: bytes, draw: random.Random) -> bytes:
    """Return bytes that differ from `data` in one place, or are cut, doubled or joined with others there."""
    if not data:
        return b"\x00"
    at = draw.randrange(len(data))
    size = min(draw.choice((1, 1, 1, 4, 64, 4096)), len(data) - at)
    kind = draw.randrange(9)
    if kind == 0:
        return _other(data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :], data)
    if kind == 1:
        return _other(data[:at] + draw.randbytes(size) + data[at + size :], data)
    if kind == 2:
        return _other(data[:at] + bytes(size) + data[at + size :], data)
    if kind == 3:
        return _other(data[:at] + b"\xff" * size + data[at + size :], data)
    if kind == 4:
        return data[:at]
    if kind == 5:
        return data[:at] + data[at + size :]
    if kind == 6:
        return data[:at] + data[at : at + size] + data[at:]
    if kind == 7:
        return data + draw.randbytes(size)
    other = draw.randrange(len(data))
    return _other(data[:at] + data[other : other + size] + data[at + size :], data)


def _other(changed: bytes, data: bytes) -> bytes:
    return changed if changed != data else data[:-1] + bytes([data[-1] ^ 1])


def mutate_text(text: str, draw: random.Random) -> str:
    """Return a text with one line or one field of it changed, doubled, removed, or with odd characters in it."""
    lines = text.splitlines(keepends=True) or ["\n"]
    at = draw.randrange(len(lines))
    kind = draw.randrange(6)
    if kind == 0:
        lines.insert(at, lines[draw.randrange(len(lines))])
    elif kind == 1:
        del lines[at]
    elif kind == 2:
        lines[at] = lines[at].rstrip("\n") + draw.choice((",1", ";", "\t", " # x", "\x00", "\ufeff", "\x1b[31m")) + "\n"
    elif kind == 3:
        fields = lines[at].rstrip("\n").split(",")
        fields[draw.randrange(len(fields))] = _as_text(draw.choice(ODD_VALUES))
        lines[at] = ",".join(fields) + "\n"
    elif kind == 4:
        lines[at] = lines[at].swapcase()
    else:
        return mutate_bytes(text.encode(), draw).decode(errors="replace")
    return "".join(lines)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def mutate_json(value: Any, draw: random.Random) -> Any:
    """Return a copy of JSON values in which one is replaced by an odd one, removed, renamed, doubled or buried."""
    changed = copy.deepcopy(value)
    places = list(_places(changed))
    if not places:
        return draw.choice(ODD_VALUES)
    parent, key = draw.choice(places)
    kind = draw.randrange(8)
    if kind <= 3:
        parent[key] = copy.deepcopy(draw.choice(ODD_VALUES))
    elif kind == 4:
        del parent[key]
    elif kind == 5 and isinstance(parent, dict):
        parent[f"{key}x"] = parent.pop(key)
    elif kind == 6:
        other_parent, other_key = draw.choice(places)
        parent[key] = copy.deepcopy(other_parent[other_key])
    else:
        for _ in range(draw.choice((1, 3, 200))):
            parent[key] = [parent[key]]
    return changed


def _places(value: Any) -> Any:
    """Each (container, key) in nested values."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def dump(value: Any) -> str:
    """JSON text of mutated values; one that cannot be written is deep beyond what writers do."""
    try:
        return json.dumps(value)
    except (ValueError, RecursionError):
        return "[" * 100_000
