"""A training inside an evaluation, such as a segmentation head's. It has a run directory inside the run's, so that an interrupted
training continues and a finished one is not repeated."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.files import digest_of
from common.options import options_without_effect
from eval.core.context import EvalContext
from methods.core.base import Method, MethodConfig
from rundir.log import whole_end_of
from rundir.paths import last_checkpoint
from training.batches import BatchSource
from training.checkpoint import load_checkpoint
from training.config import TrainConfig
from training.resolve import resolve
from training.trainer import train_task


@dataclass(frozen=True)
class NestedTraining:
    """A training on the context's backbone, device, precision and seed. ``depends`` holds everything that decides the outcome, by
    name; its digest is in the run directory's name."""

    task: MethodConfig
    config: TrainConfig
    depends: dict[str, Any]

    @classmethod
    def plan(
        cls, context: EvalContext, name: str, task: MethodConfig, depends: dict[str, Any], lr: float, **train: Any
    ) -> NestedTraining:
        """Resolve the options of a training in ``METHOD/NAME-DIGEST`` of the run.

        Args:
            depends: what decides the outcome beside options and weights, such as the training data's fingerprint.
            lr: learning rate for this batch size.
            train: further options of ``TrainConfig``, with ``method``, ``epochs`` and ``batch_size``.
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
        without_effect = options_without_effect(TrainConfig)
        depends = {option: value for option, value in options.items() if option not in without_effect}
        run = context.run_dir / config.method / f"{name}-{digest_of(depends)[:8]}"
        return cls(task, dataclasses.replace(config, out=str(run)), depends)

    @property
    def run(self) -> Path:
        return Path(self.config.out)

    @property
    def has_ended(self) -> bool:
        """Whether it has taken all its steps."""
        return self.run.is_dir() and whole_end_of(self.run) is not None

    def train(self, method: Method, batches: BatchSource, **about: Any) -> None:
        """Train, or continue. ``about`` goes into the log's first record."""
        train_task(self.config, self.depends, method, batches, **about)

    def restore(self, method: Method) -> None:
        """Load the weights after the last step into the method."""
        method.load_state_dict(load_checkpoint(last_checkpoint(self.run))["method"])
