"""The command ``run.py train``: from its words to the options of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from common.cli import make_parser, parse, read_config, value_of, words_of
from common.registry import load_plugin
from eval.base import EVALUATIONS, EvaluationConfig, check_data
from methods.base import METHODS, MethodConfig
from training.config import TrainCommand, TrainConfig


@dataclass(frozen=True)
class TrainOptions:
    """What the words of ``run.py train`` say: of the command itself, of the run, of its method and of its evaluations."""

    command: TrainCommand
    train: TrainConfig
    method: MethodConfig
    evaluations: Mapping[str, EvaluationConfig]


def read_options(words: Sequence[str], description: str = "") -> TrainOptions:
    """Parse the words of ``run.py train``: a configuration file's first, then those given; plug-ins are loaded on the way.

    Raises UsageError for an unknown option, method or evaluation (naming the nearest known one) or a value of another kind.
    """
    for plugin in value_of(words, "plugin") or []:
        load_plugin(plugin)
    if file := value_of(words, "config"):
        words = [*words_of(_fitting(read_config(file), words)), *words]
    method = METHODS.get(value_of(words, "method") or TrainConfig.method)
    parser = make_parser("train", description)
    parser.add_arguments(TrainCommand, dest="command")
    parser.add_arguments(TrainConfig, dest="train", default=TrainConfig(**method.recipe))
    parser.add_arguments(method.Config, dest="method_options")
    names = value_of(words, "evals", many=True) or []
    for name in names:
        parser.add_arguments(EVALUATIONS.get(name).Config, dest=f"eval_{name}", prefix=f"{name}_")
    options = parse(parser, words)
    for name in names:
        check_data(name, options.train.data)
    evaluations = {name: getattr(options, f"eval_{name}") for name in names}
    return TrainOptions(options.command, options.train, options.method_options, evaluations)


def _fitting(options: dict[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """A configuration file's options without those of its method and its evaluations where ``words`` name others; says which."""
    known = {f.name for f in dataclasses.fields(TrainConfig)}
    theirs, evaluations = options.get("method", TrainConfig.method), options.get("evals") or []
    ours = value_of(words, "method") or theirs
    gone = set()
    if ours != theirs and theirs in METHODS.names() and ours in METHODS.names():
        own, others = ({f.name for f in dataclasses.fields(METHODS.get(name).Config)} for name in (theirs, ours))
        gone |= own - others - known
    for name in evaluations if value_of(words, "evals", many=True) is not None else ():
        if name not in value_of(words, "evals", many=True) and name in EVALUATIONS.names():
            gone |= {f"{name}_{f.name}" for f in dataclasses.fields(EVALUATIONS.get(name).Config)}
    gone &= options.keys()
    if gone:
        Console(stderr=True).print(
            f"--config: left out, for they belong to another method or evaluation: {', '.join(sorted(gone))}",
            style="dim",
            soft_wrap=True,
        )
    return {name: value for name, value in options.items() if name not in gone}
