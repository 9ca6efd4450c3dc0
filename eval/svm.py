"""Linear SVMs on frozen features, one a class (Barlow Twins, arXiv 2103.03230, table 3, VOC07; Goyal et al. 2019, arXiv 1905.01235,
section 6.1; reference: fair_self_supervision_benchmark, ``svm_helper.py``)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch.nn.functional as F
from rich.table import Column, Table

from common.errors import UserError
from common.options import option
from common.progress import Console, track, warn
from common.statistics.average_precision import interpolated_precision, mean_interpolated_precision
from data.sets.voc2007 import difficult_only
from eval.core.base import EVALUATIONS, Evaluation, EvaluationConfig, Outlook
from eval.core.context import EvalContext
from eval.core.scoring import Estimate, measure, measure_label_scores, resampled, save_outcomes
from rundir.results import Measurement

if TYPE_CHECKING:
    from sklearn.svm import LinearSVC

#: Folds of the training images that choose C.
FOLDS = 3
#: Weight of a positive image.
POSITIVE_WEIGHT = 2
TOLERANCE, MOST_ITERATIONS = 1e-4, 2000


@dataclass(kw_only=True)
class SVMConfig(EvaluationConfig):
    costs: list[float] = option([0.1, 0.01, *(0.5**power for power in range(4, 20))], above=0)
    """values of C that are tried for each class (default: the published ones)"""


@EVALUATIONS.register("svm")
class SVM(Evaluation):
    """Mean average precision in percent of one linear SVM a class on pooled, L2-normalised features, for multi-label images.

    The mean average precision over three folds of the training split chooses each class's C; its SVM then trains on the whole
    split. A class with fewer than three training images gets the median C of the others, one without any scores 0; a warning
    names both. Images whose only objects of a class are difficult count nowhere for that class.

    Metrics: ``map`` as in other evaluations (area under the steps, difficult objects are negatives), ``map_interpolated`` (area
    under VOC's interpolated curve, as published), ``map_11_point`` (VOC 2007's), and the latter for each class.

    Raises UserError for data with one label an image, and if no class has three training images.
    """

    title = "SVM"
    citation = "Goyal et al. 2019, arXiv 1905.01235"
    metrics = {"map": "mAP", "map_interpolated": "mAP (VOC)", "map_11_point": "mAP (VOC 2007)"}
    headline = ("map_interpolated",)
    Config = SVMConfig
    config: SVMConfig

    def feature_kinds(self, context: EvalContext) -> list[str]:
        return ["pooled"]

    def check(self, outlook: Outlook) -> None:
        _require_several(outlook.train.data, outlook.train.labels is None)

    def run(self, context: EvalContext) -> list[Measurement]:
        _require_several(context.train.name, context.train.label_sets is not None)
        train, test = (_Split(context, split) for split in ("train", "test"))
        classes = context.train.classes
        counts = (train.present & ~train.ignored).sum(axis=0)
        costs, scores, unfinished = {}, np.zeros((len(test.features), len(classes)), np.float32), []
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Liblinear failed to converge")  # seen by n_iter_
            for c, name in enumerate(track(classes, "choosing C", len(classes))):
                used = ~train.ignored[:, c]
                if FOLDS <= counts[c] <= used.sum() - FOLDS:
                    examples = train.features[used], train.present[used, c]
                    costs[name] = best_cost(*examples, self.config.costs, context.seed)
            if not costs:
                raise UserError(
                    f"svm: no class of {context.train.name} has {FOLDS} training images with it and {FOLDS} without"
                )
            usual = float(np.median(list(costs.values())))
            for c, name in enumerate(classes):
                used = ~train.ignored[:, c]
                if 0 < counts[c] < used.sum():
                    machine = _machine(costs.get(name, usual), context.seed)
                    machine.fit(train.features[used], train.present[used, c])
                    scores[:, c] = machine.decision_function(test.features)
                    if machine.n_iter_ >= MOST_ITERATIONS:
                        unfinished.append(name)
        few = [f"{name} ({counts[c]})" for c, name in enumerate(classes) if name not in costs]
        for what, names in (("few training images of", few), ("not converged:", unfinished)):
            if names:
                warn(f"svm: {what} {', '.join(names)}")
        protocol = {
            "classifier": "LinearSVC, squared hinge, L2, one a class",
            "features": "pooled, L2-normalised",
            "positive_weight": POSITIVE_WEIGHT,
            "costs": sorted(self.config.costs),
            "selection": f"C of each class by average precision over {FOLDS} folds of the training split, then trained on all",
            "difficult": "counts nowhere, but in map as a negative" if test.marked else "not marked in the data",
            "chosen_costs": costs,
            "few_training_images": few,
        }
        measurements = measure_label_scores(context, "svm", scores[test.labelled], protocol)
        estimates = voc_estimates(scores, test, classes)
        table = Table(Column("class", overflow="fold"), Column("AP, 11 points, %", justify="right"))
        for metric, (value, *_) in estimates.items():
            if metric.startswith("ap_"):
                table.add_row(metric.removeprefix("ap_11_point_"), f"{value:.1f}")
        Console(stderr=True).print(table)
        outcomes = {"scores": scores.astype(np.float32), "label_sets": test.present, "ignored": test.ignored}
        file = save_outcomes(context, "svm", test.names, "voc", **outcomes)
        return [*measurements, *measure(context, "svm", estimates, len(scores), measurements[0].protocol, file)]


def voc_estimates(scores: np.ndarray, test: _Split, classes: list[str]) -> dict[str, Estimate]:
    """VOC's measures: means over the classes, then each class."""
    present = np.flatnonzero(test.present.any(axis=0))

    def of_class(c: int, points: int | None, weights: np.ndarray) -> np.ndarray:
        counted = (~test.ignored[:, c]).astype(np.float64)
        return interpolated_precision(scores[:, c], test.present[:, c], weights * counted, points)

    statistics = {
        "map_interpolated": mean_interpolated_precision(scores, test.present, test.ignored),
        "map_11_point": mean_interpolated_precision(scores, test.present, test.ignored, 11),
        **{f"ap_11_point_{classes[c]}": partial(of_class, c, 11) for c in present},
    }
    return {metric: resampled(statistic, len(scores)) for metric, statistic in statistics.items()}


def _require_several(data: str, several: bool) -> None:
    if not several:
        raise UserError(
            f"svm measures images with several labels, and {data} has one each; give --data voc2007 or voc2012, or --evals linear"
        )


class _Split:
    """A split's images with a label, difficult or not: L2-normalised ``features``, float64 ``[n, D]``; labels ``present``, and
    ``ignored`` as difficult, bool ``[n, classes]``; ``labelled`` ``[n]``: any present; ``marked``: the data mark the difficult."""

    def __init__(self, context: EvalContext, split: str):
        store = context.store(split)
        context.labelled(split)  # raises if no image has a label
        ignored = difficult_only(store)
        self.marked = ignored is not None
        ignored = np.zeros_like(store.label_sets) if ignored is None else ignored
        rows = np.flatnonzero((store.label_sets | ignored).any(axis=1))
        self.features = F.normalize(context.features(split, "pooled")[rows].double(), dim=1).numpy()
        self.present, self.ignored = store.label_sets[rows], ignored[rows]
        self.labelled = self.present.any(axis=1)
        self.names = [store.names[row] for row in rows]


def best_cost(features: np.ndarray, present: np.ndarray, costs: list[float], seed: int) -> float:
    """Choose the cost with the greatest mean average precision over the folds; of equals, the smallest."""
    from sklearn.model_selection import cross_val_score

    quality = {
        cost: cross_val_score(_machine(cost, seed), features, present, cv=FOLDS, scoring="average_precision").mean()
        for cost in sorted(set(costs))
    }
    return max(quality, key=quality.get)


def _machine(cost: float, seed: int) -> LinearSVC:
    from sklearn.svm import LinearSVC  # takes a second to import

    return LinearSVC(
        C=cost,
        class_weight={True: POSITIVE_WEIGHT, False: 1},
        dual=True,
        tol=TOLERANCE,
        max_iter=MOST_ITERATIONS,
        random_state=seed,
    )
