"""What a process may use, as files of the system, affinity and limits say it."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from core.fit import machine
from core.fit.machine import Machine, this_machine, usable_cores, usable_memory

GIB = 2**30


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    return tmp_path / "groups"


@pytest.fixture
def process(tmp_path: Path) -> Path:
    """The process of second-version groups /user and /user/job."""
    write(tmp_path / "process", {"cgroup": "0::/user/job"})
    return tmp_path / "process"


@pytest.fixture(autouse=True)
def _large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen cores, 64 GiB that are free, and no limits."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    monkeypatch.setattr(machine, "_free", lambda path: 64.0 * GIB)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def test_without_groups_and_limits_all_is_there(groups: Path, tmp_path: Path) -> None:
    assert usable_cores(groups, tmp_path / "nowhere") == 16
    assert usable_memory(groups, tmp_path / "nowhere") == 64 * GIB


def test_affinity_counts(groups: Path, process: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 9})
    assert usable_cores(groups, process) == 3
    write(groups, {"user/job/cpu.max": "800000 100000"})
    assert usable_cores(groups, process) == 3


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("400000 100000", 4),
        ("max 100000", 16),
        ("150000 100000", 1),
        ("195000 100000", 2),
        ("50000 100000", 1),
        ("100000 50000", 2),
    ],
)
@pytest.mark.parametrize("group", ["", "user", "user/job"])
def test_quotas_of_every_group_above_count(groups: Path, process: Path, group: str, quota: str, cores: int) -> None:
    write(groups, {f"{group}/cpu.max".lstrip("/"): quota})
    assert usable_cores(groups, process) == cores


def test_the_least_of_several_quotas_counts(groups: Path, process: Path) -> None:
    write(groups, {"user/cpu.max": "300000 100000", "user/job/cpu.max": "500000 100000"})
    write(groups, {"other/cpu.max": "100000 100000"})
    assert usable_cores(groups, process) == 3


@pytest.mark.parametrize(("quota", "cores"), [("250000", 2), ("-1", 16)])
@pytest.mark.parametrize("folder", ["cpu,cpuacct", "cpu,cpuacct/docker/1f"])
def test_quotas_of_first_version_groups(groups: Path, tmp_path: Path, folder: str, quota: str, cores: int) -> None:
    """A container sees its own group at the root, while its name is that outside."""
    write(tmp_path, {"cgroup": "5:memory:/docker/1f\n4:cpu,cpuacct:/docker/1f\n1:name=systemd:/docker/1f"})
    write(groups, {f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": "100000"})
    assert usable_cores(groups, tmp_path) == cores


def test_memory_of_second_version_groups(groups: Path, process: Path) -> None:
    write(groups, {"user/memory.max": "max", "user/memory.current": str(GIB)})
    assert usable_memory(groups, process) == 64 * GIB
    write(groups, {"user/job/memory.max": str(8 * GIB), "user/job/memory.current": str(3 * GIB)})
    assert usable_memory(groups, process) == 5 * GIB
    write(groups, {"user/job/memory.stat": f"anon {GIB}\ninactive_file {2 * GIB}\nactive_file 5"})
    assert usable_memory(groups, process) == 7 * GIB  # caches of files are given back
    write(groups, {"user/memory.max": str(4 * GIB)})
    assert usable_memory(groups, process) == 3 * GIB


def test_memory_of_first_version_groups(groups: Path, tmp_path: Path) -> None:
    write(tmp_path, {"cgroup": "5:memory:/docker/1f\n4:cpu,cpuacct:/docker/1f"})
    write(groups, {"memory/memory.limit_in_bytes": "9223372036854771712", "memory/memory.usage_in_bytes": str(GIB)})
    assert usable_memory(groups, tmp_path) == 64 * GIB
    inside = "memory/docker/1f"
    write(groups, {f"{inside}/memory.limit_in_bytes": str(6 * GIB), f"{inside}/memory.usage_in_bytes": str(2 * GIB)})
    assert usable_memory(groups, tmp_path) == 4 * GIB


def test_a_group_that_is_full_leaves_nothing(groups: Path, process: Path) -> None:
    write(groups, {"user/memory.max": str(GIB), "user/memory.current": str(2 * GIB)})
    assert usable_memory(groups, process) == 0


@pytest.mark.parametrize(("limit", "column"), [(resource.RLIMIT_AS, 0), (resource.RLIMIT_DATA, 5)])
def test_resource_limits_count_less_what_is_used(
    groups: Path, process: Path, monkeypatch: pytest.MonkeyPatch, limit: int, column: int
) -> None:
    none = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (4 * GIB, none[1]) if which == limit else none)
    monkeypatch.setattr(resource, "getpagesize", lambda: 4096)
    pages = ["7"] * 7
    pages[column] = str(GIB // 4096)
    write(process, {"statm": " ".join(pages)})
    assert usable_memory(groups, process) == 3 * GIB


def test_free_memory_is_what_the_system_could_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    write(tmp_path, {"meminfo": "MemTotal: 900 kB\nMemFree: 100 kB\nMemAvailable: 500 kB\nCached: 400 kB"})
    assert machine._free(tmp_path / "meminfo") == 500 * 1024
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert machine._free(tmp_path / "nowhere") == physical


def test_a_machine_says_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(Machine(1, 3 * GIB)) == "1 core, 3.0 GiB of memory"
    assert str(Machine(8, 32 * GIB, 2, "cuda", 80 * GIB)) == "2 x cuda with 80 GiB, 8 cores, 32.0 GiB of memory"
    found = this_machine(cpu=True)
    assert found.devices == 0 and found.device == "cpu" and 1 <= found.cores <= 16
