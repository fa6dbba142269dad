from __future__ import annotations

from pathlib import Path

import pytest

from shards.records import DataError
from shards.sources.common import natural
from shards.sources.sequence import frame_numbers, read_seqinfo

FOLDER = Path("camera")


def numbers(names: list[str], first_frame: int | None = None, lowest: int = 1) -> list[int]:
    return frame_numbers(FOLDER, sorted(names, key=natural), first_frame, lowest)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["000001.jpg", "000002.jpg", "000003.png"], [1, 2, 3]),
        (["1.jpg", "2.jpg", "10.jpg"], [1, 2, 10]),
        (["img_0001.jpg", "img_0003.jpg", "IMG_0005.JPG"], [5, 1, 3]),  # in the order of names
        (["cam2_000001_left.jpg", "cam2_000002_left.jpg"], [1, 2]),
        (["2024-01-31 0001.jpg", "2024-01-31 0002.jpg"], [1, 2]),
        (["video.0001.jpg", "video.0002.jpg"], [1, 2]),
        (["frame-1.jpg", "frame-2.jpg"], [1, 2]),
        (["000001.jpg"], [1]),
    ],
)
def test_the_number_that_varies_is_the_frame(names: list[str], expected: list[int]) -> None:
    """A picture is the frame of the number that varies in names of one pattern: prefixes, constant numbers, gaps."""
    assert numbers(names) == expected


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["0001.jpg", "0002.jpg", "0003.jpg", "thumb.jpg"], r"thumb.jpg: not named like the 3 others \(0001.jpg\)"),
        (["0001.jpg", "0002.jpg", "0003.jpg", "0002 copy.jpg"], "0002 copy.jpg: not named like"),
        (["1.jpg", "01.jpg"], "are both frame 1; remove one"),
        (["0001.jpg", "0001.png", "0002.jpg"], "0001.jpg and 0001.png are both frame 1"),
        (["1.0.jpg", "1.5.jpg", "2.0.jpg"], "decimals"),
        (["1,1.jpg", "1,2.jpg"], "decimals"),
        (["cam1_0001.jpg", "cam1_0002.jpg", "cam2_0001.jpg"], "no single number varies.*--first-frame 1"),
        (["12-00-01.jpg", "12-00-59.jpg", "12-01-01.jpg"], "no single number varies"),
        (["a.jpg", "b.jpg"], "no single number varies"),
        (["000000.jpg", "000001.jpg"], "begin with 000000.jpg, the tracks with frame 1; give --first-frame 0"),
        (["000101.jpg", "000102.jpg"], "begin with frame 1, the names with 000101.jpg; give the number"),
    ],
)
def test_names_that_leave_it_open_are_refused(names: list[str], message: str) -> None:
    """A foreign name, two equal numbers, decimals, two numbers or none that vary, and numbers that do not begin where
    the tracks do are refused with the way out."""
    with pytest.raises(DataError, match=message):
        numbers(names)


def test_first_frame_moves_all_numbers() -> None:
    """--first-frame is the first picture's frame; gaps stay. Names without a number that varies count on from it. It
    does not excuse a foreign name. Names and tracks that both begin at 0 need none."""
    names = ["000000.jpg", "000002.jpg", "000004.jpg"]
    assert numbers(names, first_frame=1) == [1, 3, 5]
    assert numbers(names, first_frame=0) == [0, 2, 4]
    assert numbers(names, lowest=0) == [0, 2, 4]
    assert numbers(["b.jpg", "a.jpg", "c.jpg"], first_frame=1) == [1, 2, 3]
    with pytest.raises(DataError, match=r"thumb\.jpg"):
        numbers([*names, "thumb.jpg"], first_frame=1)


def test_seqinfo_is_found_and_read(tmp_path: Path) -> None:
    """MOT's seqinfo.ini lies beside the tracks or above their folder; one that cannot be read is named."""
    tracks = tmp_path / "gt" / "gt.txt"
    tracks.parent.mkdir()
    assert read_seqinfo(tracks) is None
    text = (
        "[Sequence]\nname=MOT17-02\nimDir=img1\nframeRate=30\nseqLength=600\nimWidth=1920\nimHeight=1080\nimExt=.jpg\n"
    )
    (tmp_path / "seqinfo.ini").write_text(text)
    seqinfo = read_seqinfo(tracks)
    assert seqinfo is not None
    assert (seqinfo.width, seqinfo.height, seqinfo.num_frames) == (1920, 1080, 600)
    (tmp_path / "seqinfo.ini").write_text("[sequence]\nWIDTH = 1920\nseqLength = 0\n")
    seqinfo = read_seqinfo(tracks)
    assert seqinfo is not None
    assert (seqinfo.width, seqinfo.height, seqinfo.num_frames) == (1920, None, None)
    (tracks.parent / "seqinfo.ini").write_text("[Sequence]\nimWidth=wide\n")
    with pytest.raises(DataError, match=r"gt/seqinfo.ini: cannot be read"):
        read_seqinfo(tracks)
