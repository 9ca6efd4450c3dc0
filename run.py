#!/usr/bin/env python3
"""The command line: a table of commands, and how their errors are printed."""

from __future__ import annotations

import gc
import importlib
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

#: What each command does, in a line. It is the module ``commands.NAME``, whose ``main(words)`` returns the exit status.
COMMANDS = {
    "train": "pre-train a backbone with a method, then evaluate it (the default command)",
    "evaluate": "evaluate any weights: k-NN, linear probe, …",
    "segment": "train segmentation heads on any weights, frozen or fine-tuned, and measure their mIoU",
    "compare": "run a grid of trainings, continue what was interrupted, and report",
    "status": "show how far each run of a grid is, from the grid's folder alone",
    "reproduce": "run rows of published tables, and set what is measured beside what was published",
    "report": "make the report from run directories, without torch",
    "data": "build, check and describe a data set",
    "export": "write weights in another layout: the authors', timm's, torchvision's, ONNX",
    "features": "write the features of any folder's images to a parquet or npz file",
    "visualize": "look inside: attention, receptive fields, cross-correlation, features, crops, collapse",
}

USAGE = """usage: run.py [COMMAND] --option value …

Compare how vision backbones learn without labels, or with few.

commands:
{commands}

methods (--method):
{methods}

  python run.py COMMAND --help          the options of a command
  python run.py --method dino --help    the options of training, with DINO's own and its published defaults

examples:
  python run.py --method dino --backbone vit_s8
  python run.py --method barlow_twins --backbone resnet50 --data imagefolder --data_root DIR --evals knn linear
  python run.py evaluate --weights dino_deitsmall16_pretrain.pth --backbone vit_s16 --data imagenet --data_root DIR --evals knn
  python run.py compare --grid experiments/demo.yaml --out demo
"""


def main(words: Sequence[str]) -> int:
    """Run the command that ``words`` name; returns the exit status. Errors become one sentence on standard error."""
    from common.environment import continue_in_venv
    from common.errors import UserError, explain, unknown_name
    from common.names import printable
    from common.registry import plugins_of

    if not words or words[0] in ("-h", "--help"):
        methods = {name: plugins_of("methods").facts(name)["title"] for name in plugins_of("methods").names()}
        print(USAGE.format(commands=_lines(COMMANDS), methods=_lines(methods)))
        return 0
    command, rest = ("train", words) if words[0].startswith("-") else (words[0], words[1:])
    try:
        if command not in COMMANDS:
            raise unknown_name("command", command, COMMANDS)
        continue_in_venv(command, words)
        with _loaded(command) as module:
            return module.main(rest)
    except UserError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return stopped()
    except BrokenPipeError:
        raise
    except Exception as error:
        from common.interrupt import was_pressed

        if was_pressed():  # libraries turn KeyboardInterrupt into errors of their own
            return stopped()
        sentence = explain(error)
        if sentence is None:
            print(printable(traceback.format_exc()), end="", file=sys.stderr)
            sentence = f"{type(error).__name__}: {error}; this is a bug, and the lines above say where it happened"
        print(f"error: {printable(str(sentence))}", file=sys.stderr)
        return 1


@contextmanager
def _loaded(command: str) -> Iterator[ModuleType]:
    """A command's module. Imports leave no garbage, so within the block none is looked for among what they made: each look at
    all of torch takes a tenth of a second of the processor."""
    from common.progress import working

    gc.disable()
    try:
        with working("loading the packages that this takes"):
            module = importlib.import_module(f"commands.{command}")
        gc.freeze()
    finally:
        gc.enable()
    try:
        yield module
    finally:
        gc.unfreeze()


def _lines(about: Mapping[str, str]) -> str:
    """A line for each name."""
    width = max(map(len, about))
    return "\n".join(f"  {name:<{width}}  {line}" for name, line in about.items())


def stopped() -> int:
    """Say that the user has stopped the command, and return the exit status."""
    print("stopped; the same command continues", file=sys.stderr)
    return 130


def program() -> int:
    """The program: ``main`` with this process's words, and an output that may be narrow or closed."""
    sys.stdout.reconfigure(errors="backslashreplace")  # file names may hold what the terminal cannot show
    try:
        try:
            from common.interrupt import answer_always

            answer_always("stopping; again to end at once")
            return main(sys.argv[1:])
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever reads it, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))  # python -I, or PYTHONSAFEPATH, leaves it out
    sys.exit(program())
