"""Check pickles before they are read: hashing a key must not take forever.

The hash of a tuple visits every item, and repeated items again. A tuple that holds the same tuple twice, nested sixty
levels deep, takes 300 bytes in a file and 2^60 visits to hash. `torch.load` accepts it as a key.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from pathlib import Path
from typing import Any

from mstat.errors import UserError

MOST_BYTES = 1 << 26  # of a pickle; a million tensors need that much
MOST_PARTS = 1000  # of a tuple, counted once per occurrence
MOST_PICKLES = 5  # of torch's older format, in sequence
PUTS = ("PUT", "BINPUT", "LONG_BINPUT")
GETS = ("GET", "BINGET", "LONG_BINGET")
MADE_OF_PARTS = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "REDUCE", "NEWOBJ", "NEWOBJ_EX", "FROZENSET", "OBJ", "INST")


def refuse_endless_keys(path: Path) -> None:
    """Refuse a file of torch.save with a tuple whose hash would take too long.

    Raises:
        UserError: If the file has such a tuple, or a pickle of more than MOST_BYTES.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.filename.endswith("/data.pkl"):
                    if entry.file_size > MOST_BYTES:
                        raise UserError(
                            f"its names and shapes take {entry.file_size:,} bytes, more than {MOST_BYTES:,}"
                        )
                    refuse_large(io.BytesIO(archive.read(entry)))
        return
    with path.open("rb") as file:
        stream = io.BytesIO(file.read(MOST_BYTES))
    for _ in range(MOST_PICKLES):
        if not refuse_large(stream):
            return


def refuse_large(stream: io.BytesIO) -> bool:
    """Check one pickle. Return whether it was complete; its reader reports a broken one.

    Raises:
        UserError: If a tuple in it has too many parts.
    """
    try:
        for parts in _sizes(stream):
            if parts > MOST_PARTS:
                raise UserError("its tuples are nested too deeply to be hashed")
    except UserError:
        raise
    except Exception:  # torch.load will fail on this pickle, too
        return False
    return True


def _sizes(stream: io.BytesIO) -> Any:
    """Yield the number of parts of every tuple in a pickle: simulate its stack with these numbers alone."""
    stack: list[int | None] = []  # None is a mark
    memo: dict[Any, int | None] = {}
    for opcode, argument, _ in pickletools.genops(stream):
        name = opcode.name
        if name in PUTS or name == "MEMOIZE":
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in GETS:
            stack.append(memo[argument])
        elif name == "MARK":
            stack.append(None)
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            parts = 1
            before = opcode.stack_before
            if pickletools.markobject in before:
                while (item := stack.pop()) is not None:
                    parts += item
                before = before[: before.index(pickletools.markobject)]
            for _ in before:
                parts += stack.pop() or 0
            if name in MADE_OF_PARTS:
                yield parts
            stack.extend([parts if name in MADE_OF_PARTS else 1] * len(opcode.stack_after))
