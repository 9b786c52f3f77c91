"""What a model made is written as the file's name asks, and says how it was made."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from core.provenance import FORMAT, KEY, loads
from motion.features import canonical, decode, encode
from motion.files import read
from motion.showing import show
from tests.support.poses import wander


@pytest.fixture(scope="module")
def features() -> torch.Tensor:
    return torch.stack([encode(canonical(wander(13, seed))) for seed in range(2)]).float()


def test_each_ending_makes_its_files(tmp_path: Path, features: torch.Tensor) -> None:
    settings = {"captions": ["one", "two"], "seed": 3}
    show(tmp_path / "new" / "a.png", features, settings)
    with Image.open(tmp_path / "new" / "a.png") as page:
        assert loads(page.info[KEY], tmp_path) == {**settings, "format": FORMAT}
        assert page.height == 2 * 172
    show(tmp_path / "a.gif", features, settings, frames=[4, 6])
    with Image.open(tmp_path / "a.gif") as film:
        assert film.height == 2 * 266
    show(tmp_path / "a.npz", features, settings, frames=[4, 12])
    takes = [read(tmp_path / f"a-00{number}.npz") for number in range(2)]
    assert [(take.caption, len(take.joints)) for take in takes] == [("one", 4), ("two", 12)]
    assert torch.equal(takes[1].joints, decode(features)[1])
    show(tmp_path / "b.bvh", features[:1], {})
    assert len(read(tmp_path / "b.bvh").joints) == 12
    with pytest.raises(ValueError, match=r"\.txt"):
        show(tmp_path / "a.txt", features, settings)
