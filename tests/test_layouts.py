"""Layouts that domains add: recognised by their own signs, read by their own functions, never named by core."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from core.nn.unet import ddpm_cifar10
from core.weights import layouts, unet
from core.weights.checkpoint import CheckpointError
from core.weights.conversion import DIFFUSERS, Source, convert
from core.weights.detect import detect
from core.weights.pairs import read_folder, to_theirs
from image.nn.fir import FIR
from image.nn.ncsnpp import InputSkip, LogFourier, NCSNpp
from image.published.layouts import ncsnpp, ncsnpp_original
from motion.nn.mdm import MDM, Encoder
from motion.nn.motiondiffuse import CaptionEncoder, MotionDiffuse
from motion.published.layouts import mdm, motiondiffuse


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small NCSN++ as diffusers saves it."""
    ncsnpp.save_diffusers(tmp_path, score_network(), 16)
    return tmp_path


def score_network() -> NCSNpp:
    return NCSNpp(LogFourier(64), (64, 128), 1, (1,), FIR, progressive_input=InputSkip, progressive=True)


def flat() -> dict[str, Tensor]:
    return ncsnpp_original.to_original(score_network(), divides=True)


def of_mdm() -> dict[str, Tensor]:
    return mdm.to_original(MDM(7, 16, Encoder(16, 24, 2, 4), 5))


def of_motiondiffuse() -> dict[str, Tensor]:
    net = MotionDiffuse(7, 20, 16, 24, 2, 4, 32)
    return motiondiffuse.to_original(net, CaptionEncoder(24, 32, 16, 1, 4, 64))


@pytest.mark.parametrize(
    ("make", "kind", "prediction"),
    [(flat, "ncsnpp", "score"), (of_mdm, "mdm", "x0"), (of_motiondiffuse, "motiondiffuse", "epsilon")],
)
def test_original_files_are_recognised(make: Callable[[], dict[str, Tensor]], kind: str, prediction: str) -> None:
    found = detect(make())
    assert (found.kind, found.layout, found.prediction) == (kind, "original", prediction)


def test_a_folder_of_ncsnpp_is_no_plain_unet(folder: Path) -> None:
    _, tensors = read_folder(folder, "UNet2DModel")
    assert (detect(tensors).kind, detect(tensors).layout) == ("ncsnpp", "diffusers")
    with torch.device("meta"):
        plain = ddpm_cifar10()
    assert detect(to_theirs(unet.pairs(plain), plain.state_dict())).kind == "pixels"


def test_a_domain_reads_its_own_folder_before_it_is_written_again(folder: Path) -> None:
    config, tensors = read_folder(folder, "UNet2DModel")
    found = detect(tensors)
    target = convert(Source(found, tensors, config, str(folder)), DIFFUSERS)
    written = dict(target.tensors())
    assert written.keys() == tensors.keys()
    assert all(torch.equal(value, written[name]) for name, value in tensors.items())
    (folder / "config.json").write_text((folder / "config.json").read_text().replace("AttnSkipDown", "AttnDown"))
    with pytest.raises(CheckpointError, match="skip blocks"):
        convert(Source(found, tensors, config, str(folder)), DIFFUSERS)


def test_a_table_holds_layouts_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = tmp_path / "lake" / "published"
    published.mkdir(parents=True)
    (tmp_path / "lake" / "__init__.py").touch()
    (published / "__init__.py").touch()
    (published / "layouts.py").write_text("LAYOUTS = ('waves',)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(layouts, "ROOT", tmp_path)
    layouts.of_domains.cache_clear()
    try:
        with pytest.raises(TypeError, match=r"lake\.published\.layouts holds 'waves'"):
            layouts.of_domains()
    finally:
        layouts.of_domains.cache_clear()
