"""Everything that can be known of a training before it begins: what would end it (``refusals``), and what it will suffer from
(``cautions``). ``eval.core.checks`` adds what its evaluations would refuse."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch.nn.modules.batchnorm import _BatchNorm

from common.distributed import world_size
from common.errors import UserError
from common.files import size_in_words
from data.pairing import labelled, make_pairing
from methods.core.base import power_of_two
from methods.core.recipes import defaults_of
from training.batches import too_few_images
from training.config import TrainConfig
from training.costs import OPTIMIZER_STATE, norm_of_one_value, on_meta
from training.failures import USABLE, advice_on_memory, memory_of
from training.initial import start_from
from training.plan import Plan

#: An epoch of fewer steps has no schedule to speak of, and a batch that is most of the data has no variety.
FEWEST_STEPS = 4
#: Of the trainer's options, those that fit one optimiser.
RATES = ("lr", "weight_decay")


def refusals(plan: Plan, here: bool = True) -> list[str]:
    """Reasons why a training would fail, as far as files' names, the options and counted costs tell; nothing is decoded, trained or
    written. ``here``: it will run on this machine, so that memory and disk are known. Counting costs, which takes seconds, is left
    out where memory suffices anyhow. Raises UserError if this machine lacks the images."""
    reasons: list[str] = []
    trained, held_out = plan.shares
    if plan.method.trains:
        if reason := too_few_images(plan.config.data, len(trained), plan.config.batch_size, len(held_out)):
            reasons.append(reason)
        with _noting(reasons):
            _require_labels(plan)
        with _noting(reasons):
            if reason := small_batch(plan):
                return [*reasons, reason]
    if reasons:
        return reasons
    with _noting(reasons):
        if plan.initial is not None:
            start_from(plan.build_method(), plan.initial, plan.config.backbone)
        plan.most_costs  # noqa: B018 builds the method, and takes empty crops through it: sizes that do not fit raise here
        if here:
            reasons += filter(None, (_memory(plan, 1.0), lacking_space([plan])))
    return reasons


def cautions(plan: Plan, here: bool = True) -> list[str]:
    """Warnings for a training that ``refusals`` lets begin: settings of large data sets on a small one, and, if it will run
    ``here``, little memory."""
    warnings = []
    if plan.method.trains:
        images = len(plan.shares[0])
        if too_large := settings_too_large(plan, images):
            given = ", ".join(
                f"--{name} {value if isinstance(value, str) else f'{value:g}'} ({fits:g} fits)"
                for name, (value, fits) in too_large.items()
            )
            hint = "" if plan.config.recipe == "small" else "; --recipe small gives settings for a few thousand images"
            warnings.append(f"settings of large data sets on {images:,} images: {given}{hint}")
        warnings += filter(None, (different_in_parts(plan), of_another_optimizer(plan), rising_rate(plan)))
    if here and (tight := _memory(plan, USABLE)):
        warnings.append(tight)
    return warnings


def of_another_optimizer(plan: Plan) -> str | None:
    """Name the numbers that are still the recipe's, where the optimiser is not; None if there are none."""
    config, recipe = plan.config, defaults_of(plan.method, plan.config.recipe)[0]
    usual = TrainConfig(**recipe)
    if config.optimizer == usual.optimizer:
        return None
    numbers = [f"--{name} {getattr(usual, name):g}" for name in RATES if getattr(config, name) == getattr(usual, name)]
    for name, fits in plan.method_config.of_another(config.optimizer).items():
        numbers.append(f"--{name} {getattr(plan.method_config, name):g} ({fits:g} fits)")
    if not numbers:
        return None
    return f"--optimizer {config.optimizer} with numbers that belong to {usual.optimizer}: {', '.join(numbers)}; give others"


def rising_rate(plan: Plan) -> str | None:
    """Say that the learning rate ends above its peak, which a small batch makes small while ``min_lr`` stays; None if it falls."""
    config = plan.config
    peak, end = config.peak_and_end_lr
    if end <= peak:
        return None
    return (
        f"the learning rate rises from {peak:.3g} (--lr {config.lr:g} × --batch_size {config.batch_size} / 256) to {end:.3g} at "
        f"the end; give a larger --lr, or --min_lr {peak / 100:.1g}"
    )


def settings_too_large(plan: Plan, images: int) -> dict[str, tuple[float | str, float]]:
    """Options whose value exceeds what so many training images can bear: the value ("by default", if none is given), and one that
    fits, by name."""
    config = plan.config
    steps = images // config.batch_size
    fits: dict[str, float] = {}
    if config.batch_size > images // FEWEST_STEPS:
        fits["batch_size"] = power_of_two(images / (4 * FEWEST_STEPS), at_least=2)
        steps = int(images // fits["batch_size"])
    if config.warmup_epochs > config.epochs / 2:
        fits["warmup_epochs"] = config.epochs / 10
    fits |= plan.method_config.smaller_for(images, max(1, round(steps * config.epochs)), config.epochs)
    values = {name: getattr(plan.method_config, name, None) or getattr(config, name, None) for name in fits}
    return {name: (values[name] or "by default", fits[name]) for name in fits}


def different_in_parts(plan: Plan) -> str | None:
    """What makes a step with ``accumulate`` another than that of the whole batch; None if they are equal to rounding."""
    config = plan.config
    if config.accumulate == 1:
        return None
    statistics = plan.method.statistics_of(vars(plan.method_config))
    if any(isinstance(module, _BatchNorm) for module in on_meta(plan.build_method).backbone.modules()):
        statistics.append("BatchNorm in the backbone")
    if not statistics:
        return None
    part = config.batch_size // config.accumulate
    named = " and ".join([", ".join(statistics[:-1]), statistics[-1]]) if len(statistics) > 1 else statistics[0]
    return (
        f"--accumulate {config.accumulate}: {named} see {part} images at a time, so numbers differ from those "
        f"of whole batches of {config.batch_size}"
    )


def small_batch(plan: Plan) -> str | None:
    """Why the method cannot learn from so few images a forward pass, with the smallest batch and the largest ``accumulate`` that it
    can; None if it can."""
    config, method = plan.config, plan.method
    together = config.batch_size // config.accumulate  # of all processes, which share BatchNorm's statistics
    title = method.title or config.method
    smallest, why = method.smallest_batch, f"{title} compares the images of a forward pass"
    if smallest <= together == 1 and (
        name := norm_of_one_value(plan.build_method, lambda: plan.empty_batch(1), config.epochs)
    ):
        smallest, why = 2, f"BatchNorm ({name}) would have a single value to normalise"
    if together >= smallest:
        return None
    return (
        f"--batch_size {config.batch_size}"
        + (f" in --accumulate {config.accumulate} parts" if config.accumulate > 1 else "")
        + f" gives {title} {together} image a forward pass, and {why}; "
        + advice_on_batch(smallest, config.batch_size, config.accumulate)
    )


def advice_on_batch(smallest: int, batch_size: int, accumulate: int) -> str:
    """Name the smallest batch with this ``accumulate``, and the largest ``accumulate`` with this batch."""
    parts = accumulate * world_size()
    batch = next(size for size in range(parts, parts * (smallest + 1), parts) if size // accumulate >= smallest)
    splits = [n for n in range(1, accumulate) if batch_size % (n * world_size()) == 0 and batch_size // n >= smallest]
    larger = f"--batch_size {batch} or more" if accumulate == 1 else f"--batch_size {batch} (the smallest) or more"
    return f"give {larger}" + (f", or --accumulate {max(splits)} or less" if splits else "")


def lacking_space(plans: list[Plan], jobs: int = 1) -> str | None:
    """Why the disk has no room for the checkpoints of trainings in one folder, ``jobs`` at a time; None if it has."""
    needed = []
    for plan in plans:
        if not plan.method.trains:
            continue
        memory, copies = plan.most_costs["memory"], OPTIMIZER_STATE[plan.config.optimizer]
        state = memory["weights"] + memory["gradients_and_optimizer"] * copies / (1 + copies)
        saves = 1 + max(1, int(plan.config.epochs // plan.config.checkpoint_every))
        needed.append((state, state * min(plan.config.keep_checkpoints, saves)))
    if not needed:
        return None
    # Each run keeps its checkpoints, and those that run write one more beside them.
    total = sum(kept for _, kept in needed) + sum(sorted((state for state, _ in needed), reverse=True)[:jobs])
    place = next(
        folder for folder in (plans[0].directory.absolute(), *plans[0].directory.absolute().parents) if folder.exists()
    )
    held = sum(file.stat().st_size for plan in plans for file in plan.directory.glob("checkpoints/*.pt"))
    free = shutil.disk_usage(place).free + held
    if total <= free:
        return None
    what = "the checkpoints" if len(plans) == 1 else f"the checkpoints of {len(plans)} runs"
    return (
        f"{place}: {what} take {size_in_words(total)}, and {size_in_words(free)} are free; free some, give another --out, or keep "
        "fewer: --keep_checkpoints 1"
    )


def lacking_memory(plans: list[Plan], jobs: int) -> str | None:
    """Why this machine has no memory for so many of the trainings at a time; None if it has, or for one at a time."""
    trained = [plan for plan in plans if plan.method.trains]
    if min(len(trained), jobs) < 2 or trained[0].device.type != "cpu":
        return None
    have = memory_of(trained[0].device)
    for needed in (_at_most, _needed):
        sizes = sorted(map(needed, trained), reverse=True)[:jobs]
        if sum(sizes) <= have:
            return None
    fits = next(n for n in range(len(sizes), 0, -1) if sum(sizes[:n]) <= have or n == 1)
    together = (
        f"the largest runs take {size_in_words(sum(sizes))} of memory together, and there are {size_in_words(have)}"
    )
    return f"--jobs {jobs}: {together}; give --jobs {fits}"


def _require_labels(plan: Plan) -> None:
    """Raise UserError or UsageError if labels are missing, or views to pair, as far as file names tell."""
    config, labels = plan.config, plan.listing.labels
    if labels is None:  # masks or annotations hold them
        return
    if (labels < 0).all():
        plan.require_no_labels()
    labels = labels[plan.shares[0]]
    usable = labelled(labels, None, config.label_fraction, config.seed)
    make_pairing(config.pairing, labels, None, len(plan.views), config.paired_views, usable)


def _at_most(plan: Plan) -> float:
    """More bytes than ``_needed``, which takes seconds to count; infinite where that is not known."""
    memory = plan.most_costs["memory"]
    return math.inf if memory["activations"] is None else _needed(plan, memory)


def _needed(plan: Plan, memory: Mapping[str, int | None] | None = None) -> float:
    """Bytes that a process of the training takes at least; ``memory``: default: as counted."""
    memory, shared = memory or plan.costs["memory"], world_size()
    if plan.config.strategy == "fsdp":  # recomputes activations, and holds a part of each tensor
        return (memory["weights"] + memory["gradients_and_optimizer"]) / shared
    return memory["weights"] + memory["gradients_and_optimizer"] + (memory["activations"] or 0) / shared


def _memory(plan: Plan, usable: float) -> str | None:
    """Why a part ``usable`` of the device's memory is too little for the training; None if it is enough."""
    if not plan.method.trains:
        return None
    have = memory_of(plan.device)
    if any(needed(plan) <= usable * have for needed in (_at_most, _needed)):
        return None
    needed = _needed(plan)
    config, memory = plan.config, plan.costs["memory"]
    parts = ", ".join(f"{name.replace('_', ' ')} {size_in_words(value)}" for name, value in memory.items() if value)
    images = config.batch_size // world_size() // config.accumulate
    takes = f"{images} images a forward pass take about {size_in_words(needed)} ({parts})"
    return f"{plan.device} has {size_in_words(have)} of memory, and {takes}; {advice_on_memory(config, plan.device, memory)}"


@contextmanager
def _noting(reasons: list[str]) -> Iterator[None]:
    """Put an error's sentence into the list."""
    try:
        yield
    except UserError as error:
        reasons.append(str(error))
