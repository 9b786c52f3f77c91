"""Captioned files by index, still encoded: of a folder, of tar shards, or some of either.

What the files are, pictures, films or sounds, is nothing to a source: a domain hands in a ``Kind`` and decodes them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from io import BufferedReader
from typing import Protocol

import torch

from core.data.dataset import DataError


@dataclass(frozen=True)
class Kind:
    """What the files of a source are called in messages, and how their names end, in small letters with the dot."""

    name: str
    suffixes: frozenset[str]


class Source(Protocol):
    """Captioned files by index, still encoded."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What messages call a file."""

    def open(self, index: int) -> BufferedReader:
        """The open file, to be closed by the caller."""

    def caption(self, index: int) -> str:
        """What it shows. Raises DataError where there is none, or it cannot be read."""


@dataclass(frozen=True)
class Part:
    """Some files of a source."""

    source: Source
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        """What messages call a file."""
        return self.source.name(self.indices[index])

    def open(self, index: int) -> BufferedReader:
        """The open file."""
        return self.source.open(self.indices[index])

    def caption(self, index: int) -> str:
        """What it shows."""
        return self.source.caption(self.indices[index])


def split_source(source: Source, held_out: float = 0.1) -> tuple[Part, Part]:
    """A training part and a held-out part, by a fixed shuffle; both have at least one file."""
    kept, out = divided(len(source), held_out)
    return Part(source, kept), Part(source, out)


def divided(count: int, held_out: float = 0.1) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Which of ``count`` examples are trained on, and which are held out, by a fixed shuffle; at least one of each.

    Raises DataError for fewer than two.
    """
    if count < 2:
        raise DataError("one example cannot be split into a training and a held-out part: give at least two")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
    kept = max(1, min(count - 1, round(count * held_out)))
    return tuple(order[kept:]), tuple(order[:kept])


def fingerprint(source: Source, index: int, settings: str) -> bytes:
    """SHA-256 of a file, its caption and the settings it is decoded with."""
    with source.open(index) as file:
        content = hashlib.file_digest(file, "sha256").digest()
    return hashlib.sha256(content + f"{settings} {source.caption(index)}".encode()).digest()
