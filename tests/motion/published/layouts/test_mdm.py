"""MDM's published keys: golden numbers of the published code, and both ways for every kind of body."""

from __future__ import annotations

import pytest
import torch

from core.cond import Cond
from core.weights.checkpoint import CheckpointError
from motion.nn.mdm import MDM, Body, Decoder, Encoder, Recurrent
from motion.published.layouts.mdm import from_original, to_original, weights
from tests.support.formula import formula, wave


def test_the_numbers_of_the_published_code() -> None:
    names = to_original(MDM(263, 32, Encoder(32, 64, 2, 4), 512))
    net, _ = from_original({name: formula(name, value) for name, value in names.items()})
    x = wave((2, 263, 1, 20)).squeeze(2).transpose(1, 2)
    valid = torch.arange(20) < torch.tensor([[20], [15]])
    cond = Cond(vector=wave((1, 2, 512), phase=1.0)[0], valid=valid)
    for condition, first in (
        (cond, (0.56114, 0.44452, 0.25571, 0.12130, 0.04802)),
        (Cond(vector=torch.zeros(2, 512), valid=valid), (0.56110, 0.44447, 0.25565, 0.12124, 0.04796)),
    ):
        with torch.no_grad():
            output = net(x, torch.tensor([3.0, 700.0]), condition).transpose(1, 2)
        torch.testing.assert_close(output.flatten()[:5], torch.tensor(first), atol=1e-5, rtol=0)
        if condition is cond:
            assert float(output.mean()) == pytest.approx(-0.005546, abs=1e-5)
            assert float(output.std()) == pytest.approx(0.498010, abs=1e-5)


@pytest.mark.parametrize("body", [Encoder(16, 24, 2, 4), Decoder(16, 24, 2, 4), Recurrent(16, 2)])
def test_every_body_goes_out_and_comes_back(body: Body) -> None:
    net = MDM(7, 16, body, 5)
    table = torch.randn(3, 16)
    tensors = to_original(net, table) | {"sequence_pos_encoder.pe": torch.zeros(5000, 1, 16), "clip_model.x": table}
    again, actions = from_original(weights({"model": {}, "model_avg": tensors}))
    assert again.state_dict().keys() == net.state_dict().keys()
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in net.state_dict().items())
    assert actions is not None and torch.equal(actions, table)


def test_a_decoder_computes_what_torch_computes() -> None:
    torch.manual_seed(0)
    theirs = torch.nn.TransformerDecoderLayer(16, 4, 24, activation="gelu", batch_first=True).eval()
    for value in theirs.parameters():
        torch.nn.init.normal_(value, std=0.3)
    names = {f"seqTransDecoder.layers.0.{key}": value for key, value in theirs.state_dict().items()}
    tensors = to_original(MDM(7, 16, Decoder(16, 24, 1, 4), 5)) | names
    body = from_original(tensors)[0].body
    assert isinstance(body, Decoder)
    x, words, mask = torch.randn(2, 6, 16), torch.randn(2, 3, 16), torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()
    with torch.no_grad():
        torch.testing.assert_close(
            body.layers[0](x, None, words, mask), theirs(x, words, memory_key_padding_mask=~mask), atol=1e-5, rtol=0
        )


def test_foreign_tensors_are_named() -> None:
    with pytest.raises(CheckpointError, match="it is no MDM"):
        from_original({"weight": torch.zeros(1)})
    tensors = to_original(MDM(7, 16, Encoder(16, 24, 1, 4), 5))
    with pytest.raises(CheckpointError, match="unknown extra"):
        from_original(tensors | {"extra": torch.zeros(1)})
    del tensors["embed_timestep.time_embed.0.bias"]
    with pytest.raises(CheckpointError, match=r"missing embed_timestep\.time_embed\.0\.bias"):
        from_original(tensors)
