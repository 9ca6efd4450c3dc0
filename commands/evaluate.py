"""Evaluate any weights: k-NN, linear probe, and what else ``eval/`` holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.cli import PluginOption, load_plugins, make_parser, parse, require_one_process, value_of
from common.errors import UserError
from common.files import remove_unfinished
from common.options import option
from data.datasets import listing_once
from eval.core.base import EVALUATIONS, EvaluationConfig, check_data
from eval.core.context import EvalContext, make_context
from eval.core.options import WeightsOptions
from eval.core.run import run_evaluations
from rundir.lock import run_lock
from rundir.log import end_of, holds_work, start_of
from rundir.options import require_options, write_options
from rundir.paths import CHECKPOINTS, CONFIG, ENVIRONMENT, RESULTS
from rundir.provenance import read_environment, write_environment
from rundir.results import Measurement, read_results
from training.machine.environment import describe_environment


@dataclass(kw_only=True)
class WeightsCommand(PluginOption, WeightsOptions):
    """Which weights, on which data, and how."""

    again: bool = False
    """measure anew what has been measured with the same weights, data and options"""


@dataclass(kw_only=True)
class EvaluateCommand(WeightsCommand):
    """Evaluate any weights. Each evaluation has further options, --EVALUATION_OPTION."""

    evals: list[str] = option(["knn", "linear"], names=EVALUATIONS.names)
    """evaluations; docs/evaluations.md describes them"""


def main(words: Sequence[str]) -> int:
    require_one_process("evaluate")
    evaluate_weights(*read_options(words))
    return 0


def read_options(words: Sequence[str]) -> tuple[EvaluateCommand, dict[str, EvaluationConfig]]:
    """Parse the words of ``run.py evaluate``, and load plug-ins on the way. Returns the command's options, and each evaluation's.
    Raises UsageError for an unknown option or evaluation (naming the nearest one) or a value of another kind."""
    load_plugins(words)
    parser = make_parser("evaluate", __doc__)
    parser.add_arguments(EvaluateCommand, dest="command")
    names = value_of(words, "evals", many=True) or EvaluateCommand().evals
    for name in names:
        parser.add_arguments(EVALUATIONS.get(name).Config, dest=f"eval_{name}", prefix=f"{name}_")
    options = parse(parser, words)
    return options.command, {name: getattr(options, f"eval_{name}") for name in names}


@listing_once()
def evaluate_weights(command: EvaluateCommand, configs: Mapping[str, EvaluationConfig]) -> list[Measurement]:
    """Run the evaluations in ``configs`` (options by name), print the measurements and write them into the run directory. Raises
    UserError if options, weights or data are wrong, or another process writes into the run directory."""
    context = make_context(command)
    for name in configs:
        check_data(name, context.test.name)  # before anything is written
    options = _options_of(command, context)
    with run_lock(context.run_dir):
        remove_unfinished(context.run_dir)
        if options is not None:
            _claim(context.run_dir, options, context.weights_hash)
            if not (context.run_dir / ENVIRONMENT).exists():
                here = describe_environment(context.device, context.precision)
                here["patch_size"] = context.backbone.stride if context.backbone.has_tokens else None
                here |= _training_of(command.weights)
                write_environment(context.run_dir, here)
        return run_evaluations(list(configs), configs, context, command.again)


def _options_of(command: EvaluateCommand, context: EvalContext) -> dict[str, Any] | None:
    """Contents for the directory's ``config.yaml``; None if the directory is the weights' own run."""
    if command.weights and Path(command.weights).resolve() == context.run_dir.resolve():
        return None
    if context.trained:  # the row of a report is the training's
        own = {"weights": command.weights, "backbone": context.backbone_name, "image_size": context.image_size}
        return context.trained | own | ({} if command.key is None else {"key": command.key})
    options: dict[str, Any] = {}
    if command.weights is None:
        options["method"] = "pixels" if context.backbone_name == "pixels" else "random"
    return options | {
        "weights": command.weights,
        "key": command.key,
        "backbone": context.backbone_name,
        "data": context.test.name,
        "data_root": command.data_root,
        "image_size": context.image_size,
        "seed": command.seed,
    }


def _training_of(weights: str | None) -> dict[str, Any]:
    """What the log and the environment of the weights' run say about its training, for the environment of its evaluation; {} if
    they come from no run directory."""
    run = None if weights is None else Path(weights)
    if run is not None and run.is_file() and run.parent.name == CHECKPOINTS:
        run = run.parent.parent
    if run is None or not (run / CONFIG).is_file():
        return {}
    try:
        method = read_environment(run).get("method")
    except (OSError, ValueError):  # a report names the damage
        method = None
    begun = start_of(run)
    trained = {**(end_of(run) or {}), "fingerprint": begun.get("fingerprint"), "source": begun.get("source")}
    return {"trained": trained} | ({} if method is None else {"method": method})


def _claim(directory: Path, options: dict[str, Any], weights_hash: str) -> None:
    """Write ``config.yaml``, or raise UserError if the directory is for other weights; several data sets may share it."""
    if not (directory / CONFIG).exists() or not holds_work(directory):
        write_options(directory, options)
        return
    before = require_options(directory)
    own = () if "epochs" in options else ("seed",)  # a training's seed is the weights' own
    other = [name for name in ("weights", "key", "backbone", *own) if before.get(name) != options.get(name)]
    if other == ["weights"]:
        measured = {m.weights for file in (directory / RESULTS).glob("*.json") for m in read_results(file)}
        if measured == {weights_hash}:  # the same, moved
            write_options(directory, before | {"weights": options["weights"]})
            return
    if other:
        name = other[0]
        raise UserError(
            f"{directory} holds results of other weights ({name} was {before.get(name)}, now {options.get(name)}); "
            "give another --out"
        )
