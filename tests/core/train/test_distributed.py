"""One process with a batch of 4 is two processes with 2 each, and either goes on with the other's run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from toy.ranks import recipe, run

from core.train.logger import read as read_log
from core.train.loop import train
from core.weights.checkpoint import read
from tests.support.runs import spread


def close(one: Path, other: Path) -> bool:
    mine, theirs = read(one), read(other)
    assert mine.keys() == theirs.keys()
    return all(torch.allclose(value, theirs[name], rtol=0, atol=1e-6) for name, value in mine.items())


def test_one_process_is_two(tmp_path: Path) -> None:
    two, alone = spread(tmp_path / "two"), train(recipe(), run(tmp_path / "one"))
    assert close(alone, two / "step-00000020.safetensors")
    assert not close(alone, two / "step-00000010.safetensors")
    middle = tmp_path / "resumed" / "checkpoints" / "step-00000010.safetensors"
    middle.parent.mkdir(parents=True)
    shutil.copy(two / middle.name, middle)
    assert close(train(recipe(), run(tmp_path / "resumed")), alone)


@pytest.mark.slow
def test_sharded_weights_are_the_same_weights(tmp_path: Path) -> None:
    """Also through a skipped step, sheets of samples, and a resumed run."""
    alone = train(recipe(), run(tmp_path / "one"))
    sharded = spread(tmp_path / "two", "sharded")
    assert close(alone, sharded / "step-00000020.safetensors")
    assert [event["skipped"] for event in read_log(tmp_path / "spoiled") if "skipped" in event] == [1]
    (sharded / "step-00000020.safetensors").unlink()
    assert close(alone, spread(tmp_path / "two", "sharded") / "step-00000020.safetensors")
