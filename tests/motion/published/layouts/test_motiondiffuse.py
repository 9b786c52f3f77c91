"""MotionDiffuse's published keys: golden numbers of the published code, and both ways."""

from __future__ import annotations

import pytest
import torch

from core.cond import Cond
from core.weights.checkpoint import CheckpointError
from motion.nn.motiondiffuse import CaptionEncoder, MotionDiffuse
from motion.published.layouts.motiondiffuse import from_original, to_original
from tests.support.formula import formula, wave


def tiny() -> dict[str, torch.Tensor]:
    return to_original(MotionDiffuse(263, 40, 32, 64, 2, 4, 32), CaptionEncoder(512, 32, 64, 1, 2, 128))


def test_the_numbers_of_the_published_code() -> None:
    net, _ = from_original({name: formula(name, value) for name, value in tiny().items()}, heads=4, text_heads=2)
    cond = Cond(
        vector=wave((2, 128), phase=1.0),
        tokens=wave((2, 7, 32), phase=2.0),
        valid=torch.arange(40) < torch.tensor([[40], [25]]),
    )
    with torch.no_grad():
        output = net(wave((2, 40, 263)), torch.tensor([3.0, 700.0]), cond)
    first = torch.tensor([-0.92694, -0.69250, -0.11210, 0.50821, 0.84450])
    torch.testing.assert_close(output.flatten()[:5], first, atol=1e-5, rtol=0)
    assert float(output.mean()) == pytest.approx(-0.006247, abs=1e-5)
    assert float(output.std()) == pytest.approx(0.620716, abs=1e-5)


def test_out_and_back_is_the_same() -> None:
    tensors = {name: formula(name, value) for name, value in tiny().items()}
    again = to_original(*from_original(tensors | {"clip.x": torch.zeros(1)}, heads=4, text_heads=2))
    assert again.keys() == tensors.keys()
    assert all(torch.equal(value, again[name]) for name, value in tensors.items())


def test_the_reader_computes_what_torch_computes() -> None:
    tensors = {name: formula(name, value) for name, value in tiny().items()}
    _, reader = from_original(tensors, heads=4, text_heads=2)
    layer = torch.nn.TransformerEncoderLayer(32, 2, 64, activation="gelu", batch_first=True).eval()
    stem = "textTransEncoder.layers.0."
    layer.load_state_dict({key.removeprefix(stem): value for key, value in tensors.items() if key.startswith(stem)})
    states, last = wave((2, 6, 512)), torch.tensor([5, 2])
    with torch.no_grad():
        x = layer(states @ tensors["text_pre_proj.weight"].T + tensors["text_pre_proj.bias"])
        tokens = torch.nn.functional.layer_norm(x, (32,), tensors["text_ln.weight"], tensors["text_ln.bias"])
        vector = tokens[torch.arange(2), last] @ tensors["text_proj.0.weight"].T + tensors["text_proj.0.bias"]
        cond = reader(states, last)
    assert cond.tokens is not None and cond.vector is not None
    torch.testing.assert_close(cond.tokens, tokens, atol=1e-5, rtol=0)
    torch.testing.assert_close(cond.vector, vector, atol=1e-5, rtol=0)


def test_foreign_tensors_are_named() -> None:
    with pytest.raises(CheckpointError, match="it is no MotionDiffuse"):
        from_original({"weight": torch.zeros(1)})
