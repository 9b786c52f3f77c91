"""Checkpoints: written whole or not at all; whatever else a file is, one sentence says it."""

from __future__ import annotations

import json
import pickle
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from core.weights.checkpoint import CheckpointError, fill, read, read_metadata, remove_drafts, write

METADATA = {"recipe": "toy.recipes.points.circle", "arguments": {"width": 8}, "averages": {}, "note": "é"}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.safetensors"
    weight = torch.randn(3, 4)
    tensors = {"model/a": weight, "model/tied": weight, "model/turned": weight.T, "x": torch.tensor(3)}
    tensors["none"] = torch.zeros(0, 3)
    write(path, tensors, METADATA)
    assert read_metadata(path) == METADATA
    found = read(path)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], value) for name, value in tensors.items())
    assert read(path, "model/").keys() == {"a", "tied", "turned"}
    assert [file.name for file in path.parent.iterdir()] == ["a.safetensors"]


def test_pages_that_are_forgotten_are_read_again(tmp_path: Path) -> None:
    wanted = torch.arange(10_000.0)
    write(tmp_path / "a.safetensors", {"x": wanted}, METADATA)
    found = read(tmp_path / "a.safetensors")
    found["x"].zero_()
    assert torch.equal(read(tmp_path / "a.safetensors")["x"], wanted)  # the file itself is never written
    found.forget()
    assert torch.equal(found["x"], wanted)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write(path, {"x": torch.zeros(1)}, METADATA)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**22, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="free some space"):
            write(path, {"x": torch.zeros(2**21)}, METADATA)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert torch.equal(read(path)["x"], torch.zeros(1))
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_an_unwritable_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="choose another folder"):
        write(tmp_path / "file" / "a.safetensors", {"x": torch.zeros(1)}, METADATA)


def test_drafts_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", {"x": torch.zeros(1)}, METADATA)
    (tmp_path / ".draft-abc").write_bytes(b"half")
    remove_drafts(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    good = tmp_path / "good.safetensors"
    write(good, {"x": torch.zeros(100)}, METADATA)
    (tmp_path / "cut").write_bytes(good.read_bytes()[:-10])
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("hello, this is not a model")
    (tmp_path / "pickle").write_bytes(pickle.dumps({"x": 1}))
    torch.save({"x": torch.zeros(1)}, tmp_path / "zip")
    save_file({"x": torch.zeros(1)}, tmp_path / "foreign")
    save_file({"x": torch.zeros(1)}, tmp_path / "damaged", {"langevin": "{"})
    save_file({"x": torch.zeros(1)}, tmp_path / "partial", {"langevin": json.dumps({"recipe": "a"})})
    wanted = {
        "cut": "cut short or damaged",
        "empty": "cut short or damaged",
        "text": "cut short or damaged",
        "pickle": "is a pickle",
        "zip": "is a pickle",
        "foreign": "not a checkpoint of Langevin",
        "damaged": "damaged",
        "partial": "damaged",
        "missing": "does not exist",
        ".": "is a folder",
    }
    for name, message in wanted.items():
        with pytest.raises(CheckpointError, match=message) as caught:
            read_metadata(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_fill_is_strict_and_keeps_what_is_trained() -> None:
    with torch.device("meta"):
        module = nn.Linear(2, 3)
    module.bias.requires_grad_(False)
    state = {"weight": torch.randn(3, 2, dtype=torch.float64), "bias": torch.randn(3)}
    fill(module, state, Path("a"))
    assert torch.equal(module.weight, state["weight"].float())
    assert (module.weight.requires_grad, module.bias.requires_grad) == (True, False)
    with pytest.raises(CheckpointError, match="bias is missing, other is unknown"):
        fill(module, {"weight": state["weight"], "other": torch.zeros(1)}, Path("a"))
    with pytest.raises(CheckpointError, match=r"weight has shape \(1,\) instead of \(3, 2\)"):
        fill(module, state | {"weight": torch.zeros(1)}, Path("a"))
