from __future__ import annotations

from pathlib import Path

import pytest

from shards.records import DataError
from shards.sources.tracks import Box, read_tracks

BOX = (5, 1, 10.5, 20.0, 30.0, 60.0)  # frame, id, left, top, width, height of each file below


def values(box: Box) -> tuple[float, ...]:
    return box.frame, box.pid, box.left, box.top, box.width, box.height


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="")
    return path


@pytest.mark.parametrize(
    "text",
    [
        "5,1,10.5,20,30,60\n",
        "5,1,10.5,20,30,60,1\n",
        "5,1,10.5,20,30,60,1,-1,-1,-1\n",
        "5, 1, 10.5, 20, 30, 60, -1, -1, -1, -1\n",
        "5,1,10.5,20,30,60,1,-6.25,-15.4,0\n6,1,10.5,20,30,60,1,3.2,7.1,0\n",
        "5,1,10.5,20,30,60,1,1,0.86014\n",
        "5,1,10.5,20,30,60,1,1,1,0\n",
        "5 1 10.5 20 30 60 0.9 1 -1\n",
        "5\t1\t10.5\t20\t30\t60\n",
        "5;1;10,5;20,0;30;60\n",
        "5 1 10,5 20,0 30,0 60,0\n",
        '"5","1","10,5","20","30","60"\n',
        "\ufeff5,1,10.5,20,30,60,\r\n\r\n# the end\r\n",
        "# made by a tracker\n5,1,10.5,20,30,60\n",
        "5.0,1.0,1.05e1,20,30,60\n",
        "frame,id,bb_left,bb_top,bb_width,bb_height,conf,x,y,z\n5,1,10.5,20,30,60,1,-6.2,7.1,0\n",
        "# id, frame, w, h, y, x\n1,5,30,60,20,10.5\n",
        'id,"frame",conf,H,W,Y,X,colour\n1,5,1,60,30,20,10.5,9\n',
        "frame_id;track_id;xmin;ymin;xmax;ymax\n5;1;10,5;20;40,5;80\n",
        "Frame,Track ID,x1,y1,x2,y2,Class Name\n5,1,10.5,20,40.5,80,Person\n",
        "frame,id,x_center,y_center,width,height\n5,1,25.5,50,30,60\n",
        "frame_index,target_id,cx,cy,w,h,score\n5,1,25.5,50,30,60,0.7\n",
        "frame,id,left,top,width,height,camera\n5,1,10.5,20,30,60,2\n",
    ],
)
def test_layouts_of_the_field(text: str, tmp_path: Path) -> None:
    """Each spelling of the same box is read as that box: MOT15 to MOT20, trackers' outputs, names of columns in any
    order, corners, centres; commas, semicolons, tabs, spaces; decimal commas, quotes, comments, a byte order mark."""
    assert values(read_tracks(written(tmp_path / "t.txt", text)).boxes[0]) == BOX


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0.51 0.73 0.32 0.48 7\n", "YOLO"),
        ("1,1,0.1,0.2,0.3,0.4\n2,1,0.1,0.2,0.3,0.4\n", "fractions of the picture"),
        ("1,-1,10,20,30,60,0.9\n2,-1,10,20,30,60,0.8\n", "detections, not tracks"),
        ("0 2 Pedestrian 0 0 -1.79 296 161 455 292 2 1.8 4.4 -4.5 1.8 13 -2.1\n", "17 columns"),
        ("1,7,1,1,10,10,20,20,10,10,30,60\n", "12 columns"),
        ("1,1,10,20\n", "4 columns"),
        ("1,1,10,20,30,60,1,4.5\n", "the eighth is no class"),
        ('7 1 10 20 30 60 1 0 1 "Pedestrian"\n', "column 10 holds text"),  # VATIC: id, corners, frame, flags, label
        ("1,1,10,20,30,60,1,1,7\n", "no class and visibility"),
        ("<annotations/>\n", "XML"),
        ("PK\x03\x04\0\0xlsx\n", "a binary file"),
        ('{"tracks": []}\n', "JSON"),
        ("frame,id,left,top,width\n1,1,2,3,4\n", "no column height or h"),
        ("frame,id,x,y,z\n1,1,2,3,4\n", "no column left or x"),
        ("frame,id,left,xmin,top,width,height\n1,1,2,3,4,5,6\n", "left and xmin"),
        ("number,who,a,b,c,d\n1,1,2,3,4,5\n", "no column frame or frameid"),
        ("frame,id,left,top,width,height,cam\n1,1,2,3,4,5,1\n1,1,2,3,4,5,2\n", "rows of 2 cameras"),
        ("1,1,10,20,30,60,0\n", "2 of confidence 0|1 of confidence 0"),
        ("\n", "no box"),
        (
            "1 1 1 12 10 20 40 -1 -1\n1 1 2 24 10 20 40 -1 -1\n",
            "already .line 1.*\n.*no usable box",
        ),  # camera, id, frame
        ("frame,id,type,left,top,right,bottom\n1,1,Car,2,3,40,50\n", "classes car .1 rows.; name those of people"),
    ],
)
def test_other_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    """An unknown layout is refused with the reason; the message says what is accepted, or the way out."""
    with pytest.raises(DataError, match=message):
        read_tracks(written(tmp_path / "t.txt", text))


def test_a_folder_of_labels_is_refused(tmp_path: Path) -> None:
    """A folder (Ultralytics: a file for each picture) is no tracks file."""
    with pytest.raises(DataError, match=r"a folder .*accepted are rows of frame,id,left"):
        read_tracks(tmp_path)


def pids(path: Path, **options: object) -> list[int]:
    return [box.pid for box in read_tracks(path, **options).boxes]  # type: ignore[arg-type]


def test_mot17_classes_and_visibility(tmp_path: Path) -> None:
    """MOT17 and MOT20: class 1 (pedestrian) is used, others are dropped and counted by class, after confidence 0; a
    pedestrian of whom nothing is visible is dropped; both rules can be moved."""
    rows = (
        "1,1,9,9,30,60,1,1,1\n1,2,9,9,30,60,1,7,0.5\n1,3,9,9,30,60,0,8,1\n1,4,9,9,30,60,1,1,0\n1,5,9,9,30,60,1,1,0.2\n"
    )
    path = written(tmp_path / "gt.txt", rows)
    read = read_tracks(path)
    assert [box.pid for box in read.boxes] == [1, 5]
    assert +read.dropped == {"of class 7": 1, "of confidence 0": 1, "visible by less than 0.01": 1}
    assert read.unused == {"2", "3", "4"}
    assert pids(path, classes=frozenset({"1", "7"})) == [1, 2, 5]
    assert pids(path, min_visibility=0.3) == [1]
    assert pids(path, min_visibility=0.0) == [1, 4, 5]
    with pytest.raises(DataError, match=r"no row has a class of --classes 3; classes 1 \(3 rows\)"):
        read_tracks(path, classes=frozenset({"3"}))
    percent = written(tmp_path / "percent.csv", "frame,id,x,y,w,h,visibility\n1,1,9,9,30,60,1\n1,2,9,9,30,60,30\n")
    assert "visibility 30: must be 0 to 1" in read_tracks(percent).faults[0]
    bare = written(tmp_path / "bare.txt", "1,1,9,9,30,60\n")
    with pytest.raises(DataError, match="no column of classes"):
        read_tracks(bare, classes=frozenset({"1"}))
    with pytest.raises(DataError, match="no column of visibility"):
        read_tracks(bare, min_visibility=0.3)


def test_visdrone_categories(tmp_path: Path) -> None:
    """VisDrone: pedestrian (1) and people (2) are used, not vehicles, nor regions of score 0; ids of these may be 0."""
    rows = "1,0,9,9,300,60,0,0,0,0\n1,1,9,9,30,60,1,1,0,0\n1,2,9,9,30,60,1,2,1,1\n1,3,9,9,30,60,1,4,0,2\n"
    assert pids(written(tmp_path / "uav.txt", rows)) == [1, 2]
    names = (
        "frame_index,target_id,bbox_left,bbox_top,bbox_width,bbox_height,score,object_category,truncation,occlusion\n"
    )
    assert pids(written(tmp_path / "named.csv", names + rows)) == [1, 2]


def test_rows_that_are_marked_as_not_in_use(tmp_path: Path) -> None:
    """CVAT's outside, VATIC's lost and the like are dropped and counted; columns that nothing is made of are named."""
    rows = "1,1,9,9,30,60,0,1\n1,2,9,9,30,60,1,1\n1,3,9,9,30,60,0,0\n"
    read = read_tracks(written(tmp_path / "t.csv", f"frame,id,x,y,w,h,outside,keyframe\n{rows}"))
    assert [box.pid for box in read.boxes] == [1, 3]
    assert +read.dropped == {"marked as outside, lost or ignored": 1}
    assert read.unread == ("keyframe",)
    read = read_tracks(written(tmp_path / "t.csv", f"frame,id,x,y,w,h,colour,active\n{rows}"))
    assert [box.pid for box in read.boxes] == [1, 2]
    assert +read.dropped == {"of confidence 0": 1}


def test_classes_of_unknown_numbering_are_asked_for(tmp_path: Path) -> None:
    """A class 0 (COCO's person) is no class of MOT; --classes says which are people. Names of people are known; the
    labels.txt that CVAT lays beside the tracks names its numbers."""
    rows = "1,1,9,9,30,60,0.9,0,-1\n1,2,9,9,30,60,0.9,2,-1\n"
    path = written(tmp_path / "boxmot.txt", rows)
    with pytest.raises(DataError, match=r"classes 0 \(1 rows\), 2 \(1 rows\); name those of people with --classes"):
        read_tracks(path)
    assert pids(path, classes=frozenset({"0"})) == [1]
    header = "frame,id,x,y,w,h,label\n1,1,9,9,30,60,person\n1,2,9,9,30,60,car\n"
    assert pids(written(tmp_path / "names.csv", header)) == [1]
    with pytest.raises(DataError, match="name those of people with --classes"):
        read_tracks(written(tmp_path / "names.csv", header.replace("person", "rider")))
    (tmp_path / "cvat").mkdir()
    cvat = written(tmp_path / "cvat/gt.txt", "1,1,9,9,30,60,1,1,1\n1,2,9,9,30,60,1,3,1\n")
    written(tmp_path / "cvat/labels.txt", "cat\r\ndog\r\n Person \r\n")
    assert pids(cvat) == [2]
    written(tmp_path / "cvat/labels.txt", "cat\ndog\n")
    with pytest.raises(DataError, match=r"labels\.txt beside it names cat, dog"):
        read_tracks(cvat)


def test_all_bad_rows_are_listed(tmp_path: Path) -> None:
    """Every bad row is a fault with its line, in order; good rows are boxes. Of two different rows for one id and
    frame it is not known which is right: neither is a box; of two equal ones the first is."""
    good, other = "1,1,9,9,30,60", "4,1,9,9,31,60"
    rows = [good, "2,1,9,9,0,60", "3,1,9,9,x,60", "4,1,9,9,30,60", other, "5,1,9", good]
    read = read_tracks(written(tmp_path / "t.txt", "\n".join(rows)))
    assert [fault.split(":")[1] for fault in read.faults] == ["2", "3", "5", "6", "7"]
    assert [box.line for box in read.boxes] == [1]
    assert read.dropped["bad rows"] == 6
    assert read.pids == {1}


def test_sizes_that_a_file_states(tmp_path: Path) -> None:
    """The size of the pictures is taken from a comment or from columns."""
    for text in (
        "# size 1920x1080\n1,1,9,9,30,60\n",
        "# imWidth=1920 imHeight=1080\n1,1,9,9,30,60\n",
        "frame,id,x,y,w,h,image_width,image_height\n1,1,9,9,30,60,1920,1080\n",
    ):
        assert read_tracks(written(tmp_path / "t.txt", text)).size == (1920, 1080)
    assert read_tracks(written(tmp_path / "t.txt", "1,1,9,9,30,60\n")).size is None
