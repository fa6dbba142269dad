"""Build, random access and opening of shards against their rivals: `make bench-shards`.

The build is of a MARS tree at full size: real names, identities and lengths (its official metadata), hard links to some
hundred pictures. Random access is on a tree of files of their own, so that a cold disk is one. Writes
benchmarks/shards_<hardware>_<date>.md. Needs 40 GB of disk in the folder for temporary files (TMPDIR), and the metadata
and the video of ../shared/data (MSTAT_SHARED).
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import scipy.io
import torch
from PIL import Image
from record import PROJECT, Figure, conditions, save

import shards
import shards.read
from shards import images, index
from shards.records import Frame, Protocol, Role, Source, SourceTracklet
from shards.shard import Encoding
from shards.sources import mot
from shards.sources.common import files_of
from shards.write import building, write

SHARED = Path(os.environ.get("MSTAT_SHARED") or PROJECT.parent / "shared")
SIZE = (224, 112)  # of the paper
NUM_FRAMES = 8
ACCESS_ROUNDS, CLIPS = 9, 200
ROUNDS = 3  # of all else
KEPT: list[torch.library.Library] = []  # operators are gone with their library


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="bench-shards-") as name:
        folder = Path(name)
        crops = real_pictures(folder)
        access, access_figures = random_access(folder, crops)
        opened = opening(folder)
        build, build_figures = full_build(folder, crops)
    message = conditions("bench-shards")
    text = "\n".join([f"# Shards: build, random access, opening\n\n{message}", access, opened, build])
    save("shards", text, [*access_figures, *build_figures])


def real_pictures(folder: Path) -> list[bytes]:
    """Crops of 256x128 from the real video, as JPEGs of the weight of MARS's: quality 75, colour at half resolution."""
    data = SHARED / "data" / "pets2009"
    source = mot.read([data / "vtest.avi"], [data / "gt.txt"], scratch=folder / "crops", halve_tracks=True)
    crops = []
    for tracklet in source.tracklets:
        for frame in list(tracklet.frames())[::8]:
            buffer = io.BytesIO()
            Image.open(io.BytesIO(frame.read())).convert("RGB").save(buffer, "JPEG", quality=75)
            crops.append(buffer.getvalue())
    return crops


# --- random access ------------------------------------------------------------------------------------------------


def random_access(folder: Path, crops: Sequence[bytes]) -> tuple[str, list[Figure]]:
    """Clips of 8 random frames of a random tracklet, decoded and resized: frames a second of one core."""
    root = folder / "files"
    tracklets, paths = [], []
    rng = random.Random(0)
    for number in range(1500):
        names = [f"{frame:04d}.jpg" for frame in range(58)]
        place = root / f"{number:04d}"
        place.mkdir(parents=True)
        for name in names:
            (place / name).write_bytes(rng.choice(crops))
        paths.append([str(place / name) for name in names])
        key = f"{number:04d}"
        tracklets.append(SourceTracklet(key, number // 2 + 1, number % 2 + 1, 58, (Role.TRAIN,), Files(place, names)))
    source = Source("files", (Protocol("all"),), tuple(tracklets))
    readers: dict[str, shards.read.Reader] = {}
    for name, encoding in (("as they came", Encoding()), ("224x112", Encoding(SIZE))):
        out = folder / f"loader-{len(readers)}"
        with building(out) as place:
            write(source, place, workers=2, encoding=encoding)
        readers[name] = shards.open(out)

    dataset = rival(paths)
    float_dataset = rival(paths, floats=True)
    clips: dict[str, Callable[[int], object]] = {
        "torchreid": dataset.__getitem__,
        "torchreid, as it trains": float_dataset.__getitem__,
        **{name: Clips(reader) for name, reader in readers.items()},
    }
    rates: dict[str, list[float]] = {}
    for cold in (False, True):
        label = "cold" if cold else "warm"
        for round_number in range(ACCESS_ROUNDS):
            draws = np.random.default_rng(round_number).integers(0, len(paths), CLIPS)
            in_turn = dict(clips)
            if not cold:
                in_turn |= {f"{name}, limit": Held(reader, draws) for name, reader in readers.items()}
                read_all(folder)
            for name, clip in in_turn.items():
                if cold:
                    forget()
                rates.setdefault(f"{name} {label}", []).append(rate(clip, draws))
    result = {name: statistics.median(of_rounds) for name, of_rounds in rates.items()}

    def times(name: str, other: str) -> float:
        """The median of the rounds' ratios: what disturbs a machine for a minute disturbs both sides of a round."""
        return statistics.median(a / b for a, b in zip(rates[name], rates[other], strict=True))

    def ratio(name: str, other: str) -> str:
        return f"{times(name, other):.2f}"

    kilobytes = statistics.fmean(map(len, crops)) / 1e3
    lines = [
        "## Random access\n",
        f"Clips of {NUM_FRAMES} random frames of a random tracklet ({len(paths):,} tracklets, {58 * len(paths):,} "
        f"files of {kilobytes:.1f} kB on average), decoded and resized to 224x112, uint8, by one process with one "
        f"thread; median of {ACCESS_ROUNDS} rounds of {CLIPS} clips, all in turn in each, and a ratio is that of a "
        "round. The rival is torchreid 0.2.5's own `VideoDataset`: one open a frame, PIL, torchvision's resize; "
        "`as it trains` adds its conversion to float and normalisation, which in mstat the device does. Cold: page "
        "cache, inodes and directory entries are dropped before each round (`drop_caches`). The limit is the same "
        "decoding and resizing of bytes in memory.\n",
        "| | ratio to torchreid, warm | cold | share of the limit | frames/s warm | frames/s cold |",
        "|---|---|---|---|---|---|",
    ]
    for name in readers:
        lines.append(
            f"| shards, frames {name} | **{ratio(f'{name} warm', 'torchreid warm')}** "
            f"| **{ratio(f'{name} cold', 'torchreid cold')}** | {ratio(f'{name} warm', f'{name}, limit warm')} "
            f"| {result[f'{name} warm']:,.0f} | {result[f'{name} cold']:,.0f} |"
        )
    for name in ("torchreid", "torchreid, as it trains"):
        ratios = [ratio(f"{name} {label}", f"torchreid {label}") for label in ("warm", "cold")]
        lines.append(
            f"| {name} | {ratios[0]} | {ratios[1]} | | {result[f'{name} warm']:,.0f} | {result[f'{name} cold']:,.0f} |"
        )
    figures = [
        Figure(
            f"frames from shards, {name}, one core",
            f"{result[f'{name} warm']:,.0f} frames/s",
            "torchreid 0.2.5, a file a frame",
            f"{result['torchreid warm']:,.0f} frames/s",
            times(f"{name} warm", "torchreid warm"),
            f"≥ {wanted}",
            f"decoding and resizing alone: {result[f'{name}, limit warm']:,.0f} frames/s",
            times(f"{name} warm", f"{name}, limit warm"),
        )
        for name, wanted in zip(readers, (3, 5), strict=True)
    ]
    return "\n".join(lines) + "\n", figures


class Files:
    """The frames of a folder; picklable."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.folder, self.names = folder, names

    def __call__(self) -> Iterator[Frame]:
        return files_of(self.folder, self.names)


class Clips:
    """Random clips of a reader, as the rival draws them: sorted frame numbers, none twice."""

    def __init__(self, reader: shards.read.Reader) -> None:
        self.reader, self.rng = reader, random.Random(0)

    def __call__(self, i: int) -> np.ndarray:
        return self.reader.frames(i, self.frames(i), size=SIZE)

    def frames(self, i: int) -> list[int]:
        """Frame numbers of a clip."""
        return sorted(self.rng.sample(range(int(self.reader.num_frames[i])), NUM_FRAMES))


class Held:
    """The same from bytes in memory: the limit."""

    def __init__(self, reader: shards.read.Reader, draws: np.ndarray) -> None:
        clips = Clips(reader)
        self.held = {int(i): [reader.encoded(int(i), n) for n in clips.frames(int(i))] for i in draws}

    def __call__(self, i: int) -> np.ndarray:
        return images.resize(np.stack([images.decode(data, SIZE) for data in self.held[i]]), SIZE)


def rate(clip: Callable[[int], object], draws: np.ndarray) -> float:
    """Frames a second."""
    began = time.perf_counter()
    for i in draws:
        clip(int(i))
    return NUM_FRAMES * len(draws) / (time.perf_counter() - began)


def rival(paths: list[list[str]], *, floats: bool = False) -> Any:
    """torchreid's dataset of these files."""
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            importlib.import_module("torchvision")
        except RuntimeError:
            # A torchvision without its compiled part (there is none for torch's CPU builds from PyPI): transforms are
            # plain Python, but to import them two operators must have names.
            library = torch.library.Library("torchvision", "FRAGMENT")
            for name in ("nms", "qnms"):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            KEPT.append(library)
        from torchreid.reid.data.datasets.dataset import VideoDataset
        from torchvision.transforms import Compose, Normalize, PILToTensor, Resize, ToTensor

        to_tensor = [ToTensor(), Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])] if floats else [PILToTensor()]
        data = [(tuple(of_tracklet), number // 2, number % 2) for number, of_tracklet in enumerate(paths)]
        return VideoDataset(
            data,
            data,
            data,
            seq_len=NUM_FRAMES,
            sample_method="random",
            transform=Compose([Resize(SIZE), *to_tensor]),
            verbose=False,
        )


def read_all(folder: Path) -> None:
    """Every file, so that all of them are in the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.read_bytes()


def forget() -> None:
    """Drop the page cache and what is known of files, as after a start of the machine. Only root may."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


# --- opening ------------------------------------------------------------------------------------------------------

OPEN = """
import time
import numpy, pyarrow.compute, shards.read

def resident():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith({memory!r}))

before, began = resident(), time.perf_counter()
reader = shards.read.Reader({path!r})
reader.roles()
print(time.perf_counter() - began, (resident() - before) / 1024, len(reader))
"""


def opening(folder: Path) -> str:
    """Time and memory of opening sets of made-up tracklets, in processes of their own, beyond the imports."""
    lines = [
        "## Opening\n",
        "Made-up sets of 58 frames a tracklet, two splits; opened, and the roles of a split read, in a process of its "
        f"own; median of {ROUNDS}, the imports not counted. Private memory is what each further process costs; the "
        "index itself is mapped, and shared by all of them.\n",
        "| tracklets | seconds | memory, MB | of it private, MB | index, MB |",
        "|---|---|---|---|---|",
    ]
    for count in (20_478, 1_000_000):
        out = folder / f"made-up-{count}"
        made_up(out, count)
        seconds: list[float] = []
        memories: dict[str, list[float]] = {"VmRSS": [], "RssAnon": []}
        for memory, result in memories.items():
            for _ in range(ROUNDS):
                code = OPEN.format(path=str(out), memory=memory)
                command = [sys.executable, "-c", code]
                message = subprocess.run(
                    command, capture_output=True, text=True, check=True, cwd=PROJECT
                ).stdout.split()
                assert int(message[2]) == count
                seconds.append(float(message[0]))
                result.append(float(message[1]))
        size = (out / index.INDEX_FILE).stat().st_size / 1e6
        lines.append(
            f"| {count:,} | {statistics.median(seconds):.2f} | {statistics.median(memories['VmRSS']):.0f} "
            f"| {statistics.median(memories['RssAnon']):.0f} | {size:,.0f} |"
        )
        shutil.rmtree(out)
    return "\n".join(lines) + "\n"


def made_up(out: Path, count: int, length: int = 58) -> None:
    """A set without pictures: an index, its description, and one empty shard of the right size."""
    out.mkdir()
    frames = count * length
    sizes = np.full(frames, 5000, np.int32)
    bounds = pa.array(np.arange(0, frames + 1, length, dtype=np.int32))

    def lists(values: np.ndarray) -> pa.Array:
        return pa.ListArray.from_arrays(bounds, pa.array(values))

    table = pa.table(
        {
            "key": pa.array([f"{number:07d}" for number in range(count)]),
            "pid": np.arange(count, dtype=np.int64) // 16 + 1,
            "camid": np.arange(count, dtype=np.int64) % 6 + 1,
            "shard": np.zeros(count, np.int64),
            "json_crc32": np.zeros(count, np.uint32),
            "offsets": lists(512 + np.arange(frames, dtype=np.int64) * 5632),
            "sizes": lists(sizes),
            "crc32": lists(np.zeros(frames, np.uint32)),
            "roles": pa.ListArray.from_arrays(
                pa.array(np.arange(0, 2 * count + 1, 2, dtype=np.int32)), pa.array(np.full(2 * count, 6, np.uint8))
            ),
        }
    ).cast(index.SCHEMA)
    with (out / "shard-000000.tar").open("wb") as shard:
        shard.truncate(512 + frames * 5632)
    description = index.Description(
        name="made-up",
        protocols=(Protocol("official", ("0", "1")),),
        facts={},
        counts={"tracklets": count, "frames": frames, "identities": -(-count // 16), "cameras": 6},
        encoding={},
        shards=(index.ShardRecord("shard-000000.tar", 512 + frames * 5632, ""),),
        index_sha256=index.write_index(out, table),
    )
    (out / index.DESCRIPTION_FILE).write_text(json.dumps(description.to_json()))


# --- build --------------------------------------------------------------------------------------------------------


def full_build(folder: Path, crops: Sequence[bytes]) -> tuple[str, list[Figure]]:
    """A MARS tree at full size, against `tar` of the same files."""
    tree, size = mars_tree(folder / "mars", crops)
    commands = {
        "tar": ["tar", "--hard-dereference", "-cf", str(folder / "out"), "-C", str(tree), "."],
        **{
            f"shards, {workers} worker{'s' * (workers > 1)}": [
                *(sys.executable, "-m", "shards", "build", "mars", "--source", str(tree)),
                *("--out", str(folder / "out"), "--workers", str(workers)),
            ]
            for workers in (1, 2)
        },
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for round_number in range(-1, ROUNDS):
        for name, command in commands.items():
            os.sync()
            began = time.perf_counter()
            subprocess.run(command, check=True, cwd=PROJECT, capture_output=True)
            if round_number >= 0:  # the first reads the names of a million files from the disk
                seconds[name].append(time.perf_counter() - began)
            out = folder / "out"
            shutil.rmtree(out) if out.is_dir() else out.unlink()
    result = {name: statistics.median(of_rounds) for name, of_rounds in seconds.items()}
    kilobytes = statistics.fmean(map(len, crops)) / 1e3
    lines = [
        "## Build\n",
        f"MARS at full size: {size:,} frames of {kilobytes:.1f} kB on average (hard links to {len(crops)} "
        "crops of the real video, in the real tree), against GNU tar of the same folder. Reading the "
        "official metadata, checking counts and headers, SHA-256 and CRC-32, fsync and the index are in our time; tar "
        f"does none of them. Median of {ROUNDS} rounds in turn, after one to warm up; in brackets all of them.\n",
        "| | rate against tar | frames/s | seconds |",
        "|---|---|---|---|",
    ]
    for name, median in result.items():
        all_of_them = ", ".join(f"{s:.0f}" for s in seconds[name])
        lines.append(
            f"| {name} | **{result['tar'] / median:.2f}** | {size / median:,.0f} | {median:.0f} ({all_of_them}) |"
        )
    ours, tar = result["shards, 2 workers"], result["tar"]
    figure = Figure(
        "MARS built with two workers",
        f"{size / ours:,.0f} frames/s",
        "tar",
        f"{size / tar:,.0f} frames/s",
        tar / ours,
        "≥ 0.8",
    )
    return "\n".join(lines) + "\n", [figure]


def mars_tree(root: Path, crops: Sequence[bytes]) -> tuple[Path, int]:
    """The official names and info of MARS; each file a link to one of the crops. Gives its number of frames, too."""
    real = SHARED / "data" / "mars"
    (root / "info").mkdir(parents=True)
    originals = []
    for number, crop in enumerate(crops):
        path = root.parent / f"crop-{number}.jpg"
        path.write_bytes(crop)
        originals.append(path)
    (root / "info" / "query_IDX.mat").write_bytes((real / "query_IDX.mat").read_bytes())
    count = 0
    for part in ("train", "test"):
        info = real / f"tracks_{part}_info.mat"
        (root / "info" / info.name).write_bytes(info.read_bytes())
        rows = scipy.io.loadmat(info)[f"track_{part}_info"].tolist()
        prefixes = [line.split()[0] for line in (real / f"list_{part}_seq.txt").open()]
        names = []
        for (start, end, _, _), prefix in zip(rows, prefixes, strict=True):
            (root / f"bbox_{part}" / prefix).parent.mkdir(parents=True, exist_ok=True)
            for frame in range(1, end - start + 2):
                name = f"{prefix}F{frame:03d}.jpg"
                os.link(originals[count % len(originals)], root / f"bbox_{part}" / name)
                names.append(name.rpartition("/")[2])
                count += 1
        (root / "info" / f"{part}_name.txt").write_text("".join(f"{name}\n" for name in names))
    return root, count


if __name__ == "__main__":
    main()
