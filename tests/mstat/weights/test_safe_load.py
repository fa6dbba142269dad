"""Files of strangers: whatever is in them, nothing is run, and one line says what is wrong."""

from __future__ import annotations

import builtins
import io
import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from launch.model import main
from mstat.errors import UserError
from mstat.weights.pretrained import load_pretrained
from mstat.weights.safe_load import named, printable, read_tensors
from tests.conftest import PROJECT
from tests.mstat.model.small import build
from tests.mstat.weights.test_pretrained import assert_equal, state, timesformer_weights, vit_weights


class Hostile:
    """Unpickled without care, it makes a folder: by a call, by code, or by the shell."""

    def __init__(self, trace: Path, way: str) -> None:
        self.trace, self.way = str(trace), way

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return {
            "mkdir": (os.mkdir, (self.trace,)),
            "exec": (builtins.exec, (f"import os; os.mkdir({self.trace!r})",)),
            "eval": (builtins.eval, (f"__import__('os').mkdir({self.trace!r})",)),
            "system": (os.system, (f"mkdir {self.trace}",)),
        }[self.way]


def in_zip(content: Any, path: Path) -> None:
    torch.save(content, path)


def in_legacy(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def in_plain_pickle(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


def in_tar(content: Any, path: Path) -> None:
    """The oldest format of torch.save: a tar of pickles."""
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "storages", "tensors", "pickle"):
            data = pickle.dumps(content, protocol=2)
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def refused(path: Path, trace: Path | None = None) -> str:
    """The one line with which a file is refused; the model is as it was, and nothing was run."""
    model = build()
    before = state(model)
    with pytest.raises(ValueError, match=r"\w") as caught:
        load_pretrained(model, path)
    assert_equal(state(model), before)
    assert trace is None or not trace.exists()
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    assert len(message) < 600 + len(str(path))
    assert "weights_only" not in message  # torch's own advice is to switch that off
    return message


@pytest.mark.parametrize("suffix", [".pyth", ".bin", ".pth"])
@pytest.mark.parametrize("way", ["mkdir", "exec", "eval", "system"])
@pytest.mark.parametrize("writer", [in_zip, in_legacy, in_plain_pickle, in_tar])
def test_hostile_pickles_are_refused_unrun(
    tmp_path: Path, suffix: str, way: str, writer: Callable[[Any, Path], None]
) -> None:
    """Every format of torch.save, several ways to run code; the file would run it if it were read without care."""
    path, trace = tmp_path / f"hostile{suffix}", tmp_path / "ran"
    writer({"model_state": {**vit_weights(), "hook": Hostile(trace, way)}}, path)
    message = refused(path, trace)
    assert "mstat loads nothing else" in message
    if writer is in_plain_pickle:  # the trap is a real one
        pickle.loads(path.read_bytes())
        assert trace.exists()


def test_the_call_is_named(tmp_path: Path) -> None:
    """A user sees what the file wanted."""
    path = tmp_path / "hostile.pyth"
    in_zip({"model_state": Hostile(tmp_path / "ran", "mkdir")}, path)
    assert "would call posix.mkdir" in refused(path)


def test_torchscript_is_refused(tmp_path: Path) -> None:
    """An archive with code in it, which torch.load would open."""
    with zipfile.ZipFile(tmp_path / "script.pth", "w") as archive:
        for name in ("script/data.pkl", "script/constants.pkl", "script/code/__torch__.py"):
            archive.writestr(name, b"")
    assert "holds code" in refused(tmp_path / "script.pth")


def header(fields: dict[str, Any], data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file."""
    text = json.dumps(fields).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(shape: list[int], first: int, last: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [first, last]}


@pytest.mark.parametrize(
    "content",
    [
        header({"a": entry([1], 0, 4)}, bytes(4), length=2**63),
        header({"a": entry([1], 0, 4)}, bytes(4), length=10**6),
        header({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)),
        header({"a": entry([2], 0, 8), "b": entry([2], 0, 8)}, bytes(8)),
        header({"a": entry([10**6, 10**6], 0, 4)}, bytes(4)),
        header({"a": entry([2**32, 2**32], 0, 4)}, bytes(4)),
        header({"a": entry([10**12], 0, 4 * 10**12)}, bytes(4)),
        header({"a": entry([1], 0, -4)}, bytes(4)),
        header({"a": {"dtype": "CODE", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
        b"\xff" * 64,
        b"",
    ],
    ids=["length", "long", "overlap", "same", "shape", "overflow", "size", "negative", "dtype", "noise", "empty"],
)
def test_lying_safetensors_are_refused(tmp_path: Path, content: bytes) -> None:
    """Absurd header length, overlapping offsets, huge claimed shapes: no memory is taken for what is not there."""
    path = tmp_path / "lying.safetensors"
    path.write_bytes(content)
    assert "not a file of plain tensors" in refused(path)


@pytest.mark.parametrize("writer", [in_zip, in_legacy, in_plain_pickle])
def test_a_pickle_that_is_called_safetensors_is_refused(tmp_path: Path, writer: Callable[[Any, Path], None]) -> None:
    """The name decides how a file is read, and no pickle is read under this one; harmless or not."""
    path, trace = tmp_path / "x.safetensors", tmp_path / "ran"
    writer(Hostile(trace, "mkdir"), path)
    assert "ends in .safetensors, but it is a torch file or a pickle" in refused(path, trace)
    writer(timesformer_weights(), path)
    assert "ends in .safetensors, but it is a torch file or a pickle" in refused(path)


def test_safetensors_that_are_called_pth_are_refused(tmp_path: Path) -> None:
    """The other way round."""
    save_file(timesformer_weights(), tmp_path / "x.safetensors")
    refused((tmp_path / "x.safetensors").rename(tmp_path / "x.pth"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(1).expand(10**9, 10**6), "more values than the file holds"),
        (torch.empty(3, 3, device="meta"), "another kind"),
        (torch.zeros(3, 3).to_sparse(), "another kind"),
        (torch.zeros(3, dtype=torch.int64), "not floating-point: pos_embed"),
        (torch.zeros(3, dtype=torch.complex64), "not of 16 to 64-bit floats"),
        ([1.0, 2.0], "is a list, not a tensor"),
    ],
)
def test_only_plain_arrays_pass(tmp_path: Path, value: object, message: str) -> None:
    """Values of torch.load that cannot be copied are refused, among them a petabyte that weighs four bytes."""
    path = tmp_path / "x.pth"
    torch.save({**timesformer_weights(), "pos_embed": value}, path)
    assert message in refused(path)


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    """torch writes none; one of a few kilobytes could unpack to all memory."""
    torch.save({"a": torch.zeros(10**6)}, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(tmp_path / "bomb.pth", "w", 8) as bomb:
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
    assert "unpacks to more than its own size" in refused(tmp_path / "bomb.pth")


@pytest.mark.parametrize("content", [[1, 2], {"model_state": {3: torch.ones(1)}}, {"model": {}}, {}])
def test_other_contents_are_refused(tmp_path: Path, content: object) -> None:
    """Not a dict, keys that are no names, nothing at all."""
    torch.save(content, tmp_path / "x.pth")
    refused(tmp_path / "x.pth")


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_damaged_or_missing_files_are_named(tmp_path: Path, name: str) -> None:
    """Garbage, a cut file and absence are told in one line with the path."""
    path = tmp_path / name
    assert "no such file" in refused(path)
    path.write_bytes(b"not a checkpoint at all")
    refused(path)
    if name == "x.pth":
        torch.save(timesformer_weights(), path)
    else:
        save_file(timesformer_weights(), path)
    path.write_bytes(path.read_bytes()[:-1000])
    refused(path)


def test_names_of_strangers_cannot_write_on_the_terminal(tmp_path: Path) -> None:
    """Control characters become question marks; a thousand names become a few, long ones are cut."""
    assert printable("\x1b[2Jgone\nnext") == "?[2Jgone?next"
    assert named(f"key{i}" for i in range(1000)) == "key0, key1, key2, key3, key4 and 995 more"
    torch.save({**vit_weights(), "\x1b]0;owned\a": torch.ones(1)}, tmp_path / "x.pth")
    assert "?]0;owned?" in refused(tmp_path / "x.pth")
    torch.save({"model": vit_weights(), "\x1b[31m": 1}, tmp_path / "y.pth")
    assert load_pretrained(build(), tmp_path / "y.pth")[0].key == "?[31m"


def test_wrapping_dicts_are_opened(tmp_path: Path) -> None:
    """`model_state`, `state_dict` and `model`; what lies beside is named."""
    for wrapper in ("model_state", "state_dict", "model"):
        torch.save({wrapper: {"a": torch.ones(2)}, "epoch": 3}, tmp_path / "x.pth")
        tensors, others = read_tensors(tmp_path / "x.pth")
        assert (list(tensors), others) == (["a"], ["epoch"])


def test_the_command_that_shows_a_file_refuses_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m mstat.model --init`: exit status 1 and one line for a hostile file; 0 and the table for a good one."""
    in_zip(Hostile(tmp_path / "ran", "system"), tmp_path / "hostile.pyth")
    assert main(["--init", str(tmp_path / "hostile.pyth")]) == 1
    output = capsys.readouterr()
    assert not output.out
    assert output.err.count("\n") == 1
    assert not (tmp_path / "ran").exists()

    config = tmp_path / "run.yaml"
    sizes = "image_size: [32, 16], patch_size: 8, width: 32, num_heads: 4, depths: [2, 2, 1]"
    config.write_text(f"clip: {{crop_padding: 2}}\nmodel: {{{sizes}}}\n")
    in_zip(timesformer_weights(), tmp_path / "good.pyth")
    assert main(["--config", str(config), "--init", str(tmp_path / "good.pyth")]) == 0
    assert "2-D bicubic, 4 x 4 -> 4 x 2 (16 -> 8 positions)" in capsys.readouterr().out


def test_nothing_else_in_the_project_loads_files_of_strangers() -> None:
    """torch.load stands in this one place, and never with its care switched off."""
    sources = {path: path.read_text() for path in (PROJECT / "mstat").rglob("*.py")}
    assert [path.name for path, text in sources.items() if "torch.load(" in text] == ["safe_load.py"]
    assert all("weights_only=False" not in text for text in sources.values())


def nested_key(levels: int) -> bytes:
    """A pickle of a dict whose key is a tuple of a tuple twice, and so on."""
    pairs = [b"h" + bytes([level]) + b"\x86q" + bytes([level + 1]) for level in range(levels)]
    doubled = [pair[:2] + pair for pair in pairs]
    return b"\x80\x02}" + b")q\x00" + b"".join(b"0" + pair for pair in doubled) + b"K\x01s."


@pytest.mark.parametrize("in_archive", [True, False])
def test_a_key_whose_hash_never_ends_is_refused(tmp_path: Path, in_archive: bool) -> None:
    """Sixty levels are a few hundred bytes, and 2^60 steps of a hash; two levels are a name that is none."""
    path = tmp_path / "x.pth"
    for levels, message in ((60, "nested too deeply to be hashed"), (2, "x.pth: ")):
        if in_archive:
            torch.save({}, tmp_path / "empty.pth")
            with zipfile.ZipFile(tmp_path / "empty.pth") as empty, zipfile.ZipFile(path, "w") as archive:
                for name in empty.namelist():
                    archive.writestr(name, nested_key(levels) if name.endswith("data.pkl") else empty.read(name))
        else:
            path.write_bytes(nested_key(levels))
        with pytest.raises(UserError, match=message):
            read_tensors(path)
    assert pickle.loads(nested_key(2)) == {(((), ()), ((), ())): 1}


def test_tuples_of_optimisers_are_no_such_keys(tmp_path: Path) -> None:
    """Both formats of torch.save, with settings of an optimiser and long lists beside the weights."""
    group = {"betas": (0.9, 0.99), "params": list(range(5000))}
    content = {
        "model_state": {f"k{n}": torch.zeros(2, 3) for n in range(50)},
        "optimizer": {"param_groups": [group], "args": (1, (2, (3,)))},
    }
    for writer in (in_zip, in_legacy):
        writer(content, tmp_path / "x.pth")
        assert len(read_tensors(tmp_path / "x.pth")[0]) == 50


def test_floats_of_a_byte_are_refused(tmp_path: Path) -> None:
    """Without the scale that belongs to them they would be other numbers."""
    save_file({"a": torch.zeros(2).to(torch.float8_e4m3fn)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="not of 16 to 64-bit floats"):
        read_tensors(tmp_path / "x.safetensors")
