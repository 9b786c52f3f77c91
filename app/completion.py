"""`langevin completion`: the script that makes a shell complete commands, recipes, presets, operations and flags."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from app.options import Flag, flags_of, parse
from core.flags import option
from core.names import look_up
from core.registry import commands as of_domains
from core.registry import operations, preparations, requests, systems

ABOUT = """Print the script that completes what is typed after `langevin`.

Examples:
  langevin completion bash >> ~/.bashrc
  langevin completion zsh >> ~/.zshrc
  langevin completion fish > ~/.config/fish/completions/langevin.fish"""
BASH = """_langevin() {
  local words="${COMP_WORDS[*]:1:COMP_CWORD-1}"
  COMPREPLY=($(compgen -W "$(langevin completion words --typed "$words")" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _langevin langevin"""
ZSH = f"autoload -U +X bashcompinit && bashcompinit\n{BASH}"
FISH = "complete -c langevin -a \"(langevin completion words --typed (string join ' ' (commandline -opc)[2..]))\""
SHELLS = {"bash": BASH, "zsh": ZSH, "fish": FISH}
WORDS = "words"  # in the place of a shell: what may follow


@dataclass(frozen=True)
class Options:
    """What `langevin completion` takes."""

    typed: str = option("", "for `langevin completion words`, which the scripts call: what stands before the cursor")


def main(words: Sequence[str]) -> None:
    """Print a script, or what may follow some words, a line each."""
    known = [("shell", "bash, zsh or fish")]
    options, given = parse(Options, "langevin completion", ABOUT, words, known)
    if given["shell"] == WORDS:
        print("\n".join(following(options.typed.split())))
        return
    print(look_up("shell", given["shell"], SHELLS, "langevin completion --help"))


def following(words: Sequence[str]) -> list[str]:
    """What may follow some words."""
    from app.main import commands

    if not words:
        return [*commands(), "--help", "--version"]
    command, *rest = words
    if command not in commands() or command in of_domains():
        return []
    names = vars(importlib.import_module(commands()[command][0]))
    own = [value for value in names.values() if isinstance(value, Flag)]
    own += flags_of(names["Options"]) if "Options" in names else []
    if command in ("train", "info") and not rest:
        alone = [value for value in names.values() if isinstance(value, Flag)]  # flags that may stand first
        return [*systems(), *as_typed(flag.name for flag in alone)]
    if command == "train" and rest[0] in systems():
        presets = systems()[rest[0]].presets
        if rest[-1] == "--preset":
            return list(presets)
        return as_typed([*(flag.name for flag in own), *(name for each in presets.values() for name in each)])
    if command == "edit":
        table = {name: kind for domain in operations().values() for name, kind in domain.items()}
        own += flags_of(table[rest[0]]) if rest and rest[0] in table else []
        return as_typed(flag.name for flag in own) if rest else list(table)
    if command == "prepare":
        own += [flag for kind in preparations().values() for flag in flags_of(kind)]
    if command in ("sample", "evaluate"):
        own += [flag for kind in requests().values() for flag in flags_of(kind)]
    return as_typed(flag.name for flag in own)


def as_typed(names: Iterable[str]) -> list[str]:
    """Names of flags as they are typed, each once."""
    return [f"--{name.replace('_', '-')}" for name in dict.fromkeys(names)]
