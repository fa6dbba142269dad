"""Our tar against Python's tarfile: the same bytes, and the same members where one is damaged."""

from __future__ import annotations

import io
import tarfile

import pytest

from shards import tar

MEMBERS = [
    ("0001C1T0001.json", b"{}"),
    ("0001C1T0001.00000.jpg", b""),
    ("0001C1T0001.00001.jpg", bytes(range(256)) * 2),
    ("k" * 80 + ".00002.png", b"x" * 70_001),
    ("ünïcode.00000.jpg", b"y" * 511),
]


def of_tarfile(members: list[tuple[str, bytes]]) -> bytes:
    """Some versions of Python write zeros as the device numbers of plain files, others nothing, as we do."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            start = archive.offset
            archive.addfile(info, io.BytesIO(data))
            head = bytearray(buffer.getbuffer()[start : start + 512])
            head[329:345], head[148:156] = bytes(16), b" " * 8
            head[148:156] = b"%06o\0 " % sum(head)
            buffer.getbuffer()[start : start + 512] = head
    return buffer.getvalue()


def ours(members: list[tuple[str, bytes]]) -> bytes:
    packed, offsets = tar.pack(members)
    assert [packed[offset : offset + len(data)] for offset, (_, data) in zip(offsets, members, strict=True)] == [
        data for _, data in members
    ]
    return packed + tar.end(len(packed))


@pytest.mark.parametrize("count", range(len(MEMBERS) + 1))
def test_the_bytes_are_those_of_tarfile(count: int) -> None:
    """Names of every length, sizes at the edges of a block, and nothing at all."""
    assert ours(MEMBERS[:count]) == of_tarfile(MEMBERS[:count])


def test_the_largest_member_has_a_header() -> None:
    """Eleven octal digits hold 8 GiB less a byte."""
    assert tarfile.TarInfo.frombuf(tar.header("a", 8**11 - 1), "ascii", "strict").size == 8**11 - 1


def test_walk_finds_what_was_written() -> None:
    """Names, places and bytes."""
    data = ours(MEMBERS)
    assert [(name, data[offset : offset + size]) for name, offset, size in tar.walk(memoryview(data))] == MEMBERS


def test_walk_sees_what_another_writer_did() -> None:
    """Long names by a prefix and GNU's way, folders and links: no name passes for one of ours."""
    long = "d" * 120 + "/f.00000.jpg"
    for format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
            archive.addfile(tarfile.TarInfo(long))
            for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE):
                info = tarfile.TarInfo("key.00000.jpg")
                info.type = kind
                info.linkname = "/etc/passwd"
                archive.addfile(info)
        names = [name for name, _, _ in tar.walk(memoryview(buffer.getvalue()))]
        assert len(names) >= 4
        assert all("/" in name for name in names if not name.startswith("d" * 100))
        assert all("/" in name for name in names[-3:])


@pytest.mark.parametrize("position", range(0, 512, 7))
def test_damage_ends_the_walk(position: int) -> None:
    """A flipped byte in the second header: what stands before it is found, nothing behind it, and nothing wrong."""
    data = bytearray(ours(MEMBERS[:3]))
    data[1024 + position] ^= 0x15
    assert list(tar.walk(memoryview(data))) == [(MEMBERS[0][0], 512, 2)]


@pytest.mark.parametrize("length", [0, 100, 511, 512, 513, 1024, 1536, 2560])
def test_a_cut_tar_gives_whole_members(length: int) -> None:
    """Only members that are there with all of their bytes."""
    data = ours(MEMBERS[:3])
    members = list(tar.walk(memoryview(data[:length])))
    assert members == [member for member in tar.walk(memoryview(data)) if member[1] + member[2] <= length]


def test_a_name_that_does_not_fit_is_refused() -> None:
    """101 bytes."""
    with pytest.raises(ValueError, match="at most 100 bytes"):
        tar.header("n" * 101, 0)
