"""Pre-train a backbone with a method, then evaluate it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from commands.visualize import draw_for_run
from common.cli import PluginOption, load_plugins, make_parser, parse, read_config, value_of, with_options, words_of
from common.distributed import is_main
from common.errors import UsageError
from common.files import size_in_words
from common.progress import Console, note, warn, working
from data.datasets import listing_once
from eval.core.base import EVALUATIONS, EvaluationConfig, check_data
from methods.core.base import METHODS, MethodConfig
from methods.core.recipes import defaults_of
from reports.visual.core.base import check_for_reports
from rundir.failure import forget_failure
from rundir.lock import run_lock
from rundir.log import holds_work
from training.config import TrainConfig
from training.logging import require_loggers

if TYPE_CHECKING:
    from data.store.store import ImageStore
    from methods.core.base import Method
    from training.loop import Monitor, Pictures
    from training.plan import Plan


@dataclass(kw_only=True)
class TrainCommand(PluginOption):
    """Options that do not belong to the run itself."""

    config: str | None = None
    """YAML file of options, as a run writes it into its config.yaml; the command line overrides it"""
    resume: Literal["auto", "never"] = "auto"
    """auto: continue what the run directory holds; never: refuse a directory that holds a run"""
    extend: bool = False
    """go on with a run beyond the epochs that it was planned for, to --epochs; schedules go on as those of a run of so many, and
    the run and its reports say so (extended_from)"""
    dry_run: bool = False
    """print the resolved configuration, parameters, FLOPs, steps and memory; train nothing"""


@dataclass(frozen=True)
class TrainOptions:
    """The parsed words of ``run.py train``."""

    command: TrainCommand
    train: TrainConfig
    method: MethodConfig
    evaluations: Mapping[str, EvaluationConfig]


def main(words: Sequence[str]) -> int:
    train_from_words(words)
    return 0


@listing_once()
def train_from_words(words: Sequence[str]) -> Path:
    """Train, or with ``--dry_run`` print the plan, as the words of ``run.py train`` say; returns the run directory. Errors are
    those of ``read_options`` and ``train``."""
    options = read_options(words)
    command = options.command
    if command.dry_run:
        from training.plan import make_plan

        plan = make_plan(options.train, options.method, options.evaluations, fetch=False, extend=command.extend)
        print_plan(plan, with_options(words, {"dry_run": None}))
        return plan.directory
    return train(options.train, options.method, options.evaluations, command.resume == "auto", command.extend, words)


@listing_once()
def train(
    config: TrainConfig,
    method_config: MethodConfig,
    evaluations: Mapping[str, EvaluationConfig] | None = None,
    resume: bool = True,
    extend: bool = False,
    words: Sequence[str] = (),
) -> Path:
    """Pre-train a backbone, or continue where its run directory stops; then evaluate it and draw its pictures.

    ``evaluations`` has their options by name. Without ``resume``, a directory that holds a run is refused. With ``extend``, a run
    goes on beyond the epochs that it was planned for (``training.extension``). ``words``: the command line, to offer another one
    where this would take days. Returns the run directory.

    Raises:
        UsageError, UserError: options or data are wrong; the directory holds another run, or another process writes into it; the
            loss is no longer finite; memory does not suffice, or another process of the training has died.
        SystemExit: stopped by SIGINT, SIGTERM, SIGUSR1 or SIGHUP, after a checkpoint; the status is 128 + the signal's number.
    """
    require_loggers([config])
    # Imported here, since a grid only reads the options of its cells.
    with working("loading the trainer"):
        from eval.core.checks import require_possible
        from eval.core.context import make_context
        from eval.core.online import Monitor
        from eval.core.options import WeightsOptions
        from eval.core.run import run_evaluations
        from training import trainer
        from training.grids.alternative import warning_of_days
        from training.machine.devices import process_group
        from training.plan import make_plan

    with ExitStack() as held:
        with process_group(config.device):
            plan = make_plan(config, method_config, evaluations, extend=extend)
            config, run, main_process = plan.config, plan.directory, is_main()
            with working("checking what can be known before it begins"):
                require_possible(plan)
            if main_process:
                _warn(plan)
                held.enter_context(run_lock(run))
                forget_failure(run)
                if not holds_work(run):
                    with working("estimating how long this will take"):
                        warning = warning_of_days([plan], words)
                    if warning:
                        warn(warning)
            trainer.train(plan, Monitor, resume, _pictures if config.pictures_every else None)
        if main_process and plan.evaluations:
            options = WeightsOptions(
                weights=str(run), device=config.device, precision=config.precision, seed=config.seed
            )
            run_evaluations(list(plan.evaluations), plan.evaluations, make_context(options))
    if main_process and config.visualize:
        draw_for_run(run, config.visualize)
    return run


def _pictures(plan: Plan, method: Method, monitor: Monitor) -> Pictures:
    from reports.over_training import TrainingPictures  # imports matplotlib

    return TrainingPictures(plan, method, monitor.diagnose)


def read_options(words: Sequence[str]) -> TrainOptions:
    """Parse the words of ``run.py train``, over those of its configuration file, and load plug-ins on the way. Raises UsageError
    for an unknown option, method, evaluation or picture (naming the nearest one) or a value of another kind."""
    load_plugins(words)
    if file := value_of(words, "config"):
        options = read_config(file)
        theirs, ours = options.get("recipe"), value_of(words, "recipe")
        if theirs and ours and theirs != ours:
            raise UsageError(
                f"--recipe {ours}: {file} holds every option of a run by the {theirs} recipe, which would all win; leave one out"
            )
        words = [*words_of(_fitting(options, words)), *words]
    method = METHODS.get(value_of(words, "method") or TrainConfig.method)
    parser = make_parser("train", __doc__)
    parser.add_arguments(TrainCommand, dest="command")
    recipe, own = defaults_of(method, value_of(words, "recipe") or TrainConfig.recipe)
    parser.add_arguments(TrainConfig, dest="train", default=TrainConfig(**recipe))
    parser.add_arguments(method.Config, dest="method_options", default=own)
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
    """Drop, and print, options of a configuration file that belong to a method or evaluation which ``words`` replace."""

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
        note(f"--config: left out, for they belong to another method or evaluation: {', '.join(sorted(gone))}")
    return {name: value for name, value in options.items() if name not in gone}


def _warn(plan: Plan) -> None:
    from training.grids.checks import cautions

    for caution in cautions(plan):
        warn(f"warning: {caution}")


def print_plan(plan: Plan, words: Sequence[str] = ()) -> None:
    """Print a plan's options as YAML, its numbers with their units, and how long it takes; ``words`` as for ``train``. Raises
    UserError if the run would fail."""
    from eval.core.checks import require_possible
    from training.grids.alternative import warning_of_days
    from training.grids.estimate import TimeEstimate, in_words

    require_possible(plan)
    _warn(plan)
    console = Console(highlight=False, soft_wrap=True)
    console.print(yaml.safe_dump({"options": plan.options}, sort_keys=False, allow_unicode=True))
    (images, held_out), costs, config = plan.images, plan.costs, plan.config
    memory = [f"{k.replace('_', ' ')} {size_in_words(size)}" for k, size in costs["memory"].items() if size is not None]
    estimate = TimeEstimate([])
    with working("estimating how long this will take"):
        minutes, warning = estimate.of_plan(plan), warning_of_days([plan], words)
    lines = {
        "training images": f"{len(images):,} ({_held_out(images, held_out)})",
        "left out each epoch": f"{plan.left_out:,} images, others each time (the last, partial batch)",
        "steps": f"{plan.steps_per_epoch:,} an epoch, {plan.total_steps:,} in all",
        "images seen": f"{plan.images_seen:,}",
        "device": f"{plan.device}, {config.precision}",
        "parameters": f"{costs['parameters']:,} of the backbone, {costs['trained_parameters']:,} trained",
        "FLOPs an image": f"{_si(costs['flops'])} of the backbone at {config.image_size} pixels",
        "FLOPs an image, training": f"{_si(costs['training_flops'])} forward and backward of all views",
        "memory, estimated": ", ".join(memory),
        "training, estimated": f"{in_words(minutes)} ({estimate.source}); evaluations come on top",
    }
    for name, line in lines.items():
        if name != "FLOPs an image, training" or costs["training_flops"] is not None:
            console.print(f"{name}: {line}")
    if warning:
        console.print(warning)


def _held_out(images: ImageStore, held_out: ImageStore) -> str:
    if not images.labelled.any():
        return "no labels, so none held out for the online k-NN"
    return f"{len(held_out):,} more held out for the online k-NN"


def _si(value: float | None) -> str:
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value and value >= size:
            return f"{value / size:.2f} {unit}FLOP"
    return f"{value} FLOP"
