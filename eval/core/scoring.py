"""Turns outcomes into measurements with intervals, and predictions files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from common.errors import UserError
from common.files import as_file_name
from common.statistics.average_precision import mean_average_precision
from common.statistics.bootstrap import bootstrap, mean_interval
from eval.core.context import EvalContext
from rundir.results import GROUPS, Measurement, save_predictions

#: A value with the ends of its interval, in percent.
Estimate = tuple[float, float, float]


def measure(
    context: EvalContext,
    evaluation: str,
    estimates: Mapping[str, Estimate],
    n: int,
    protocol: dict[str, Any],
    predictions: str | None = None,
    samples: str = "test images",
    data: dict[str, Any] | None = None,
) -> list[Measurement]:
    """Make a measurement of each metric. ``samples`` names the ``n`` resampled items; ``data`` defaults to the context's."""
    return [
        Measurement(
            evaluation=evaluation,
            metric=metric,
            value=value,
            low=low,
            high=high,
            n=n,
            protocol=protocol,
            data=data or context.data(),
            predictions=predictions,
            interval=f"95% percentile bootstrap over {samples}",
        )
        for metric, (value, low, high) in estimates.items()
    ]


def save_outcomes(
    context: EvalContext, evaluation: str, names: Sequence[str], suffix: str = "", **outcomes: np.ndarray
) -> str:
    """Write a predictions file, with a suffix if an evaluation has several ("k20"); returns its name in the run."""
    return save_predictions(context.run_dir, outcomes_name(context, evaluation, suffix), names, **outcomes)


def outcomes_name(context: EvalContext, evaluation: str, suffix: str = "") -> str:
    """The name of a predictions file, without its own suffix."""
    return "-".join(part for part in (evaluation, as_file_name(context.test.name), suffix) if part)


def measure_means(
    context: EvalContext,
    evaluation: str,
    names: Sequence[str],
    outcomes: dict[str, np.ndarray],
    protocol: dict[str, Any],
    suffix: str = "",
    samples: str = "test images",
    groups: Sequence[Any] | np.ndarray | None = None,
    data: dict[str, Any] | None = None,
    **saved: np.ndarray,
) -> list[Measurement]:
    """Measure metrics that are means over samples, in percent, and save the outcomes as predictions.

    Args:
        names: names of the samples.
        outcomes: by metric, each sample's outcome in [0, 1], ``[n]``.
        groups: what each sample is drawn with (the video of an object), ``[n]``, where an evaluation declares ``grouped_by``: the
            intervals and the tests of reports draw whole groups.
        data: as for ``measure``.
        saved: further arrays ``[n, …]`` for the predictions file.
    """
    codes = None
    if groups is not None:
        codes = np.unique(np.asarray(groups), return_inverse=True)[1]
        saved[GROUPS] = codes
    file = save_outcomes(context, evaluation, names, suffix, **saved, **outcomes)
    estimates = {
        metric: (
            100 * float(np.mean(values, dtype=np.float64)),
            *(100 * bound for bound in mean_interval(values, groups=codes)),
        )
        for metric, values in outcomes.items()
    }
    return measure(context, evaluation, estimates, len(names), protocol, file, samples, data)


def measure_classes(
    context: EvalContext,
    evaluation: str,
    guesses: np.ndarray,
    protocol: dict[str, Any],
    suffix: str = "",
    top5: bool = True,
    data: dict[str, Any] | None = None,
) -> list[Measurement]:
    """Measure top-1 and, with ``top5`` and more than 5 classes, top-5 accuracy in percent on the labelled test images. ``guesses``:
    classes, best first, int ``[n, min(5, classes)]``; ``data`` as for ``measure``."""
    rows = context.labelled("test")
    hits = guesses == context.test.labels[rows][:, None]
    outcomes = {"top1": hits[:, 0]}
    if top5 and context.train.num_classes > 5:
        outcomes["top5"] = hits.any(axis=1)
    names = [context.test.names[row] for row in rows]
    protocol = {**protocol, **context.protocol()}
    return measure_means(context, evaluation, names, outcomes, protocol, suffix, data=data, predicted=guesses[:, 0])


def measure_label_scores(
    context: EvalContext,
    evaluation: str,
    scores: np.ndarray,
    protocol: dict[str, Any],
    suffix: str = "",
    data: dict[str, Any] | None = None,
) -> list[Measurement]:
    """Measure mean average precision in percent over classes, where images have several labels. ``scores`` ``[n, classes]`` of the
    labelled test images must be comparable between images; ``data`` as for ``measure``."""
    rows = context.labelled("test")
    truth = context.test.label_sets[rows]
    scores = scores.astype(np.float32)
    if not np.isfinite(scores).all():
        raise UserError(f"{evaluation}: scores are not finite; the features or the probe have diverged")
    estimates = {"map": resampled(mean_average_precision(scores, truth), len(rows))}
    names = [context.test.names[row] for row in rows]
    file = save_outcomes(
        context, evaluation, names, suffix, scores=scores, label_sets=truth, classes=context.test.titles
    )
    return measure(context, evaluation, estimates, len(rows), {**protocol, **context.protocol()}, file, data=data)


def resampled(statistic: Callable[[np.ndarray], np.ndarray], n: int) -> Estimate:
    """Estimate a statistic of n samples (``weights [r, n] -> [r]``, in [0, 1]) from 1,000 resamples."""
    low, high = bootstrap(statistic, n, resamples=1000)
    return 100 * float(statistic(np.ones((1, n)))[0]), 100 * low, 100 * high
