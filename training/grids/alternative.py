"""Trainings that would take days here, and the command of ones that take hours."""

from __future__ import annotations

import dataclasses
import functools
import math
import shlex
from collections.abc import Sequence

import torch

from backbones import PATCH_SIZES, build_backbone
from common.cli import with_options
from common.errors import UserError
from training.costs import cost_of, count
from training.grids.estimate import TimeEstimate, in_words
from training.plan import Plan, build_method
from training.resolve import resolve

#: Minutes from which a training is warned of, and the most of the one offered in its place.
DAYS, HOURS = 24 * 60.0, 8 * 60.0
#: Operations that the slowest machine takes in a day: fewer are not worth a measurement of this one's speed.
SLOWEST = 5e9 * 86400
#: Sides of images, in pixels; and the fewest patches along a side.
SIDES = (160, 128, 96, 64, 48, 32)
FEWEST = 4


def warning_of_days(plans: Sequence[Plan], words: Sequence[str], grid: str | None = None) -> str:
    """Warn of trainings that together take days on this machine, with a whole command, from the ``words`` of this one (without the
    command's name), that does not; "" for any others. ``grid``: the folder of a grid whose runs they are. Measures the machine's
    speed."""
    estimate = TimeEstimate([])
    # Counting exactly takes seconds. An upper bound, which the checks have counted, mostly tells enough.
    most = [(plan.most_costs["training_flops"], plan) for plan in plans if plan.images_seen and plan.method.trains]
    if all(flops for flops, _ in most) and (
        sum(flops * plan.images_seen for flops, plan in most) < SLOWEST
        or sum(estimate.minutes_of(flops, plan) for flops, plan in most) < DAYS
    ):
        return ""
    lasting = [(minutes, plan) for plan in plans if (minutes := estimate.of_plan(plan))]  # operations can be counted
    total = sum(minutes for minutes, _ in lasting)
    if total < DAYS:
        return ""
    longest, plan = max(lasting, key=lambda pair: pair[0])
    changes, less = _alternative(plan, estimate, longest, HOURS * longest / total)
    if grid:
        # All runs get what the longest one needs: the comparison stays one at equal budget.
        changes["out"] = f"{grid}-short"
        if backbone := changes.pop("backbone", None):
            changes["backbones"] = backbone
        epochs = float(changes.get("epochs", math.inf))
        if (most := max(plan.config.warmup_epochs for _, plan in lasting)) > epochs:
            changes["warmup_epochs"] = f"{min(most, epochs / 10):g}"
    return (
        f"warning: {'this training' if len(plans) == 1 else f'these {len(plans)} trainings'} would take about {in_words(total)} on "
        f"this machine, and evaluations come on top. Estimated {estimate.source}. "
        f"{'This one' if len(plans) == 1 else 'These'} would take about {in_words(less * total / longest)}:\n  "
        + shlex.join(["python", "run.py", *(["compare"] if grid else []), *with_options(words, changes)])
    )


def _alternative(plan: Plan, estimate: TimeEstimate, minutes: float, most: float) -> tuple[dict[str, object], float]:
    """Options that make a training last at most ``most`` minutes, and its minutes: the largest smaller backbone that does; else the
    smallest one with smaller images; else also fewer epochs. A forward pass is a measure good enough to choose by; what is chosen
    is counted."""
    config = plan.config
    best = {"backbone": config.backbone, "image_size": config.image_size}
    a_minute = _forward(**best) / minutes

    def about(**changes: object) -> float:
        try:
            return _forward(**{**best, **changes}) / a_minute
        except UserError:  # a size that this backbone cannot have
            return math.inf

    if config.init is None:  # else the weights decide
        fitting = {name: about(backbone=name) for name in _smaller(config.backbone, config.image_size)}
        fitting = {name: its for name, its in fitting.items() if its < minutes}
        quick = {name: its for name, its in fitting.items() if its <= most}
        if fitting:
            best["backbone"] = max(quick, key=quick.get) if quick else min(fitting, key=fitting.get)
    for side in SIDES:
        enough = side // PATCH_SIZES.get(best["backbone"], 8) >= FEWEST
        if enough and side < best["image_size"] and about() > most and about(image_size=side) < about():
            best["image_size"] = side
    try:
        minutes = _minutes(plan, estimate, **best)
    except UserError:  # this method cannot have it
        best = {"backbone": config.backbone, "image_size": config.image_size}
    changes = {name: value for name, value in best.items() if value != getattr(config, name)}
    if minutes > most:
        epochs = config.epochs * most / minutes
        epochs = math.floor(epochs) if epochs >= 1 else max(math.floor(1000 * epochs), 1) / 1000
        minutes *= epochs / config.epochs
        changes |= {"epochs": f"{epochs:g}", "budget": None}
        if config.pairing_start > epochs:
            changes["pairing_start"] = f"{config.pairing_start * epochs / config.epochs:g}"
        changes["warmup_epochs"] = None  # its default is a part of the epochs
    if "backbone" not in changes or config.out != resolve(dataclasses.replace(config, out=None)).out:
        changes["out"] = f"{config.out}-short"
    return changes, minutes


def _smaller(backbone: str, image_size: int) -> list[str]:
    """Other backbones of the same kind that have enough patches; not all are smaller. More heads make none smaller."""
    if backbone in PATCH_SIZES:
        sizes = {name: patch for name, patch in PATCH_SIZES.items() if not name.endswith("heads")}
        return [n for n, patch in sizes.items() if n != backbone and image_size // patch >= FEWEST]
    return ["resnet18"] if backbone == "resnet50" else []


@functools.cache
def _forward(backbone: str, image_size: int) -> float:
    """Operations of a backbone's forward pass."""
    with torch.device("meta"):
        return count(build_backbone(backbone, image_size), image_size)[1]


def _minutes(plan: Plan, estimate: TimeEstimate, backbone: str, image_size: int) -> float:
    """Minutes of the planned training with another backbone and size, on the same images."""
    config = resolve(dataclasses.replace(plan.config, backbone=backbone, image_size=image_size))
    images = plan.images[0]
    views = list(plan.method.views(plan.method_config, image_size))
    labels = None if images.label_sets is None else images.num_classes
    costs = cost_of(lambda: build_method(config, plan.method_config, images.num_classes), views, config, labels)
    return estimate.minutes_of(costs["training_flops"] or math.inf, plan)
