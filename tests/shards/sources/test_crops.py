"""Tracks and pictures that do not fit each other: size, frame rate, layout. The pictures are folders of PNGs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shards import images
from shards.__main__ import main
from shards.read import Reader
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
    """Return the mean share of skin colour in the crops of person 1: 1 if each shows the person and nothing else."""
    crops = [images.decode(frame.read()) for t in source.tracklets if t.pid == 1 for frame in t.frames()]
    return float(np.mean([np.abs(image[4:-4, 4:-4].reshape(-1, 3) - SKIN).max(1) < 40 for image in crops]))


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
    """Tracks with no box near the right and lower edge, which may be chance, are reported until --tracks-size is given.
    A seqinfo.ini that was scaled with the pictures does not hide them."""
    full = draw(tmp_path / "full")
    assert "reaches beyond 100x44 of" in read(full, rows(0.5)).facts["doubtful"]
    seqinfo(tmp_path)
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
    (tmp_path / "seqinfo.ini").write_text("[Sequence]\nimHeight=200\n")
    with pytest.raises(DataError, match=r"tracks of \?x200 pixels .*seqinfo.ini"):
        read(full, rows(2))
    seqinfo(tmp_path)
    assert "doubtful" not in read(full, rows()).facts


def test_numbers_of_frames_are_compared(read: Read, tmp_path: Path) -> None:
    """A seqLength that the pictures do not have is refused; without it, tracks that end long before the pictures are
    doubtful."""
    full = draw(tmp_path / "full")
    few = [row for row in rows() if int(row.split(",")[0]) <= 6]
    assert "ends at frame 6" in read(full, few).facts["doubtful"]
    seqinfo(tmp_path, length=24)
    with pytest.raises(DataError, match=r"seqLength 24, but .*full has 12 frames"):
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
        "30 boxes of missing frames; leave them out with --bad-frames drop",
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


def test_swapped_frames_and_ids_are_refused(read: Read, tmp_path: Path) -> None:
    """Rows of id, frame, ... without names would be short tracks that jump from person to person; with names they are
    read. People who jump, as in a picture every few seconds, are no reason to refuse, be they several or one."""
    full = draw(tmp_path / "full")
    apart = [(frame, pid, *place(1 if pid == 2 else 5, frame)) for frame in range(1, LENGTH + 1) for pid in (2, 5)]
    swapped = [f"{pid},{frame},{left},{top},20,40" for frame, pid, left, top in apart]
    with pytest.raises(DataError, match="frame and id seem swapped"):
        read(full, swapped)
    assert [t.num_frames for t in read(full, ["id,frame,x,y,w,h", *swapped]).tracklets] == [LENGTH, LENGTH]
    for persons in ((2,), (2, 3, 4)):
        jumps = [f"{f},{p},{(70 * f + 40 * p) % 180},20,20,40" for f in range(1, LENGTH + 1) for p in persons]
        assert len(read(full, jumps).tracklets) == len(persons)


def test_centres_without_names_are_refused(read: Read, tmp_path: Path) -> None:
    """Boxes that reach over the right and the lower edge, and would all fit as centres, are refused: also those named
    x and y. Over one edge alone they are doubtful. Names that leave no doubt decide."""
    full = draw(tmp_path / "full")
    centres = [
        f"{frame},{pid},{left + 10},{top + 20},20,40"
        for frame in range(1, LENGTH + 1)
        for pid, (left, top) in ((2, place(1, frame)), (3, (place(2, frame)[0], 60)))
    ]
    for lines in (centres, ["frame,id,x,y,w,h", *centres]):
        with pytest.raises(
            DataError, match=r"2 boxes reach .*12 over the lower one, and all would fit if they were centres"
        ):
            read(full, lines)
    assert "doubtful" not in read(full, ["frame,id,cx,cy,width,height", *centres]).facts
    assert "would fit if" not in read(full, ["frame,id,left,top,width,height", *centres]).facts.get("doubtful", "")
    low = [row for row in centres if int(row.split(",")[0]) < LENGTH]
    assert "0 boxes reach over the right edge" in read(full, low).facts["doubtful"]


def test_what_lies_among_the_pictures_is_counted(read: Read, tmp_path: Path) -> None:
    """Files of other types, folders and hidden pictures beside the frames are named; so are columns without a use."""
    full = draw(tmp_path / "full")
    (full / "thumbs").mkdir()
    (full / "000013.gif").write_bytes(b"GIF89a")
    (full / "list.txt").write_text("000001.png")
    lines = [f"{row},0,7" for row in rows()]
    facts = read(full, ["frame,id,x,y,w,h,occluded,speed", *lines]).facts
    assert facts["skipped"] == "files of other types: 1 (full/000013.gif); folders: 1 (full/thumbs/)"
    assert facts["documents"] == "1, not read (full/list.txt)"
    assert facts["columns"] == "not used: occluded, speed"


def test_damaged_pictures_are_bad_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A build lists all damaged pictures of a folder, and a link that leads nowhere, by the rows of their boxes; with
    --bad-frames drop it leaves these out, counts them, and cuts the others from the right pictures."""
    full, tracks = draw(tmp_path / "full"), tmp_path / "t.txt"
    tracks.write_text("\n".join(row for row in rows() if row.split(",")[1] in "12"))
    (full / "000001.png").write_bytes(b"")
    (full / "000005.png").unlink()
    (full / "000005.png").symlink_to("nowhere")
    command = ["build", "mot", "--video", str(full), "--tracks", str(tracks), "--halve-tracks", "--workers", "1"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "000001.png: zero bytes; replace it" in error
    assert "000005.png: No such file or directory; replace it" in error
    assert "4 bad frames" in error
    assert main([*command, "--bad-frames", "drop", "--out", str(tmp_path / "out")]) == 0
    assert "warning left out: 4 bad frames" in capsys.readouterr().out
    reader = Reader(tmp_path / "out")
    crops = [
        crop for i in range(len(reader)) if reader[i].pid == 1 for crop in reader.frames(i, range(reader[i].num_frames))
    ]
    assert len(crops) == LENGTH - 2
    assert all(np.abs(crop[60:-60, 30:-30].astype(int) - SKIN).max() < 40 for crop in crops)


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
