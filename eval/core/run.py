"""Runs evaluations on one context and keeps their measurements."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

import torch
from rich.table import Column, Table

from backbones import build_backbone
from common.errors import UserError, explain
from common.files import digest_of
from common.options import check, options_without_effect
from common.progress import Console, note, warn, working
from data.sets.core.benchmark import Benchmark, fingerprint_of
from eval.core.base import EVALUATIONS, EvaluationConfig, Outlook, check_data, facts_of
from eval.core.changed import warnings_of_images
from eval.core.context import EvalContext
from eval.features.extract import Kind
from rundir.paths import RESULTS, results_file
from rundir.results import Measurement, read_results, untrained_words, write_results


def run_evaluations(
    names: Sequence[str], configs: Mapping[str, EvaluationConfig], context: EvalContext, again: bool = False
) -> list[Measurement]:
    """Measure, print, and write ``results/EVALUATION.json`` of the context's run directory, which keeps the last measurements on
    each data set with the same weights. An evaluation that refuses does not end the others.

    Args:
        names: evaluations; repeated names count once.
        configs: options by name; default: the evaluation's own.
        again: repeat measurements with the same weights, data and options.

    Raises UsageError for an evaluation that cannot measure on such data, before anything is measured; at the end UserError, which
    names every evaluation that refused, and why.
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
    refusals: dict[str, UserError] = {}
    requests: dict[str, str] = {}
    measured: dict[str, list[Measurement]] = {}
    others: dict[str, list[Measurement]] = {}
    kinds: list[Kind] = []
    for name, evaluation in evaluations.items():
        with _refusing(name, refusals):
            files = evaluation.files()
            read = [fingerprint_of(files, files[0].parent)] if files else []
            read += evaluation.further_images(context)
            without_effect = options_without_effect(type(evaluation.config))
            options = {k: v for k, v in asdict(evaluation.config).items() if k not in without_effect}
            requests[name] = digest_of([name, options, surroundings, *read])
            kept = read_results(results_file(context.run_dir, name))
            same = [m for m in kept if m.request == requests[name]]
            whole = all(m.predictions is None or (context.run_dir / m.predictions).is_file() for m in same)
            same_weights = [m for m in kept if m.weights == context.weights_hash and m.request != requests[name]]
            others[name] = [
                m for m in same_weights if m.data["name"] != context.test.name or evaluation.keeps(m, context)
            ]
            if same and whole and evaluation.has_written(context) and not again:
                measured[name] = same
            else:
                if not isinstance(context.test, Benchmark):
                    evaluation.check(_outlook(context))
                kinds += evaluation.feature_kinds(context)
    # One pass over the images serves all evaluations. Where it fails, each of them extracts for itself, and maybe refuses.
    began = time.perf_counter()
    with suppress(UserError):
        for split in ("train", "test"):
            context.prepare(split, kinds)
    due = len(evaluations.keys() - measured.keys())
    share = (time.perf_counter() - began) / max(due, 1)
    for name, evaluation in evaluations.items():
        if name in measured:
            note(
                f"{name} on {context.test.name}: measured before with the same weights, data and options; "
                "its result is used (--again measures anew)"
            )
        elif name not in refusals:
            made = {"weights": context.weights_hash, "request": requests[name], "run": context.run_dir}
            began = time.perf_counter()
            with _refusing(name, refusals), working(f"measuring {name} on {context.test.name}"):
                run = evaluation.run(context)
                seconds = round(share + time.perf_counter() - began, 2)
                facts = [facts_of(m.evaluation, m.metric) for m in run]
                measured[name] = [replace(m, facts=f, seconds=seconds, **made) for m, f in zip(run, facts, strict=True)]
                write_results(results_file(context.run_dir, name), [*others[name], *measured[name]])
    measurements = [m for name in evaluations for m in measured.get(name, [])]
    if measurements:
        print_measurements(measurements, context.run_dir)
    if refusals:
        raise _as_one(refusals, len(evaluations))
    return measurements


def _outlook(context: EvalContext) -> Outlook:
    """What is known of the input before anything is measured."""
    with torch.device("meta"):
        backbone = build_backbone(context.backbone_name, context.image_size)
    splits = [  # without the images that cannot be used
        replace(store.listing, names=store.names, labels=store.labels if store.label_sets is None else None)
        for store in (context.train, context.test)
    ]
    return Outlook(*splits, backbone, context.backbone_name, context.image_size, context.seed)


@contextmanager
def _refusing(name: str, refusals: dict[str, UserError]) -> Iterator[None]:
    """Keep an error in the block that the user can act on, in place of raising it."""
    try:
        yield
    except Exception as error:
        reason = error if isinstance(error, UserError) else explain(error)
        if reason is None:
            raise
        refusals[name] = reason


def _as_one(refusals: Mapping[str, UserError], asked: int) -> UserError:
    if asked == 1:
        return next(iter(refusals.values()))
    reasons = "; ".join(f"{name}: {str(reason).removeprefix(f'{name}: ')}" for name, reason in refusals.items())
    return UserError(f"{len(refusals)} of {asked} evaluations failed ({reasons})")


def print_measurements(measurements: Sequence[Measurement], run: Path) -> None:
    """Print measurements of one data set as a table."""
    numbers = [Column(header, justify="right") for header in ("value", "95% interval", "n")]
    names = [Column(header, overflow="fold") for header in ("evaluation", "metric")]
    title = f"test images of {measurements[0].data['name']}"
    table = Table(*names, *numbers, title=title, title_justify="left")
    for m in measurements:
        setting = f" (k = {m.protocol['k']})" if "k" in m.protocol else ""
        interval = "–" if m.low is None else f"{m.low:.2f} to {m.high:.2f}"
        table.add_row(m.evaluation + setting, m.metric, f"{m.value:.2f}", interval, str(m.n))
    console = Console()
    console.print(table)
    console.print(f"results: {run / RESULTS}", highlight=False, soft_wrap=True)
    untrained: dict[str, dict[str, None]] = {}
    for m in measurements:
        untrained.setdefault(untrained_words(m.data), {})[m.evaluation] = None
    for words, names in untrained.items():
        if words:
            warn(f"warning: {', '.join(names)}: {words}")
