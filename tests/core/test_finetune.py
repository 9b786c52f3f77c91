"""Fine-tuning in itself: which weights are copied where, which classes stay, and which sentences a person gets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from core.condition import ClassLabel, Conditioner
from core.data.dataset import Batch
from core.denoiser import Denoiser
from core.finetune import Kept, copy_weights, unread
from core.nn.dit import DiT, Patches
from core.prediction import FlowVelocity
from core.prompts import Classes, Unconditional
from core.schedule import Flow
from core.systems.diffusion import Diffusion
from core.weights.checkpoint import CheckpointError

HERE = Path("source.safetensors")


def model(classes: int, size: int = 4, width: int = 32) -> Diffusion:
    """A small DiT, of classes or of none."""
    net = DiT(Patches((size, size), 1, width, 2), depth=1, heads=2)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return Diffusion(Denoiser(net, Flow(), FlowVelocity()), ClassLabel(classes, width) if classes else Conditioner())


def output(system: Diffusion, label: int | None, size: int = 4) -> torch.Tensor:
    """What a model says of a fixed x."""
    x = torch.linspace(-1, 1, size * size).view(1, 1, size, size)
    cond = system.conditioner({} if label is None else {"label": torch.tensor([label])})
    with torch.no_grad():
        return system.denoiser(x, torch.tensor([0.5]), cond)


def test_classes_keep_their_rows_by_name_and_new_ones_begin_as_none() -> None:
    old, new = model(3), model(4)
    kept = Kept.of(Classes(3, ("cat", "dog", "bird")), Classes(4, ("Dog", "fox", "eel", "cat")))
    assert kept.rows == {0: 1, 3: 0} and kept.lost == ["bird"] and kept.new == ["fox", "eel"]
    copy_weights(new, old, kept.rows, HERE)
    for label, before in ((0, 1), (3, 0), (1, 3), (2, 3), (4, 3)):  # 3 is none of the old, 4 none of the new
        assert torch.equal(output(new, label), output(old, before))
    assert [sentence.split(":")[1] for sentence in kept.sentences()] == [" bird.", " fox, eel."]


def test_without_names_classes_keep_their_numbers() -> None:
    assert Kept.of(Classes(3), Classes(2, ("a", "b"))) == Kept({0: 0, 1: 1}, ["2"], [])
    assert Kept.of(Classes(2), Classes(2)).sentences() == []
    assert Kept.of(Unconditional(), Classes(2)) == Kept({}, [], ["0", "1"])


def test_an_unconditional_model_learns_classes_from_what_it_knew() -> None:
    old, new = model(0), model(2)
    copy_weights(new, old, {}, HERE)
    assert torch.equal(output(new, 1), output(old, None))
    classless = model(0)
    copy_weights(classless, new, {}, HERE)
    assert torch.equal(output(classless, None), output(old, None))


def test_another_size_has_positions_of_its_own() -> None:
    old, new = model(2), model(2, size=8)
    fresh = new.denoiser.net.front.positions.clone()
    copy_weights(new, old, {0: 0, 1: 1}, HERE)
    assert torch.equal(new.denoiser.net.front.positions, fresh)
    assert torch.equal(output(new, 1, size=8), output(old, 1, size=8))  # which reads another grid at its coordinates


def test_another_network_is_refused() -> None:
    new = model(2, width=48)
    before = {name: value.clone() for name, value in new.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"does not fit the run's network .* and \d+ more"):
        copy_weights(new, model(2), {}, HERE)
    after = new.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items() if "table" not in name)


class Examples:
    """One example with these conditions."""

    def __init__(self, **conditions: object) -> None:
        self.conditions = conditions

    def __len__(self) -> int:
        return 1

    def get(self, indices: object) -> Batch:
        return {"x": torch.zeros(1, 1, 4, 4), **self.conditions}


def test_what_the_model_does_not_read_is_named_and_what_it_lacks_refused() -> None:
    label = torch.tensor([0])
    assert unread(model(2), Examples(label=label)) == []
    (sentence,) = unread(model(2), Examples(label=label, caption=["a cat"]))
    assert "a caption for each example" in sentence
    assert len(unread(model(0), Examples(label=label, caption=["a cat"]))) == 2
    with pytest.raises(ValueError, match=r"the data lack what the model is conditioned on: .* give a label"):
        unread(model(2), Examples(caption=["a cat"]))
