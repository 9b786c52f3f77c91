"""The `langevin` command: one word says what to do, `--help` after it says how."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence

from app.stopping import prompt_stop
from core.names import look_up
from core.progress import StoppedError
from langevin import __version__

COMMANDS = {
    "list": ("app.catalogue", "the recipes, with their presets"),
    "info": ("app.info", "what a recipe or a checkpoint is"),
    "inspect": ("app.inspect", "what any file or folder of weights is, from its header"),
    "convert": ("app.convert", "from one layout or precision of weights to another"),
    "data": ("app.data", "what a folder or file of data is, before training"),
    "prepare": ("app.preparation", "a folder of data once, ahead of training"),
    "train": ("app.training", "train a recipe"),
    "watch": ("app.watch", "follow a run: where it is, its losses, the time left"),
    "sample": ("app.sampling", "sample a checkpoint or a published pipeline"),
    "edit": ("app.edit", "edit a file with a model: inpaint, image-to-image, restore, in-between, ..."),
    "replay": ("app.replay", "make a file again from the settings in it, and compare"),
    "evaluate": ("app.evaluation", "measure a checkpoint against its data"),
    "solvers": ("app.solvers", "measure every sampler against closed forms"),
    "completion": ("app.completion", "let your shell complete what is typed"),
    "demo": ("app.demo", "train on real digits, and compare five samplers"),
}

USAGE = """Langevin: diffusion models on one certified core.

usage: langevin COMMAND ...

{commands}

`langevin COMMAND --help` explains each. Start with `langevin list`, or `langevin train ddpm --preset tiny`.
"""


def usage() -> str:
    """What the bare command prints."""
    return USAGE.format(commands="\n".join(f"  {name:10} {about}" for name, (_, about) in commands().items()))


def commands() -> dict[str, tuple[str, str]]:
    """Name -> module and help: the commands of every model, and those that only a domain has."""
    from core.registry import commands as of_domains

    return COMMANDS | of_domains()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 2 for bad input, 130 for Ctrl-C, 143 for SIGTERM, 141 for a closed pipe."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported: idle threads must not spin
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0
    if words == ["--version"]:
        print(f"langevin {__version__}")
        return 0
    try:
        with prompt_stop():
            module, _ = look_up("command", words[0], commands(), "langevin --help")
            importlib.import_module(module).main(words[1:])
    except KeyboardInterrupt as stop:
        print(f"langevin: {stop or 'interrupted'}", file=sys.stderr)
        return 128 + (stop.number if isinstance(stop, StoppedError) else signal.SIGINT)
    except BrokenPipeError:  # who reads the output, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its end
        return 141
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
