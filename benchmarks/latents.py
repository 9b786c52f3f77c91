"""Training on latents that are encoded once beside encoding at each step: seconds a step, in one process, by turns.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/latents.py [tiny disk small] [--rounds 7] [--steps 6]

The cases are ``image.ldm`` tiny on its captioned digits with latents in memory (tiny) and on the disk (disk), and small
on captioned pictures of 64 x 64 that are PNG files (small). Both runs of a case have the same weights and batches. In
each round both make some steps, in an order that turns, without what a run writes; the ratio is the median over the
rounds of encoding at each step / once. The first pass is timed apart. The unit is processor time, without a GPU.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
from accelerate import Accelerator
from torch import Tensor

from core.autoencoder import KLAutoencoder
from core.cache.latents import encoded_once
from core.data.order import BatchSharding, OrderedDataset
from core.media.sheet import picture
from core.recipe import Recipe, build
from core.train.loop import steps
from core.train.monitor import StepResult
from core.train.precision import Precision
from core.train.state import prepare
from image.captions import captioned_digits
from image.source import resized

PICTURES = 512  # of the case small
MEMORY = {"tiny": 2**32, "disk": 0, "small": 2**32}


def tiny(folder: Path) -> Recipe:
    """The captioned digits of ``image.ldm`` tiny; few of them, for they are drawn before the first step."""
    return build("image.recipes.ldm.tiny", {"count": 2048})


def small(folder: Path) -> Recipe:
    """``image.ldm`` small in a tenth of its width, on PNG files of 64 x 64 with captions beside them."""
    train, _ = captioned_digits(PICTURES)
    for index in range(PICTURES):
        [x], [caption] = (train.get([index])[name] for name in ("x", "caption"))
        picture(resized(x, (64, 64), 3)[0]).save(folder / f"{index:04d}.png")
        (folder / f"{index:04d}.txt").write_text(caption)
    made = build("image.recipes.ldm.small", {"data": str(folder), "size": 64})
    return replace(made, training=replace(made.training, batch=16))


CASES: dict[str, Callable[[Path], Recipe]] = {"tiny": tiny, "disk": tiny, "small": small}


def run(recipe: Recipe, folder: Path, memory: int, once: bool) -> tuple[Iterator[StepResult], float]:
    """The steps of a run without end, and the seconds of the first pass."""
    # Half precision would measure how slowly a processor without it does without it.
    precision = recipe.training.precision if torch.accelerator.is_available() else Precision.NO
    training = replace(recipe.training, steps=2**31, seconds=None, processes=1, precision=precision)
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    state = prepare(recipe, accelerator)  # an autoencoder as it begins costs the same as a trained one
    data, _ = recipe.data()
    started = time.process_time()
    if once:
        data = encoded_once(data, state.system.codec, training.augment, accelerator.device, folder, memory)
    spent = time.process_time() - started
    return steps(
        training, state, accelerator, OrderedDataset(data, 0, training.augment), BatchSharding(training.batch)
    ), spent


def timed(steps_of_run: Iterator[StepResult], count: int) -> float:
    """Seconds a step."""
    started = time.process_time()
    for _ in range(count):
        float(next(steps_of_run).loss)
    return (time.process_time() - started) / count


def measure(name: str, rounds: int, count: int) -> str:
    """A line of the report."""
    calls = [0]
    moments = KLAutoencoder.moments

    def counted(self: KLAutoencoder, x: Tensor) -> Tensor:
        calls[0] += len(x)
        return moments(self, x)

    with tempfile.TemporaryDirectory() as drafts:
        folder = Path(drafts)
        recipe = CASES[name](folder)
        each, _ = run(recipe, folder, 0, once=False)
        once, first = run(recipe, folder / "latents", MEMORY[name], once=True)
        runs, seconds = [each, once], {0: [], 1: []}  # type: tuple[list[Iterator[StepResult]], dict[int, list[float]]]
        losses = [float(next(one).loss) for one in runs]
        for turn in range(rounds):
            for which in (0, 1) if turn % 2 else (1, 0):
                seconds[which].append(timed(runs[which], count))
        with mock.patch.object(KLAutoencoder, "moments", counted):
            next(once)
    ratio = statistics.median(one / other for one, other in zip(seconds[0], seconds[1], strict=True))
    return (
        f"{name:6} each step {statistics.median(seconds[0]):.4f} s, once {statistics.median(seconds[1]):.4f} s a step, "
        f"ratio {ratio:.2f}; first pass {first:.1f} s; encoder called on {calls[0]} pictures after it; "
        f"first losses {losses[0]:.6f} and {losses[1]:.6f}"
    )


def main() -> None:
    """Measure the cases asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=["tiny", "disk", "small"], choices=sorted(CASES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=6, help="in each round, of each")
    options = parser.parse_args()
    for name in options.cases:
        print(measure(name, options.rounds, options.steps), flush=True)


if __name__ == "__main__":
    main()
