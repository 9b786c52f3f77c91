"""The protocol by closed forms, and a matcher that learns what belongs together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from motion.matcher import Matcher, train_matcher
from motion.protocol import diversity, multimodal_distance, multimodality, protocol_figures, r_precision, repeated


def draw() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_precision_of_perfect_shifted_and_hopeless_motions() -> None:
    line = torch.arange(64.0)[:, None]
    assert r_precision(line, line, draw()).tolist() == [1, 1, 1]
    # In a batch of everything, a motion that lies nearest to the next text but one has its own in third place.
    assert r_precision(line, line + 1.4, draw(), top=4, batch=64).tolist() == pytest.approx(
        [1 / 64, 2 / 64, 63 / 64, 1], abs=0.02
    )
    assert r_precision(line, -line, draw(), batch=64)[0] == 1 / 64
    with pytest.raises(ValueError, match="batches of 32"):
        r_precision(line[:8], line[:8], draw())


def test_equal_captions_do_not_count_against_each_other() -> None:
    texts = torch.ones(32, 4)
    assert r_precision(texts, torch.randn(32, 4), draw()).tolist() == [1, 1, 1]


def test_precision_of_chance_is_a_thirty_second() -> None:
    torch.manual_seed(0)
    found = r_precision(torch.randn(6400, 2), torch.randn(6400, 2), draw())
    assert found.tolist() == pytest.approx([1 / 32, 2 / 32, 3 / 32], abs=0.012)


def test_distances() -> None:
    torch.manual_seed(0)
    texts = torch.randn(2000, 3)
    assert multimodal_distance(texts, texts + torch.tensor([0.0, 3.0, 4.0])).value == pytest.approx(5, abs=1e-5)
    # Two points: a pair never is a point with itself.
    assert diversity(torch.tensor([[0.0], [2.0]]), draw()) == 2
    assert multimodality(torch.tensor([[[0.0], [2.0]], [[5.0], [9.0]]]), draw()) == 3
    assert diversity(torch.randn(4000, 1), draw(), 20_000) == pytest.approx(2 / math.sqrt(math.pi), abs=0.02)


def test_repeats_say_how_sure_they_are() -> None:
    found = repeated(lambda generator: float(torch.randn((), generator=generator)), 400)
    assert found.high - found.low == pytest.approx(2 * 1.96 / 20, rel=0.15)
    assert found.low < 0 < found.high


def test_motions_are_nearest_to_themselves() -> None:
    torch.manual_seed(0)
    points = torch.randn(64, 4)
    found = protocol_figures(points, points, points, 3)
    assert found["FID"].value == pytest.approx(0, abs=1e-6)
    assert found["R-precision top 1"].value == 1


class Toy:
    """Motions whose first feature says the caption."""

    def __len__(self) -> int:
        return 256

    def get(self, indices: Sequence[int]) -> dict[str, Any]:
        torch.manual_seed(0)
        x = 0.1 * torch.randn(len(indices), 8, 12)
        kinds = torch.tensor([index % 8 for index in indices])
        x[..., :8] += torch.eye(8)[kinds][:, None]
        words = ["run", "jump", "wave", "sit", "kick", "bow", "turn", "walk"]
        return {
            "x": x,
            "valid": torch.ones(len(indices), 8, dtype=torch.bool),
            "caption": [f"they {words[kind]}" for kind in kinds],
        }


def test_a_matcher_finds_what_belongs_together() -> None:
    matcher = train_matcher(Toy(), 12, steps=40, batch=32, lr=3e-3)
    shown = Toy().get(range(64))
    found = r_precision(matcher.of_texts(shown["caption"]), matcher.of_motions(shown["x"], shown["valid"]), draw())
    assert found[0] > 0.9


@torch.no_grad()
def test_a_matcher_reads_no_frame_that_does_not_count_and_no_contacts() -> None:
    torch.manual_seed(0)
    matcher, x = Matcher(12), torch.randn(2, 10, 12)
    valid = torch.arange(10) < torch.tensor([[10], [6]])
    other = torch.where(valid[..., None], x, 9.0)
    other[..., -4:] = 5.0
    torch.testing.assert_close(matcher.of_motions(x, valid), matcher.of_motions(other, valid))
    assert matcher.of_motions(x, valid).norm(dim=-1).tolist() == pytest.approx([1, 1])
