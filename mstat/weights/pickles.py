"""A check of pickles before they are read: the hash of a key must end.

A tuple's hash is that of all that is in it, again for every time that it is in it. A tuple of the same tuple twice, and
so on for sixty levels, is a file of 300 bytes whose hash never ends. `torch.load` takes such a key.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from pathlib import Path
from typing import Any

from mstat.errors import UserError

MOST_BYTES = 1 << 26  # of a pickle; a million tensors have as much
MOST_PARTS = 1000  # of a tuple, counted again wherever it is in another
MOST_PICKLES = 5  # of torch's older format, one after the other
PUTS = ("PUT", "BINPUT", "LONG_BINPUT")
GETS = ("GET", "BINGET", "LONG_BINGET")
MADE_OF_PARTS = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "REDUCE", "NEWOBJ", "NEWOBJ_EX", "FROZENSET", "OBJ", "INST")


def refuse_endless_keys(path: Path) -> None:
    """Refuse a file of torch.save in which something is nested so that its hash would take long.

    Raises:
        UserError: If there is such a tuple, or a pickle that is absurdly large.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.filename.endswith("/data.pkl"):
                    if entry.file_size > MOST_BYTES:
                        raise UserError(f"its names and shapes alone have {entry.file_size:,} bytes")
                    refuse_large(io.BytesIO(archive.read(entry)))
        return
    with path.open("rb") as file:
        stream = io.BytesIO(file.read(MOST_BYTES))
    for _ in range(MOST_PICKLES):
        if not refuse_large(stream):
            return


def refuse_large(stream: io.BytesIO) -> bool:
    """Go through one pickle. Returns whether it was whole; what is no pickle is left to its reader to name.

    Raises:
        UserError: If a tuple in it has too many parts.
    """
    try:
        for parts in _sizes(stream):
            if parts > MOST_PARTS:
                raise UserError("its values are nested without end")
    except UserError:
        raise
    except Exception:  # a pickle that cannot be followed cannot be read either
        return False
    return True


def _sizes(stream: io.BytesIO) -> Any:
    """The number of parts of every tuple that a pickle makes: its stack is followed, but holds these numbers alone."""
    stack: list[int | None] = []  # None: a mark
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
