from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import shards
from shards.records import DataError
from shards.shard import Encoding
from shards.sources import mars
from shards.verify import verify
from shards.write import building, write
from tests.shards.hostile import change_row, describe
from tests.shards.trees import build_mars, mars_tree


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return build_mars(mars_tree(tmp_path / "tree"), tmp_path / "out")


def rewrite(path: Path, keep: Callable[[str], bool], extra: tuple[str, ...] = ()) -> None:
    """Write a tar anew with some of its members, and others."""
    with tarfile.open(path) as tar:
        members = [(info, tar.extractfile(info).read()) for info in tar if keep(info.name)]  # type: ignore[union-attr]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
        for name in extra:
            tar.addfile(tarfile.TarInfo(name))


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x20
    path.write_bytes(data)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_good_set_has_no_faults(out: Path, workers: int) -> None:
    """A set that was just built is whole."""
    assert verify(out, workers) == []


def test_a_flipped_byte_is_found_in_its_frame(out: Path) -> None:
    """One changed bit is one fault of the shard, and one of the frame, by key and number."""
    reader = shards.open(out)
    shard = out / "shard-000000.tar"
    flip(shard, shard.read_bytes().index(reader.encoded(1, 3)) + 200)
    assert verify(out) == [
        f"{shard}: changed since the build (SHA-256)",
        f"{shard}: 0001C2T0002: frame 3 has changed (CRC-32)",
    ]


def test_a_flipped_byte_in_a_header_loses_nothing(out: Path) -> None:
    """A damaged tar header is told from lost frames: tar cannot reach what follows, the index can."""
    reader = shards.open(out)
    shard = out / "shard-000000.tar"
    flip(shard, shard.read_bytes().index(reader.encoded(1, 3)) - 512 + 3)
    faults = verify(out)
    assert f"{shard}: 0001C2T0002: 2 frames: a damaged tar header hides them" in "\n".join(faults)
    assert not any("missing: " in fault for fault in faults)


def test_a_flipped_byte_around_a_frame_is_named(out: Path) -> None:
    """Every byte belongs to a member: that of a header which tar does not look at, or of the zeros behind a frame or a
    json."""
    reader = shards.open(out)
    shard = out / "shard-000000.tar"
    whole = shard.read_bytes()
    frame = whole.index(reader.encoded(1, 3))
    sample = whole.index(b'{"key": "0001C2T0002"')
    for position, what in (
        (frame - 512 + 3, "frame 3: its tar header has changed"),
        (frame - 512 + 155, "frame 3: its tar header has changed"),  # behind the header's own checksum
        (frame + len(reader.encoded(1, 3)), "frame 3: the zeros after it have changed"),
        (sample - 512 + 155, "its json: its tar header has changed"),
        (sample + 511, "its json: the zeros after it have changed"),
    ):
        flip(shard, position)
        assert [fault for fault in verify(out) if "changed" in fault] == [
            f"{shard}: changed since the build (SHA-256)",
            f"{shard}: 0001C2T0002: {what}",
        ]
        shard.write_bytes(whole)


def test_a_member_twice_is_one_too_many(out: Path) -> None:
    """Under its own name, with the other extension, or as a number that is not the writer's; and a link is none."""
    shard = out / "shard-000000.tar"
    whole = shard.read_bytes()
    for name, what in (
        ("0001C1T0001.00001.jpg", "is a duplicate: frame 1 precedes it"),
        ("0001C1T0001.00001.png", "is a duplicate: frame 1 precedes it"),
        ("0001C1T0001.1.jpg", "is not one that the writer makes; build the set again"),
        ("0001C1T0001.00001.txt", "is not one that the writer makes; build the set again"),
    ):
        rewrite(shard, lambda name: True, (name,))
        (fault,) = [fault for fault in verify(out) if " were written" not in fault and "SHA-256" not in fault]
        assert f"member {name!r} {what}" in fault
        shard.write_bytes(whole)


def test_a_foreign_member_hides_no_other_fault(out: Path) -> None:
    """Members beside a name that leads out are checked all the same."""
    shard = out / "shard-000000.tar"
    rewrite(shard, lambda name: name != "0001C1T0001.00001.jpg", ("../evil.00000.jpg",))
    faults = "\n".join(verify(out))
    assert "'../evil.00000.jpg' is not one that the writer makes" in faults
    assert "0001C1T0001: frame 1 is missing" in faults


@pytest.mark.parametrize("name", ["state.json", "dataset_info.json"])
def test_what_lies_beside_the_rows_is_verified(out: Path, name: str) -> None:
    """The other two files of the index, without which `datasets` opens none."""
    path = out / "index" / name
    flip(path, path.stat().st_size // 2)
    assert verify(out) == [f"{path}: changed since the build (SHA-256)"]
    path.unlink()
    assert verify(out) == [f"{path}: missing"]


def test_a_truncated_shard_names_the_lost_tracklets(out: Path) -> None:
    """A cut shard is named, and each tracklet that lost frames; those before the cut are not."""
    reader = shards.open(out)
    shard = out / "shard-000000.tar"
    data = shard.read_bytes()
    shard.write_bytes(data[: data.index(reader.encoded(1, 3)) + 10])
    faults = verify(out)
    assert faults[0].startswith(f"{shard}: ")
    assert "were written" in faults[0]
    assert f"{shard}: 0001C2T0002: 2 frames are missing: [3, 4]" in faults
    assert not any("0001C1T0001" in fault for fault in faults)


def test_a_missing_shard_is_one_fault(out: Path) -> None:
    """A shard that is gone is named once, with the number of its tracklets."""
    (out / "shard-000001.tar").unlink()
    rows = [i for i, shard in enumerate(shards_of(out)) if shard == 1]
    assert verify(out) == [f"{out / 'shard-000001.tar'}: missing, with its {len(rows)} tracklets"]


def shards_of(out: Path) -> list[int]:
    import pyarrow as pa

    return pa.ipc.open_stream(out / "index/data-00000-of-00001.arrow").read_all()["shard"].to_pylist()


def test_a_missing_member_and_a_foreign_one_are_named(out: Path) -> None:
    """A frame taken out of a tar is missing by key and number; one put in is not in the index."""
    shard = out / "shard-000000.tar"
    rewrite(shard, lambda name: name != "0001C1T0001.00001.jpg", ("0001C1T0001.00009.jpg",))
    faults = verify(out)
    assert f"{shard}: 0001C1T0001: frame 1 is missing" in faults
    assert f"{shard}: 0001C1T0001: frame 9 is not in the index" in faults
    assert f"{shard}: 0001C2T0002: 5 frames are not at their places in the index" in faults


def test_a_changed_json_is_named(out: Path) -> None:
    """Another identity in a sample's json is a fault of that key."""
    shard = out / "shard-000000.tar"
    data = shard.read_bytes().replace(b'"0001C1T0001", "pid": 1', b'"0001C1T0001", "pid": 2')
    shard.write_bytes(data)
    assert f"{shard}: 0001C1T0001: its json has changed (CRC-32)" in verify(out)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
def test_a_changed_index_is_one_fault_and_is_not_read(out: Path, share: float) -> None:
    """An index with a changed byte, wherever it is, is named once by verify and refused by the reader."""
    arrow = out / "index/data-00000-of-00001.arrow"
    flip(arrow, round(share * (arrow.stat().st_size - 1)))
    (fault,) = verify(out)
    assert fault.startswith(f"{arrow}: changed since the build (SHA-256)")
    with pytest.raises(DataError, match="changed since the build"):
        shards.open(out)


def test_a_description_changed_by_hand_is_refused(out: Path) -> None:
    """`dataset.json` has a checksum of its own."""
    path = out / "dataset.json"
    path.write_text(path.read_text().replace('"tracklets": 10', '"tracklets": 11'))
    assert json.loads(path.read_text())["counts"]["tracklets"] == 11
    assert ["does not match its own checksum" in fault for fault in verify(out)] == [True]


def test_decoding_finds_what_was_damaged_before_the_build(tmp_path: Path) -> None:
    """A picture with whole head and end and damage between them is stored as it came; `decode` names it, and so it is
    refused where frames are encoded again."""
    tree = mars_tree(tmp_path / "tree")
    path = tree / "bbox_train/0001/0001C2T0002F004.jpg"
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"\xff\xda") + 40] + data[-2:])
    out = build_mars(tree, tmp_path / "out")
    assert verify(out) == []
    (fault,) = verify(out, decode=True)
    assert fault.startswith(f"{out / 'shard-000000.tar'}: 0001C2T0002: frame 3: damaged (")
    with pytest.raises(DataError, match=f"{path}: 0001C2T0002: damaged"), building(tmp_path / "small") as folder:
        write(mars.read(tree, partial=True), folder, encoding=Encoding((32, 16)))


def test_a_name_that_leads_out_of_the_folder_is_refused(out: Path) -> None:
    """A tar with a member ../x, or an absolute name, is a fault; nothing is ever unpacked."""
    for name in ("../evil.00000.jpg", "/evil.00000.jpg", "a/../../evil.json"):
        shard = out / "shard-000000.tar"
        whole = shard.read_bytes()
        rewrite(shard, lambda name: True, (name,))
        faults = "\n".join(verify(out))
        assert f"{shard}: " in faults
        assert f"member {name!r} is not one that the writer makes" in faults
        shard.write_bytes(whole)


@pytest.mark.parametrize("wrong", ["swapped", "other size", "zeros", "empty", "text"])
def test_a_wrong_shard_is_one_fault(out: Path, tmp_path: Path, wrong: str) -> None:
    """Another shard under its name, one of another build, or nothing of it: one line, not one a tracklet or frame; so
    with --decode."""
    shard, second = out / "shard-000000.tar", out / "shard-000001.tar"
    size = shard.stat().st_size
    if wrong == "swapped":
        shard.write_bytes(second.read_bytes())
    elif wrong == "other size":
        other = build_mars(mars_tree(tmp_path / "other", size=(48, 24)), tmp_path / "other-out")
        shard.write_bytes((other / shard.name).read_bytes())
    else:
        shard.write_bytes({"zeros": bytes(size), "empty": b"", "text": b"<!DOCTYPE html>"}[wrong])
    rows = shards_of(out).count(0)
    (fault,) = verify(out, decode=True)
    assert fault.startswith(f"{shard}: ")
    assert f"no frame of its {rows} tracklets is where it was written" in fault


def test_a_tracklet_has_one_line_for_each_kind_of_fault(out: Path) -> None:
    """Frames of a tracklet with the same fault share one line: changed bytes, changed headers, not in the index."""
    reader = shards.open(out)
    shard = out / "shard-000000.tar"
    whole = shard.read_bytes()
    for number in (1, 2, 4):
        flip(shard, shard.read_bytes().index(reader.encoded(1, number)) + 200)
    assert verify(out)[1:] == [f"{shard}: 0001C2T0002: 3 frames have changed (CRC-32): [1, 2, 4]"]
    shard.write_bytes(whole)
    for number in (1, 2, 3, 4):
        flip(shard, shard.read_bytes().index(reader.encoded(1, number)) - 512 + 155)
    assert verify(out)[1:] == [f"{shard}: 0001C2T0002: frame 1, frame 2, frame 3 ...: their tar headers have changed"]
    rewrite(shard, lambda name: True, ("0009C1T0001.json", "0009C1T0001.00000.jpg", "0009C1T0001.00001.jpg"))
    assert f"{shard}: 0009C1T0001: 2 frames and its json are not in the index: [0, 1]" in verify(out)


def test_bytes_behind_the_last_member_are_found(out: Path) -> None:
    """Bytes behind the end of a tar are reported, even if the checksums include them."""
    shard = out / "shard-000000.tar"
    end = len(shard.read_bytes().rstrip(b"\0")) + 512  # past the zeros that fill the last member's block
    for position in (-1, end):
        data = bytearray(shard.read_bytes())
        assert data[position] == 0
        data[position] = 1
        shard.write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()

        def tell(content: dict[str, Any], digest: str = digest) -> None:
            content["shards"][0].update(sha256=digest)

        describe(out, tell)
        assert "bytes after the last member" in verify(out)[-1]
        data[position] = 0
        shard.write_bytes(data)


def test_sizes_are_compared(out: Path) -> None:
    """An index that cuts the end of a frame off, and has the checksum of what is left."""

    def cut(row: dict[str, Any]) -> dict[str, Any]:
        frame = (out / "shard-000000.tar").read_bytes()[row["offsets"][0] :][: row["sizes"][0] - 1]
        return {"sizes": [len(frame), *row["sizes"][1:]], "crc32": [zlib.crc32(frame), *row["crc32"][1:]]}

    change_row(out, 0, cut)
    assert verify(out) == [f"{out / 'shard-000000.tar'}: 0001C1T0001: frame 0 has changed (CRC-32)"]


def test_other_bytes_of_the_description_are_found(out: Path) -> None:
    """A space that changes no value."""
    path = out / "dataset.json"
    path.write_text(path.read_text().replace(",", " ,", 1))
    assert verify(out) == [f"{path}: the values are as built, but their bytes have changed"]
