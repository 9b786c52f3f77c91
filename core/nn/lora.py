"""LoRA: low-rank additions to layers, which alone are trained (2106.09685).

    W x  becomes  W x + weight * alpha / rank * B (A x)        A (rank, in, *kernel), B (rows, rank)

B starts at zero, so a new LoRA changes nothing. An addition may lie on a block of a layer's rows, such as the queries
of a fused projection. A ``LoRA`` is a module of its own, no part of a network or of its checkpoint; ``AttachedLoRAs``
applies any number of them to a network, each with a weight, and fuses them into its weights and out of them again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.nn.blocks import Convolution

Layer = nn.Linear | Convolution
CONVOLVE: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
ATTENTION = ("*qkv", "*query", "*first.text", "*second.text", "*project")  # the names of our attentions' layers


class Addition(nn.Module):
    """What is added to the rows ``start``, ``start + 1``, ... of one layer."""

    def __init__(self, down: Tensor, up: Tensor, alpha: float | None = None, start: int = 0) -> None:
        """down (rank, in, *kernel), up (rows, rank); alpha is the rank unless given, which makes the scale 1."""
        super().__init__()
        if up.ndim != 2 or len(down) != up.shape[1]:
            raise ValueError(
                f"down {tuple(down.shape)} and up {tuple(up.shape)} are not of one rank: the LoRA is damaged"
            )
        self.down, self.up = nn.Parameter(down), nn.Parameter(up)
        self.alpha = nn.Buffer(torch.tensor(float(len(down) if alpha is None else alpha), device=down.device))
        self.start = start

    @property
    def rank(self) -> int:
        return len(self.down)

    @property
    def stop(self) -> int:
        """One row after its last."""
        return self.start + len(self.up)

    def matrix(self) -> Tensor:
        """What it adds to the layer's weight: (rows, in, *kernel)."""
        return self.alpha / self.rank * (self.up @ self.down.flatten(1)).view(-1, *self.down.shape[1:])

    def forward(self, x: Tensor, layer: Layer) -> Tensor:
        """What it adds to the layer's output for x, as wide as that output."""
        x, up = x.to(self.down.dtype), self.alpha / self.rank * self.up
        dims = self.down.ndim - 2
        if isinstance(layer, nn.Linear):
            added = F.linear(F.linear(x, self.down), up)
        else:
            hidden = CONVOLVE[dims](x, self.down, None, layer.stride, layer.padding, layer.dilation)
            added = CONVOLVE[dims](hidden, up.view(*up.shape, *[1] * dims))
        before, after = self.start, len(layer.weight) - self.stop
        return F.pad(added, (*[0, 0] * dims, before, after)) if before or after else added


class LoRA(nn.Module):
    """Additions to layers of a network, by the layers' names."""

    def __init__(self, additions: Mapping[str, Sequence[Addition]]) -> None:
        super().__init__()
        # A module's name may hold no dot.
        self.layers = nn.ModuleDict({name.replace(".", "/"): nn.ModuleList(parts) for name, parts in additions.items()})

    @classmethod
    def of(cls, net: nn.Module, rank: int, alpha: float | None = None, targets: Sequence[str] = ATTENTION) -> Self:
        """A new LoRA, which changes nothing yet, on the layers whose names match one of ``targets`` (as file names do).

        Raises ValueError for a rank below 1, and for targets that no layer has.
        """
        if rank < 1:
            raise ValueError(f"a LoRA of rank {rank}: the rank is at least 1")
        found = {name: layer for name, layer in layers_of(net).items() if any(fnmatchcase(name, t) for t in targets)}
        if not found:
            raise ValueError(
                f"no layer of the network is called {', '.join(targets)}: its layers are {', '.join(layers_of(net))}"
            )
        return cls({name: [_new(layer.weight, rank, alpha)] for name, layer in found.items()})

    def items(self) -> Iterator[tuple[str, list[Addition]]]:
        """Names of layers, and what is added to each."""
        for name, parts in self.layers.items():
            yield name.replace("/", "."), cast(list[Addition], list(cast(nn.ModuleList, parts)))


def _new(weight: Tensor, rank: int, alpha: float | None) -> Addition:
    """A zero addition to a layer with this weight."""
    down = torch.empty(rank, *weight.shape[1:], dtype=weight.dtype)
    nn.init.kaiming_uniform_(down, a=math.sqrt(5))
    return Addition(down, torch.zeros(len(weight), rank, dtype=weight.dtype), alpha)


def layers_of(net: nn.Module) -> dict[str, Layer]:
    """The layers of a network that a LoRA can be on, by name."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return {name: layer for name, layer in net.named_modules() if isinstance(layer, kinds)}


class AttachedLoRAs:
    """LoRAs applied to a network, each with a weight, until they are detached."""

    def __init__(self, net: nn.Module, loras: Sequence[LoRA], weights: Sequence[float] | None = None) -> None:
        """weights: 1 each unless given. Raises ValueError for a LoRA that is not of this network."""
        self.net, self.loras = net, list(loras)
        self.weights: list[float] = []
        self._originals: dict[str, nn.Parameter] = {}
        self.set_weights([1.0] * len(self.loras) if weights is None else weights)
        layers = layers_of(net)
        for lora in self.loras:
            for name, parts in lora.items():
                for part in parts:
                    _check(name, layers.get(name), part)
        names = dict.fromkeys(name for lora in self.loras for name, _ in lora.items())
        self._layers = {name: layers[name] for name in names}
        self._handles = [layer.register_forward_hook(self._hook(name)) for name, layer in self._layers.items()]

    def set_weights(self, weights: Sequence[float]) -> None:
        """Give each LoRA another weight; fused LoRAs keep theirs, and have to be unfused before."""
        if len(weights) != len(self.loras) or self._originals:
            raise ValueError(f"{len(weights)} weights for {len(self.loras)} LoRAs: give one to each, while not fused")
        self.weights[:] = weights

    def _parts(self, name: str) -> Iterator[tuple[float, Addition]]:
        """What is added to a layer, with weights."""
        for lora, weight in zip(self.loras, self.weights):
            key = name.replace(".", "/")
            if key in lora.layers:
                yield from ((weight, part) for part in cast(list[Addition], lora.layers[key]))

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def add(layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            for weight, part in self._parts(name):
                output = output + (weight * part(inputs[0], cast(Layer, layer))).to(output.dtype)
            return output

        return add

    @torch.no_grad()
    def fuse(self) -> None:
        """Put the additions into the weights, so that the network is as fast as it was without them.

        The original parameters are kept in memory: ``unfuse`` restores them bit for bit. Raises ValueError where they
        are fused already.
        """
        if self._originals:
            raise ValueError("these LoRAs are fused already: unfuse them first")
        self._stop()
        for name, layer in self._layers.items():
            original = cast(nn.Parameter, layer.weight)
            fused = original.detach().to(torch.promote_types(original.dtype, torch.float32), copy=True)
            for weight, part in self._parts(name):
                fused[part.start : part.stop] += weight * part.matrix().to(fused)
            self._originals[name] = original
            layer.weight = nn.Parameter(fused.to(original.dtype), requires_grad=original.requires_grad)

    def unfuse(self) -> None:
        """Restore the original parameters; the LoRAs stay attached."""
        if not self._originals:
            raise ValueError("these LoRAs are not fused: there is nothing to take out")
        for name, original in self._originals.items():
            self._layers[name].weight = original
        self._originals.clear()
        self._handles = [layer.register_forward_hook(self._hook(name)) for name, layer in self._layers.items()]

    def detach(self) -> None:
        """Leave the network as it was before; fused LoRAs stay in the weights for good."""
        self._stop()
        self._originals.clear()

    def _stop(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []


def _check(name: str, layer: Layer | None, part: Addition) -> None:
    if layer is None:
        raise ValueError(f"the network has no layer {name}: the LoRA is of another network")
    if part.down.shape[1:] != layer.weight.shape[1:] or part.stop > len(layer.weight):
        raise ValueError(
            f"the LoRA adds rows {part.start} to {part.stop} of {tuple(part.down.shape[1:])} to {name}, whose weight "
            f"is {tuple(layer.weight.shape)}: it is of another network"
        )
    if not isinstance(layer, nn.Linear) and (layer.groups != 1 or layer.padding_mode != "zeros"):
        raise ValueError(f"{name} is a convolution in groups or with padding other than zeros, which no LoRA is on")
