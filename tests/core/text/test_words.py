"""Words: any caption is read, equal words alike on every machine, padding without a trace, too much refused."""

from __future__ import annotations

import pytest
import torch

from core.nn.text import TextEncoder
from core.text.words import Words, hashes, words


@pytest.fixture(scope="module")
def reading() -> Words:
    torch.manual_seed(0)
    return Words(TextEncoder(32, 2, 4, 12), vector=16)


def test_captions_become_words() -> None:
    assert words("A red 72, left_of Ünder!") == ["a", "red", "7", "2", ",", "left", "_", "of", "ünder", "!"]


def test_hashes_are_the_same_everywhere_and_their_pairs_tell_words_apart() -> None:
    assert hashes("red", 2048) == (1935, 1067)
    known = [f"word{n}" for n in range(1000)]
    assert len({hashes(word, 2048) for word in known}) == 1000
    assert len({hashes(word, 2048)[0] for word in known}) < 1000


def test_padding_changes_nothing(reading: Words) -> None:
    longer = Words(TextEncoder(32, 2, 4, 20), vector=16)
    state = reading.state_dict()
    state["encoder.positions"] = torch.cat([state["encoder.positions"], torch.randn(8, 32)])
    longer.load_state_dict(state)
    one, other = reading.encode(["a red 7"]), longer.encode(["a red 7"])
    assert one.tokens is not None and other.tokens is not None and one.vector is not None and other.vector is not None
    assert one.mask is not None and int(one.mask.sum()) == 4
    assert torch.allclose(one.tokens[:, :4], other.tokens[:, :4], atol=1e-6)
    assert torch.allclose(one.vector, other.vector, atol=1e-6)


def test_the_order_of_words_matters(reading: Words) -> None:
    first, second = reading.encode(["red left of blue"]), reading.encode(["blue left of red"])
    assert first.vector is not None and second.vector is not None
    assert not torch.allclose(first.vector, second.vector, atol=1e-3)


def test_nothing_asked_for_is_the_empty_caption(reading: Words) -> None:
    null, empty = reading.null(2), reading.encode(["", "  "])
    assert null.tokens is not None and empty.tokens is not None and torch.equal(null.tokens, empty.tokens)


def test_bad_captions_are_refused_in_words(reading: Words) -> None:
    with pytest.raises(ValueError, match="too long for this model, which reads 11"):
        reading.encode(["word " * 10_000])
    with pytest.raises(ValueError, match="must be text, not int"):
        reading({"caption": [3]})
    with pytest.raises(ValueError, match="has no 'caption'"):
        reading({})
