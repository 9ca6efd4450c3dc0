"""Pre-train a backbone with a method, then evaluate it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console

from common.cli import PluginOption, load_plugins, make_parser, parse, read_config, value_of, words_of
from eval.core.base import EVALUATIONS, EvaluationConfig, check_data
from methods.core.base import METHODS, MethodConfig
from reports.visual.core.base import check_for_reports
from training.config import TrainConfig


@dataclass(kw_only=True)
class TrainCommand(PluginOption):
    """Options of the command line that do not belong to the run itself."""

    config: str | None = None
    """YAML file of options, as a run writes it into its config.yaml; the command line overrides it"""
    resume: Literal["auto", "never"] = "auto"
    """auto: continue what the run directory holds; never: refuse a directory that holds a run"""
    dry_run: bool = False
    """print the resolved configuration, parameters, FLOPs, steps and memory; train nothing"""


@dataclass(frozen=True)
class TrainOptions:
    """What the words of ``run.py train`` say: of the command itself, of the run, of its method and of its evaluations."""

    command: TrainCommand
    train: TrainConfig
    method: MethodConfig
    evaluations: Mapping[str, EvaluationConfig]


def main(words: Sequence[str]) -> int:
    options = read_options(words)
    from training.trainer import plan, print_plan, train

    if options.command.dry_run:
        print_plan(plan(options.train, options.method))
    else:
        train(options.train, options.method, options.evaluations, resume=options.command.resume == "auto")
    return 0


def read_options(words: Sequence[str]) -> TrainOptions:
    """Parse the words of ``run.py train``: a configuration file's first, then those given; plug-ins are loaded on the way.

    Raises UsageError for an unknown option, method, evaluation or picture (naming the nearest one) or a value of another kind.
    """
    load_plugins(words)
    if file := value_of(words, "config"):
        words = [*words_of(_fitting(read_config(file), words)), *words]
    method = METHODS.get(value_of(words, "method") or TrainConfig.method)
    parser = make_parser("train", __doc__)
    parser.add_arguments(TrainCommand, dest="command")
    parser.add_arguments(TrainConfig, dest="train", default=TrainConfig(**method.recipe))
    parser.add_arguments(method.Config, dest="method_options")
    names = value_of(words, "evals", many=True) or []
    for name in names:
        parser.add_arguments(EVALUATIONS.get(name).Config, dest=f"eval_{name}", prefix=f"{name}_")
    options = parse(parser, words)
    for name in names:
        check_data(name, options.train.data)
    check_for_reports(options.train.visualize or [])
    evaluations = {name: getattr(options, f"eval_{name}") for name in names}
    return TrainOptions(options.command, options.train, options.method_options, evaluations)


def _fitting(options: dict[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """A configuration file's options without those of its method and its evaluations where ``words`` name others; says which."""

    def names_in(kind: type, prefix: str = "") -> set[str]:
        return {prefix + field.name for field in dataclasses.fields(kind)}

    gone: set[str] = set()
    theirs, ours = options.get("method", TrainConfig.method), value_of(words, "method")
    if theirs in METHODS.names() and ours in METHODS.names():
        gone |= names_in(METHODS.get(theirs).Config) - names_in(METHODS.get(ours).Config) - names_in(TrainConfig)
    asked = value_of(words, "evals", many=True)
    if asked is not None:
        for name in set(options.get("evals") or []) & set(EVALUATIONS.names()) - set(asked):
            gone |= names_in(EVALUATIONS.get(name).Config, f"{name}_")
    gone &= options.keys()
    if gone:
        Console(stderr=True).print(
            f"--config: left out, for they belong to another method or evaluation: {', '.join(sorted(gone))}",
            style="dim",
            soft_wrap=True,
        )
    return {name: value for name, value in options.items() if name not in gone}
