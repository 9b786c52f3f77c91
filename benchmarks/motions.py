"""A trained text-to-motion model in numbers, as markdown tables.

    OMP_NUM_THREADS=1 python benchmarks/motions.py runs/mdm --parts samplers thousand between joins --count 256

samplers   FID, R-precision, MM-Dist and skating of eight samplers against the number of function evaluations
thousand   ten evaluations against ancestral sampling in 1,000 steps
between    gaps of two seconds in held-out clips: how far joints are off at the seams, and accelerations
joins      three prompts in ten seconds: how far joints go in a frame, and accelerations, at the joins and elsewhere

A function evaluation asks the guided model once, which with guidance are two passes of the network. The matcher that
judges is trained once, about two minutes of one core. Sampling is batched, so figures do not depend on the batch.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor

from core.denoiser import Bound, Estimate
from core.evaluation.interval import ConfidenceInterval
from core.evaluation.options import Evaluate, EvaluationOptions
from core.model import Model
from core.random import SamplingRNG
from core.recipe import build, load
from core.sample import SAMPLERS
from core.sample.step import run
from core.schedule import Schedule
from core.systems.sampling import Sampling
from core.train.state import newest
from motion.changing import OVERLAP, timed
from motion.compose import segments, sequence
from motion.editing import gap_constraint, gap_mask, inpaint_clips
from motion.features import decode
from motion.generator import normal_of
from motion.skeleton import HUMAN

Judge = Callable[[], Evaluate]  # trained when it is first asked for

EIGHT = ("euler", "dpmpp_2m", "unipc", "deis", "heun", "dpmpp_2s", "dpmpp_sde", "ddpm")
FIGURES = ("FID", "R-precision top 3", "MM-Dist", "foot skating (share of frames)")
CLIP, FIRST, LAST = 80, 20, 60  # frames of a clip, and of the gap in it
PROMPTS = (
    "a person walks forward; a person waves the left hand; a person sits down",
    "a person runs forward; a person jumps high; a person bows",
    "a person kicks with the right leg; a person walks forward; a person waves the right hand",
    "a person waves the right hand; a person turns left; a person walks forward",
)
SECONDS = (3.4, 3.4, 3.2)


def steps_for(sampling: Sampling, schedule: Schedule, evaluations: int) -> int:
    """The most steps of a sampler that ask the model no more than so often, found by walking with nothing inside."""
    asked: list[float] = []

    def estimate(x: Tensor, t: Tensor) -> Estimate:
        asked.append(float(t))
        return Estimate(torch.zeros_like(x))

    best = 0
    for steps in range(1, evaluations + 1):
        asked.clear()
        times = sampling.grid(schedule, steps)
        run(sampling.sampler(Bound(schedule, estimate), torch.zeros(1, 1), times, SamplingRNG(0, [0])))
        if len(asked) > evaluations:
            break
        best = steps
    return best


def samples(loaded: Model, method: Sampling, count: int, batch: int) -> Tensor:
    """Samples 0 to ``count`` of seed 0, of what the recipe asks for."""
    parts = [range(first, min(first + batch, count)) for first in range(0, count, batch)]
    return torch.cat([loaded.draw(0, part, method) for part in parts])


def evaluated(loaded: Model, judge: Judge, method: Sampling, count: int, batch: int) -> dict[str, object]:
    """The figures of a way to sample, and its seconds."""
    started = time.perf_counter()
    made = samples(loaded, method, count, batch)
    seconds = time.perf_counter() - started
    return dict(judge()(made, loaded.prompts.default(0, range(count)))) | {"seconds": round(seconds, 1)}


def row(*cells: object) -> None:
    """A row of a table, printed at once."""
    print("| " + " | ".join(text(cell) for cell in cells) + " |", flush=True)


def head(*cells: str) -> None:
    """The head of a new table."""
    print()
    row(*cells)
    row(*["---"] * len(cells))


def text(cell: object) -> str:
    """A cell as a person reads it."""
    value = cell.value if isinstance(cell, ConfidenceInterval) else cell
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def real_row(figures: dict[str, object], *before: str) -> None:
    """What real motions get."""
    row(*before, *(figures[f"{name}, real"] for name in FIGURES), "")


def samplers(loaded: Model, judge: Judge, options: argparse.Namespace) -> None:
    """Quality against function evaluations."""
    head("sampler", "evaluations", "steps", *FIGURES, "seconds")
    for place, name in enumerate(options.samplers):
        for evaluations in options.evaluations:
            method = dataclasses.replace(loaded.sampling, sampler=SAMPLERS[name].sampler)
            steps = steps_for(method, loaded.diffusion.denoiser.schedule, evaluations)
            if steps < 1:
                continue
            method = dataclasses.replace(method, steps=steps)
            figures = evaluated(loaded, judge, method, options.count, options.batch)
            if place == 0 and evaluations == options.evaluations[0]:
                real_row(figures, "real motions", "", "")
            row(name, evaluations, steps, *(figures[key] for key in FIGURES), figures["seconds"])


def thousand(loaded: Model, judge: Judge, options: argparse.Namespace) -> None:
    """Ten evaluations against all the steps of ancestral sampling."""
    head("sampler", "evaluations", *FIGURES, "seconds")
    found = []
    for name, steps in ((options.fast, 10), ("ddpm", options.full)):
        method = dataclasses.replace(loaded.sampling, sampler=SAMPLERS[name].sampler)
        few = steps_for(method, loaded.diffusion.denoiser.schedule, steps) if steps == 10 else steps
        method = dataclasses.replace(method, steps=few)
        found.append(evaluated(loaded, judge, method, options.count, options.batch))
        row(name, steps, *(found[-1][key] for key in FIGURES), found[-1]["seconds"])
    ratios = [number(found[0][key]) / number(found[1][key]) if number(found[1][key]) else 0.0 for key in FIGURES]
    row("first / second", "", *ratios, "")
    real_row(found[0], "real motions", "")


def number(value: object) -> float:
    """A figure without its interval."""
    return value.value if isinstance(value, ConfidenceInterval) else float(str(value))


def moves(joints: Tensor, order: int) -> Tensor:
    """(B, T, J, 3) -> (B, T - order): the largest change of any joint, metres a frame, or its second difference."""
    return joints.diff(n=order, dim=1).norm(dim=-1).amax(-1)


def clips(loaded: Model, count: int) -> tuple[Tensor, list[str]]:
    """Held-out clips of at least ``CLIP`` frames, cut to that (B, CLIP, D), and their captions."""
    held_out = build(loaded.name, loaded.metadata["arguments"]).data()[1]
    assert held_out is not None
    batch = held_out.get(range(min(len(held_out), 4 * count)))
    rows = [i for i, valid in enumerate(batch["valid"]) if int(valid.sum()) >= CLIP][:count]
    return batch["x"][rows, :CLIP], [batch["caption"][i] for i in rows]


def between(loaded: Model, _: Judge, options: argparse.Namespace) -> None:
    """Gaps of held-out clips, filled."""
    normal, method = normal_of(), loaded.sampling
    known, captions = clips(loaded, options.count)
    constraint = gap_constraint(normal, known, FIRST, LAST)
    made = inpaint_clips(
        loaded.diffusion,
        captions,
        known,
        gap_mask(CLIP, FIRST, LAST),
        SamplingRNG(0, range(len(known))),
        method,
        constraint,
    )
    found, truth = decode(normal.undo(made.float())), decode(normal.undo(known))
    away = 100 * (found - truth).norm(dim=-1).amax(-1)  # (B, T), centimetres
    seams = torch.cat([away[:, FIRST - 1 : FIRST], away[:, LAST : LAST + 1]], dim=1).amax(1)
    fps = HUMAN.fps
    head("in-betweening", "median", "95 %", "largest")
    spread("joints off at the kept frames by the seams, cm", seams)
    spread("joints off anywhere in kept frames, cm", torch.cat([away[:, :FIRST], away[:, LAST:]], dim=1).amax(1))
    spread("joints off in the first made frame, cm", away[:, FIRST])
    spread("joints off in the last made frame, cm", away[:, LAST - 1])
    spread("joints off in the middle of the gap, cm", away[:, (FIRST + LAST) // 2])
    second, real = fps**2 * moves(found, 2), fps**2 * moves(truth, 2)
    # Second difference t is of frames t to t + 2, so these two are all that a seam takes part in.
    at = torch.cat([second[:, FIRST - 2 : FIRST], second[:, LAST - 2 : LAST]], dim=1)
    spread("largest acceleration at the seams, m/s2", at.amax(1))
    spread("largest acceleration in the gap, m/s2", second[:, FIRST : LAST - 2].amax(1))
    spread("largest acceleration of the recordings, m/s2", real.amax(1))
    row("largest of all / largest real", "", "", float(second.max() / real.max()))
    row("clips", "", "", len(known))


def spread(name: str, values: Tensor) -> None:
    """A row of a figure over clips: its median, its upper twentieth, its largest."""
    row(name, *(float(values.double().quantile(share)) for share in (0.5, 0.95, 1.0)))


def joins(loaded: Model, _: Judge, options: argparse.Namespace) -> None:
    """Sequences of three prompts."""
    normal, fps = normal_of(), HUMAN.fps
    each = -(-options.count // len(PROMPTS))
    table: dict[str, list[Tensor]] = {"at the joins": [], "elsewhere": []}
    rates: dict[str, list[Tensor]] = {"at the joins": [], "elsewhere": []}
    for prompt in PROMPTS:
        script = timed(prompt, SECONDS, loaded.shape[0])
        made = sequence(loaded.diffusion, script, OVERLAP, SamplingRNG(0, range(each)), loaded.sampling)
        joints = decode(normal.undo(made.float()))
        inside = torch.zeros(joints.shape[1], dtype=torch.bool)
        for start, _weights in segments(script, OVERLAP)[1:]:
            inside[start - 2 : start + OVERLAP + 2] = True
        for order, into in ((1, table), (2, rates)):
            change = moves(joints, order) * fps**order
            near = inside[: change.shape[1]]
            into["at the joins"].append(change[:, near].amax(1))
            into["elsewhere"].append(change[:, ~near].amax(1))
    real, _captions = clips(loaded, options.count)
    truth = decode(normal.undo(real))
    head(f"{len(PROMPTS)} x {each} sequences of three prompts, {sum(SECONDS):g} s", "median", "95 %", "largest")
    for name, of, order, unit in (("largest speed", table, 1, "m/s"), ("largest acceleration", rates, 2, "m/s2")):
        for where, values in of.items():
            spread(f"{name} {where}, {unit}", torch.cat(values))
        spread(f"{name} of real clips, {unit}", moves(truth, order).amax(1) * fps**order)


Part = Callable[[Model, Judge, argparse.Namespace], None]
PARTS: dict[str, Part] = {"samplers": samplers, "thousand": thousand, "between": between, "joins": joins}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run's folder or a checkpoint")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--count", type=int, default=256, help="clips of each figure")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--samplers", nargs="+", choices=list(SAMPLERS), default=list(EIGHT))
    parser.add_argument("--evaluations", nargs="+", type=int, default=[5, 10, 20, 50])
    parser.add_argument(
        "--fast", choices=list(SAMPLERS), default="dpmpp_2m", help="the sampler compared with 1,000 steps"
    )
    parser.add_argument("--full", type=int, default=1000, help="the steps of ancestral sampling")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    loaded = load((newest(options.run) or options.run) if options.run.is_dir() else options.run)
    print(f"{loaded.name}, step {loaded.metadata['step']}, {options.count} clips")
    evaluate = loaded.evaluate
    if evaluate is None:
        raise SystemExit(f"{loaded.name} does not say how its samples are measured")
    judge = cache(partial(evaluate, EvaluationOptions()))
    for part in options.parts:
        PARTS[part](loaded, judge, options)


if __name__ == "__main__":
    main()
