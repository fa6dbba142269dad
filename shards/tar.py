"""Write and walk tars (USTAR) of small files: the same bytes as Python's tarfile, in a tenth of the time per member.

A build writes a million members of a few kilobytes. With tarfile, the headers alone take longer than all of GNU tar.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

BLOCK = 512
RECORD = 20 * BLOCK  # the length of a tar is a multiple of it
NAME_BYTES = 100
_SIZE, _CHECKSUM, _TYPE, _MAGIC, _PREFIX = 124, 148, 156, 257, 345
# Mode 644, owner and time 0: the bytes do not depend on the machine.
_NUMBERS = b"0000644\0" + 2 * b"0000000\0" + b"%011o\0" + b"00000000000\0"
_REST = (b"0" + 100 * b"\0" + b"ustar\x0000").ljust(BLOCK - _TYPE, b"\0")
_SUM = 8 * ord(" ") + sum(_NUMBERS % 0) - 11 * ord("0") + sum(_REST)  # the checksum counts its own field as spaces


def header(name: str, size: int) -> bytes:
    """Return the header block of a member. Raises ValueError on a name longer than 100 bytes."""
    encoded = name.encode()
    if len(encoded) > NAME_BYTES:
        raise ValueError(f"{name}: a name in a tar has at most {NAME_BYTES} bytes")
    digits = b"%011o" % size
    checksum = _SUM + sum(encoded) + sum(digits)
    return b"%b%b%06o\0 %b" % (encoded.ljust(NAME_BYTES, b"\0"), _NUMBERS % size, checksum, _REST)


def pack(members: Iterable[tuple[str, bytes]]) -> tuple[bytes, list[int]]:
    """Return members (name, bytes) as part of a tar, and the offset of each member's bytes in it."""
    parts: list[bytes] = []
    offsets: list[int] = []
    position = 0
    for name, data in members:
        padding = bytes(-len(data) % BLOCK)
        parts += (header(name, len(data)), data, padding)
        offsets.append(position + BLOCK)
        position += BLOCK + len(data) + len(padding)
    return b"".join(parts), offsets


def end(size: int) -> bytes:
    """Return the zeros that end a tar of `size` bytes."""
    return bytes(2 * BLOCK + -(size + 2 * BLOCK) % RECORD)


def walk(data: memoryview) -> Iterator[tuple[str, int, int]]:
    """Yield (name, offset, size) of each member, up to the end of the tar or its first damaged header.

    The name of a member that is not a plain file ends with `/`.
    """
    position = 0
    while position + BLOCK <= len(data):
        head = bytes(data[position : position + BLOCK])
        size = _octal(head[_SIZE : _SIZE + 12])
        checksum = _octal(head[_CHECKSUM : _CHECKSUM + 8])
        if size is None or checksum != sum(head) - sum(head[_CHECKSUM : _CHECKSUM + 8]) + 8 * ord(" "):
            return  # the end of the tar, or damage
        offset = position + BLOCK
        if offset + size > len(data):
            return
        name = _text(head[:NAME_BYTES])
        if head[_MAGIC : _MAGIC + 5] == b"ustar" and head[_PREFIX]:
            name = f"{_text(head[_PREFIX : _PREFIX + 155])}/{name}"
        yield (name if head[_TYPE] in b"0\0" else f"{name}/"), offset, size
        position = offset + size + -size % BLOCK


def _octal(field: bytes) -> int | None:
    digits = field.partition(b"\0")[0].strip(b" ")
    return int(digits, 8) if digits.isdigit() and not digits.strip(b"01234567") else None


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode(errors="replace")
