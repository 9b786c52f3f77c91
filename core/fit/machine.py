"""The cores, memory and accelerators that this process may use, containers and limits included."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Machine:
    """What there is to train with."""

    cores: int
    memory: int  # bytes of main memory
    devices: int = 0  # accelerators
    device: str = "cpu"
    device_memory: int = 0  # bytes of each

    def __str__(self) -> str:
        cores = f"{self.cores} core" + "s" * (self.cores != 1)
        main = f"{cores}, {self.memory / 2**30:.1f} GiB of memory"
        if not self.devices:
            return main
        return f"{self.devices} x {self.device} with {self.device_memory / 2**30:.0f} GiB, {main}"


def this_machine(cpu: bool = False) -> Machine:
    """What this process may use. cpu: leave accelerators out."""
    import torch

    cores, memory = usable_cores(), usable_memory()
    if cpu or not torch.accelerator.is_available():
        return Machine(cores, memory)
    kind = str(torch.accelerator.current_accelerator())
    size = torch.cuda.get_device_properties(0).total_memory if kind.startswith("cuda") else memory
    return Machine(cores, memory, torch.accelerator.device_count(), kind, size)


def usable_cores(groups: Path = CGROUPS, process: Path = Path("/proc/self")) -> int:
    """The cores that this process may run on at once: by affinity, and by the quotas of its control groups."""
    allowed = float(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else float(os.cpu_count() or 1)
    for folder in _groups(groups, process):
        quota = _numbers(folder / "cpu.max") or [
            *_numbers(folder / "cpu.cfs_quota_us"),
            *_numbers(folder / "cpu.cfs_period_us"),
        ]
        if len(quota) == 2 and 0 < quota[0] < math.inf:
            allowed = min(allowed, quota[0] / quota[1])
    return max(1, math.floor(allowed + 0.1))


def usable_memory(groups: Path = CGROUPS, process: Path = Path("/proc/self")) -> int:
    """Bytes that this process and its children may take: what is free, within control groups and resource limits."""
    limits = [_free(Path("/proc/meminfo")), *_resource_limits(process)]
    for folder in _groups(groups, process):
        for most, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            found, now = _numbers(folder / most), _numbers(folder / used)
            # Caches of files count as used, and are given back when memory is asked for.
            cached = _field(folder / "memory.stat", "inactive_file")
            limits += [found[0] - max(0.0, now[0] - cached)] if found and now else []
    return int(max(0.0, min(limits)))


def _groups(groups: Path, process: Path) -> Iterator[Path]:
    """The folders of the control groups of a process and of all groups above them."""
    try:
        lines = (process / "cgroup").read_text().splitlines()
    except OSError:
        lines = []
    yield groups
    for line in lines:
        _, controllers, name = line.split(":", 2)
        for root in (groups, groups / controllers):
            folder = root
            yield folder
            for part in Path(name).parts[1:]:
                folder = folder / part
                yield folder


def _numbers(path: Path) -> list[float]:
    """The numbers in a small file, "max" as infinity; none where there is no such file."""
    try:
        words = path.read_text().split()
    except OSError:
        return []
    return [math.inf if word == "max" else float(word) for word in words]


def _field(path: Path, name: str) -> float:
    try:
        rows = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return 0.0
    return next((float(row[1]) for row in rows if row[0] == name), 0.0)


def _free(path: Path) -> float:
    """Free memory, and what the system would free if it were asked."""
    kilobytes = _field(path, "MemAvailable:")
    if kilobytes:
        return kilobytes * 1024
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError):
        return math.inf


def _resource_limits(process: Path) -> list[float]:
    """What the limits of this process leave: of its address space, and of its data."""
    import resource

    pages = _numbers(process / "statm")
    found = []
    for limit, used in ((resource.RLIMIT_AS, 0), (resource.RLIMIT_DATA, 5)):
        soft = resource.getrlimit(limit)[0]
        if soft != resource.RLIM_INFINITY:
            found.append(float(soft) - (pages[used] * resource.getpagesize() if pages else 0.0))
    return found
