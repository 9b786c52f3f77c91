"""Compiled networks: the same numbers, by kernels that ``torch.compile`` writes for one network.

Of a network only the heavy method is compiled: ``denoise``, whose arguments are tensors, or ``forward`` where it has no
such part. Conditions are read and times embedded outside (see ``Preparable``), so all steps of a sampler run one graph.

On a CPU the weights are frozen into the graph: the compiler lays them out once as its kernels want them, and folds what
depends on nothing else. So this is for sampling: a network whose weights change afterwards must be built and compiled
again. There matrices become convolutions of size 1, and group norms stay whole; both because of what runs faster.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.autoencoder.net import Decoder
from core.denoiser import Denoiser

Norm = Callable[[Tensor, Tensor, Tensor, int, float], Tensor]


def compile_for_sampling(model: nn.Module) -> None:
    """Compile, in place, the network of every denoiser in a model and the decoder of every autoencoder.

    The first step of each shape (batch, grid, length of the text) then takes longer, minutes for a large network. Use
    it under ``torch.no_grad``, as ``Diffusion.sample`` does: where gradients are asked for, no weights are frozen.
    """
    for part in list(model.modules()):
        if isinstance(part, Denoiser):
            compile_network(part.net)
        elif isinstance(part, Decoder):
            compile_network(part)


def compile_network(net: nn.Module) -> None:
    """Compile the heavy method of one network, in place; the weights of its convolutions become channels-last."""
    method = "denoise" if hasattr(net, "denoise") else "forward"
    net.to(memory_format=torch.channels_last)
    on_host = all(weight.device.type == "cpu" for weight in net.parameters())
    if on_host:
        for part in net.modules():
            if isinstance(part, nn.GroupNorm) and part.affine:
                _replace(part, "forward", functools.partial(_normalise, part, _group_norm()))
            elif type(part) is nn.Linear:
                _replace(part, "forward", functools.partial(_multiply, part))
    compiled = torch.compile(getattr(net, method), dynamic=False)
    _replace(net, method, _frozen(compiled) if on_host else compiled)


def _replace(module: nn.Module, method: str, function: Callable[..., Any]) -> None:
    setattr(module, method, function)


def _frozen(function: Callable[..., Any]) -> Callable[..., Any]:
    """The compiled function, its weights frozen, which tracing and compiling ask for at the first call of a shape."""
    from torch._inductor import config

    def call(*inputs: Any) -> Any:
        with config.patch(freezing=True):
            return function(*inputs)

    return call


def _normalise(norm: nn.GroupNorm, whole: Norm, x: Tensor) -> Tensor:
    return whole(x, norm.weight, norm.bias, norm.num_groups, norm.eps)


def _multiply(layer: nn.Linear, x: Tensor) -> Tensor:
    """A linear layer as a convolution of size 1: (..., K) -> (..., N).

    A compiled convolution is oneDNN's, with what follows fused into it, while a product of matrices is MKL's, which on
    processors of another maker than its own is 2.2 times slower.
    """
    if not torch.compiler.is_compiling():
        return F.linear(x, layer.weight, layer.bias)
    rows = x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)  # (1, K, 1, rows), channels last in memory
    product = F.conv2d(rows, layer.weight[:, :, None, None], layer.bias)
    return product.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


@functools.cache
def _group_norm() -> Norm:
    """Group normalisation that the compiler leaves whole: what it would write for a CPU is several times slower."""

    def group_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, epsilon: float) -> Tensor:
        return F.group_norm(x, groups, weight, bias, epsilon)

    # The annotations are strings here, so the types are repeated.
    schema = "(Tensor x, Tensor weight, Tensor bias, int groups, float epsilon) -> Tensor"
    kept = torch.library.custom_op("langevin::group_norm", group_norm, mutates_args=(), schema=schema)
    kept.register_fake(lambda x, weight, bias, groups, epsilon: torch.empty_like(x))
    whole: Norm = kept
    return whole
