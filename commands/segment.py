"""Train segmentation heads on any weights, frozen or fine-tuned, and measure their mIoU."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from commands.evaluate import EvaluateCommand, WeightsCommand, evaluate_weights
from common.cli import load_plugins, make_parser, parse
from common.distributed import is_main
from common.errors import UsageError
from data.datasets import listing_once
from eval.core.context import make_context
from eval.segmentation import Segmentation, SegmentationConfig
from rundir.results import Measurement
from training.machine.devices import process_group


@dataclass(kw_only=True)
class SegmentCommand(WeightsCommand):
    """Train segmentation heads on any weights and measure them, all under one protocol."""

    weights: list[str] | None = None
    """run directories, checkpoints or weights files, one after the other; default: untrained"""


def main(words: Sequence[str]) -> int:
    load_plugins(words)
    parser = make_parser("segment", __doc__)
    parser.add_arguments(SegmentCommand, dest="command")
    parser.add_arguments(SegmentationConfig, dest="segmentation")
    options = parse(parser, words)
    segment_weights(options.command, options.segmentation)
    return 0


@listing_once()
def segment_weights(command: SegmentCommand, config: SegmentationConfig) -> list[Measurement]:
    """Train segmentation heads on each of the command's weights, and measure them. Several processes train together, and the first
    one measures."""
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
            else:
                Segmentation(config).train(make_context(one))
    return measurements
