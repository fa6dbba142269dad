"""Random access to shards compared with torchreid's files, and their build compared with tar: `make bench-shards`.

The build has a MARS tree at full size: names, identities and lengths of the official metadata, and hard links to a few
hundred pictures. It needs 40 GB of disk in $TMPDIR, and metadata and video of ../shared/data (MSTAT_SHARED).
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import scipy.io
import torch

import shards
from benchmarks import realistic
from benchmarks.harness import PROJECT, SHARED, Figure, in_turn, medians, ratio, run_main, save, table
from shards import images
from shards.read import Reader
from shards.shard import Encoding
from shards.write import building, write

SIZE, NUM_FRAMES = (224, 112), 8  # of the paper
TRACKLETS, ACCESS_ROUNDS, CLIPS = 1500, 9, 200
ENCODINGS = {"as they came": (Encoding(), 3), "224x112": (Encoding(SIZE), 5)}  # and the wanted ratio to torchreid
BUILD_ROUNDS = 3
RIVAL = "torchreid 0.2.5, a file a frame"
LIBRARIES: list[torch.library.Library] = []  # an operator lives as long as its library


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="bench-shards-") as name:
        folder = Path(name)
        crops = realistic.crops(folder)
        access, access_figures = random_access(folder, crops)
        build, build_figure = full_build(folder, crops)
    save("shards", "Shards: random access and build", *access, *build, figures=[*access_figures, build_figure])


def random_access(folder: Path, crops: Sequence[bytes]) -> tuple[list[str], list[Figure]]:
    """Measure frames per second of one core: clips of random frames of a random tracklet, decoded and resized."""
    source = realistic.source(folder / "files", crops, TRACKLETS)
    readers = {}
    for name, (encoding, _) in ENCODINGS.items():
        with building(folder / name) as place:
            write(source, place, workers=2, encoding=encoding)
        readers[name] = shards.open(folder / name)
    clips = {RIVAL: torchreid([cast(realistic.Files, tracklet.frames) for tracklet in source.tracklets]).__getitem__}
    clips |= {name: Clips(reader) for name, reader in readers.items()}
    clips |= {f"{name}, limit": Held(reader) for name, reader in readers.items()}
    read_all(folder)
    seconds = in_turn({name: many(clip) for name, clip in clips.items()}, ACCESS_ROUNDS, warm_up=1)
    rates = {name: f"{NUM_FRAMES * CLIPS / taken:,.0f} frames/s" for name, taken in medians(seconds).items()}
    rows, figures = [[RIVAL, 1, rates[RIVAL], "", ""]], []
    for name, (_, wanted) in ENCODINGS.items():
        times, share = ratio(seconds[RIVAL], seconds[name]), ratio(seconds[f"{name}, limit"], seconds[name])
        limit = f"decoding and resizing alone: {rates[f'{name}, limit']}"
        rows.append([f"shards, frames {name}", f"**{times:.2f}**", rates[name], limit, f"{share:.0%}"])
        what = f"frames from shards, {name}, one core"
        figures.append(Figure(what, rates[name], RIVAL, rates[RIVAL], times, f"≥ {wanted}", limit, share))
    text = (
        f"Clips of {NUM_FRAMES} random frames of one of {TRACKLETS:,} tracklets of {realistic.LENGTH} files each, "
        f"decoded and resized to 224x112, uint8, by one process with one thread, all in the page cache; median of "
        f"{ACCESS_ROUNDS} rounds of {CLIPS} clips in turn; a ratio is that of a round. The rival is torchreid 0.2.5's "
        "own `VideoDataset`: one open a frame, PIL, torchvision's resize. The limit decodes and resizes held bytes."
    )
    return ["## Random access", text, table(["", "ratio", "rate", "limit", "share of it"], rows)], figures


def many(clip: Callable[[int], object]) -> Callable[[], object]:
    """Return a function that loads CLIPS clips; all such functions load the same tracklets in a round."""
    rng = np.random.default_rng(0)
    return lambda: [clip(i) for i in rng.integers(0, TRACKLETS, CLIPS).tolist()]


class Clips:
    """Random clips of a reader, drawn like the rival's: sorted frame numbers without repetition."""

    def __init__(self, reader: Reader) -> None:
        self.reader, self.rng = reader, random.Random(0)

    def __call__(self, i: int) -> np.ndarray:
        return self.reader.frames(i, self.frames(i), size=SIZE)

    def frames(self, i: int) -> list[int]:
        return sorted(self.rng.sample(range(int(self.reader.num_frames[i])), NUM_FRAMES))


class Held:
    """Clips decoded from bytes in memory: the limit."""

    def __init__(self, reader: Reader) -> None:
        clips = Clips(reader)
        self.held = [[reader.encoded(i, n) for n in clips.frames(i)] for i in range(len(reader))]

    def __call__(self, i: int) -> np.ndarray:
        return images.resize(np.stack([images.decode(data, SIZE) for data in self.held[i]]), SIZE)


def torchreid(tracklets: Sequence[realistic.Files]) -> Any:
    """Return torchreid's dataset of the same files."""
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            importlib.import_module("torchvision")
        except RuntimeError:
            # torchvision without its compiled part, which does not exist for torch's CPU builds: transforms are plain
            # Python, but their import needs two operators to be defined.
            library = torch.library.Library("torchvision", "FRAGMENT")
            for name in ("nms", "qnms"):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            LIBRARIES.append(library)
        from torchreid.reid.data.datasets.dataset import VideoDataset
        from torchvision.transforms import Compose, PILToTensor, Resize

        paths = [tuple(str(one.folder / name) for name in one.names) for one in tracklets]
        data = [(of_tracklet, number // 2, number % 2) for number, of_tracklet in enumerate(paths)]
        transform = Compose([Resize(SIZE), PILToTensor()])
        settings = {"seq_len": NUM_FRAMES, "sample_method": "random", "transform": transform, "verbose": False}
        return VideoDataset(data, data, data, **settings)


def read_all(folder: Path) -> None:
    """Read every file into the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.read_bytes()


def full_build(folder: Path, crops: Sequence[bytes]) -> tuple[list[str], Figure]:
    """Measure the build of a MARS tree at full size, compared with `tar` of the same files."""
    tree, num_frames = mars_tree(folder / "mars", crops)
    out = folder / "out"
    shard = [sys.executable, "-m", "shards", "build", "mars", "--source", str(tree), "--out", str(out)]
    commands = {
        "tar": ["tar", "--hard-dereference", "-cf", str(out), "-C", str(tree), "."],
        "shards, 2 workers": [*shard, "--workers", "2"],
    }

    def clean() -> None:
        if out.exists():
            shutil.rmtree(out) if out.is_dir() else out.unlink()
        os.sync()

    def build(command: Sequence[str]) -> object:
        return subprocess.run(command, check=True, cwd=PROJECT, capture_output=True)

    # The first round reads the names of a million files from the disk.
    calls = {name: partial(build, command) for name, command in commands.items()}
    result = medians(in_turn(calls, BUILD_ROUNDS, warm_up=1, before=clean))
    rows = [
        [name, f"**{result['tar'] / median:.2f}**", f"{num_frames / median:,.0f}", f"{median:.0f}"]
        for name, median in result.items()
    ]
    kilobytes = statistics.fmean(map(len, crops)) / 1e3
    text = (
        f"MARS at full size: {num_frames:,} frames of {kilobytes:.1f} kB on average (hard links to {len(crops)} crops "
        "of the real video, in the real tree), against GNU tar of the same folder. Reading the official metadata, "
        "checking counts and headers, SHA-256 and CRC-32, fsync and the index are in our time; tar does none of them. "
        f"Median of {BUILD_ROUNDS} rounds in turn, after one to warm up."
    )
    ours, tar = result["shards, 2 workers"], result["tar"]
    rates = [f"{num_frames / seconds:,.0f} frames/s" for seconds in (ours, tar)]
    figure = Figure("MARS built with two workers", rates[0], "tar", rates[1], tar / ours, "≥ 0.8")
    return ["## Build", text, table(["", "rate against tar", "frames/s", "seconds"], rows)], figure


def mars_tree(root: Path, crops: Sequence[bytes]) -> tuple[Path, int]:
    """Make a tree of MARS's names and metadata with links to the crops; return it and its number of frames."""
    real = SHARED / "data" / "mars"
    (root / "info").mkdir(parents=True)
    originals = [root.parent / f"crop-{number}.jpg" for number in range(len(crops))]
    for path, crop in zip(originals, crops, strict=True):
        path.write_bytes(crop)
    shutil.copy(real / "query_IDX.mat", root / "info")
    count = 0
    for part in ("train", "test"):
        info = real / f"tracks_{part}_info.mat"
        shutil.copy(info, root / "info")
        rows = scipy.io.loadmat(info)[f"track_{part}_info"].tolist()
        prefixes = [line.split()[0] for line in (real / f"list_{part}_seq.txt").read_text().splitlines()]
        names = []
        for (start, end, _, _), prefix in zip(rows, prefixes, strict=True):
            (root / f"bbox_{part}" / prefix).parent.mkdir(parents=True, exist_ok=True)
            for frame in range(1, end - start + 2):
                path = root / f"bbox_{part}" / f"{prefix}F{frame:03d}.jpg"
                os.link(originals[count % len(originals)], path)
                names.append(path.name)
                count += 1
        (root / "info" / f"{part}_name.txt").write_text("".join(f"{name}\n" for name in names))
    return root, count


if __name__ == "__main__":
    run_main(main, __doc__)
