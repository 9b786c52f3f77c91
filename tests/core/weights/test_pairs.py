"""Pairs and folders: every form undoes itself, and every way of storing a diffusers folder is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.weights.pairs import (
    COLUMNS,
    NEGATED,
    ROWS,
    SAME,
    TRANSPOSED_ROWS,
    Form,
    Pair,
    both,
    read_folder,
    to_ours,
    to_theirs,
    write_folder,
)

NAME = "diffusion_pytorch_model"


@pytest.mark.parametrize(
    ("form", "count", "expected"),
    [
        (SAME, 1, [[1.0, 2.0], [3.0, 4.0]]),
        (NEGATED, 1, [[-1.0, -2.0], [-3.0, -4.0]]),
        (ROWS, 2, [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]),
        (COLUMNS, 2, [[1.0, 2.0, 5.0, 6.0], [3.0, 4.0, 7.0, 8.0]]),
        (TRANSPOSED_ROWS, 2, [[1.0, 3.0], [2.0, 4.0], [5.0, 7.0], [6.0, 8.0]]),
    ],
)
def test_every_form_undoes_itself(form: Form, count: int, expected: list[list[float]]) -> None:
    theirs = {str(i): torch.tensor([[1.0, 2.0], [3.0, 4.0]]) + 4 * i for i in range(count)}
    pairs = [Pair("ours", tuple(theirs), form)]
    state = to_ours(pairs, theirs, "here")
    assert torch.equal(state["ours"], torch.tensor(expected))
    back = to_theirs(pairs, state)
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[key], theirs[key]) and back[key].is_contiguous() for key in theirs)


def test_both_sides_are_strict() -> None:
    pairs = [*both("a", "x"), *both("b", "y", "z", form=ROWS)]
    tensors = {f"{name}.{part}": torch.ones(2, 2) for name in "xyz" for part in ("weight", "bias")}
    assert to_ours(pairs, tensors, "here").keys() == {"a.weight", "a.bias", "b.weight", "b.bias"}
    with pytest.raises(ValueError, match=r"missing y\.weight; unknown w"):
        to_ours(
            pairs, {key: value for key, value in tensors.items() if key != "y.weight"} | {"w": torch.ones(1)}, "here"
        )
    with pytest.raises(ValueError, match="unequal shapes"):
        to_ours(pairs, tensors | {"z.bias": torch.ones(3, 2)}, "here")
    with pytest.raises(ValueError, match=r"no place for c\.weight"):
        to_theirs(pairs, to_ours(pairs, tensors, "here") | {"c.weight": torch.ones(1)})


def test_one_file_a_variant_and_shards_are_read_alike(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3), "b": torch.randn(2, 2)}
    write_folder(tmp_path, "Net", {"width": 3}, tensors)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", f"{NAME}.safetensors"]

    def read() -> None:
        config, found = read_folder(tmp_path, "Net")
        assert config["width"] == 3 and found.keys() == tensors.keys()
        assert all(torch.equal(found[key], tensors[key]) for key in tensors)

    read()
    save_file({"a": torch.zeros(1)}, tmp_path / f"{NAME}.fp16.safetensors")
    read()  # the full weights are preferred to a variant beside them
    save_file(tensors, tmp_path / f"{NAME}.fp16.safetensors")
    (tmp_path / f"{NAME}.safetensors").unlink()
    read()
    (tmp_path / f"{NAME}.fp16.safetensors").unlink()
    for i, key in enumerate(tensors):
        save_file({key: tensors[key]}, tmp_path / f"{NAME}-{i}.safetensors")
    index = {"weight_map": {key: f"{NAME}-{i}.safetensors" for i, key in enumerate(tensors)}}
    (tmp_path / f"{NAME}.safetensors.index.json").write_text(json.dumps(index))
    read()


def test_a_header_that_resembles_a_pickle_is_none(tmp_path: Path) -> None:
    """The first bytes are the header's length: 640 is written like the start of a pickle."""
    write_folder(tmp_path, "Net", {}, {"a": torch.ones(1)})
    file = tmp_path / f"{NAME}.safetensors"
    data = file.read_bytes()
    header = data[8 : 8 + int.from_bytes(data[:8], "little")]
    file.write_bytes((640).to_bytes(8, "little") + header.ljust(640) + data[8 + len(header) :])
    assert file.read_bytes()[:2] == b"\x80\x02"
    assert torch.equal(load_file(file)["a"], torch.ones(1))
    assert torch.equal(read_folder(tmp_path, "Net")[1]["a"], torch.ones(1))


def test_an_empty_or_unwritable_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"_class_name": "Net"}')
    with pytest.raises(ValueError, match="has no diffusion_pytorch_model"):
        read_folder(tmp_path, "Net")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="choose another folder"):
        write_folder(tmp_path / "file", "Net", {}, {"a": torch.ones(1)})
