"""The command ``run.py train``: from its words to the options of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console
from simple_parsing import field

from common.cli import make_parser, parse, read_config, value_of, words_of
from common.registry import load_plugin
from eval.core.base import EVALUATIONS, EvaluationConfig, check_data
from methods.core.base import METHODS, MethodConfig
from training.config import TrainConfig


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


@dataclass(kw_only=True)
class TrainCommand:
    """Options of the command line that do not belong to the run itself."""

    config: str | None = None
    """YAML file of options, as a run writes it into its config.yaml; the command line overrides it"""
    plugin: list[list[str]] = field(default_factory=list, action="append", type=str)
    """file or module that adds a method, backbone or evaluation; may be given several times"""
    resume: Literal["auto", "never"] = "auto"
    """auto: continue what the run directory holds; never: refuse a directory that holds a run"""
    dry_run: bool = False
    """print the resolved configuration, parameters, FLOPs, steps and memory; train nothing"""
