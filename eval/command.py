"""The command ``run.py evaluate``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from common.errors import UserError
from common.files import read_yaml, remove_unfinished, write_json, write_text
from common.lock import run_lock
from eval import run_evaluations
from eval.base import EvaluationConfig, Measurement, check_data
from eval.config import EvaluateCommand
from eval.context import EvalContext, make_context
from training.environment import describe_environment


def evaluate_weights(command: EvaluateCommand, configs: Mapping[str, EvaluationConfig]) -> list[Measurement]:
    """Evaluate what the command names, and print the measurements.

    Args:
        configs: options of each evaluation, by name; these are run.

    Returns:
        the measurements, which are also in the run directory's ``results/``.

    Raises:
        UserError: options, weights or data are wrong, or another process writes into the run directory.
    """
    context = make_context(
        command.weights,
        command.backbone,
        command.data,
        command.data_root,
        command.image_size,
        command.device,
        command.precision,
        command.out,
        command.seed,
        command.key,
    )
    for name in configs:
        check_data(name, context.test.name)  # before anything is written
    options = _options_of(command, context)
    with run_lock(context.run_dir):
        remove_unfinished(context.run_dir)
        if options is not None:
            _claim(context.run_dir, options)
            if not (context.run_dir / "environment.json").exists():
                here = describe_environment(context.device, context.precision)
                write_json(context.run_dir / "environment.json", here)
        return run_evaluations(list(configs), configs, context, command.again)


def _options_of(command: EvaluateCommand, context: EvalContext) -> dict[str, Any] | None:
    """What the directory's ``config.yaml`` has to say; None where it is the run that the weights belong to."""
    weights = Path(command.weights) if command.weights else None
    if weights is not None and weights.is_dir() and weights.resolve() == context.run_dir.resolve():
        return None
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


def _claim(directory: Path, options: dict[str, Any]) -> None:
    """Write ``config.yaml``, or see that the one there says the same. Data may differ: results of several data sets go into one
    directory. Raises UserError where the directory is another run's."""
    file = directory / "config.yaml"
    if not file.exists():
        write_text(file, yaml.safe_dump(options, sort_keys=False, allow_unicode=True))
        return
    try:
        there = read_yaml(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({str(error).splitlines()[0]}); give another --out") from error
    for name in ("weights", "key", "backbone", "seed"):
        known = there.get(name) if isinstance(there, dict) else None
        if known != options[name]:
            raise UserError(
                f"{directory} holds results of other weights ({name} was {known}, now {options[name]}); give another --out"
            )
