"""NCSN++ and DDPM++ as first published: one flat list ``all_modules.N`` in the order of the forward pass, both ways.

A network that divides its output by sigma (VE) predicts the score; ours predicts eps, so its last convolutions change
sign (see ``image.published.layouts.ncsnpp``). VP and sub-VP networks predict eps in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from functools import partial
from pathlib import Path

from torch import Tensor

from core.weights.checkpoint import fill
from core.weights.pairs import NEGATED, ROWS, SAME, TRANSPOSED_ROWS, Pair, both, to_ours, to_theirs
from image.nn.ncsnpp import InputSkip, LogFourier, NCSNpp

Layer = Callable[[str], Iterator[Pair]]  # the name of a module in the flat list -> the pairs of its tensors

RESIDUAL = {
    "norm1": "GroupNorm_0",
    "conv1": "Conv_0",
    "time": "Dense_0",
    "norm2": "GroupNorm_1",
    "conv2": "Conv_1",
    "skip": "Conv_2",
}


def from_original(net: NCSNpp, tensors: Mapping[str, Tensor], divides: bool, what: str = "this file") -> None:
    """Fill ``net`` (on any device, meta included) with the original's tensors.

    divides: whether the published network divides its output by sigma (``scale_by_sigma``: VE does, VP does not).
    A ``module.`` prefix is cut off, and the table of discrete sigmas, which the network itself never uses, ignored.
    Raises CheckpointError when a tensor is missing, unknown or of another shape.
    """
    plain = {key.removeprefix("module."): value for key, value in tensors.items()}
    plain.pop("sigmas", None)
    fill(net, to_ours(_pairs(net, divides), plain, what), Path(what))


def to_original(net: NCSNpp, divides: bool) -> dict[str, Tensor]:
    """The tensors as the original names them, without ``module.`` and without the unused table of sigmas."""
    return to_theirs(_pairs(net, divides), net.state_dict())


def _pairs(net: NCSNpp, divides: bool) -> Iterator[Pair]:
    for number, layer in enumerate(_layers(net, divides)):
        yield from layer(f"all_modules.{number}")


def _layers(net: NCSNpp, divides: bool) -> Iterator[Layer]:
    """Every module of the flat list, in its order."""
    parts = net.state_dict().keys()
    last = len(net.encoders) - 1
    if isinstance(net.features, LogFourier):
        yield lambda theirs: iter([Pair("features.weight", (f"{theirs}.W",))])
    for ours in ("embed1", "embed2", "enter"):
        yield partial(both, ours)
    for level in range(last + 1):
        for i in range(net.depth):
            yield partial(_residual, parts, f"encoders.{level}.blocks.{i}")
            if level in net.attention:
                yield partial(_attention, f"encoders.{level}.attentions.{i}")
        if level < last:
            yield partial(_residual, parts, f"encoders.{level}.down")
            if f"encoders.{level}.progressive_input.project.weight" in parts:
                name = "Conv_0" if any(isinstance(module, InputSkip) for module in net.modules()) else "Conv2d_0"
                yield partial(_inside, f"encoders.{level}.progressive_input.project", name)
    yield partial(_residual, parts, "middle.0")
    yield partial(_attention, "middle.1")
    yield partial(_residual, parts, "middle.2")
    for step, level in enumerate(range(last, -1, -1)):
        for i in range(net.depth + 1):
            yield partial(_residual, parts, f"decoders.{step}.blocks.{i}")
        if level in net.attention:
            yield partial(_attention, f"decoders.{step}.attention")
        if f"decoders.{step}.output_skip.norm.weight" in parts:
            yield partial(both, f"decoders.{step}.output_skip.norm")
            yield partial(both, f"decoders.{step}.output_skip.conv", form=NEGATED if divides else SAME)
        if level:
            yield partial(_residual, parts, f"decoders.{step}.up")


def _inside(ours: str, name: str, theirs: str) -> Iterator[Pair]:
    yield from both(ours, f"{theirs}.{name}")


def _residual(parts: Set[str], ours: str, theirs: str) -> Iterator[Pair]:
    for part, name in RESIDUAL.items():
        if f"{ours}.{part}.weight" in parts:
            yield from both(f"{ours}.{part}", f"{theirs}.{name}")


def _attention(ours: str, theirs: str) -> Iterator[Pair]:
    """Its 1 x 1 layers are stored (in, out), the transpose of ours."""
    yield from both(f"{ours}.norm", f"{theirs}.GroupNorm_0")
    yield Pair(f"{ours}.qkv.weight", tuple(f"{theirs}.NIN_{i}.W" for i in range(3)), TRANSPOSED_ROWS)
    yield Pair(f"{ours}.qkv.bias", tuple(f"{theirs}.NIN_{i}.b" for i in range(3)), ROWS)
    yield Pair(f"{ours}.project.weight", (f"{theirs}.NIN_3.W",), TRANSPOSED_ROWS)
    yield Pair(f"{ours}.project.bias", (f"{theirs}.NIN_3.b",))
