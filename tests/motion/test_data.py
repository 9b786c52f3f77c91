"""Folders of motions in the published layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from core.data.dataset import DataError
from core.data.order import OrderedDataset
from motion.data import published
from motion.features import Normal
from motion.skeleton import KIT


@pytest.fixture
def humanml(tmp_path: Path) -> Path:
    """Five clips in the published layout, whose rows count up so that parts differ."""
    (tmp_path / "new_joint_vecs").mkdir()
    (tmp_path / "texts").mkdir()
    for name, rows in (("000001", 60), ("M000001", 41), ("000002", 30), ("000003", 250), ("000004", 199)):
        np.save(tmp_path / "new_joint_vecs" / f"{name}.npy", np.arange(rows, dtype=np.float32)[:, None].repeat(263, 1))
        (tmp_path / "texts" / f"{name}.txt").write_text(f"one {name}#one/NUM#0.0#0.0\ntwo {name}#two/NUM#0.0#0.0\n")
    with (tmp_path / "texts" / "000003.txt").open("a") as file:
        file.write("a part#part/NOUN#2.0#4.5\nshort#short/ADJ#0.0#1.0\nodd#odd/ADJ#nan#nan\n")
    (tmp_path / "train.txt").write_text("000001\nM000001\n000002\n000003\n000004\n")
    Normal(torch.ones(263), 2 * torch.ones(263)).write(tmp_path)
    return tmp_path


def test_published_folders_are_read_by_their_rules(humanml: Path) -> None:
    data = published(humanml, "train")
    # 30 rows are too few and 250 too many, but its part of 2.5 seconds fits; that of 1 second does not.
    assert [(p.path.stem, p.stop - p.start) for p in data.pieces] == [
        ("000001", 60),
        ("M000001", 41),
        ("000003", 50),
        ("000004", 199),
    ]
    batch = data.get(range(4))
    assert batch["x"].shape == (4, 196, 263)
    assert batch["valid"].sum(1).tolist() == [60, 40, 48, 196]
    assert batch["caption"] == ["one 000001", "one M000001", "a part", "one 000004"]
    assert batch["x"][2, :48, 5].tolist() == pytest.approx([(row - 1) / 2 for row in range(40, 88)])
    assert not batch["x"][~batch["valid"]].any()


def test_training_draws_captions_and_parts_as_a_function_of_the_position(humanml: Path) -> None:
    data = published(humanml, "train")
    ordered = OrderedDataset(data, seed=1)
    batches = [ordered[range(start, start + 8)] for start in range(0, 80, 8)]
    captions_seen = {caption for batch in batches for caption in batch["caption"]}
    assert captions_seen == {
        f"{word} {name}" for word in ("one", "two") for name in ("000001", "M000001", "000004")
    } | {"a part"}
    starts = {float(x[0, 0]) for batch in batches for x in batch["x"][batch["valid"].sum(1) == 196][:, :1]}
    assert starts == {-0.5, 0.0, 0.5, 1.0}  # of 199 rows 196 begin at one of 4 places
    again = ordered[range(8, 16)]
    assert torch.equal(again["x"], batches[1]["x"]) and again["caption"] == batches[1]["caption"]


def test_kit_has_its_own_width_and_lengths(humanml: Path) -> None:
    for path in (humanml / "new_joint_vecs").glob("*.npy"):
        np.save(path, np.load(path)[:, :251])
    Normal(torch.zeros(251), torch.ones(251)).write(humanml)
    data = published(humanml, "train", KIT)
    assert [p.path.stem for p in data.pieces] == ["000001", "M000001", "000002", "000003", "000004"]
    assert (data.pieces[3].start, data.pieces[3].stop) == (25, 56)
    with pytest.raises(DataError, match="263 features"):
        published(humanml, "train")


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda folder: (folder / "train.txt").unlink(), r"no train\.txt"),
        (lambda folder: (folder / "new_joint_vecs" / "000002.npy").unlink(), "000002.npy is missing"),
        (lambda folder: (folder / "texts" / "000002.txt").unlink(), "no captions"),
        (lambda folder: (folder / "texts" / "000002.txt").write_text("only words\n"), "line 1: a line should be"),
        (lambda folder: (folder / "texts" / "000002.txt").write_text("a#b#c#d\n"), "line 1: 'c' and 'd'"),
        (lambda folder: (folder / "Mean.npy").unlink(), r"Mean\.npy"),
        (lambda folder: (folder / "train.txt").write_text("000002\n"), "40 to 199"),
        (lambda folder: (folder / "new_joint_vecs" / "000001.npy").write_bytes(b"no"), "not a readable"),
    ],
)
def test_broken_folders_are_refused(humanml: Path, break_it: Callable[[Path], object], words: str) -> None:
    break_it(humanml)
    with pytest.raises(ValueError, match=words):
        published(humanml, "train")


def test_nan_is_named_when_it_is_met(humanml: Path) -> None:
    np.save(humanml / "new_joint_vecs" / "000001.npy", np.full((60, 263), np.nan, dtype=np.float32))
    with pytest.raises(DataError, match=r"000001\.npy contains NaN"):
        published(humanml, "train").get([0])
