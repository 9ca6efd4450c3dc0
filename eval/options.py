"""The command ``run.py evaluate``: from its words to its options. Imports no torch that the evaluations do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from common.cli import make_parser, parse, value_of
from common.registry import load_plugin
from eval.base import EVALUATIONS, EvaluationConfig
from eval.config import EvaluateCommand


def read_options(words: Sequence[str], description: str = "") -> tuple[EvaluateCommand, Mapping[str, EvaluationConfig]]:
    """Parse the words of ``run.py evaluate``; plug-ins are loaded on the way.

    Returns:
        the options of the command itself, and those of each evaluation that it names.

    Raises UsageError for an unknown option or evaluation (naming the nearest known one) or a value of another kind.
    """
    for plugin in value_of(words, "plugin") or []:
        load_plugin(plugin)
    parser = make_parser("evaluate", description)
    parser.add_arguments(EvaluateCommand, dest="command")
    names = value_of(words, "evals", many=True) or EvaluateCommand().evals
    for name in names:
        parser.add_arguments(EVALUATIONS.get(name).Config, dest=f"eval_{name}", prefix=f"{name}_")
    options = parse(parser, words)
    return options.command, {name: getattr(options, f"eval_{name}") for name in names}
