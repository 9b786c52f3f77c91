"""Randomness is a function of (seed, stream, sample, step, part) and of nothing else."""

from __future__ import annotations

import torch

from core.random import SamplingRNG, Stream, network_seed, normal, permutation, uniform


def test_sample_does_not_change_with_batch_or_order() -> None:
    whole = normal(3, range(10), Stream.START, 5, (4, 4))
    assert torch.equal(whole[7:9], normal(3, [7, 8], Stream.START, 5, (4, 4)))
    assert torch.equal(whole[[4, 2]], normal(3, [4, 2], Stream.START, 5, (4, 4)))


def test_every_coordinate_matters() -> None:
    base = dict(seed=1, samples=[2], stream=Stream.STEP, step=3, shape=(8,), part=4)
    one = normal(**base)
    for name, value in {"seed": 9, "samples": [9], "stream": Stream.NOISE, "step": 9, "part": 9}.items():
        assert not torch.equal(one, normal(**{**base, name: value}))


def test_moments_and_independence() -> None:
    values = normal(0, range(4000), Stream.NOISE, 0, (16,))
    assert abs(values.mean().item()) < 4 / 4000**0.5 / 4
    assert (torch.cov(values.T) - torch.eye(16)).abs().max() < 0.1
    assert abs(uniform(0, range(20000), Stream.TIME, 0).mean().item() - 0.5) < 4 * (1 / 12 / 20000) ** 0.5


def test_permutation_is_a_permutation_that_changes_with_the_epoch() -> None:
    first, second = permutation(0, 0, 100), permutation(0, 1, 100)
    assert sorted(first) == list(range(100))
    assert (first != second).any()
    assert (first == permutation(0, 0, 100)).all()


def test_network_seeds_differ() -> None:
    assert len({network_seed(0, step, rank) for step in range(50) for rank in range(2)}) == 100


def test_brownian_path_has_brownian_increments() -> None:
    like = torch.zeros(3000, 2, dtype=torch.float64)
    noise = SamplingRNG(0, range(3000))
    first = noise.brownian(like, 0.9, 0.3)
    second = noise.brownian(like, 0.3, 0.05)
    for part in (first, second):
        assert abs(part.var().item() - 1) < 0.08
    assert abs((first * second).mean().item()) < 4 / 6000**0.5


def test_brownian_path_is_one_path_for_every_grid() -> None:
    like = torch.zeros(3, 5, dtype=torch.float64)
    whole = SamplingRNG(0, range(3)).brownian(like, 0.8, 0.2) * 0.6**0.5
    fine = SamplingRNG(0, range(3))
    parts = fine.brownian(like, 0.8, 0.47) * 0.33**0.5 + fine.brownian(like, 0.47, 0.2) * 0.27**0.5
    assert torch.allclose(whole, parts, atol=1e-12)
    assert torch.equal(whole[1:2], SamplingRNG(0, [1]).brownian(like[:1], 0.8, 0.2) * 0.6**0.5)
