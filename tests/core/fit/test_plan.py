"""Plans: stages and their shares, arguments given and chosen, the file of a run, and time that adds up."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from core.data.dataset import Dataset
from core.fit import plan as planning
from core.fit.choose import MEMORY
from core.fit.cost import Cost
from core.fit.machine import Machine
from core.fit.plan import EVALUATION, FILE, STARTING, Plan, Stage, clock, make_plan, read_plan
from core.recipe import Recipe, build

EDM, LDM, AUTOENCODER = "image.recipes.edm.own", "image.recipes.ldm.own", "image.recipes.autoencoder.own"
MACHINE = Machine(2, 16 * 2**30)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty captioned pictures of 16 x 16, of which four are held out."""
    folder = tmp_path_factory.mktemp("pictures")
    chance = np.random.default_rng(0)
    for index in range(40):
        Image.fromarray(chance.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{index:02d}.png")
        (folder / f"{index:02d}.txt").write_text(f"picture {index}")
    return folder


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, Any]]:
    """Costs that follow from the width alone, and the arguments of what was measured."""
    seen: list[Mapping[str, Any]] = []

    def measure(recipe: Recipe, data: Dataset, device: torch.device, seconds: float) -> Cost:
        seen.append({"recipe": recipe.name, **recipe.arguments})
        count = int(recipe.arguments["width"]) ** 2 * 300  # type: ignore[call-overload]
        return Cost(count, 1e-3, 1e-9 * count, 20 * count, 100 * count)

    monkeypatch.setattr(planning, "measure", measure)
    return seen


def planned(
    pictures: Path,
    folder: Path,
    name: str = EDM,
    seconds: float | None = 600.0,
    machine: Machine = MACHINE,
    processes: int | None = None,
    **given: Any,
) -> Plan:
    arguments = {"data": str(pictures), "size": [16, 16], **given}
    return make_plan(name, arguments, folder, {"recipe": name}, machine, seconds, processes)


def test_one_stage_has_all_of_the_time(pictures: Path, tmp_path: Path) -> None:
    found = planned(pictures, tmp_path)
    (stage,) = found.stages
    assert (stage.recipe, stage.folder, stage.share) == (EDM, "", 1.0)
    assert found.processes == 2 and found.examples == len(build(EDM, stage.arguments).data()[0]) < 40
    assert found.evaluation == pytest.approx(0.08 * 600)
    assert found.end_of(0) == pytest.approx(600 - 48)
    left = 600 - 48 - STARTING
    batch, width = stage.arguments["batch"], stage.arguments["width"]
    a_step = 1e-3 + batch / 2 * 1e-9 * 300 * width**2
    assert stage.steps == int(left / a_step) and stage.samples == stage.steps * batch
    assert stage.arguments["steps"] >= stage.steps  # the clock ends the run, not the number
    assert 1 <= stage.arguments["warmup"] <= stage.steps / 10


def test_two_stages_share_the_time(pictures: Path, tmp_path: Path) -> None:
    found = planned(pictures, tmp_path, LDM)
    first, second = found.stages
    assert (first.recipe, first.folder) == (AUTOENCODER, "autoencoder") and (second.recipe, second.folder) == (LDM, "")
    assert first.share + second.share == pytest.approx(1) and first.share > 0.1 and second.share > 0.5
    assert found.end_of(0) == pytest.approx(first.share * (600 - found.evaluation))
    assert found.end_of(1) == pytest.approx(600 - found.evaluation)
    # The second stage is built for what the first makes, and finds it.
    assert second.arguments["autoencoder"] == str(tmp_path / "autoencoder")
    assert second.arguments["latent_width"] == first.arguments["width"]
    assert {first.arguments[name] == second.arguments[name] for name in ("data", "size", "channels", "latent")} == {
        True
    }
    code = build(AUTOENCODER, first.arguments).system().autoencoder.state_dict()
    inner = build(LDM, second.arguments).system().codec.autoencoder.state_dict()
    assert {name: value.shape for name, value in code.items()} == {name: value.shape for name, value in inner.items()}


def test_an_autoencoder_that_is_there_is_not_trained(pictures: Path, tmp_path: Path) -> None:
    (stage,) = planned(pictures, tmp_path, LDM, autoencoder="runs/autoencoder").stages
    assert stage.arguments["autoencoder"] == "runs/autoencoder" and stage.share == 1


def test_what_is_given_is_kept(pictures: Path, tmp_path: Path, measured: list[Mapping[str, Any]]) -> None:
    given = {"width": 48, "depth": 3, "batch": 12, "lr": 0.5, "warmup": 7, "dropout": 0.3, "channels": 1, "fold": 2}
    (stage,) = planned(pictures, tmp_path, **given).stages
    assert {name: stage.arguments[name] for name in given} == given
    assert len(measured) == 1  # there was one size left to measure
    (stage,) = planned(pictures, tmp_path, width=16).stages
    assert stage.arguments["width"] == 16 and stage.arguments["depth"] in (1, 2)


def test_steps_in_the_place_of_time(pictures: Path, tmp_path: Path) -> None:
    found = planned(pictures, tmp_path, seconds=None, steps=50, width=16)
    (stage,) = found.stages
    assert stage.steps == stage.arguments["steps"] == 50 and stage.arguments["warmup"] <= 5
    assert found.seconds is None and found.evaluation == 0
    assert not any("after the start" in value for _, value in found.table())
    (stage,) = planned(pictures, tmp_path, seconds=600.0, steps=50).stages
    assert stage.steps == stage.arguments["steps"] == 50


def test_more_time_never_takes_a_smaller_network(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = planning.measure

    def slow(recipe: Recipe, data: Dataset, device: torch.device, seconds: float) -> Cost:
        cost = quick(recipe, data, device, seconds)
        return replace(cost, sample=300 * cost.sample)

    monkeypatch.setattr(planning, "measure", slow)
    times = (60.0, 120.0, 900.0, 3600.0, 36_000.0)
    widths = [planned(pictures, tmp_path, seconds=each).stages[0].arguments["width"] for each in times]
    assert widths == sorted(widths) and widths[0] < widths[-1]


def test_half_the_memory_takes_less(pictures: Path, tmp_path: Path) -> None:
    before = 2.0**60
    for memory in (16 * 2**30, 2 * 2**30, 2**30, 900 * 2**20):
        found = planned(pictures, tmp_path, seconds=36_000.0, machine=Machine(2, memory))
        total = found.processes * found.stages[0].memory
        assert total <= MEMORY * memory and total <= before
        before = total
    assert before < 0.05 * 16 * 2**30
    with pytest.raises(ValueError, match=r"GiB of memory and there are 0\.5"):
        planned(pictures, tmp_path, machine=Machine(2, 2**29))


@pytest.mark.parametrize("cores", [1, 2, 3, 7])
def test_processes_are_the_cores_or_as_asked(pictures: Path, tmp_path: Path, cores: int) -> None:
    found = planned(pictures, tmp_path, machine=Machine(cores, 64 * 2**30))
    assert found.processes == cores and found.stages[0].arguments["batch"] % cores == 0
    assert planned(pictures, tmp_path, processes=1).processes == 1


@pytest.mark.parametrize("seconds", [20.0, 60.0, 180.0, 900.0, 1800.0, 36_000.0])
def test_the_ends_add_up_to_the_time(pictures: Path, seconds: float) -> None:
    shares = ((0.35, 0.65), (1.0,), (0.2, 0.3, 0.5))
    for parts in shares:
        stages = tuple(Stage(EDM, {}, "", share, 1, 1, 1, 1) for share in parts)
        found = Plan({}, "", 1, 1, seconds, stages)
        ends = [found.end_of(index) for index in range(len(parts))]
        lengths = [after - before for before, after in zip([0.0, *ends], ends)]
        assert lengths == pytest.approx([share * (seconds - found.evaluation) for share in parts])
        assert ends[-1] + found.evaluation == pytest.approx(seconds)
        assert EVALUATION[1] <= found.evaluation <= EVALUATION[2] or found.evaluation == seconds / 3


def test_a_plan_is_read_as_it_was_written(pictures: Path, tmp_path: Path) -> None:
    assert read_plan(tmp_path) is None
    found = planned(pictures, tmp_path, LDM)
    found.save(tmp_path)
    assert read_plan(tmp_path) == found
    for stage in found.stages:  # and builds the same
        assert build(stage.recipe, stage.arguments).arguments == stage.arguments


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda text: text[: len(text) // 2], "Expecting|Unterminated|delimiter"),
        (lambda text: "[]", "integer"),
        (lambda text: text.replace('"format": 1', '"format": 99'), "another format"),
        (lambda text: text.replace('"format": 1,', ""), "format"),
        (lambda text: text.replace('"share"', '"part"', 1), "part"),
        (lambda text: "", "Expecting"),
    ],
)
def test_a_damaged_plan_is_refused_in_one_sentence(pictures: Path, tmp_path: Path, damage: Any, why: str) -> None:
    planned(pictures, tmp_path).save(tmp_path)
    path = tmp_path / FILE
    path.write_text(damage(path.read_text()))
    with pytest.raises(ValueError, match=why) as caught:
        read_plan(tmp_path)
    assert str(caught.value).startswith(f"{path} is not the plan of a run") and "\n" not in str(caught.value)
    assert "planned again" in str(caught.value)


def test_the_table_says_what_was_chosen(pictures: Path, tmp_path: Path) -> None:
    found = planned(pictures, tmp_path, LDM)
    rows = found.table()
    shown = "\n".join(f"{name} {value}" for name, value in rows)
    for stage in found.stages:
        for name in ("width", "batch", "lr", "warmup"):
            assert f"{name} {stage.arguments[name]:g}" in shown
    assert str(MACHINE) in shown and "size 16 x 16" in shown
    assert [value for _, value in rows if "after the start" in value] == [
        f"ends {clock(found.end_of(0))} after the start",
        f"ends {clock(found.end_of(1))} after the start",
        "ends 0:10:00 after the start",
    ]


def test_times_are_shown_as_clocks() -> None:
    assert [clock(each) for each in (0, 59.6, 3599, 3725)] == ["0:00:00", "0:01:00", "0:59:59", "1:02:05"]


def test_what_cannot_be_planned_is_refused(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="too short to train anything here: give a minute or more"):
        planned(pictures, tmp_path, seconds=10.0)
    with pytest.raises(ValueError, match="nothing to choose"):
        make_plan("image.recipes.edm.tiny", {}, tmp_path, {}, MACHINE, 60.0)


def test_planning_writes_nothing_and_keeps_the_threads(pictures: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    planned(pictures, tmp_path, LDM)
    assert not any(tmp_path.iterdir()) and torch.get_num_threads() == before


def test_a_process_began_before_now() -> None:
    assert 0 < time.time() - planning.started() < 24 * 3600
    assert json.dumps(planning.started()) == json.dumps(planning.started())


def test_accelerators_are_what_memory_is_of(pictures: Path, tmp_path: Path) -> None:
    """Two devices are two processes; each of them has its own memory, whatever the main memory is."""
    machine = Machine(8, 2**20, 2, "cuda", 16 * 2**30)
    found, on_cores = planned(pictures, tmp_path, machine=machine), planned(pictures, tmp_path)
    assert found.processes == 2
    assert found.stages == planned(pictures, tmp_path, machine=Machine(2, 32 * 2**30)).stages != on_cores.stages
