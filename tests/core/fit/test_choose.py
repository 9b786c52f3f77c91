"""The size that is chosen: closed-form optima of the law, and what time, memory, steps and batches leave of them."""

from __future__ import annotations

import itertools
import math

import pytest

from core.fit.choose import BASE, BATCHES, MEMORY, REPEATS, STEPS, Choice, batch_for, choose, useful
from core.fit.cost import Cost
from core.sizes import COST, Law

LAW = Law(0.34, 0.28, 3.0)
PLENTY = 10**15  # examples, or bytes
DENSE = [int(10 ** (3 + index / 40)) for index in range(240)]  # parameters; each is 1.06 times the one before


def costs(seconds: float = 1e-9, step: float = 0.0, sample_memory: int = 2**10) -> list[Cost]:
    """Networks whose cost is proportional to their parameters."""
    return [Cost(count, step, seconds * count, 20 * count, sample_memory) for count in DENSE]


@pytest.mark.parametrize("law", [LAW, Law(0.3, 0.3, 0.66), Law(0.2, 0.5, 40.0)])
@pytest.mark.parametrize("time", [60.0, 900.0, 4_000.0])
@pytest.mark.parametrize("processes", [1, 4])
def test_the_size_is_the_closed_form_optimum(law: Law, time: float, processes: int) -> None:
    """With S = n T / (k P) samples, P^-x + (r / S)^y is least at P = (x / y)^(1 / (x + y)) (n T / (r k))^(y / (x + y)).

    The law's grid of sizes is fine, so that the choice lies within a size of it.
    """
    x, y, r, k = law.parameters, law.samples, law.ratio, 1e-9
    best = (x / y) ** (1 / (x + y)) * (processes * time / (r * k)) ** (y / (x + y))
    assert DENSE[2] < best < DENSE[-3]
    found = choose(costs(k), law, PLENTY, PLENTY, processes, time)
    assert 1 / 1.07 < DENSE[found.index] / best < 1.07
    samples = processes * time / (k * DENSE[found.index])
    assert found.samples == pytest.approx(samples, rel=0.01) and found.samples == found.steps * found.batch


def test_more_time_never_chooses_a_smaller_network() -> None:
    chosen = [choose(costs(step=1e-3), LAW, PLENTY, PLENTY, 2, time).index for time in (10, 60, 600, 3600, 36_000)]
    assert chosen == sorted(chosen) and chosen[0] < chosen[-1]


def test_repeated_samples_are_worth_less() -> None:
    assert useful(10, 1000) == pytest.approx(10, rel=1e-3)
    assert useful(1e12, 1000) == pytest.approx(1000 * REPEATS)
    assert useful(1000 * REPEATS, 1000) == pytest.approx(1000 * REPEATS * (1 - 1 / math.e))
    worth = [useful(10**power, 40) for power in range(8)]
    assert worth == sorted(worth)


def test_batches_grow_when_steps_are_enough() -> None:
    assert batch_for(0) == batch_for(16 * STEPS - 1) == 8
    assert batch_for(16 * STEPS) == 16
    assert batch_for(1e12) == BATCHES[-1]


def need(choice: Choice, processes: int) -> int:
    return choice.bytes * processes


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 6, 16])
@pytest.mark.parametrize(("time", "steps"), [(5.0, None), (600.0, None), (600.0, 4000), (None, 4000)])
@pytest.mark.parametrize("sample_memory", [2**12, 2**24, 2**28])
def test_memory_is_never_exceeded_and_less_of_it_chooses_less(
    processes: int, time: float | None, steps: int | None, sample_memory: int
) -> None:
    """Halving memory until nothing fits: a network, or its batch, only ever becomes smaller."""
    memory, before = 2**38, math.inf
    family = costs(sample_memory=sample_memory)
    for _ in range(12):
        try:
            found = choose(family, LAW, 50_000, memory, processes, time, steps)
        except ValueError as error:
            assert "GiB of memory" in str(error)
            smallest = processes * (BASE + family[0].bytes(-(-BATCHES[0] // processes)))
            assert smallest > MEMORY * memory
            break
        assert need(found, processes) <= MEMORY * memory
        assert need(found, processes) <= before
        assert found.batch % processes == 0
        before, memory = need(found, processes), memory // 2
    else:
        raise AssertionError("nothing was ever too large")


def test_half_the_memory_takes_another_choice_where_it_was_what_decided() -> None:
    family = [Cost(count, 0.0, 1e-9 * count, 20 * count, 40 * count) for count in DENSE]
    free = choose(family, LAW, PLENTY, PLENTY, 1, 3600.0)
    memory = int(need(free, 1) / MEMORY) + 1
    assert choose(family, LAW, PLENTY, memory, 1, 3600.0) == free
    less = choose(family, LAW, PLENTY, memory // 2, 1, 3600.0)
    assert (less.index, less.batch) != (free.index, free.batch) and less.bytes < free.bytes


@pytest.mark.parametrize("processes", [1, 2, 3, 5, 6, 7, 12, 24, 96])
def test_any_number_of_processes_shares_a_batch(processes: int) -> None:
    for time in (1.0, 600.0, 36_000.0):
        found = choose(costs(step=1e-3), LAW, 50_000, PLENTY, processes, time)
        assert found.batch % processes == 0 and found.batch >= BATCHES[0]


def test_steps_decide_where_they_are_given() -> None:
    family = costs()
    for steps in (3, 1000, 20_000):
        found = choose(family, LAW, PLENTY, PLENTY, 1, steps=steps)
        assert found.steps == steps and found.samples == steps * found.batch
    with_time = choose(family, LAW, PLENTY, PLENTY, 1, 600.0, 20)
    assert with_time.steps == 20  # what ends first
    by_time = choose(family[-1:], LAW, PLENTY, PLENTY, 1, 100.0, 10**9)
    assert by_time.steps == int(100.0 / family[-1].seconds(by_time.batch))


def test_steps_alone_take_the_size_that_their_time_would_have_had() -> None:
    """Where a sample costs P^COST, the best size for a time is the largest that its samples are enough for."""
    family = [Cost(count, 0.0, 1e-8 * count**COST, 20 * count, 2**10) for count in DENSE]
    sizes = []
    for time in (60.0, 900.0, 14_400.0):
        timed = choose(family, LAW, PLENTY, PLENTY, 1, time, batch=64)
        stepped = choose(family, LAW, PLENTY, PLENTY, 1, steps=timed.steps, batch=64)
        assert abs(stepped.index - timed.index) <= 1
        sizes.append(DENSE[stepped.index])
    assert DENSE[0] < sizes[0] < sizes[1] < sizes[2] < DENSE[-1]


@pytest.mark.parametrize(("batch", "processes"), itertools.product([4, 24, 1024], [1, 2]))
def test_a_batch_that_is_given_is_kept(batch: int, processes: int) -> None:
    found = choose(costs(), LAW, PLENTY, PLENTY, processes, 60.0, batch=batch)
    assert found.batch == batch and found.samples == batch * found.steps


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="a time or a number of steps"):
        choose(costs(), LAW, 100, PLENTY, 1)
    with pytest.raises(ValueError, match="3 processes cannot share a batch of 4"):
        choose(costs(), LAW, 100, PLENTY, 3, 60.0, batch=4)
    with pytest.raises(ValueError, match=r"the smallest network needs 0\.4 GiB of memory and there are 0\.1"):
        choose(costs(), LAW, 100, 2**27, 1, 60.0)
    huge = [Cost(1000, 0.0, 1e-6, 0, 2**30)]
    with pytest.raises(ValueError, match=r"needs 80\.\d GiB"):  # of the batch that was asked for
        choose(huge, LAW, 100, 2**33, 1, 60.0, batch=64)
