"""The base class of evaluations, and the facts that tables and reports show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from common.errors import UsageError
from common.registry import Registry, literals_of, plugins_of
from data.datasets import no_labels
from data.sets.core.base import DATASETS
from data.store.listing import Listing
from rundir.results import Measurement

if TYPE_CHECKING:
    from backbones.base import Backbone
    from eval.core.context import EvalContext


@dataclass(frozen=True)
class Outlook:
    """What is known of an evaluation's input before a run trains.

    Attributes:
        train, test: the images of the splits, none decoded.
        backbone: without weights, on the meta device.
        image_size: side in pixels of evaluation images.
        seed: the run's.
    """

    train: Listing
    test: Listing
    backbone: Backbone
    backbone_name: str
    image_size: int
    seed: int

    def labelled(self, split: str) -> int:
        """The number of labelled images, or, where labels stand in masks or annotations, of images. Raises UserError for none."""
        listing = self.train if split == "train" else self.test
        count = len(listing.names) if listing.labels is None else int((listing.labels >= 0).sum())
        if not count:
            raise no_labels(listing.data, split)
        return count


EVALUATIONS: Registry[type[Evaluation]] = Registry("evaluation", "eval")


@dataclass(kw_only=True)
class EvaluationConfig:
    """An evaluation's options: each field of a subclass is a command-line option."""


class Evaluation:
    """Base of all evaluations: subclasses in ``eval/NAME.py``, decorated with ``@EVALUATIONS.register("NAME")``.

    Class attributes:
        benchmarks: the data sets made for it (``data.sets.core.benchmark``); none: it takes any data set of images.

    For tables and reports, plain values, which ``Registry.facts`` reads without importing the file:
        title: name for readers ("k-NN"); "": the file's name, with spaces.
        citation: authors, year and arXiv number of its protocol, for references; of a part, the part's own.
        parts: package of plug-ins ("heads.segmentation"), each measured as the evaluation ``NAME_PLUGIN`` with both titles.
        metrics: titles of its metrics; default: their names, with spaces.
        units: units of metrics that are not in percent.
        scales: least and greatest possible values of metrics for which they are not 0 and 100 percent
            (None: no greatest).
        lower_is_better: words in the names of metrics that are better when lower.
        headline: metrics of the first table; if none of them was measured, the first metric.
        variants: entries of the protocol that differ within a run (k of k-NN), each a column, with the value that the first
            table shows; None: every one (parts of the labels).
        apart: entries of the protocol that make another quantity, with the value that tables need not name: measurements that
            differ there stand in columns of their own, and a run keeps both.
        grouped_by: groups of dependent items (videos, for objects).
        of_backbone: entries of the protocol that follow from the backbone, and make no protocol unequal.
    """

    Config: ClassVar[type[EvaluationConfig]] = EvaluationConfig
    benchmarks: ClassVar[tuple[str, ...]] = ()
    title: ClassVar[str] = ""
    citation: ClassVar[str] = ""
    parts: ClassVar[str] = ""
    metrics: ClassVar[dict[str, str]] = {"top1": "top-1", "top5": "top-5", "map": "mAP"}
    units: ClassVar[dict[str, str]] = {}
    scales: ClassVar[dict[str, tuple[float, float | None]]] = {}
    lower_is_better: ClassVar[tuple[str, ...]] = ("loss", "error", "fid", "decay", "seconds")
    headline: ClassVar[tuple[str, ...]] = ("top1", "map")
    variants: ClassVar[dict[str, Any]] = {}
    apart: ClassVar[dict[str, Any]] = {}
    grouped_by: ClassVar[str] = "images"
    of_backbone: ClassVar[tuple[str, ...]] = ("features", "output_stride")

    def __init__(self, config: EvaluationConfig):
        self.config = config

    def feature_kinds(self, context: EvalContext) -> list[str]:
        """Kinds of features (``eval.features.extract``) that ``run`` reads; one pass extracts them for all evaluations."""
        return []

    def check(self, outlook: Outlook) -> None:
        """Raise UserError for data or a backbone that ``run`` would refuse, as far as can be known before a run trains."""

    def files(self) -> list[Path]:
        """Files, or files of folders, that the options name. If they change, the evaluation measures anew."""
        return []

    def further_images(self, context: EvalContext) -> list[str]:
        """Fingerprints of images that ``run`` reads beside the context's. If they change, the evaluation measures anew."""
        return []

    def keeps(self, measurement: Measurement, context: EvalContext) -> bool:
        """Whether a measurement of the same weights and data, by other options, stays beside the new ones."""
        return False

    def has_written(self, context: EvalContext) -> bool:
        """Whether the files that the options ask for beside numbers are there; if not, it measures anew."""
        return True

    def run(self, context: EvalContext) -> list[Measurement]:
        """Measure, choosing nothing by ``context.test``. Raises UserError for a backbone or data that it cannot measure (attention
        of a ResNet, k-NN without labels)."""
        raise NotImplementedError


def facts_of(evaluation: str, metric: str) -> dict[str, Any]:
    """Facts of a measurement, as ``Evaluation`` declares them, without importing it. The name may have a part
    ("segmentation_linear") or be unknown."""
    declared = _declared(evaluation)
    return {
        "evaluation": declared["title"],
        "citation": declared["citation"],
        "metric": declared["metrics"].get(metric, metric.replace("_", " ")),
        "unit": declared["units"].get(metric, "%"),
        "scale": list(declared["scales"].get(metric, () if metric in declared["units"] else (0, 100))),
        "lower_is_better": any(word in metric for word in declared["lower_is_better"]),
        "headline": metric in declared["headline"],
        "variants": declared["variants"],
        "apart": declared["apart"],
        "grouped_by": declared["grouped_by"],
        "of_backbone": list(declared["of_backbone"]),
    }


def _declared(evaluation: str) -> dict[str, Any]:
    words = evaluation.replace("_", " ")
    title = words[:1].upper() + words[1:]
    if evaluation in EVALUATIONS.names():
        declared = EVALUATIONS.facts(evaluation)
        return declared | {"title": declared["title"] or title}
    metrics, variants = {}, {}
    for name in EVALUATIONS.names():
        declared = EVALUATIONS.facts(name)
        metrics |= declared["metrics"]
        variants |= declared["variants"]
        if declared["parts"] and evaluation.startswith(f"{name}_"):
            part = evaluation.removeprefix(f"{name}_")
            facts = plugins_of(declared["parts"]).facts(part)
            title = f"{declared['title']} {facts.get('title') or part.replace('_', ' ')}"
            return declared | {"title": title, "citation": facts.get("citation") or declared["citation"]}
    # An unknown evaluation may share names of metrics with others.
    return literals_of(Path(__file__), "Evaluation") | {"title": title, "metrics": metrics, "variants": variants}


def check_data(name: str, data: str) -> None:
    """Raise UsageError if an evaluation cannot measure on a data set."""
    benchmarks = EVALUATIONS.get(name).benchmarks
    if not DATASETS.facts(data).get("has_labels", True):
        raise UsageError(
            f"--evals {name} cannot measure on {data}, which has no labels; train without --evals, and give run.py evaluate "
            "--weights RUN --data NAME of another data set"
        )
    if benchmarks and data not in benchmarks:
        raise UsageError(
            f"--evals {name} measures on {' or '.join(benchmarks)}, not on {data}; give --data {benchmarks[0]}"
        )
    if not benchmarks and DATASETS.facts(data).get("is_benchmark"):
        fitting = [other for other in EVALUATIONS.names() if data in EVALUATIONS.get(other).benchmarks]
        raise UsageError(f"--evals {name} cannot measure on {data}; give --evals {' '.join(fitting)}")
