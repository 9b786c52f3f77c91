"""The `langevin` command: one word says what to do, `--help` after it says how."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from core.names import look_up

COMMANDS = {
    "list": ("app.catalogue", "the recipes, with their presets"),
    "info": ("app.info", "what a recipe or a checkpoint is"),
    "inspect": ("app.inspect", "what any file or folder of weights is, from its header"),
    "convert": ("app.convert", "from one layout or precision of weights to another"),
    "train": ("app.training", "train a recipe"),
    "sample": ("app.sampling", "draw samples from a checkpoint"),
    "edit": ("app.edit", "change a picture or a motion: by a prompt, where a mask or frames say, or restore it"),
    "replay": ("app.replay", "make the same picture again from its own metadata"),
    "evaluate": ("app.evaluation", "measure a checkpoint against its data"),
    "solvers": ("app.solvers", "measure every sampler against closed forms"),
    "demo": ("app.demo", "train on real digits, sample four ways, and show it"),
}

USAGE = """Langevin: diffusion models on one certified core.

usage: langevin COMMAND ...

{commands}

`langevin COMMAND --help` explains each. Start with `langevin list`, or `langevin train ddpm --preset tiny`.
"""


def usage() -> str:
    """What the bare command prints."""
    return USAGE.format(commands="\n".join(f"  {name:10} {about}" for name, (_, about) in COMMANDS.items()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; bad input is one sentence on stderr and exit status 2, an interrupt is 130."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported: idle threads must not spin
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0
    try:
        module, _ = look_up("command", words[0], COMMANDS, "langevin --help")
        importlib.import_module(module).main(words[1:])
    except KeyboardInterrupt as stop:
        print(f"langevin: {stop or 'interrupted'}", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"langevin: {sentence(error)}", file=sys.stderr)
        return 2
    return 0


def sentence(error: Exception) -> str:
    """An error as one line: operating-system errors name their file."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror.lower()}: {error.filename}" if error.filename else error.strerror.lower()
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
