"""The command ``run.py segment``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from commands.evaluate import EvaluateCommand, WeightsCommand, evaluate_weights
from common.distributed import is_main
from common.errors import UsageError
from eval.core.context import make_context
from eval.segmentation import Segmentation, SegmentationConfig
from rundir.results import Measurement
from training.machine.devices import process_group


def segment_weights(command: SegmentCommand, config: SegmentationConfig) -> list[Measurement]:
    """Train segmentation heads on each of the weights that the command names, and measure them. The processes of a ``torchrun``
    train together, and the first one measures.

    Returns:
        the measurements, which are also in the run directories' ``results/``.

    Raises:
        UserError: options, weights or data are wrong.
    """
    if command.out and len(command.weights or ()) > 1:
        raise UsageError(
            "--out is one directory, and there are several --weights; leave it out, or give them one by one"
        )
    shared = {f.name: getattr(command, f.name) for f in dataclasses.fields(WeightsCommand)}
    measurements: list[Measurement] = []
    with process_group(command.device):
        for weights in command.weights or [None]:
            one = EvaluateCommand(**{**shared, "weights": weights})
            if is_main():
                measurements += evaluate_weights(one, {"segmentation": config})
                continue
            names = (
                "weights",
                "backbone",
                "data",
                "data_root",
                "image_size",
                "device",
                "precision",
                "out",
                "seed",
                "key",
            )
            Segmentation(config).train(make_context(*(getattr(one, name) for name in names)))
    return measurements


@dataclass(kw_only=True)
class SegmentCommand(WeightsCommand):
    """Train segmentation heads on any weights and measure them, all under one protocol."""

    weights: list[str] | None = None
    """run directories, checkpoints or weights files, one after the other; default: untrained"""
