"""An estimate of the time that a training takes, before it runs."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from common.distributed import world_size
from methods.core.base import MethodConfig
from rundir.log import end_of
from training.config import TrainConfig
from training.machine.devices import autocast, pick_device, synchronize
from training.plan import Plan, make_plan

#: Share of a large matrix product's speed that training reaches: between a tenth (small backbones) and a half for the backbones
#: here, at their usual sizes. The speed of runs that have ended is a better estimate.
SHARE = 0.2


class TimeEstimate:
    """Estimates minutes of training from counted operations and the speed of ended ``runs`` (options and directory of each), of the
    same method and backbone if possible; before any has ended, from ``SHARE`` of a large matrix product's speed here."""

    def __init__(self, runs: list[tuple[Mapping[str, Any], Path]]):
        self._speeds: dict[tuple[str, str], list[float]] = {}
        self._plans: dict[str, Plan] = {}
        for options, directory in runs:
            end = end_of(directory) or {}
            if end.get("training_flops") and end.get("images_per_second"):
                speed = end["training_flops"] * end["images_per_second"]
                self._speeds.setdefault((options["method"], options["backbone"]), []).append(speed)

    @property
    def source(self) -> str:
        """The origin of the speed, in words."""
        if self._speeds:
            return "from the speed of the runs that have ended, by counted operations"
        return (
            f"from counted operations, at {SHARE:.0%} of the speed that a large matrix product has here beside no other load, "
            "within a factor of 3"
        )

    def minutes(self, config: TrainConfig, method_config: MethodConfig) -> float | None:
        """Minutes of one training; None if its operations cannot be counted. Raises UserError if it cannot be planned."""
        alike = dataclasses.replace(config, seed=0, out=None, evals=None, visualize=None)
        key = repr((alike, method_config))
        if key not in self._plans:
            self._plans[key] = make_plan(alike, method_config, fetch=False)
        return self.of_plan(self._plans[key])

    def of_plan(self, plan: Plan) -> float | None:
        """Minutes of a planned training; None if its operations cannot be counted."""
        if not plan.total_steps:
            return 0.0
        flops = plan.costs["training_flops"]
        return None if flops is None else self.minutes_of(flops, plan)

    def minutes_of(self, flops: float, plan: Plan) -> float:
        """Minutes of a planned training if an image took so many operations."""
        return flops * plan.images_seen / self._speed(plan) / 60

    def _speed(self, plan: Plan) -> float:
        config = plan.config
        speeds = (
            self._speeds.get((config.method, config.backbone))
            or [speed for (_, name), speeds in self._speeds.items() for speed in speeds if name == config.backbone]
            or [speed for speeds in self._speeds.values() for speed in speeds]
        )
        if speeds:
            return sum(speeds) / len(speeds)
        devices = world_size() if plan.device.type == "cuda" else 1  # processes share a CPU
        return SHARE * product_speed(str(plan.device), config.precision) * devices


@functools.cache
def product_speed(device: str, precision: str) -> float:
    """Measure the operations a second of a square matrix product on this machine. On a CPU its seconds are the processor's,
    since by the clock on the wall other programs make it several times as slow at one moment and not at the next."""
    place = pick_device(device)
    side, clock = 8192 if place.type == "cuda" else 1536, time.thread_time if place.type == "cpu" else time.perf_counter
    matrix = torch.randn(side, side, device=place)
    with torch.no_grad(), autocast(place, precision):
        matrix @ matrix
        synchronize(place)
        began, times = clock(), 0
        while clock() - began < 0.1:
            matrix @ matrix
            times += 1
            synchronize(place)
        seconds = clock() - began
    return 2 * side**3 * times / seconds


def in_words(minutes: float | None) -> str:
    """Format minutes as ``3 min``, ``2.5 h`` or ``4.1 d``."""
    if minutes is None:
        return "unknown"
    if minutes < 1:
        return f"{60 * minutes:.0f} s"
    if minutes < 100:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.1f} h" if minutes < 48 * 60 else f"{minutes / 1440:.1f} d"
