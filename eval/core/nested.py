"""Trainings that are a part of an evaluation, such as a segmentation head's: run directories inside the run's, so that an
interrupted one continues, and one that has ended is not trained again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.files import digest_of
from common.options import options_without_effect
from training.config import TrainConfig
from training.resolve import resolve
from training.trainer import whole_end_of

if TYPE_CHECKING:
    from eval.core.context import EvalContext


def nested_training(
    context: EvalContext, folder: str, name: str, task: Any, depends: dict[str, Any], lr: float, **train: Any
) -> tuple[TrainConfig, dict[str, Any]]:
    """The options of a training on the context's backbone, device, precision and seed.

    Args:
        folder, name: it lies in ``FOLDER/NAME-DIGEST`` of the run, by a digest of the second result.
        task: dataclass of the task's options.
        depends: what else decides its outcome, such as the training data's fingerprint.
        lr: learning rate as it is, whatever the batch.
        train: further options of ``TrainConfig``; ``epochs`` and ``batch_size`` among them.

    Returns:
        options of the trainer; and everything that the outcome depends on, by name.
    """
    config = resolve(
        TrainConfig(
            backbone=context.backbone_name,
            lr=lr * 256 / train["batch_size"],  # the trainer's learning rate is for 256 images
            min_lr=0.0,
            seed=context.seed,
            device=str(context.device),
            precision=context.precision,
            knn_every=0,
            checkpoint_every=max(1, train["epochs"] // 10),
            **train,
        )
    )
    options = {**dataclasses.asdict(config), **dataclasses.asdict(task), **depends, "weights": context.weights_hash}
    options = {option: value for option, value in options.items() if option not in options_without_effect(TrainConfig)}
    run = context.run_dir / folder / f"{name}-{digest_of(options)[:8]}"
    return dataclasses.replace(config, out=str(run)), options


def has_ended(run: Path) -> bool:
    """Whether a training has taken all of its steps."""
    return run.is_dir() and whole_end_of(run) is not None
