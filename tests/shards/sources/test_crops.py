"""Tracks and pictures that do not fit each other: size, frame rate, layout. The pictures are folders of PNGs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shards import pictures
from shards.records import DataError, Source
from shards.sources import mot

WIDTH, HEIGHT, LENGTH = 200, 100, 12
SKIN = np.array([250, 40, 40])
Read = Callable[..., Source]


def place(pid: int, frame: int) -> tuple[int, int]:
    """Left and top of a person of 20 x 40 pixels: four rows of people who walk to the right, over the whole picture."""
    return (frame - 1) * 16 + pid, 12 * (pid - 1)


def draw(folder: Path, scale: float = 1, names: str = "{:06d}.png", frames: range = range(1, LENGTH + 1)) -> Path:
    """Person 1's walk as pictures: red where the person is, grey around."""
    folder.mkdir()
    for frame in frames:
        image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
        left, top = place(1, frame)
        image[top : top + 40, left : left + 20] = SKIN
        picture = Image.fromarray(image).resize((round(WIDTH * scale), round(HEIGHT * scale)))
        picture.save(folder / names.format(frame))
    return folder


def rows(scale: float = 1) -> list[str]:
    boxes = [(frame, pid, *place(pid, frame)) for frame in range(1, LENGTH + 1) for pid in (1, 2, 3, 4, 5)]
    return [f"{f},{p},{x * scale},{y * scale},{20 * scale},{40 * scale}" for f, p, x, y in boxes]


def seqinfo(folder: Path, size: tuple[int, int] = (WIDTH, HEIGHT), length: int = LENGTH) -> None:
    text = f"[Sequence]\nseqLength={length}\nimWidth={size[0]}\nimHeight={size[1]}\n"
    (folder / "seqinfo.ini").write_text(text)


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def call(folder: Path, lines: list[str], **options: Any) -> Source:
        tracks = tmp_path / "t.txt"
        tracks.write_text("\n".join(lines) + "\n")
        return mot.read([folder], [tracks], tmp_path / "s", crop_size=(40, 20), test_identities=[2], **options)

    return call


def person(source: Source) -> float:
    """How red the crops of person 1 are, 0 to 1: 1 where each shows the person and nothing else."""
    images = [pictures.decode(frame.read()) for t in source.tracklets if t.pid == 1 for frame in t.frames()]
    return float(np.mean([np.abs(image[4:-4, 4:-4].reshape(-1, 3) - SKIN).max(1) < 40 for image in images]))


def test_tracks_that_fit(read: Read, tmp_path: Path) -> None:
    """Nothing is dropped, nothing is doubtful, and each crop shows its person."""
    source = read(draw(tmp_path / "full"), rows())
    assert set(source.facts) == {"test identities", "boxes"}
    assert source.facts["boxes"] == "60 of 60 rows"
    assert person(source) > 0.99


def test_tracks_of_a_larger_size(read: Read, tmp_path: Path) -> None:
    """Tracks on a half-size copy lose boxes and are refused, with the way out; --tracks-size scales the boxes so that
    each crop shows its person; --max-dropped accepts the loss and says what was lost."""
    half = draw(tmp_path / "half", 0.5)
    with pytest.raises(
        DataError, match=r"42 of 60 boxes .* 1 of 5 identities are gone \(5\).*--tracks-size .*--max-dropped"
    ):
        read(half, rows())
    source = read(half, rows(), tracks_size=[(WIDTH, HEIGHT)])
    assert person(source) > 0.99
    assert not {"dropped", "doubtful"} & set(source.facts)
    source = read(half, rows(), max_dropped=100)
    assert person(source) < 0.5
    assert source.facts["dropped"] == "36 of 60 boxes: 9 thinner than 4 pixels in it, 27 outside the picture"
    assert "reach over the right edge" in source.facts["doubtful"]


def test_an_identity_that_vanishes_counts(read: Read, tmp_path: Path) -> None:
    """An identity of which no box is left is named; it counts as a share of all identities."""
    full, gone = draw(tmp_path / "full"), ["1,9,300,10,20,40"]
    with pytest.raises(DataError, match=r"1 of 61 boxes .* 1 of 6 identities are gone \(9\)"):
        read(full, rows() + gone)
    source = read(full, rows() + gone, max_dropped=20)
    assert source.facts["vanished"] == f"identities of which no box is left: {tmp_path / 't.txt'} (9)"
    assert source.facts["dropped"] == "1 of 61 boxes: 1 outside the picture"


def test_tracks_of_a_smaller_size_are_doubtful(read: Read, tmp_path: Path) -> None:
    """That no box comes near the right and lower edge may be chance: it is said, until --tracks-size is given."""
    full = draw(tmp_path / "full")
    assert "reaches beyond 100x44 of" in read(full, rows(0.5)).facts["doubtful"]
    source = read(full, rows(0.5), tracks_size=[(WIDTH // 2, HEIGHT // 2)])
    assert "doubtful" not in source.facts
    assert person(source) > 0.99


def test_sizes_that_are_known_are_compared(read: Read, tmp_path: Path) -> None:
    """A size in seqinfo.ini or in the tracks file must be the pictures'; width comes first."""
    full = draw(tmp_path / "full")
    with pytest.raises(DataError, match=r"tracks of 400x200 pixels .*t.txt.* has 200x100; .*--tracks-size 400x200"):
        read(full, ["# 400x200", *rows()])
    seqinfo(tmp_path, (400, 200))
    with pytest.raises(DataError, match=r"tracks of 400x200 pixels .*seqinfo.ini"):
        read(full, rows(2))
    assert person(read(full, rows(2), tracks_size=[(400, 200)])) > 0.99
    with pytest.raises(DataError, match="width comes first"):
        read(full, rows(2), tracks_size=[(200, 400)])
    seqinfo(tmp_path)
    assert "doubtful" not in read(full, rows()).facts


def test_numbers_of_frames_are_compared(read: Read, tmp_path: Path) -> None:
    """A seqLength that the pictures do not have is refused; without it, tracks that end long before the pictures are
    doubtful."""
    full = draw(tmp_path / "full")
    few = [row for row in rows() if int(row.split(",")[0]) <= 6]
    assert "ends at frame 6" in read(full, few).facts["doubtful"]
    seqinfo(tmp_path, length=24)
    with pytest.raises(DataError, match=r"seqLength 24, and .*full has 12 frames"):
        read(full, rows())


def test_every_second_picture(read: Read, tmp_path: Path) -> None:
    """Pictures with gaps keep their numbers: boxes between them are listed, or dropped and counted, and each crop shows
    its person, with a prefix and from 0 as well."""
    names = "cam7_{:03d}.png"
    sparse = draw(tmp_path / "sparse", names=names, frames=range(1, LENGTH + 1, 2))
    with pytest.raises(DataError) as error:
        read(sparse, rows())
    lines = str(error.value).splitlines()
    assert len(lines) == 22
    assert "t.txt:6: frame 2, but" in lines[0]
    assert lines[-2:] == [
        "... and 10 more",
        "30 boxes of frames that are not there; leave them out with --bad-frames drop",
    ]
    source = read(sparse, rows(), drop=True)
    assert source.facts["dropped"] == "30 of 60 boxes: 30 of frames that are not there"
    assert person(source) > 0.99
    for frame in range(1, LENGTH + 1, 2):
        (sparse / names.format(frame)).rename(sparse / names.format(frame - 1))
    with pytest.raises(DataError, match="--first-frame 1 if they count from 1"):
        read(sparse, rows(), drop=True)
    assert person(read(sparse, rows(), drop=True, first_frame=[1])) > 0.99


def test_corners_without_names_are_refused(read: Read, tmp_path: Path) -> None:
    """Rows of left, top, right, bottom without names would be boxes over the edge; with names they are read."""
    full = draw(tmp_path / "full")
    corners = [(f, p, x, y, x + w, y + h) for f, p, x, y, w, h in (map(float, row.split(",")) for row in rows())]
    lines = [",".join(f"{value:g}" for value in row) for row in corners]
    with pytest.raises(DataError, match=r"corners .*frame,id,xmin,ymin,xmax,ymax"):
        read(full, lines)
    assert person(read(full, ["frame,id,xmin,ymin,xmax,ymax", *lines])) > 0.99


def test_bad_rows_of_all_files_are_listed_at_once(tmp_path: Path) -> None:
    """Malformed rows and boxes of frames that are not there, of all cameras, come in one list; drop leaves them out."""
    full = draw(tmp_path / "full")
    first, second = tmp_path / "1.txt", tmp_path / "2.txt"
    first.write_text("\n".join([*rows(), "3,7,9,9,0,40", "99,1,9,9,20,40"]))
    second.write_text("\n".join([*rows(), "3,7,nan,9,20,40"]))
    with pytest.raises(DataError) as error:
        mot.read([full, full], [first, second], tmp_path / "s")
    places = ["1.txt:61: a box of 0 x 40", "2.txt:61: left nan", "1.txt:62: frame 99", "3 bad rows"]
    lines = str(error.value).splitlines()
    assert all(place in line for place, line in zip(places, lines, strict=True)), lines
    source = mot.read([full, full], [first, second], tmp_path / "s", drop=True)
    assert source.facts["dropped"] == "3 of 123 boxes: 2 bad rows, 1 of frames that are not there"
    assert source.facts["vanished"].endswith("1.txt (7); " + f"{second} (7)")
