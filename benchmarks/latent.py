"""Speed and memory beside diffusers: the same weights, steps and noise, in one process, guidance on.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/latent.py [unet mmdit flux vae pipeline] [--rounds 7]

On a CPU the unit is processor time, which other work on the machine hardly changes; on a GPU (``--device cuda``) it is
the time between two events. In each round every way is run once, in an order that turns; a ratio is the median over the
rounds of ours / theirs. Theirs is eager on a CPU; on a GPU compiled is measured beside theirs compiled as well. Memory
is the most that a process of its own holds while it loads and does the task twice, less what it held after its imports,
a median over as many processes; the C library is set to give back at once what is freed, for what it would keep
depends on luck, by a tenth.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from latent_cases import CASES, FINISHES, Task, compiled_by_torch, plain
from torch import Tensor

Result = dict[str, str | float]


def timed(task: Task, device: torch.device) -> float:
    """Seconds of one task."""
    if device.type != "cuda":
        started = time.process_time()
        task()
        return time.process_time() - started
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    task()
    last.record()
    torch.cuda.synchronize()
    return float(first.elapsed_time(last)) / 1000


def alternate(tasks: Mapping[str, Task], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of every task in every round; the order turns from round to round."""
    spent: dict[str, list[float]] = {name: [] for name in tasks}
    names = list(tasks)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            spent[name].append(timed(tasks[name], device))
    return spent


def ratio(ours: list[float], theirs: list[float]) -> float:
    """The median over the rounds."""
    return statistics.median(own / other for own, other in zip(ours, theirs))


def difference(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, in units of the largest value."""
    return float((found - wanted).abs().max() / wanted.abs().max())


def measure(name: str, folder: Path, rounds: int, device: torch.device) -> Result:
    """Times, ratios and differences of one case."""
    case = CASES[name]
    case.make(folder)
    tasks = {"theirs": case.theirs(folder, device, plain)}
    tasks |= {variant: case.ours(folder, device, finish) for variant, finish in FINISHES.items()}
    if device.type == "cuda":
        tasks["theirs compiled"] = case.theirs(folder, device, compiled_by_torch)
    wanted = tasks["theirs"]()
    result: Result = {"case": name}
    for variant, task in tasks.items():
        if variant in FINISHES:
            result[f"{variant} difference"] = difference(task(), wanted)
        task()  # compiles, and warms the allocator
    spent = alternate(tasks, rounds, device)
    result["theirs seconds"] = statistics.median(spent["theirs"])
    for variant in FINISHES:
        result[f"{variant} ratio"] = ratio(spent[variant], spent["theirs"])
    if device.type == "cuda":
        result["compiled to compiled ratio"] = ratio(spent["compiled"], spent["theirs compiled"])
    return result


def memory(name: str, whose: str, folder: Path, device: torch.device) -> float:
    """The most MiB that this process holds, above what its imports took, while it loads and does the task twice."""
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    task = CASES[name].theirs(folder, device, plain) if whose == "theirs" else CASES[name].ours(folder, device, plain)
    for _ in range(2):
        task()
    return torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else resident("VmHWM") - before


def resident(field: str) -> float:
    """A line of Linux's account of this process, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def in_its_own_process(name: str, whose: str, folder: Path, device: torch.device) -> float:
    """``memory`` where nothing else has been."""
    words = [sys.executable, __file__, name, "--memory-of", whose, "--folder", str(folder), "--device", str(device)]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**17)}  # also ends glibc's adapting of it
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout.splitlines()[-1])


def page(results: list[Result]) -> str:
    """The results as a table."""
    heads = ["task", "theirs, s", "eager", "compiled", "memory", "difference"]
    rows = [heads, ["---"] * len(heads)]
    for found in results:
        shown = [f"{found[key]:.2f}" for key in ("theirs seconds", "eager ratio", "compiled ratio")]
        memory_ratio = f"{float(found['ours MiB']) / float(found['theirs MiB']):.2f}"
        apart = max(float(found[f"{variant} difference"]) for variant in FINISHES)
        rows.append([CASES[str(found["case"])].title, *shown, memory_ratio, f"{apart:.0e}"])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=list(CASES), help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--memory-of", choices=["theirs", "ours"], help="only the memory of one case, in this process")
    parser.add_argument("--folder", type=Path, help="where --memory-of finds the case")
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    if options.memory_of:
        print(memory(options.cases[0], options.memory_of, options.folder, options.device))
        return
    results = []
    for name in options.cases:
        with tempfile.TemporaryDirectory() as place:
            found = measure(name, Path(place), options.rounds, options.device)
            spent = {
                whose: [in_its_own_process(name, whose, Path(place), options.device) for _ in range(options.rounds)]
                for whose in ("theirs", "ours")
            }
            found |= {f"{whose} MiB": statistics.median(each) for whose, each in spent.items()}
        results.append(found)
        print(json.dumps(found), flush=True)
    print(page(results))


if __name__ == "__main__":
    main()
