"""What a method is: what it wants to see, and what it does with it. Nothing here knows of loops, devices or files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from backbones.base import Backbone
from common.distributed import own_parts
from common.errors import UsageError
from common.registry import Registry
from data.views.spec import View

METHODS: Registry[type[Method]] = Registry("method", "methods")


@dataclass(frozen=True)
class Progress:
    """Where training is. Schedules are functions of it.

    Attributes:
        step: optimiser steps taken so far, 0 at the first.
        steps_per_epoch, epochs: of the whole run; the last epoch may be a part of one.
    """

    step: int
    steps_per_epoch: int
    epochs: float

    @property
    def total_steps(self) -> int:
        return steps_of(self.epochs, self.steps_per_epoch)

    @property
    def epoch(self) -> int:
        """The running epoch, from 0."""
        return self.step // self.steps_per_epoch

    @property
    def fraction(self) -> float:
        """In [0, 1)."""
        return self.step / self.total_steps


def steps_of(epochs: float, steps_per_epoch: int) -> int:
    """Optimiser steps of a run: whole ones, and one at least."""
    return max(1, round(epochs * steps_per_epoch))


@dataclass
class ViewBatch:
    """One step's input, on the training device.

    Attributes:
        views: one tensor ``[B, 3, size, size]`` a view, normalised, in the order of ``Method.views``.
        labels: the anchors' labels, int64 ``[B]`` (-1: unlabelled), or a multi-hot float ``[B, classes]`` where an image
            may have several (a row of zeros: unlabelled).
    """

    views: list[Tensor]
    labels: Tensor


@dataclass
class StepOutput:
    """What a method returns for one step.

    Attributes:
        loss: scalar, to be minimised. See ``common.distributed`` for its meaning under several ranks.
        metrics: scalars for the log, as detached tensors (no synchronisation here) or numbers.
        projections: two detached ``[B, D]`` tensors of corresponding samples (own rank's), which the cross-correlation
            pictures and the collapse diagnostics look at.
    """

    loss: Tensor
    metrics: dict[str, Tensor | float] = field(default_factory=dict)
    projections: tuple[Tensor, Tensor] | None = None


@dataclass(kw_only=True)
class MethodConfig:
    """A method's own options; each field is a command-line option. Subclass it in the method's file, with checks of its values
    in ``__post_init__``."""

    def require(self, holds: Callable[[Any], bool], what: str, *options: str) -> None:
        """Raise UsageError, saying ``what`` to give, for the first of ``options`` whose value is not None and fails ``holds``."""
        for option in options:
            value = getattr(self, option)
            if value is not None and not holds(value):
                raise UsageError(f"--{option} {value}: {what}")


class Method(nn.Module):
    """Base of all methods. A subclass in ``methods/NAME.py``, decorated with ``@METHODS.register("NAME")``, is one.

    Class attributes:
        Config: dataclass of the method's own options.
        recipe: the published defaults of the trainer's options, by field name of ``training.config.TrainConfig`` (only
            where they differ from its defaults), with their source in a comment.
        trains: False for a method without any training (``random``): the trainer saves the initial weights at once.
        uses_labels: True where the loss reads ``ViewBatch.labels`` (reports say which rows used labels; pairing by label
            is told by the run's pairing options).
        warmup_endpoint: which step of the learning rate's warm-up reaches it: the last (DINO's reference), or the first
            after it (Barlow Twins'). See ``common.schedules.cosine``.

    What reports say of it (plain values, which ``Registry.facts`` reads without importing the file):
        title: its name for readers ("MoCo v2"); "": that of the file.
        citation: authors, year and arXiv number.
        differs: where it differs from its reference, a sentence each.
        reference: what its rows are in a sentence, where they are what the others are measured against ("raw pixels"); "": a
            method as any other.
        needs_backbone: False: its rows are compared with those of every backbone.
    ``environment.json`` of a run keeps them, so that a report need not have the method.

    A subclass's ``__init__`` takes the same arguments as this one and sets ``self.backbone``.
    """

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    recipe: ClassVar[dict[str, Any]] = {}
    trains: ClassVar[bool] = True
    uses_labels: ClassVar[bool] = False
    warmup_endpoint: ClassVar[bool] = True
    title: ClassVar[str] = ""
    citation: ClassVar[str] = ""
    differs: ClassVar[tuple[str, ...]] = ()
    reference: ClassVar[str] = ""
    needs_backbone: ClassVar[bool] = True

    #: What gets evaluated after training (DINO's teacher, Barlow Twins' only network).
    backbone: Backbone

    def __init__(self, config: MethodConfig, make_backbone: Callable[..., Backbone], num_classes: int):
        """
        Args:
            config: an instance of ``Config``.
            make_backbone: builds a fresh backbone with every call; keyword arguments (``drop_path_rate``,
                ``zero_init_residual``) are used by the families that have them and ignored by the others.
            num_classes: of the data set (0: no labels).
        """
        super().__init__()
        self.config = config

    @classmethod
    def views(cls, config: MethodConfig, image_size: int) -> Sequence[View]:
        """The views of one training sample, in order. ``image_size`` is the side in pixels of the full-size crops."""
        raise NotImplementedError

    def before_step(self, progress: Progress) -> None:
        """Called before ``forward`` of each optimiser step: set temperatures and the like."""

    def forward(self, batch: ViewBatch) -> StepOutput:
        raise NotImplementedError

    def after_backward(self, progress: Progress) -> None:
        """Called when gradients are complete and clipped, before the optimiser's step: drop or change gradients."""

    def after_step(self, progress: Progress) -> None:
        """Called after the optimiser's step: update teachers. ``progress`` is that of ``before_step``."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for the optimiser: ``params``, and which of them the decay schedule and LARS's adaptation reach.

        The default is DINO's (``utils.get_params_groups``): biases and 1-d tensors have no weight decay.
        A group may hold ``lr_scale`` (multiplies the schedule), ``weight_decay`` (fixed, not scheduled).
        """
        decayed, plain = [], []
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                (plain if parameter.ndim == 1 or name.endswith(".bias") else decayed).append(parameter)
        groups = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
        return [group for group in groups if group["params"]]


def facts_of(name: str) -> dict[str, Any]:
    """What reports need to know of a method: the facts that ``Method`` lists, and whether it trains."""
    facts = METHODS.facts(name)
    return {key: facts[key] for key in ("title", "citation", "differs", "trains", "reference", "needs_backbone")}


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """``teacher = momentum · teacher + (1 - momentum) · student`` over parameters; buffers are left alone
    (reference: main_dino.py, "EMA update for the teacher")."""
    targets, sources = (own_parts([p.data for p in network.parameters()]) for network in (teacher, student))
    torch._foreach_lerp_(targets, sources, 1 - momentum)
