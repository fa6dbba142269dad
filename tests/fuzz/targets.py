"""A good input of every kind, a way to spoil it, and the real command that reads it."""

from __future__ import annotations

import hashlib
import importlib
import json
import multiprocessing
import random
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tests.fuzz.mutate import dump, mutate_bytes, mutate_json, mutate_text

Status = int | bool | None
RULE = "other=clothes-changing"  # of the list of tracklets
NEVER_IMPORTED = "tests.fuzz.never_imported"  # a file beside this one, which a mutated configuration names

TINY_MODEL = {
    "image_size": [32, 16],
    "patch_size": 8,
    "width": 32,
    "num_heads": 2,
    "depths": [1, 1, 1],
    "num_attributes": 3,
    "num_temporal_attributes": 3,
    "num_prototypes": 4,
}


@dataclass(frozen=True)
class Target:
    """A kind of input.

    Attributes:
        name: Of the kind, in the record.
        make: Writes a good input into an empty folder.
        spoil: Changes it, by a generator.
        read: Reads it by the real code; see `cases.attempt`.
        listed: Whether a refusal may have several lines.
    """

    name: str
    make: Callable[[Path], None]
    spoil: Callable[[Path, random.Random], None]
    read: Callable[[Path], Status]
    listed: bool = False


def _quietly(main: Callable[..., int], *arguments: Any) -> int:
    with redirect_stdout(StringIO()):
        return main(*arguments)


def _script(name: str, *words: object) -> int:
    """A command of launch/, with this command line."""
    argv = [str(word) for word in words]
    sys.argv = [f"launch/{name}.py", *argv]
    return _quietly(importlib.import_module(f"launch.{name}").main, argv)


def _some_file(folder: Path, draw: random.Random, pattern: str = "*") -> Path:
    return draw.choice(sorted(path for path in folder.rglob(pattern) if path.is_file() and path.stat().st_size))


def _spoil_bytes(pattern: str = "*") -> Callable[[Path, random.Random], None]:
    def spoil(folder: Path, draw: random.Random) -> None:
        path = _some_file(folder, draw, pattern)
        path.write_bytes(mutate_bytes(path.read_bytes(), draw))

    return spoil


def _spoil_json(path: Path, draw: random.Random) -> None:
    value = json.loads(path.read_text())
    for _ in range(draw.choice((1, 1, 2, 5))):
        value = mutate_json(value, draw)
    path.write_text(dump(value), errors="surrogatepass")


# --- sets of shards


def make_set(folder: Path) -> None:
    """Two shards of real pictures, by the writer."""
    from shards.sources import mars
    from shards.write import building, write
    from tests.shards.trees import mars_tree

    mars_tree(folder / "tree")
    with building(folder / "set") as out:
        write(mars.read(folder / "tree", name="fuzz", partial=True), out, shard_bytes=1 << 14, workers=1)
    shutil.rmtree(folder / "tree")
    np.save(folder / "frames.npy", _all_frames(folder / "set"))


def _all_frames(place: Path) -> np.ndarray:
    import shards

    reader = shards.open(place)
    return np.concatenate([reader.frames(i, range(reader[i].num_frames), size=(32, 16)) for i in range(len(reader))])


def _spoil_set(folder: Path, draw: random.Random) -> None:
    _spoil_bytes()(folder / "set", draw)


def _spoil_description(folder: Path, draw: random.Random) -> None:
    """dataset.json with other values, which fits its own checksum."""
    path = folder / "set" / "dataset.json"
    content = json.loads(path.read_text())
    content.pop("checksum")
    content = mutate_json(content, draw)
    if isinstance(content, dict):
        content["checksum"] = _checksum(content)
    path.write_text(dump(content), errors="surrogatepass")


def _checksum(content: Mapping[str, Any]) -> str:
    try:
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    except (ValueError, TypeError, RecursionError):
        return "0" * 64


def _spoil_index(folder: Path, draw: random.Random) -> None:
    """The Arrow file with other bytes or other values, of which dataset.json has the checksum."""
    import pyarrow as pa

    place = folder / "set"
    path = place / "index" / "data-00000-of-00001.arrow"
    if draw.random() < 0.5:
        path.write_bytes(mutate_bytes(path.read_bytes(), draw))
    else:
        table = pa.ipc.open_stream(path.read_bytes()).read_all()
        rows = table.to_pylist()
        row, column = draw.choice(rows), draw.choice(table.schema.names)
        row[column] = _other_value(row[column], draw)
        try:
            changed = pa.Table.from_pylist(rows, schema=table.schema)
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            changed = table.slice(1)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, changed.schema) as writer:
            writer.write_table(changed)
    description = place / "dataset.json"
    content = json.loads(description.read_text())
    content.pop("checksum")
    content["index_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    content["checksum"] = _checksum(content)
    description.write_text(json.dumps(content))


def _other_value(value: Any, draw: random.Random) -> Any:
    numbers = (-1, 0, 1, 255, 2**31 - 1, 2**40, 2**62, -(2**62))
    if isinstance(value, list) and value and draw.random() < 0.7:
        changed = list(value)
        kind = draw.randrange(3)
        if kind == 0:
            changed[draw.randrange(len(changed))] = draw.choice(numbers)
        elif kind == 1:
            changed.pop()
        else:
            changed.append(changed[0])
        return changed
    return draw.choice((None, [], "", "../x", "a\x1b[2J", *numbers))


def _read_frames(folder: Path) -> bool:
    """Every frame that is read is the one that was built."""
    return np.array_equal(_all_frames(folder / "set"), np.load(folder / "frames.npy"))


def _read_all(folder: Path) -> Status:
    """A set that fits its own checksums: whatever it says, reading ends well or by an error."""
    from shards.__main__ import main

    _all_frames(folder / "set")
    return _quietly(main, ["info", str(folder / "set")])


def _verify(folder: Path) -> Status:
    """Any other byte of a set is a fault."""
    from shards.__main__ import main

    return _quietly(main, ["verify", str(folder / "set"), "--workers", "1", "--decode"]) or False


# --- configurations


def make_config(folder: Path) -> None:
    """Every setting, as a run folder has it."""
    from mstat.config import Config
    from mstat.config.cli import save_config

    (folder / "run").mkdir()
    save_config(Config(), folder / "run" / "config.yaml")


def _spoil_config(folder: Path, draw: random.Random) -> None:
    path = folder / "run" / "config.yaml"
    if draw.random() < 0.3:
        path.write_text(mutate_text(path.read_text(), draw), errors="surrogatepass")
        return
    value = mutate_json(yaml.safe_load(path.read_text()), draw)
    try:
        path.write_text(yaml.safe_dump(value, sort_keys=False))
    except (yaml.YAMLError, RecursionError):
        path.write_text("[" * 10_000)


def _read_config(folder: Path) -> bool:
    """Read, write and read again; return whether both are equal and nothing that the file names was imported."""
    from mstat.config.cli import load_config, save_config

    config = load_config(folder / "run" / "config.yaml")
    save_config(config, folder / "again.yaml")
    return load_config(folder / "again.yaml") == config and NEVER_IMPORTED not in sys.modules


# --- weights


def _model() -> Any:
    import torch

    from mstat.config import ModelConfig
    from mstat.model import MSTAT

    torch.manual_seed(0)
    fields = {key: tuple(value) if isinstance(value, list) else value for key, value in TINY_MODEL.items()}
    return MSTAT(ModelConfig(**fields))  # type: ignore[arg-type]


def make_weights(folder: Path) -> None:
    """A checkpoint to start from, as safetensors and as a pickle of tensors, and the configuration that fits it."""
    import torch
    from safetensors.torch import save_file

    weights = _model().state_dict()
    save_file(weights, folder / "init.safetensors")
    torch.save({"model_state": weights}, folder / "init.pth")
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": TINY_MODEL}))


def _spoil_weights(folder: Path, draw: random.Random) -> None:
    kind = draw.choice(("safetensors", "pth"))
    path = folder / f"init.{kind}"
    data = path.read_bytes()
    if kind == "safetensors" and draw.random() < 0.5:
        _spoil_header(path, draw)
    else:
        path.write_bytes(mutate_bytes(data, draw))


def _spoil_header(path: Path, draw: random.Random) -> None:
    """Other names, shapes, types or offsets in a safetensors file."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = dump(mutate_json(json.loads(data[8 : 8 + size]), draw)).encode(errors="surrogatepass")
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + size :])


def _read_weights(folder: Path) -> bool:
    """Only finite weights are taken."""
    import torch

    from mstat.weights.pretrained import load_pretrained

    for path in sorted(folder.glob("init.*")):
        model = _model()
        load_pretrained(model, path)
        if not all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values()):
            return False
    return True


def make_export(folder: Path) -> None:
    """A trained model's two files."""
    from mstat.config import ModelConfig
    from mstat.weights.export import export

    model = _model()
    weights = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    fields = {key: tuple(value) if isinstance(value, list) else value for key, value in TINY_MODEL.items()}
    (folder / "run").mkdir()
    export(folder / "run", weights, ModelConfig(**fields))  # type: ignore[arg-type]


def _spoil_export(folder: Path, draw: random.Random) -> None:
    if draw.random() < 0.2:  # what older versions wrote, without a checksum
        description, weights = folder / "run" / "model.json", folder / "run" / "model.safetensors"
        description.write_text(json.dumps({**json.loads(description.read_text()), "sha256": None}))
        _spoil_header(weights, draw)
    elif draw.random() < 0.6:
        _spoil_json(folder / "run" / "model.json", draw)
    else:
        _spoil_bytes("model.*")(folder / "run", draw)


def _read_export(folder: Path) -> bool:
    """A model that loads gives finite features."""
    import torch

    import mstat

    features = mstat.load(folder / "run").embed(torch.zeros(1, 2, 32, 16, 3, dtype=torch.uint8))
    return bool(torch.isfinite(features).all())


# --- checkpoints


def make_checkpoints(folder: Path) -> None:
    """A run after steps 3 and 7, and its weights then. Made by a child: the threads of a training survive no fork."""
    for name in ("torch._dynamo", "accelerate", "mstat.runs.checkpoint", "tests.mstat.runs.test_checkpoint"):
        importlib.import_module(name)  # once here, and not in the child of each case
    child = multiprocessing.get_context("spawn").Process(target=_train_twice, args=(folder,))
    child.start()
    child.join()
    assert child.exitcode == 0


def _train_twice(folder: Path) -> None:
    import dataclasses

    import torch

    from mstat.runs.checkpoint import Writer
    from tests.mstat.runs.test_checkpoint import engine, update
    from tests.mstat.training.test_task import SMALL

    made = engine(1)
    with Writer(made, folder / "run", 2, {"model": json.loads(json.dumps(dataclasses.asdict(SMALL)))}) as writer:
        for number in (3, 7):
            update(made)
            torch.save(made.task.state_dict(), folder / f"{number}.pt")
            writer.save(number)
            writer.wait()


def _spoil_checkpoint(folder: Path, draw: random.Random) -> None:
    newest = folder / "run" / "checkpoints" / "step-000000007"
    kind = draw.randrange(6)
    if kind < 2:
        _spoil_json(newest / "checkpoint.json", draw)
    elif kind == 2:
        newest.rename(newest.with_name(draw.choice(("step-000000009", "step-000000001", "step-7", ".step-000000007"))))
    else:
        if kind == 3:  # as older versions wrote it
            meta = json.loads((newest / "checkpoint.json").read_text())
            del meta["sha256"]
            (newest / "checkpoint.json").write_text(json.dumps(meta))
        path = _some_file(newest, draw)
        path.write_bytes(mutate_bytes(path.read_bytes(), draw))


def _read_checkpoint(folder: Path) -> bool:
    """Restore and load; return whether both have the weights of the step that the checkpoint names."""
    import torch

    import mstat
    from mstat.config import Config, TrainConfig
    from mstat.distributed.engine import Engine
    from mstat.runs.checkpoint import find, restore
    from mstat.training.task import Task
    from tests.mstat.training.test_task import CLASSES, SMALL

    config, run = Config(model=SMALL, train=TrainConfig(precision="no")), folder / "run"
    made = Engine(config)
    made.prepare(Task(config, CLASSES))
    reached = restore(made, run, {})
    newest = find(run, "newest")
    expected = torch.load(folder / f"{reached}.pt", weights_only=True)
    loaded = {f"model.{name}": tensor for name, tensor in mstat.load(newest).state_dict().items()}
    trained = made.task.state_dict()
    return all(torch.equal(trained[name], tensor) for name, tensor in expected.items()) and all(
        torch.equal(expected[name], tensor) for name, tensor in loaded.items()
    )


# --- run folders


def make_run(folder: Path) -> None:
    """Write the files of a finished and submitted run, except its weights."""
    from mstat.cluster import restarts
    from tests.mstat.report.conftest import make_evaluation, make_rankings, make_record

    make_config(folder)
    run = folder / "run"
    evaluation = {**make_evaluation(), "cameras": [{"query": 1, "gallery": 2, "num_valid_query": 3, "rank1": 0.5}]}
    contents = {
        "evaluation.json": evaluation,
        "rankings.json": make_rankings(),
        "queries.json": {
            **{"dataset": None, "protocol": "official", "split": "0", "eval": None},
            **{"key": ["a", "b"], "pid": [1, 2], "camid": [1, 1], "first_hit": [2, 1], "mAP": [0.5, 1.0]},
        },
        "embedding.json": {"protocol": "official", "split": "0", "points": [[0.0, 1.0], [1.0, 0.0]], "pids": [1, 2]},
        "environment.json": {"command": "train", "started": "2026-01-01", "versions": {"torch": "2"}, "world_size": 1},
        "state.json": {"state": "failed", "step": 30, "reason": "stopped"},
    }
    for name, content in contents.items():
        (run / name).write_text(json.dumps(content))
    (run / "metrics.jsonl").write_text("".join(json.dumps(make_record(step)) + "\n" for step in range(1, 31)))
    about = {"scheduler": "slurm", "kind": "train", "array": None, "script": "job.sh", "name": "x", "id": "7"}
    restarts.write_json(run / "job" / "job.json", {**about, "log": "x-7.log"})
    restarts.append(run, {"event": "submit"})
    restarts.append(run, {"event": "end", "outcome": "failed", "reason": "stopped", "step": 30})
    (run / "job" / "x-7.log").write_text("=== mstat: attempt 1\nerror: stopped\n")
    (folder / "before.json").write_text(json.dumps(_names(folder)))


def _names(folder: Path) -> list[str]:
    """Return the paths beside the run folder."""
    inside = folder / "run"
    return sorted(str(path) for path in folder.rglob("*") if path != inside and not path.is_relative_to(inside))


def _spoil_run(folder: Path, draw: random.Random) -> None:
    path = _some_file(folder / "run", draw)
    if path.suffix == ".json" and draw.random() < 0.7:
        _spoil_json(path, draw)
    elif path.suffix == ".jsonl" and draw.random() < 0.7:
        lines = path.read_text().splitlines()
        at = draw.randrange(len(lines))
        lines[at] = dump(mutate_json(json.loads(lines[at]), draw))
        path.write_text("\n".join(lines), errors="surrogatepass")
    else:
        path.write_bytes(mutate_bytes(path.read_bytes(), draw))


def _report(folder: Path) -> Status:
    """The page is made, and nothing is written beside the run folder."""
    status = _script("report", folder / "run")
    before = json.loads((folder / "before.json").read_text())
    return status or set(_names(folder)) <= {*before, str(folder / "before.json")}


def _status(folder: Path) -> Status:
    return _script("submit", "status", folder / "run")


# --- sources


def make_video(folder: Path) -> None:
    """A folder of pictures with tracks, and a set of MARS's layout with its MATLAB files."""
    from tests.shards.trees import mars_tree, picture

    (folder / "frames").mkdir()
    for number in range(1, 7):
        (folder / "frames" / f"{number:06d}.jpg").write_bytes(picture(number, (96, 96)))
    rows = [f"{frame},{person},{8 * person},4,24,60,1,-1,-1,-1" for frame in range(1, 7) for person in (1, 2)]
    (folder / "tracks.txt").write_text("\n".join(rows) + "\n")
    mars_tree(folder / "mars")


def _spoil_tracks(folder: Path, draw: random.Random) -> None:
    path = folder / "tracks.txt"
    path.write_text(mutate_text(path.read_text(), draw), errors="surrogatepass")


def _build(folder: Path, *words: object, decode: bool = True) -> Status:
    from shards.__main__ import main

    out = folder / "out"
    status = _quietly(main, ["build", *map(str, words), "--out", str(out), "--workers", "1"])
    return status or _quietly(main, ["verify", str(out), "--workers", "1", *["--decode"] * decode]) == 0


def _build_mot(folder: Path) -> Status:
    tracks = ("--video", folder / "frames", "--tracks", folder / "tracks.txt", "--halve-tracks")
    return _build(folder, "mot", *tracks)


def _build_mars(folder: Path) -> Status:
    # Such a build keeps JPEGs as they came; damage among their coded pixels is named when they are read.
    return _build(folder, "mars", "--source", folder / "mars", "--partial", decode=False)


def make_list(folder: Path) -> None:
    """Write pictures in a folder, by prefix and by range of frames, and a list of them with splits and outfits."""
    from tests.shards.trees import picture

    for number, place in enumerate(("a/1", "a/2", "b/T1_", "b/T12_", "c/f")):
        (folder / "root" / place).parent.mkdir(parents=True, exist_ok=True)
        if place.startswith("a"):
            (folder / "root" / place).mkdir()
        for frame in range(1, 5):
            name = f"{place}{'/' if place.startswith('a') else ''}{frame}.jpg"
            (folder / "root" / name).write_bytes(picture(10 * number + frame))
    header = "path,pid,camid,outfit,start,end,key,role:test/0,role:test/1,role:other"
    rows = [
        "a/1,ann,1,red,,,ann-1,train,train,train",
        "a/2,bob,1,red,,,,query+gallery,query,query",
        "b/T1,bob,2,blue,,,,gallery,gallery,gallery",
        "b/T12,distractor,3,,,,,gallery,,gallery",
        "c,junk,2,,1,2,,junk,junk,junk",
        "c,cyd,2,red,3,4,,query gallery,query,query",
    ]
    (folder / "list.csv").write_text("\n".join([header, *rows]) + "\n")


def _spoil_list(folder: Path, draw: random.Random) -> None:
    path = folder / "list.csv"
    path.write_text(mutate_text(path.read_text(), draw), errors="surrogatepass")


def _build_list(folder: Path) -> Status:
    return _build(folder, "list", "--list", folder / "list.csv", "--root", folder / "root", "--ignore", RULE)


TARGETS = (
    Target("sets: other bytes, read", make_set, _spoil_set, _read_frames),
    Target("sets: other bytes, verified", make_set, _spoil_set, _verify, listed=True),
    Target("sets: dataset.json of other values", make_set, _spoil_description, _read_all),
    Target("sets: index of other values", make_set, _spoil_index, _read_all),
    Target("configurations", make_config, _spoil_config, _read_config),
    Target("weights to start from", make_weights, _spoil_weights, _read_weights),
    Target("exported models", make_export, _spoil_export, _read_export),
    Target("checkpoints", make_checkpoints, _spoil_checkpoint, _read_checkpoint),
    Target("run folders, reported", make_run, _spoil_run, _report),
    Target("run folders, status", make_run, _spoil_run, _status),
    Target("tracks", make_video, _spoil_tracks, _build_mot, listed=True),
    Target("lists of tracklets", make_list, _spoil_list, _build_list, listed=True),
    Target("pictures of tracks", make_video, _spoil_bytes("frames/*.jpg"), _build_mot, listed=True),
    Target("MATLAB files", make_video, _spoil_bytes("*.mat"), _build_mars, listed=True),
    Target("pictures and lists of MARS", make_video, _spoil_bytes("mars/**/*"), _build_mars, listed=True),
)
