"""`langevin train`: train a recipe; the same command goes on with a run that was stopped."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from app.options import Flag, flags_of, flags_of_function, read, typed
from app.processes import PARENT, side_by_side
from app.stopping import end_with
from core.flags import option
from core.registry import find, modalities, parameters, systems

if TYPE_CHECKING:
    from core.finetune import Beginning
    from core.recipe import Recipe
    from core.train.run import Run

ABOUT = """Train a recipe. Its data are read, checkpoints and sample sheets written to a folder; started again with the
same settings, a run that was stopped or killed goes on as if nothing had happened.

Example:
  langevin train edm --preset tiny --out runs/edm-tiny

With --from a trained model is fine-tuned on other data, or a LoRA on it; its recipe may be left out.
  langevin train --from runs/edm-tiny --data pictures
  langevin train --from runs/ldm-tiny --data pictures --lora 8

On several machines: torchrun --nnodes ... -m app.main -- train ..."""


OWN = "own"  # the preset that is fitted to data, machine and time
FROM = Flag("from", Path, None, "fine-tune a checkpoint, the newest of a run's folder, or a published folder")
LORA = Flag("lora", int, None, "with --from: train a LoRA of this rank, and leave the model as it is", "RANK")


@dataclass(frozen=True)
class Options:
    """What `langevin train` takes besides the recipe's own options."""

    preset: str | None = option(
        None, "preset of the recipe: own, tiny, small, paper (default: own with --data, or tiny)"
    )
    time: str | None = option(
        None, "wall-clock time for everything, evaluation included, of the preset own: 90s, 15m, 1h30m", "TIME"
    )
    dry_run: bool = option(False, "say what the preset own would choose and when it would end, and stop")
    out: Path | None = option(None, "the run's folder (default: runs/RECIPE-PRESET)")
    seed: int = option(0, "seed of data order, noise and initial weights")
    seconds: float | None = option(None, "end after so many seconds of processor time, the learning rate at its end")
    precision: str | None = option(
        None,
        "mixed precision: no, bf16, fp16, or auto: bf16 where the device has it (default: the preset's)",
    )
    processes: int | None = option(
        None, "processes on this machine that share each batch: one a GPU, or a core (default: the preset's, on cores)"
    )
    threads: int | None = option(None, "threads of the processor in each process (default: the preset's, or torch's)")
    workers: int = option(0, "processes that read data ahead")
    log: int = option(50, "steps between two lines of the log; 0 is never, as below")
    save: int = option(1000, "steps between two checkpoints")
    hold_out: int = option(1000, "steps between two measurements of the held-out loss")
    show: int = option(1000, "steps between two sheets of samples")
    keep: int = option(2, "how many checkpoints to keep; 0 keeps all")
    memory: float = option(4.0, "GiB of latents that each process may keep in memory; more lie in the run's folder")
    tensorboard: bool = option(False, "also write TensorBoard's files")
    cpu: bool = option(False, "stay on the CPU even if there is an accelerator")


def main(words: Sequence[str], system: str | None = None) -> None:
    """Read the options, train, say where the checkpoint lies."""
    own_words = ["train", *([] if system is None else [system]), *words]
    if system is None and words and not words[0].startswith("-"):
        system, words = words[0], words[1:]
    begun = _begun(system, words)
    if system is None and begun is None:
        _explain(words)
        return
    from core.recipe import build
    from core.train.loop import train

    preset = _preset_in(words, system)
    name, function = find(system or "", preset) if begun is None else (begun.name, begun.function)
    program = "langevin train" if system is None else f"langevin train {system}"
    about = f"{ABOUT}\n\nThis preset: {(function.__doc__ or '').strip().splitlines()[0]}"
    every = flags_of_function(function, parameters())
    if begun is not None:
        every = [flag._replace(default=begun.arguments.get(flag.name, flag.default)) for flag in every]
    shared = [*flags_of(Options), FROM, LORA]
    own = [flag for flag in every if flag.name not in {f.name for f in shared}]
    values = read(program, about, [], [*shared, *own], words)
    options = Options(**{flag.name: values[flag.name] for flag in flags_of(Options)})
    if PARENT in os.environ:
        end_with(int(os.environ.pop(PARENT)))
    usual = f"{(system or '').replace('.', '-')}-{preset}" if begun is None else begun.label
    folder = options.out or Path("runs") / usual
    arguments = {flag.name: values[flag.name] for flag in own}
    given = {flag.name: arguments[flag.name] for flag in own if typed(flag.name, words) is not None}
    # A preset own that takes a model fine-tunes it, and has nothing to fit.
    if preset == OWN and begun is None and "model" not in arguments:
        from app.own import Asked, train_own

        asked = Asked(name, given, folder, options.time, options.dry_run, options.processes, options.cpu)
        path = train_own(
            own_words, asked, lambda recipe: with_settings(recipe, options), lambda place: run_of(place, options)
        )
        if path is None:
            return
    elif begun is not None and (options.time is not None or options.dry_run):
        raise ValueError("--time and --dry-run do not fine-tune: give --steps or --seconds with --from")
    elif options.time is not None or options.dry_run:
        raise ValueError("--time and --dry-run are for the preset own: leave them out, or give --data and no --preset")
    else:
        if begun is None:
            made = build(name, arguments)
        else:
            say = print if os.environ.get("RANK", "0") == "0" else lambda sentence: None
            made = begun.recipe(given, say)
        recipe = with_settings(made, options)
        if "RANK" not in os.environ and (processes := processes_for(recipe, options)) > 1:
            if status := side_by_side(own_words, processes):
                raise SystemExit(status)
            return
        path = train(recipe, run_of(folder, options))
    print(path)
    suffix = modalities()[name.split(".")[0]].suffixes[0]
    print(f"Next: langevin sample {folder} --out {folder}/samples{suffix}")


def with_settings(recipe: Recipe, options: Options) -> Recipe:
    """The recipe with what the command line says of its training."""
    if options.seconds is not None and not options.seconds > 0:
        raise ValueError(f"--seconds must be above zero, not {options.seconds:g}")
    from core.train.precision import Precision

    if options.precision not in (None, *(each.value for each in Precision)):
        raise ValueError(f"--precision is no, bf16, fp16 or auto, not '{options.precision}'")
    seconds = recipe.training.seconds if options.seconds is None else options.seconds
    if min(1 if count is None else count for count in (options.processes, options.threads)) < 1:
        raise ValueError("--processes and --threads must be at least 1")
    precision = recipe.training.precision if options.precision is None else Precision(options.precision)
    threads = recipe.training.threads if options.threads is None else options.threads
    training = dataclasses.replace(
        recipe.training, seed=options.seed, seconds=seconds, precision=precision, threads=threads
    )
    return dataclasses.replace(recipe, training=training)


def processes_for(recipe: Recipe, options: Options) -> int:
    """How many processes share each batch: as asked, or the recipe's number where it has cores for them."""
    import torch

    if options.processes is not None:
        return options.processes
    count = min(recipe.training.processes, os.cpu_count() or 1)
    on_cores = options.cpu or not torch.accelerator.is_available()
    return count if on_cores and recipe.training.batch % (count * recipe.training.parts) == 0 else 1


def run_of(folder: Path, options: Options) -> Run:
    """The run that the options describe."""
    for name in ("workers", "log", "save", "hold_out", "show", "keep", "memory"):
        if getattr(options, name) < 0:
            raise ValueError(f"--{name.replace('_', '-')} must not be negative")
    from core.train.run import Run

    return Run(
        folder,
        workers=options.workers,
        log_every=options.log,
        save_every=options.save,
        validate_every=options.hold_out,
        sample_every=options.show,
        keep=options.keep or None,
        tensorboard=options.tensorboard,
        cpu=options.cpu,
        memory=int(options.memory * 2**30),
    )


def _begun(system: str | None, words: Sequence[str]) -> Beginning | None:
    """How the model of --from is fine-tuned; None without it. Raises ValueError where that cannot be."""
    path, rank = typed("from", words), typed("lora", words)
    if path is None:
        if rank is not None:
            raise ValueError("--lora is for a trained model: give it with --from")
        return None
    if rank is not None and not rank.isdecimal():
        raise ValueError(f"--lora is the rank, a whole number, not '{rank}'")
    from core.finetune import beginning

    preset, other_data = typed("preset", words), typed("data", words) is not None
    return beginning(Path(path), system, preset, None if rank is None else int(rank), other_data)


def _preset_in(words: Sequence[str], system: str | None) -> str:
    """The preset that the words ask for; without one it is own where data are given and the recipe has it."""
    preset = typed("preset", words)
    if preset is not None:
        return preset
    short = {name.split(".")[-1]: outline for name, outline in systems().items()}
    outline = (short | systems()).get(system or "")
    return OWN if typed("data", words) is not None and outline is not None and OWN in outline.presets else "tiny"


def _explain(words: Sequence[str]) -> None:
    if "--help" in words or "-h" in words:
        print(f"usage: langevin train RECIPE [options]\n\n{ABOUT}\n\n`langevin list` shows the recipes;")
        print("`langevin train RECIPE --preset PRESET --help` shows every option of one.")
        return
    raise ValueError("say which recipe to train; `langevin list` shows them")
