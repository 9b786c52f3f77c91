"""A DiT that reads: without what it reads it is the DiT, words have their mask, preparing is exact."""

from __future__ import annotations

import pytest
import torch

from core.cond import Cond
from core.nn.attention import attend
from core.nn.dit import DiT, Patches, Sequence
from core.nn.textdit import Reader, TextDiT


def net(seed: int = 0) -> TextDiT:
    made = TextDiT(Sequence(5, 24, patch=2), depth=2, heads=3, text_width=7)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in made.parameters():
            value.copy_(0.08 * torch.randn(value.shape, generator=generator))
    return made.eval()


def words() -> Cond:
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(4) < torch.tensor([[4], [2], [1]])
    valid = torch.arange(8) < torch.tensor([[8], [8], [4]])
    return Cond(torch.randn(3, 24, generator=generator), torch.randn(3, 4, 7, generator=generator), mask, valid=valid)


X, TIME = torch.randn(3, 8, 5, generator=torch.Generator().manual_seed(2)), torch.tensor([3.0, 400.0, 900.0])


def test_without_what_it_reads_it_is_the_dit() -> None:
    ours, plain, cond = net(), DiT(Sequence(5, 24, patch=2), 2, 3).eval(), words()
    plain.load_state_dict({name: value for name, value in ours.state_dict().items() if "readers" not in name})
    assert not torch.allclose(ours(X, TIME, cond), plain(X, TIME, cond), atol=1e-3)
    for reader in ours.readers:
        assert isinstance(reader, Reader)
        torch.nn.init.zeros_(reader.project.weight)
        torch.nn.init.zeros_(reader.project.bias)
    assert torch.equal(ours(X, TIME, cond), plain(X, TIME, cond))
    # A new one starts so.
    assert not any(
        value.any() for name, value in TextDiT(Sequence(5, 24), 1, 3, 7).named_parameters() if "rs.0.p" in name
    )


def test_a_reader_is_cross_attention() -> None:
    reader = net().readers[0]
    assert isinstance(reader, Reader)
    tokens, output = torch.randn(2, 6, 24), torch.randn(2, 4, 7)
    query = reader.ask((tokens - tokens.mean(-1, keepdim=True)) / tokens.var(-1, False, True).add(1e-6).sqrt())
    key, value = reader.words(output)[..., :24], reader.words(output)[..., 24:]
    heads = [part.view(2, -1, 3, 8).transpose(1, 2) for part in (query, key, value)]
    expected = reader.project(attend(heads[0], heads[1], heads[2]).transpose(1, 2).reshape(2, 6, 24))
    torch.testing.assert_close(reader(tokens, reader.keys_values(output), None), expected, rtol=0, atol=1e-6)


@torch.no_grad()
def test_prepared_it_says_the_same_and_words_that_are_none_say_nothing() -> None:
    ours, cond = net(), words()
    assert cond.tokens is not None and cond.mask is not None
    output = ours(X, TIME, cond)
    torch.testing.assert_close(ours.prepare(cond)(X, TIME), output, rtol=0, atol=1e-6)
    at_once = ours.prepare(cond)
    for _ in range(2):
        torch.testing.assert_close(at_once(X, TIME[1]), ours(X, TIME[1].expand(3), cond), rtol=0, atol=1e-6)
    noisy = torch.where(cond.mask[..., None], cond.tokens, 50.0)
    torch.testing.assert_close(ours(X, TIME, Cond(cond.vector, noisy, cond.mask, valid=cond.valid)), output)
    alone = ours(
        X[1:2], TIME[1:2], Cond(*(part[1:2] for part in (cond.vector, cond.tokens, cond.mask) if part is not None))
    )
    torch.testing.assert_close(alone, output[1:2], rtol=0, atol=1e-6)
    polluted = torch.where(torch.arange(8)[:, None] < torch.tensor([[[8]], [[8]], [[4]]]), X, 9.0)
    torch.testing.assert_close(ours(polluted, TIME, cond), output, rtol=0, atol=1e-6)
    assert not output[2, 4:].any()


def test_it_reads_for_pictures_too_and_wants_words() -> None:
    pictures = TextDiT(Patches((4, 4), 3, 24, 2), 1, 3, 7)
    assert pictures(torch.randn(2, 3, 4, 4), TIME[:2], Cond(tokens=torch.randn(2, 5, 7))).shape == (2, 3, 4, 4)
    for cond in (Cond(), Cond(tokens=torch.randn(3, 4, 8))):
        with pytest.raises(ValueError, match="words of width 7"):
            net()(X, TIME, cond)
