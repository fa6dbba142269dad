from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import shards
from shards.__main__ import main
from shards.records import NO_OUTFIT, DataError, Role, Source, UsageError
from shards.sources import listed, mars
from shards.verify import verify
from tests.shards.trees import QUERY, TEST, TRAIN, hostile_order, mars_tree, names_of, official_split, picture

DOCS = Path(__file__).resolve().parents[3] / "docs" / "datasets.md"
BOTH = Role.QUERY | Role.GALLERY
GOOD = """path,pid,camid,role
train/1,1,1,train
test/2_c1_,2,1,query+gallery
test/2_c2_,2,2,gallery
"""


def make(root: Path, text: str = GOOD, frames: tuple[int, ...] = (1, 2, 10)) -> Path:
    """Write a list into `root`, and pictures for GOOD."""
    for number, place in enumerate(("train/1/", "test/2_c1_", "test/2_c2_")):
        for frame in frames:
            path = root / f"{place}{frame}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(100 * number + frame, (16, 8)))
    return write(root, text)


def write(root: Path, text: str | bytes) -> Path:
    path = root / "mine.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def frames(source: Source) -> dict[str, list[str]]:
    return {t.key: [frame.name for frame in t.frames()] for t in source.tracklets}


def test_folders_and_prefixes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path is a folder of pictures or the beginning of their names; frames go by their numbers, however the disk
    lists them; the set builds, is verified, and has the name of its list."""
    hostile_order(monkeypatch)
    path, out = make(tmp_path), tmp_path / "out"
    assert main(["build", "list", "--list", str(path), "--out", str(out), "--workers", "1"]) == 0
    assert verify(out) == []
    reader = shards.open(out)
    assert (reader.name, [protocol.name for protocol in reader.protocols], reader.facts) == ("mine", ["test"], {})
    assert [(t.key, t.pid, t.camid, t.outfit) for t in map(reader.__getitem__, range(3))] == [
        ("train-1", 1, 1, NO_OUTFIT),
        ("test-2_c1_", 2, 1, NO_OUTFIT),
        ("test-2_c2_", 2, 2, NO_OUTFIT),
    ]
    assert reader.roles().tolist() == [Role.TRAIN, BOTH, Role.GALLERY]
    assert [reader.encoded(1, frame) for frame in range(3)] == [picture(100 + n, (16, 8)) for n in (1, 2, 10)]
    assert official_split(out)["valid_queries"] == 1


def test_mars_as_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of MARS's tracklets gives the tracklets of the source `mars`: keys, identities, cameras, frames, roles in
    both protocols."""
    hostile_order(monkeypatch)
    tree = mars_tree(tmp_path / "MARS")
    lines = ["key;path;role:official;role:queries-removed;pid;camid;num_frames"]
    for part, rows in (("train", TRAIN), ("test", TEST)):
        for number, row in enumerate(rows, start=1):
            key = names_of(row)[0].rpartition("F")[0]
            roles = "train;train"
            if part == "test":
                roles = "junk;junk" if row[0] == "00-1" else "gallery;gallery"
                roles = "query+gallery;query" if number in QUERY else roles
            lines.append(f"{key};bbox_{part}/{row[0]}/{key}F;{roles};{row[0]};{row[1]};{row[3]}")
    path = write(tmp_path, "\ufeff" + "\r\n".join(lines))
    one, other = listed.read(path, tree), mars.read(tree, partial=True)
    assert [(t.key, t.pid, t.camid, t.num_frames, t.roles) for t in one.tracklets] == [
        (t.key, t.pid, t.camid, t.num_frames, t.roles) for t in other.tracklets
    ]
    assert frames(one) == frames(other)
    assert [protocol.name for protocol in one.protocols] == [protocol.name for protocol in other.protocols]
    assert one.facts == {"distractors and junk": "00-1 is junk, 0000 is distractor"}


def test_the_example_of_the_docs_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table and the command of docs/datasets.md, as they stand there, make two directed protocols."""
    section = DOCS.read_text().partition("## Any other data set: a list")[2].partition("\n## ")[0]
    (text,) = re.findall(r"```csv\n(.*?)```", section, re.DOTALL)
    (command,) = re.findall(r"^python -m shards (build list .*)$", section, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    Path("tracklets.csv").write_text(text)
    for number, line in enumerate(text.splitlines()[1:]):
        place = line.split(",")[0]
        for frame in range(9, 12):
            path = Path("pictures", f"{place}{'' if place.endswith('_') else '/'}{frame}.jpg")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(100 * number + frame, (16, 8)))
    assert main([*shlex.split(command), "--workers", "1"]) == 0
    assert "1 ann, 2 bob, 3 cyd" in capsys.readouterr().out
    reader = shards.open(Path("data/views"))
    for protocol, views in (("aerial-to-ground", (1, 2)), ("ground-to-aerial", (2, 1))):
        roles = reader.roles(protocol)
        chosen = ((roles & Role.QUERY) > 0, ((roles & Role.GALLERY) > 0) & (reader.pids > 0))
        assert [set(reader.camids[rows].tolist()) for rows in chosen] == [{view} for view in views]
    assert official_split(Path("data/views"))["valid_queries"] == 2
    shown = listed.__doc__ or ""
    assert set(re.findall(r"^\| `(\w+)`", section, re.MULTILINE)) <= set(re.findall(r"\w+", shown))


def test_the_example_of_the_help(tmp_path: Path) -> None:
    """The table in `build list --help` is one."""
    text = "".join(line.strip() + "\n" for line in (listed.__doc__ or "").split("\n\n")[1].splitlines())
    for row in text.splitlines()[1:]:
        for frame in (1, 2):
            picture_path = tmp_path / f"{row.split(',')[0]}F{frame}.jpg"
            picture_path.parent.mkdir(parents=True, exist_ok=True)
            picture_path.touch()
    assert [t.roles for t in listed.read(write(tmp_path, text)).tracklets] == [(Role.TRAIN,), (BOTH,), (Role.GALLERY,)]


def test_ranges_of_frames(tmp_path: Path) -> None:
    """Several tracklets in one folder are told apart by the number of the frame, the last in its name."""
    for frame in (1, 2, 9, 10, 11):
        (tmp_path / f"cam3_{frame}.jpg").touch()
    text = "path,pid,camid,role,start,end\n.,1,3,train,1,2\ncam3,2,3,train,9,11\n"
    source = listed.read(write(tmp_path, text))
    assert [[Path(name).name for name in names] for names in frames(source).values()] == [
        ["cam3_1.jpg", "cam3_2.jpg"],
        ["cam3_9.jpg", "cam3_10.jpg", "cam3_11.jpg"],
    ]
    assert list(frames(source))[1] == "cam3-9-11"
    assert "gaps" not in source.facts
    (tmp_path / "cam3_10.jpg").unlink()
    gaps = listed.read(tmp_path / "mine.csv").facts["gaps"]
    assert gaps == "frames missing by their numbers: 1 (cam3-9-11 1)"


def test_splits_outfits_and_rules(tmp_path: Path) -> None:
    """Protocols, splits, rules and outfits of a list are those of the set; an outfit may be unknown where no rule looks
    at it."""
    text = (
        "path,pid,camid,outfit,role:cc/a,role:cc/b,role:plain\n"
        "train/1,1,1,,train,train,gallery\n"
        "test/2_c1_,2,1,red,query gallery,query,query\n"
        "test/2_c2_,2,2,blue,gallery,gallery,\n"
    )
    source = listed.read(make(tmp_path, text), ignore=[("cc", "clothes-changing")], cmc_only=True)
    assert [(p.name, p.splits, p.ignore, p.cmc_only) for p in source.protocols] == [
        ("cc", ("a", "b"), "clothes-changing", True),
        ("plain", ("0",), "camera", True),
    ]
    assert [(t.outfit, t.roles) for t in source.tracklets] == [
        (NO_OUTFIT, (Role.TRAIN, Role.TRAIN, Role.GALLERY)),
        (2, (BOTH, Role.QUERY, Role.QUERY)),
        (1, (Role.GALLERY, Role.GALLERY, Role.NONE)),
    ]
    assert source.facts["outfits"] == "1 blue, 2 red"


def test_keys(tmp_path: Path) -> None:
    """A key is the given one, or made of the path; where the path has other letters, is long, or gives the key of
    another row, a digest of the path makes it unique. A row's key does not depend on the order of rows."""
    places = ["a/b", "a-b", "d.1", "e" * 90, "f", "ü", "ö"]
    for place in places:
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "1.jpg").touch()
    rows = [f"{place},1,1,train,{'given' if place == 'f' else ''}" for place in places]
    keys = []
    for ordered in (rows, rows[::-1]):
        tracklets = listed.read(write(tmp_path, "\n".join(["path,pid,camid,role,key", *ordered]))).tracklets
        keys.append([tracklet.key for tracklet in tracklets])
    assert keys[0] == keys[1][::-1]
    assert len(set(keys[0])) == len(places)
    assert keys[0][4] == "given"
    assert [re.sub("[0-9a-f]{8}$", "#", key) for key in keys[0][:4]] == ["a-b-#", "a-b-#", "d-1-#", f"{'e' * 71}-#"]
    assert all(re.fullmatch("[0-9a-f]{8}", key) for key in keys[0][5:])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("train/1,", ",", "2: path: empty"),
        ("train/1,", "../1,", r"2: path: '../1': leads out of"),
        ("train/1,", "/etc,", r"2: path: '/etc': leads out of"),
        ("train/1,", "train/7/,", r"2: path: 'train/7/': \S+train/7: no such folder; unpack it again"),
        ("train/1,", "no/7,", r"2: path: 'no/7': \S+no: no such folder; unpack it again"),
        ("train/1,", "train\\1,", r"2: path: .*write / between folders"),
        ("train/1,", "x" * 400 + "/1,", r"2: path: .*no such folder"),
        ("test/2_c1_,", "test/2_c3_,", r"3: path: .*no picture in \S+test begins with 2_c3_"),
        ("test/2_c2_,", "test/2_c,", r"4: path: \S+2_c1_1.jpg belongs to line 3; a tracklet has one row"),
        ("test/2_c2_,", "test/2_c1_,", r"4: path: \S+2_c1_1.jpg belongs to line 3; a tracklet has one row"),
        ("train/1,1,1", "train/1,,1", "2: pid: empty"),
        ("train/1,1,1", "train/1,1,", "2: camid: empty"),
        ("train/1,1,1", "train/1,nan,1", "2: pid: 'nan' stands for a missing value"),
        ("train/1,1,1", "train/1,-2,1", "2: pid: '-2': persons are numbers from 1"),
        ("train/1,1,1", "train/1,1,-1", "2: camid: '-1': cameras are numbers from 0"),
        ("train/1,1,1", f"train/1,{2**63},1", "2: pid: '9223372036854775808': .* is the largest number"),
        ("train/1,1,1", f"train/1,1,{'9' * 900}", "2: camid: .* is the largest number"),
        ("2,2,gallery", "2,02,gallery\ntrain/1/1,1,2,train", "5: camid: '2' and '02' .line 4. differ in zeros"),
        ("train/1,1,1", "train/1,0,1", "2: role: identity 0 is a distractor, so its role is gallery"),
        ("c2_,2,2", "c2_,00-1,2", "4: role: the identity is junk, so its role is junk"),
        ("train\n", "training\n", "2: role: 'training' is no role; did you mean train\\?"),
        ("train\n", "query+train\n", "2: role: 'query.train' is no role"),
        ("query+gallery\ntest/2_c2_,2,2,gallery", "query", "1: role: queries, but no gallery"),
        ("query+gallery", "gallery", "1: role: a gallery, but no query"),
        ("query+gallery", "train", "1: role: a gallery, but no query"),
        (",train\n", ",train,x\n", "2: 5 cells, but the header has 4 columns; put text that contains commas into"),
        (",train\n", "\n", "2: 3 cells, but the header has 4 columns"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    """Line, column, reason and way out of each wrong cell."""
    path = make(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(DataError, match=rf"mine\.csv:{message}"):
        listed.read(path)


@pytest.mark.parametrize(
    ("columns", "cells", "message"),
    [
        ("start,end", "1,", "2: start, end: one of two"),
        ("start,end", "2,1", "2: start, end: 2 to 1 is not a range"),
        ("start,end", "x,2", "2: start: 'x' is not a whole number"),
        ("start,end", "1,11", r"2: path: .*no picture of \S+train/1 is frame 11; they are frames 1 to 10; correct"),
        ("start,end", "1,5", r"2: path: .*is frame 5; they are frames 1 to 10 with gaps"),
        ("num_frames,outfit", "4,", "2: num_frames: 4, but train/1 has 3 pictures; unpack it again"),
        ("key,outfit", "a.b,", "2: key: 'a.b': at most 80 letters"),
        ("key,outfit", ",-1", "2: outfit: '-1': .*leave the cell empty"),
        ("key,outfit", ",none", "2: outfit: 'none' stands for a missing value; leave the cell empty"),
    ],
)
def test_a_wrong_optional_cell_is_named(tmp_path: Path, columns: str, cells: str, message: str) -> None:
    header, row, *rows = GOOD.splitlines()
    lines = [f"{header},{columns}", f"{row},{cells}", *(f"{other},," for other in rows)]
    with pytest.raises(DataError, match=re.compile(rf"mine\.csv:{message}", re.MULTILINE)):
        listed.read(make(tmp_path, "\n".join(lines)))


def test_a_key_given_twice_is_named(tmp_path: Path) -> None:
    header, *rows = GOOD.splitlines()
    text = "\n".join([f"{header},key", *(f"{row},same" for row in rows)])
    with pytest.raises(DataError, match="4: key: 'same' is the key of line 2; keys must differ"):
        listed.read(make(tmp_path, text))


def test_all_faults_are_listed_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One run names all bad rows, up to a number, and counts them; nothing is built."""
    rows = [f"no/{number},,1,trian" for number in range(2, 20)] + ["cells"]
    path, out = make(tmp_path, "\n".join(["path,pid,camid,role", *rows])), tmp_path / "out"
    assert main(["build", "list", "--list", str(path), "--out", str(out), "--workers", "1"]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-2:] == ["... and 35 more", "55 faults; correct them"]
    numbers = [int(re.findall(r"mine\.csv:(\d+):", line)[0]) for line in lines[:20]]
    assert numbers == sorted(numbers)
    assert not out.exists()
    assert not list(tmp_path.glob("out*"))


def test_a_rule_needs_outfits_and_a_protocol(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A rule on outfits refuses rows without one, by line; a rule of an unknown or unnamed protocol is bad usage, and
    so are two rules of one."""
    path = make(tmp_path)
    with pytest.raises(
        DataError, match=r":3: role: no outfit, which --ignore clothes-changing .*\n.*:4: role: no outf"
    ):
        listed.read(path, ignore=[(None, "clothes-changing")])
    with pytest.raises(UsageError, match=r"no such protocol in .*mine\.csv, which has test"):
        listed.read(path, ignore=[("tset", "camera")])
    with pytest.raises(UsageError, match="gives test two rules"):
        listed.read(path, ignore=[("test", "camera"), (None, "same-clothes")])
    two = make(tmp_path, GOOD.replace("role", "role:a").replace("path", "role:b,path").replace("\nt", "\ntrain,t"))
    with pytest.raises(UsageError, match="has the protocols b, a; write PROTOCOL=same-clothes"):
        listed.read(two, ignore=[(None, "same-clothes")])
    with pytest.raises(SystemExit):
        main(["build", "list", "--list", str(path), "--out", "x", "--ignore", "a=hats"])
    assert "'a=hats' is not [PROTOCOL=]RULE with a rule of camera, camera-and-outfit" in capsys.readouterr().err


def test_what_is_in_no_row_or_role_is_counted(tmp_path: Path) -> None:
    """Pictures in no row, in the folders of the list alone, and tracklets without a role stand in the facts."""
    path = make(tmp_path, GOOD + "test/3_,3,1,\n")
    for name in ("test/3_1.jpg", "test/4_1.jpg", "test/.5.jpg", "train/1/notes.xyz", "elsewhere/1.jpg", "train/x.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert listed.read(path).facts == {
        "without a role": "tracklets that have no role in any protocol: 1",
        "skipped": (
            "files of other types: 1 (train/1/notes.xyz); hidden pictures: 1 (test/.5.jpg); pictures in no row: 1 "
            "(test/4_1.jpg)"
        ),
    }


def test_the_root_and_the_name(tmp_path: Path) -> None:
    """Paths begin in --root; a root that is none is refused at once."""
    path = make(tmp_path / "pictures").rename(tmp_path / "mine.csv")
    assert listed.read(path, tmp_path / "pictures", name="other").name == "other"
    with pytest.raises(DataError, match=r"nowhere: no such folder; give the folder of the pictures as --root"):
        listed.read(path, tmp_path / "nowhere")


def test_a_set_that_only_trains(tmp_path: Path) -> None:
    """A list of training tracklets alone is a set, as in `folder`; a column without any role is none."""
    assert len(listed.read(make(tmp_path, "path,pid,camid,role\ntrain/1,1,1,train\n")).tracklets) == 1
    with pytest.raises(DataError, match="1: role: no row has a role; remove the column, or fill it"):
        listed.read(make(tmp_path, "path,pid,camid,role\ntrain/1,1,1,\n"))
