"""R-precision over a pool is the mean over all draws of the other captions."""

from __future__ import annotations

import itertools

import pytest
import torch

from core.evaluation.retrieval import chance, r_precision


def draw(count: int, seed: int) -> torch.Tensor:
    found = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(found, dim=-1)


def test_it_is_the_mean_over_every_draw_of_the_others() -> None:
    pool, texts, seen = list("abcdef"), draw(6, 0), draw(3, 1)
    captions, hits = ["a", "d", "d"], []
    for row, caption in enumerate(captions):
        own = pool.index(caption)
        scores = seen[row] @ texts.T
        others = [place for place in range(6) if place != own]
        for drawn in itertools.combinations(others, 3):
            hits.append(sum(bool(scores[place] > scores[own]) for place in drawn) < 2)
    found = r_precision(seen, captions, pool, texts, top=2, of=4)
    assert found.value == pytest.approx(sum(hits) / len(hits), rel=1e-12)
    assert 0 < found.value < 1


def test_knowledge_is_1_and_its_absence_is_chance() -> None:
    texts = torch.eye(40)
    pool = [f"caption {number}" for number in range(40)]
    assert r_precision(texts, pool, pool, texts).value == 1
    blind = r_precision(draw(4000, 2), [pool[row % 40] for row in range(4000)], pool, draw(40, 3))
    assert blind.low - 0.02 < chance(40) < blind.high + 0.02
    assert chance(40) == 3 / 32 and chance(4) == 3 / 4 and chance(2) == 1
