"""What a model made is written as the file's name asks, and says how it was made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from core.provenance import FORMAT, KEY, loads
from motion.features import canonical, decode, encode
from motion.files import Take, read
from motion.generator import normal_of
from motion.modality import MODALITY
from tests.support.poses import wander

SETTINGS = {"seed": 3}


@pytest.fixture(scope="module")
def features() -> torch.Tensor:
    return torch.stack([encode(canonical(wander(13, seed))) for seed in range(2)]).float()


@pytest.fixture(scope="module")
def takes(features: torch.Tensor) -> list[Take]:
    """Two clips, of 4 and 12 rows, as a model makes them."""
    valid = torch.arange(12) < torch.tensor([4, 12])[:, None]
    return list(MODALITY.decode(normal_of().apply(features), {"caption": ["one", "two"], "valid": valid}))


def test_samples_are_takes_as_long_as_they_are_valid(features: torch.Tensor, takes: list[Take]) -> None:
    assert [(take.caption, len(take.joints)) for take in takes] == [("one", 4), ("two", 12)]
    torch.testing.assert_close(takes[1].joints, decode(features)[1], rtol=0, atol=1e-4)
    whole = MODALITY.decode(normal_of().apply(features), {})
    assert [(take.caption, len(take.joints)) for take in whole] == [("", 12), ("", 12)]


def test_each_suffix_makes_its_files(tmp_path: Path, takes: list[Take]) -> None:
    MODALITY.write(tmp_path / "new" / "a.png", takes, SETTINGS)
    with Image.open(tmp_path / "new" / "a.png") as page:
        assert loads(page.info[KEY], tmp_path) == {**SETTINGS, "format": FORMAT}
        assert page.height == 2 * 172
    MODALITY.write(tmp_path / "a.gif", takes, SETTINGS)
    with Image.open(tmp_path / "a.gif") as film:
        assert film.height == 2 * 266
    MODALITY.write(tmp_path / "a.npz", takes, SETTINGS)
    found = [read(tmp_path / f"a-00{number}.npz") for number in range(2)]
    assert [(take.caption, len(take.joints)) for take in found] == [("one", 4), ("two", 12)]
    assert torch.equal(found[1].joints, takes[1].joints)
    MODALITY.write(tmp_path / "b.bvh", takes[1:], SETTINGS)
    assert len(read(tmp_path / "b.bvh").joints) == 12
    written = ["a-000.npz", "a-001.npz", "a.gif", "b.bvh"]
    expected = sorted([*written, *(f"{name}.json" for name in written), "new"])
    assert sorted(path.name for path in tmp_path.iterdir()) == expected
    extras = json.loads((tmp_path / "a-001.npz.json").read_text())
    assert extras == {**SETTINGS, "file": 1, "format": FORMAT}
    assert MODALITY.read_metadata(tmp_path / "a-001.npz") == extras


@pytest.mark.parametrize("suffix", [".PNG", ".GIF", ".BVH", ".NPZ", ".GLB"])
def test_what_may_be_written_is_written_and_read_back(tmp_path: Path, takes: list[Take], suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    MODALITY.check_output(path)
    MODALITY.write(path, takes[1:], SETTINGS)
    assert path.stat().st_size > 1000
    if suffix != ".PNG":
        assert MODALITY.read_metadata(path) == {**SETTINGS, "file": 0, "format": FORMAT}


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.txt"):
        MODALITY.check_output(tmp_path / "a.txt")
    (tmp_path / "a.bvh").mkdir()
    with pytest.raises(ValueError, match="folder"):
        MODALITY.check_output(tmp_path / "a.bvh")
