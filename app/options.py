"""Options: from a dataclass or a recipe's signature to the flags of a command, and back.

A field is a flag; its ``metadata["help"]`` is its help. Errors are one sentence, with the nearest flag offered.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import itertools
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

from core.names import nearest
from core.parameters import About

T = TypeVar("T")


class Flag(NamedTuple):
    """One option: ``--name value``, or ``--name`` / ``--no-name`` for yes and no."""

    name: str
    kind: Any
    default: Any
    about: str
    metavar: str | None = None
    group: str | None = None  # the heading under which help shows it


METAVARS = {int: "N", float: "X", str: "NAME", Path: "PATH"}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{self.prog}: {message}; see `{self.prog} --help`")


def typed(name: str, words: Sequence[str]) -> str | None:
    """What was typed after a flag, before the words are read; None where the flag is not among them."""
    flag = f"--{name.replace('_', '-')}"
    for word, following in zip(words, [*words[1:], ""]):
        if word in (flag, f"--no-{flag[2:]}"):
            return following
        if word.startswith(f"{flag}="):
            return word[len(flag) + 1 :]
    return None


def flags_of(kind: type) -> list[Flag]:
    """The flags of a dataclass."""
    hints = typing.get_type_hints(kind)
    return [
        Flag(f.name, hints[f.name], f.default, f.metadata.get("help", ""), f.metadata.get("metavar"))
        for f in dataclasses.fields(kind)
    ]


def flags_of_function(function: Callable[..., object], parameters: Mapping[str, About]) -> list[Flag]:
    """The flags of a function's parameters; a parameter without a default must be given."""
    hints = typing.get_type_hints(function)
    found = []
    for name, parameter in inspect.signature(function).parameters.items():
        required = parameter.default is inspect.Parameter.empty
        default = dataclasses.MISSING if required else parameter.default
        found.append(Flag(name, hints[name], default, *parameters.get(name, About("")), group="options of the recipe"))
    return found


def read(
    program: str,
    about: str,
    positional: Sequence[tuple[str, str]],
    flags: Sequence[Flag],
    words: Sequence[str],
    elsewhere: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The values of a command line; raises ValueError, in one sentence, for what is unknown, missing or unreadable.

    elsewhere: flags that other models have, and of which modality those are.
    """
    parser = _Parser(prog=program, description=about, allow_abbrev=False, formatter_class=_Help)
    for name, text in positional:
        parser.add_argument(name, help=text)
    groups: dict[str, argparse._ArgumentGroup] = {}
    for flag in flags:
        if flag.group is not None and flag.group not in groups:
            groups[flag.group] = parser.add_argument_group(flag.group)
        _add(parser if flag.group is None else groups[flag.group], flag)
    known = [text for action in parser._actions for text in action.option_strings]
    for word in words:
        name = word.split("=")[0]
        if name.startswith("--") and name not in known:
            if elsewhere and name in elsewhere:
                raise ValueError(f"{name} is for models of the modality {elsewhere[name]}: leave it out")
            near = nearest(name, known)
            offer = f"did you mean '{near}'?" if near else f"see `{program} --help`."
            raise ValueError(f"{program} has no option '{name}': {offer}")
    return vars(parser.parse_args(list(words)))


class _Help(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=100)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Paragraphs are filled; empty lines, and those that begin with two spaces, as examples do, are kept."""
        filled: list[str] = []
        for typed, lines in itertools.groupby(text.splitlines(), key=lambda line: line[:2] in ("", "  ")):
            block = list(lines)
            filled += block if typed else [super()._fill_text("\n".join(block), width, indent)]
        return "\n".join(filled)


def _add(parser: argparse._ActionsContainer, flag: Flag) -> None:
    name = f"--{flag.name.replace('_', '-')}"
    required = flag.default is dataclasses.MISSING
    default = " ".join(map(str, flag.default)) if isinstance(flag.default, tuple) else flag.default
    shown = "" if required or default in (None, "") else f" (default: {default})"
    about = (flag.about + shown).strip().replace("%", "%%")
    kind, many = _plain(flag.kind)
    if kind is bool:
        parser.add_argument(name, action=argparse.BooleanOptionalAction, default=flag.default, help=about)
    elif many:
        parser.add_argument(
            name,
            type=kind,
            nargs="+",
            default=flag.default,
            required=required,
            help=about,
            metavar=flag.metavar or METAVARS.get(kind, "VALUE"),
        )
    else:
        metavar = flag.metavar or METAVARS.get(kind, "VALUE")
        parser.add_argument(name, type=kind, default=flag.default, required=required, help=about, metavar=metavar)


def _plain(kind: Any) -> tuple[Any, bool]:
    """The type of one value, and whether there are several: ``int | None`` is one int, ``tuple[int, ...]`` several."""
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        return _plain(next(part for part in typing.get_args(kind) if part is not type(None)))
    if origin in (tuple, list, Sequence):
        return typing.get_args(kind)[0], True
    return kind, False


def parse(
    kind: type[T], program: str, about: str, words: Sequence[str], positional: Sequence[tuple[str, str]] = ()
) -> tuple[T, dict[str, Any]]:
    """Read a command line into a dataclass; also the values of its positional words."""
    flags = flags_of(kind)
    values = read(program, about, positional, flags, words)
    return kind(**{flag.name: values[flag.name] for flag in flags}), {name: values[name] for name, _ in positional}
