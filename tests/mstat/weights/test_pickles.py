"""Pickles whose keys could be hashed without end are refused before anything reads them."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from mstat.errors import UserError
from mstat.weights.pickles import MOST_PARTS, refuse_endless_keys, refuse_large


def nested(levels: int) -> Any:
    """A tuple of the same tuple twice, and so on: few bytes, and a hash that takes 2^levels steps (so no key here)."""
    value: Any = ()
    for _ in range(levels):
        value = (value, value)
    return value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_small_pickle_of_an_endless_key(protocol: int) -> None:
    """In any protocol of pickle; as many values side by side are no harm."""
    data = pickle.dumps([nested(60)], protocol)
    assert len(data) < 2000
    with pytest.raises(UserError, match="nested too deeply"):
        refuse_large(io.BytesIO(data))
    flat = {(name, number): [number] * 3 for number, name in enumerate(map(str, range(10 * MOST_PARTS)))}
    assert refuse_large(io.BytesIO(pickle.dumps(flat, protocol)))


@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_torch(zipped: bool, tmp_path: Path) -> None:
    """Both formats of torch.save; a state dict passes."""
    file = tmp_path / "weights.pt"
    state = {"weight": torch.zeros(3, 4), "nested": {"a": (1, (2, 3))}}
    torch.save(state, file, _use_new_zipfile_serialization=zipped)
    refuse_endless_keys(file)
    torch.save([nested(60)], file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match="nested too deeply"):
        refuse_endless_keys(file)


@pytest.mark.parametrize("data", [b"", b"no pickle", pickle.dumps({"a": (1, 2)})[:-3], b"\x80\x04h\x07."])
def test_what_is_no_pickle_is_left_to_its_reader(data: bytes) -> None:
    """It names what is wrong with the file; here nothing is."""
    assert not refuse_large(io.BytesIO(data))
