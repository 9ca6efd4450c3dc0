"""From predictions to measurements: values, intervals and per-sample outcomes, alike for every evaluation that classifies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import UserError
from common.statistics.average_precision import mean_average_precision
from common.statistics.bootstrap import bootstrap, mean_interval
from rundir.results import Measurement, save_predictions

if TYPE_CHECKING:
    from eval.core.context import EvalContext


def classification(
    context: EvalContext,
    evaluation: str,
    guesses: np.ndarray,
    protocol: dict[str, Any],
    suffix: str = "",
    top5: bool = True,
) -> list[Measurement]:
    """Top-1 and, where there are more than 5 classes, top-5 accuracy in percent on the labelled test images.

    Args:
        guesses: classes, best first, int ``[n, min(5, classes)]``, for ``context.labelled("test")``.
        protocol: what fixes the numbers beside what the context fixes.
        suffix: tells this predictions file from others of the evaluation ("k20").
        top5: False where five guesses make no sense.
    """
    rows = context.labelled("test")
    truth = context.test.labels[rows]
    hits = guesses == truth[:, None]
    outcomes = {"top1": hits[:, 0]}
    if top5 and context.train.num_classes > 5:
        outcomes["top5"] = hits.any(axis=1)
    file = save_predictions(
        context.run_dir,
        _file_name(context, evaluation, suffix),
        _names(context, rows),
        predicted=guesses[:, 0],
        **outcomes,
    )
    return means(context, evaluation, outcomes, {**protocol, **context.protocol()}, file)


def means(
    context: EvalContext,
    evaluation: str,
    outcomes: dict[str, np.ndarray],
    protocol: dict[str, Any],
    file: str,
    samples: str = "test images",
) -> list[Measurement]:
    """A measurement for each metric that is a mean over samples, in percent.

    Args:
        outcomes: by metric, each sample's outcome in [0, 1], ``[n]``.
        protocol: everything that fixes the numbers.
        file: where the outcomes have been saved.
        samples: what was resampled for the interval.
    """
    measurements = []
    for metric, values in outcomes.items():
        low, high = mean_interval(values)
        measurements.append(
            Measurement(
                evaluation=evaluation,
                metric=metric,
                value=100 * float(values.mean()),
                low=100 * low,
                high=100 * high,
                n=len(values),
                protocol=protocol,
                data=context.data(),
                predictions=file,
                interval=f"95% percentile bootstrap over {samples}",
            )
        )
    return measurements


def multi_label(
    context: EvalContext, evaluation: str, scores: np.ndarray, protocol: dict[str, Any], suffix: str = ""
) -> list[Measurement]:
    """Mean average precision in percent, over the classes that occur in the test split, where images have several labels.

    Args:
        scores: ``[n, classes]``, comparable between images, for ``context.labelled("test")``.
    """
    rows = context.labelled("test")
    truth = context.test.label_sets[rows]
    scores = scores.astype(np.float32)
    if not np.isfinite(scores).all():
        raise UserError(f"{evaluation}: scores are not finite; the features or the probe have diverged")
    statistic = mean_average_precision(scores, truth)
    low, high = bootstrap(statistic, len(rows), resamples=1000)
    file = save_predictions(
        context.run_dir,
        _file_name(context, evaluation, suffix),
        _names(context, rows),
        scores=scores,
        label_sets=truth,
    )
    return [
        Measurement(
            evaluation=evaluation,
            metric="map",
            value=100 * float(statistic(np.ones((1, len(rows))))[0]),
            low=100 * low,
            high=100 * high,
            n=len(rows),
            protocol={**protocol, **context.protocol()},
            data=context.data(),
            predictions=file,
        )
    ]


def _file_name(context: EvalContext, evaluation: str, suffix: str) -> str:
    return "-".join(part for part in (evaluation, context.test.name, suffix) if part)


def _names(context: EvalContext, rows: np.ndarray) -> list[str]:
    return [context.test.names[row] for row in rows]
