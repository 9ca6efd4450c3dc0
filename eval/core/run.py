"""Runs evaluations on one context and keeps their measurements."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from common.files import digest_of
from common.options import check, options_without_effect
from common.progress import note, warn, working
from data.sets.core.benchmark import fingerprint_of
from eval.core.base import EVALUATIONS, EvaluationConfig, check_data, facts_of
from eval.core.changed import warnings_of_images
from eval.core.context import EvalContext
from rundir.paths import RESULTS, results_file
from rundir.results import Measurement, read_results, write_results


def run_evaluations(
    names: Sequence[str], configs: Mapping[str, EvaluationConfig], context: EvalContext, again: bool = False
) -> list[Measurement]:
    """Measure, print, and write ``results/EVALUATION.json`` of the context's run directory, which keeps the last measurements on
    each data set with the same weights.

    Args:
        names: evaluations; repeated names count once.
        configs: options by name; default: the evaluation's own.
        again: repeat measurements with the same weights, data and options.
    """
    note(f"{context.backbone_name}: {context.weights}", style="none")
    for warning in warnings_of_images(context):
        warn(f"warning: {warning}")
    evaluations = {}
    for name in dict.fromkeys(names):
        kind = EVALUATIONS.get(name)
        check_data(name, context.test.name)
        config = configs.get(name) or kind.Config()
        check(config, prefix=f"{name}_")
        evaluations[name] = kind(config)
    surroundings = {
        "weights": context.weights_hash,
        "train": [context.train.name, context.train.fingerprint],
        "test": [context.test.name, context.test.fingerprint],
        "image_size": context.image_size,
        "precision": context.precision,
        "seed": context.seed,
    }
    requests: dict[str, str] = {}
    measured: dict[str, list[Measurement]] = {}
    others: dict[str, list[Measurement]] = {}
    for name, evaluation in evaluations.items():
        files = evaluation.files()
        read = [fingerprint_of(files, files[0].parent)] if files else []
        options = {
            k: v
            for k, v in asdict(evaluation.config).items()
            if k not in options_without_effect(type(evaluation.config))
        }
        requests[name] = digest_of([name, options, surroundings, *read])
        kept = read_results(results_file(context.run_dir, name))
        same = [m for m in kept if m.request == requests[name]]
        whole = all(m.predictions is None or (context.run_dir / m.predictions).is_file() for m in same)
        measured[name] = same if whole and evaluation.has_written(context) and not again else []
        same_weights = [m for m in kept if m.weights == context.weights_hash and m.request != requests[name]]
        others[name] = [m for m in same_weights if m.data["name"] != context.test.name or evaluation.keeps(m, context)]
    due = [name for name in evaluations if not measured[name]]
    # One pass over the images serves all evaluations.
    kinds = [kind for name in due for kind in evaluations[name].feature_kinds(context)]
    began = time.perf_counter()
    for split in ("train", "test"):
        context.prepare(split, kinds)
    share = (time.perf_counter() - began) / max(len(due), 1)
    for name, evaluation in evaluations.items():
        if name in due:
            began = time.perf_counter()
            with working(f"measuring {name} on {context.test.name}"):
                run = evaluation.run(context)
            seconds = round(share + time.perf_counter() - began, 2)
            made = {"weights": context.weights_hash, "request": requests[name], "run": context.run_dir}
            facts = [facts_of(m.evaluation, m.metric) for m in run]
            measured[name] = [replace(m, facts=f, seconds=seconds, **made) for m, f in zip(run, facts, strict=True)]
            write_results(results_file(context.run_dir, name), [*others[name], *measured[name]])
        else:
            note(
                f"{name} on {context.test.name}: measured before with the same weights, data and options; "
                "its result is used (--again measures anew)"
            )
    measurements = [m for of_evaluation in measured.values() for m in of_evaluation]
    if measurements:
        print_measurements(measurements, context.run_dir)
    return measurements


def print_measurements(measurements: Sequence[Measurement], run: Path) -> None:
    """Print measurements of one data set as a table."""
    numbers = [Column(header, justify="right") for header in ("value", "95% interval", "n")]
    title = f"test images of {measurements[0].data['name']}"
    table = Table("evaluation", "metric", *numbers, title=title, title_justify="left")
    for m in measurements:
        setting = f" (k = {m.protocol['k']})" if "k" in m.protocol else ""
        interval = "–" if m.low is None else f"{m.low:.2f} to {m.high:.2f}"
        table.add_row(m.evaluation + setting, m.metric, f"{m.value:.2f}", interval, str(m.n))
    console = Console()
    console.print(table)
    console.print(f"results: {run / RESULTS}", markup=False, highlight=False, soft_wrap=True)
