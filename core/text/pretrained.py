"""Text encoders that others trained, CLIP's and T5's, with their tokenizers: frozen, and read as systems read them.

``transformers`` is imported where an encoder is opened, and only there.
"""

from __future__ import annotations

import dataclasses
import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from core.cond import Cond
from core.condition import Batch, Conditioner

PROJECTED = "CLIPTextModelWithProjection"


class PretrainedEncoder(nn.Module):
    """A tokenizer and a frozen encoder. It stays in evaluation, whatever is trained around it."""

    def __init__(self, tokenizer: Any, encoder: nn.Module, length: int) -> None:
        """length: tokens that every caption is padded or cut to."""
        super().__init__()
        self.tokenizer = tokenizer
        self.encoder = encoder.eval().requires_grad_(False)
        self.length = length

    def train(self, mode: bool = True) -> PretrainedEncoder:
        """Stays as it is: the encoder is not trained."""
        return self

    def token_ids(self, captions: Sequence[str]) -> Tensor:
        """Captions -> the tokenizer's numbers (B, length), on the encoder's device; what is too long is cut."""
        found = self.tokenizer(
            list(captions), padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
        )
        token_ids: Tensor = found["input_ids"]
        return token_ids.to(next(self.encoder.parameters()).device)

    def truncated(self, captions: Sequence[str]) -> list[str]:
        """What of each caption the encoder does not read, in the tokenizer's words; "" of a caption that fits."""
        return [
            self.tokenizer.decode(token_ids[self.length - 1 : -1]) if len(token_ids) > self.length else ""
            for token_ids in self.tokenizer(list(captions), verbose=False)["input_ids"]
        ]


class ClipOutput(NamedTuple):
    """What CLIP makes of captions."""

    states: Sequence[Tensor]  # each (B, length, width): after each layer, the embeddings first, before the final norm
    pooled: Tensor  # (B, width), or (B, projection): the state of the end token


class Clip(PretrainedEncoder):
    """CLIP's text encoder (2103.00020), with or without the projection of what it pools."""

    def __init__(self, tokenizer: Any, encoder: nn.Module) -> None:
        """A tokenizer that names no length (a bare vocabulary) gets the encoder's."""
        token_ids = len(encoder.get_parameter(self._stem(encoder) + "embeddings.position_embedding.weight"))
        super().__init__(tokenizer, encoder, min(tokenizer.model_max_length, token_ids))

    @staticmethod
    def _stem(encoder: nn.Module) -> str:
        return "text_model." if hasattr(encoder, "text_model") else ""

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> ClipOutput:
        """All states, and what is pooled: the projected state of the end token, or the state itself after the norm."""
        found = self.encoder(self.token_ids(captions), output_hidden_states=True)
        pooled = found.text_embeds if hasattr(found, "text_embeds") else found.pooler_output
        return ClipOutput(found.hidden_states, pooled)

    @torch.no_grad()
    def normed(self, state: Tensor) -> Tensor:
        """A state (B, length, width) after the final norm."""
        done: Tensor = self.encoder.get_submodule(self._stem(self.encoder) + "final_layer_norm")(state)
        return done


class T5(PretrainedEncoder):
    """T5's encoder (1910.10683). Systems of images read its padding too: no mask."""

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> Tensor:
        """Tokens (B, length, width)."""
        tokens: Tensor = self.encoder(self.token_ids(captions)).last_hidden_state
        return tokens


class PretrainedText(Conditioner):
    """The base of conditioners on ``batch["caption"]``, a list of texts, by encoders that others trained."""

    @abstractmethod
    def encode(self, captions: Sequence[str]) -> Cond:
        """What the encoders make of captions."""

    @abstractmethod
    def encoders(self) -> list[PretrainedEncoder]:
        """The encoders in use."""

    def forward(self, batch: Batch) -> Cond:
        """Raises ValueError when there are no captions, or one is no text."""
        return self.encode(captions_of(batch))

    def null(self, count: int) -> Cond:
        """The empty caption."""
        return repeated(self.encode([""]), count)

    def truncated(self, captions: Sequence[str]) -> list[str]:
        """What of each caption is cut off because no encoder reads so far; "" where all of it is read."""
        cut = [encoder.truncated(captions) for encoder in self.encoders()]
        return [min(ends, key=len) for ends in zip(*cut)]


def captions_of(batch: Batch) -> list[str]:
    """The captions of a batch. Raises ValueError when there are none, or one is no text."""
    captions = batch.get("caption")
    if captions is None or isinstance(captions, str):
        raise ValueError("text-conditional model: the batch has no 'caption' (a list with one for each sample)")
    for caption in captions:
        if not isinstance(caption, str):
            raise ValueError(f"a caption must be text, not {type(caption).__name__}")
    return list(captions)


def repeated(cond: Cond, count: int) -> Cond:
    """The condition of one sample for ``count`` of them."""
    slots = {field.name: getattr(cond, field.name) for field in dataclasses.fields(cond)}
    return Cond(**{name: value.expand(count, *value.shape[1:]) for name, value in slots.items() if value is not None})


def open_clip(tokenizer: Path, encoder: Path) -> Clip:
    """CLIP's text encoder from two folders. Raises ValueError where they cannot be opened."""
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    projected = PROJECTED in _architectures(encoder)
    kind = CLIPTextModelWithProjection if projected else CLIPTextModel
    return Clip(_tokenizer(CLIPTokenizer, tokenizer), _weights(kind, encoder))


def open_t5(tokenizer: Path, encoder: Path, length: int) -> T5:
    """T5's encoder from two folders, reading ``length`` tokens. Raises ValueError where they cannot be opened."""
    from transformers import T5EncoderModel, T5Tokenizer

    return T5(_tokenizer(T5Tokenizer, tokenizer), _weights(T5EncoderModel, encoder), length)


def _architectures(folder: Path) -> list[str]:
    try:
        found: list[str] = json.loads((folder / "config.json").read_text()).get("architectures") or []
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder} has no readable config.json: give the folder of a text encoder") from error
    return found


def _tokenizer(kind: Any, folder: Path) -> Any:
    if not folder.is_dir():
        raise ValueError(f"{folder} does not exist: a text encoder needs the folder of its tokenizer next to it")
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers' own, of many kinds, and of many lines
        raise ValueError(f"{folder} holds no tokenizer that can be opened: fetch all of its files again") from error


def _weights(kind: Any, folder: Path) -> nn.Module:
    """Raises ValueError for a pickle, a damaged file, or tensors that are missing, unknown or of other shapes."""
    if not any(folder.glob("*.safetensors")):
        raise ValueError(f"{folder} has no .safetensors file: fetch it, or convert its pickle where you trust it")
    try:
        with _silence():
            model, found = kind.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
    except Exception as error:
        raise ValueError(
            f"{folder} holds no text encoder that can be opened, or one cut short: get it again"
        ) from error
    wrong = [
        *(f"{name} is missing" for name in found["missing_keys"]),
        *(f"{name} is unknown" for name in found["unexpected_keys"] if not name.endswith("position_ids")),
        *(f"{mismatch[0]} has another shape" for mismatch in found["mismatched_keys"]),
    ]
    if wrong:
        raise ValueError(f"{folder} does not hold the text encoder that its config.json says: {', '.join(wrong[:3])}")
    encoder: nn.Module = model
    return encoder


@contextmanager
def _silence() -> Iterator[None]:
    """Silence the progress bar and the key report of transformers; errors are one sentence."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
