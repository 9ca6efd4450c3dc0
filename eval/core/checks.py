"""Everything that can be known of a run before it begins: ``training.grids.checks``, and what its evaluations would refuse."""

from __future__ import annotations

from common.errors import UserError
from common.options import check
from data.datasets import list_images, open_benchmark, require_same_classes
from data.sets.core.base import DATASETS
from eval.core.base import EVALUATIONS, Outlook, check_data
from rundir.log import end_of
from rundir.paths import CHECKPOINTS, last_checkpoint
from training.costs import on_meta
from training.grids import checks
from training.plan import Plan


def refusals(plan: Plan, here: bool = True) -> list[str]:
    """Reasons why a run's training or one of its evaluations would fail; see ``training.grids.checks``. An ended training is not
    checked. Raises UserError if this machine lacks the images; other files it must have only if the run is ``here``."""
    if end_of(plan.directory) is None:
        reasons = checks.refusals(plan, here)
    else:
        reasons = _without_weights(plan)
    return reasons or _of_evaluations(plan, here)


def _without_weights(plan: Plan) -> list[str]:
    """Why an ended training has nothing left to do: somebody has deleted its weights, or copied its results alone."""
    if last_checkpoint(plan.directory).is_file() or not (plan.evaluations or plan.config.visualize):
        return []
    return [
        f"{plan.directory}: its training has ended and its weights are gone ({CHECKPOINTS}/), so nothing more can be measured; its "
        "results stay for reports; give another --out to train anew"
    ]


def require_possible(plan: Plan) -> None:
    """Raise UserError with all ``refusals``."""
    if reasons := refusals(plan):
        raise UserError("; and ".join(reasons))


def _of_evaluations(plan: Plan, here: bool) -> list[str]:
    if not plan.evaluations:
        return []
    config = plan.config
    if DATASETS.facts(config.data).get("is_benchmark"):
        open_benchmark(config.data, plan.root)
        return []
    outlook = Outlook(
        plan.listing,
        list_images(config.data, "test", plan.root),
        on_meta(plan.build_method).backbone,
        config.backbone,
        config.image_size,
        config.seed,
    )
    try:
        require_same_classes(config.data, outlook.train.classes, outlook.test.classes)
    except UserError as error:
        return [str(error)]
    reasons: list[str] = []
    for name, options in plan.evaluations.items():
        kind = EVALUATIONS.get(name)
        try:
            check_data(name, config.data)
            check(options, prefix=f"{name}_")
            evaluation = kind(options)
            missing = [str(file) for file in evaluation.files() if not file.exists()]
            if not missing:
                evaluation.check(outlook)
            elif here:
                reasons.append(f"{name}: no such file: {', '.join(missing)}")
        except UserError as error:
            reasons.append(f"{name}: {str(error).removeprefix(f'{name}: ')}")
    return reasons
