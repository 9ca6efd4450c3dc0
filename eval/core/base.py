"""What an evaluation is, what it gets, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from common.errors import UsageError
from common.registry import Registry
from data.datasets import BENCHMARKS
from rundir.results import Measurement

if TYPE_CHECKING:
    from eval.core.context import EvalContext


EVALUATIONS: Registry[type[Evaluation]] = Registry("evaluation", "eval")


@dataclass(kw_only=True)
class EvaluationConfig:
    """An evaluation's own options; each field is a command-line option. Subclass it in the evaluation's file."""


class Evaluation:
    """Base of all evaluations. A subclass in ``eval/NAME.py``, decorated with ``@EVALUATIONS.register("NAME")``, is one.

    Class attributes:
        Config: dataclass of its options.
        benchmarks: names of the data (``data.datasets.BENCHMARKS``) that it measures on; none: any data set of images.
    """

    Config: ClassVar[type[EvaluationConfig]] = EvaluationConfig
    benchmarks: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: EvaluationConfig):
        self.config = config

    def feature_kinds(self, context: EvalContext) -> list[str]:
        """The kinds of cached features (``eval.features.extract``) that ``run`` will read, so that those of all evaluations can be
        extracted together."""
        return []

    def files(self) -> list[Path]:
        """Files that its options name, or that lie in folders they name: what they hold is a part of what was asked for."""
        return []

    def run(self, context: EvalContext) -> list[Measurement]:
        """Measure. Nothing may be chosen by looking at ``context.test``. Raises UserError where the backbone or the data
        cannot be evaluated so (attention of a ResNet, k-NN without labels)."""
        raise NotImplementedError


def check_data(name: str, data: str) -> None:
    """Raise UsageError where the evaluation ``name`` cannot measure on the data set called ``data``."""
    benchmarks = EVALUATIONS.get(name).benchmarks
    if benchmarks and data not in benchmarks:
        raise UsageError(
            f"--evals {name} measures on {' or '.join(benchmarks)}, not on {data}; give --data {benchmarks[0]}"
        )
    if not benchmarks and data in BENCHMARKS.names():
        fitting = [other for other in EVALUATIONS.names() if data in EVALUATIONS.get(other).benchmarks]
        raise UsageError(f"--evals {name} cannot measure on {data}; give --evals {' '.join(fitting)}")
