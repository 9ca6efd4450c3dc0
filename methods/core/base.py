"""What a method is: the views it wants, and the loss it makes of them. Nothing here knows of loops, devices or files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from backbones.base import Backbone
from common.errors import UsageError
from common.options import check
from common.registry import Registry
from common.schedules import steps_of
from data.views.spec import View

METHODS: Registry[type[Method]] = Registry("method", "methods")

#: Builds a fresh backbone with every call. ``drop_path_rate`` is for all but ResNets, ``zero_init_residual`` for ResNets, built-in
#: or timm's; other families ignore the keyword.
MakeBackbone = Callable[..., Backbone]


@dataclass(frozen=True)
class Progress:
    """Where training is. Schedules are functions of it.

    Attributes:
        step: optimiser steps taken so far, 0 at the first.
        steps_per_epoch, epochs: of the whole run; epochs may be a fraction.
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


def full_precision(tensor: Tensor) -> AbstractContextManager[None]:
    """No autocast within the block, for losses, on the device of ``tensor``. The meta device has none."""
    kind = tensor.device.type
    return nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)


def power_of_two(limit: float, at_least: int = 1) -> int:
    """The largest power of two up to ``limit``, and no less than ``at_least``.

    >>> power_of_two(700), power_of_two(3, at_least=8)
    (512, 8)
    """
    return max(at_least, 2 ** max(0, int(limit).bit_length() - 1))


@dataclass
class ViewBatch:
    """One step's input, on the training device.

    Attributes:
        views: one tensor ``[B, 3, size, size]`` a view, normalised, in the order of ``Method.views``.
        labels: the anchors' labels, int64 ``[B]`` (-1: unlabelled), or a multi-hot float ``[B, classes]`` where an image
            may have several (a row of zeros: unlabelled).
        step_labels: of all images of the step, where this is one of its equal parts (``--accumulate``); default: ``labels``.
    """

    views: list[Tensor]
    labels: Tensor
    step_labels: Tensor | None = None

    def __post_init__(self) -> None:
        if self.step_labels is None:
            self.step_labels = self.labels

    @property
    def parts(self) -> int:
        """How many parts the step has."""
        return len(self.step_labels) // len(self.labels)


@dataclass
class StepOutput:
    """What a method returns for one step.

    Attributes:
        loss: scalar, to be minimised. See ``common.distributed`` for its meaning under several ranks.
        metrics: scalars for the log, as numbers or detached tensors.
        projections: of two views of this rank's samples, detached, ``[B, D]`` each, for cross-correlations and the collapse
            diagnostics.
    """

    loss: Tensor
    metrics: dict[str, Tensor | float] = field(default_factory=dict)
    projections: tuple[Tensor, Tensor] | None = None


@dataclass(kw_only=True)
class MethodConfig:
    """Base of a method's own options, each a command-line option declared with ``common.options.option``. Raises UsageError for a
    value that is out of its range."""

    def __post_init__(self) -> None:
        check(self)

    def views(self, image_size: int) -> list[View]:
        """The views of a training sample, in order; ``image_size``: side of the full-size crops in pixels."""
        return []

    def smaller_for(self, images: int, steps: int, epochs: float) -> dict[str, float]:
        """Options too large for so many training images, or for a training of so many steps and epochs, each with a value that
        fits."""
        return {}

    def of_another(self, optimizer: str) -> dict[str, float]:
        """Options whose value belongs to another optimiser than this one, each with a value that fits."""
        return {}


class Method(nn.Module):
    """Base of all methods: subclass it in ``methods/NAME.py`` and decorate it with ``@METHODS.register("NAME")``.

    A subclass's ``__init__`` takes the same arguments as this one and sets ``self.backbone``. Reports read its facts, the first
    class attributes, from the file without importing it: they are plain values.
    """

    #: Display name ("MoCo v2"); "": the file's.
    title: ClassVar[str] = ""
    #: Authors, year and arXiv number.
    citation: ClassVar[str] = ""
    #: Where it differs from the authors' code, or without one from the paper; () where it does not. Each method that trains has
    #: its own, which is added to its docstring.
    differs: ClassVar[tuple[str, ...]] = ()
    #: Raised by a change that gives other weights with the same options: runs of different versions are no seeds of one row.
    version: ClassVar[int] = 1
    #: What sentences call its rows, if other rows are measured against them ("raw pixels").
    reference: ClassVar[str] = ""
    #: False: its rows are compared with those of every backbone.
    needs_backbone: ClassVar[bool] = True
    #: False for a method without any training (``random``): the trainer saves the initial weights at once.
    trains: ClassVar[bool] = True
    #: True if the loss reads ``ViewBatch.labels``; where options decide, see ``label_use``. (Pairing is an option of the run.)
    uses_labels: ClassVar[bool] = False

    #: What the loss computes from all images of a forward pass, each with the values of the options that ask for it ({}: always).
    #: With ``--accumulate`` it is computed from each part of a batch, so that a step in parts is another than the step of the
    #: whole batch. Without any, the two are equal to rounding. (A backbone's BatchNorm is the backbone's.)
    batch_statistics: ClassVar[dict[str, dict[str, list[Any]]]] = {}

    #: How many of its first views ``project`` takes: None for all of them.
    projected_views: ClassVar[int | None] = None

    #: Fewest images of a forward pass that its loss can compare. (What BatchNorm needs is found out from the network.)
    smallest_batch: ClassVar[int] = 1

    #: Dataclass of the method's own options.
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    #: Published values of the trainer's options (``training/config.py``) that differ from its defaults.
    recipe: ClassVar[dict[str, Any]] = {}
    #: Values of its own and the trainer's options for ``--recipe small``, over those of all methods (methods/core/recipes.py).
    small: ClassVar[dict[str, Any]] = {}
    #: Default warm-up of the learning rate: epochs, or this part of the run if that is less.
    warmup: ClassVar[tuple[float, float]] = (10.0, 0.1)
    #: Which step of the warm-up reaches the learning rate: the last (DINO's reference), or the first after it (Barlow Twins').
    warmup_endpoint: ClassVar[bool] = True
    #: True: biases and 1-d tensors have weight decay, too (with LARS they have none in any case).
    decays_all: ClassVar[bool] = False

    #: What gets evaluated after training (DINO's teacher, Barlow Twins' only network).
    backbone: Backbone

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "differs" in vars(cls):
            what = "; ".join(cls.differs) or "nothing that is known"
            cls.__doc__ = f"{cls.__doc__ or cls.title}\n\n    Differs from the reference in: {what}."

    def __init__(self, config: MethodConfig, make_backbone: MakeBackbone, num_classes: int):
        """``num_classes`` is that of the data set. Raises UsageError if the method uses labels and the data set has none (0)."""
        super().__init__()
        if self.label_use(vars(config)) and num_classes < 1:
            name = self.title or type(self).__name__
            raise UsageError(f"{name} needs labels, and this data set has none; choose another method or data set")
        self.config = config

    @classmethod
    def label_use(cls, options: Mapping[str, Any]) -> bool | str:
        """Whether the loss reads labels under these options of the method, by name; or what for, in the word that reports show
        ("targets")."""
        return cls.uses_labels

    @classmethod
    def statistics_of(cls, options: Mapping[str, Any]) -> list[str]:
        """The ``batch_statistics`` that these options of the method ask for."""
        return [
            statistic
            for statistic, asked in cls.batch_statistics.items()
            if all(options[name] in values for name, values in asked.items())
        ]

    @classmethod
    def views(cls, config: MethodConfig, image_size: int) -> list[View]:
        """The views of a training sample, in order: the configuration's, unless a method has its own."""
        return config.views(image_size)

    def before_step(self, progress: Progress) -> None:
        """Called before each optimiser step: set temperatures and the like. ``forward`` follows, once a part of the batch."""

    def forward(self, batch: ViewBatch) -> StepOutput:
        raise NotImplementedError

    def project(self, batch: ViewBatch) -> tuple[Tensor, Tensor] | None:
        """The ``projections`` of the output for a batch, for diagnostics. A method whose other views have no part in them takes the
        first two alone, which spares the rest of the step."""
        return self(batch).projections

    def after_backward(self, progress: Progress) -> None:
        """Called when gradients are complete and clipped, before the optimiser's step: drop or change gradients."""

    def after_step(self, progress: Progress) -> None:
        """Called after the optimiser's step, with the ``progress`` of ``before_step``: update teachers, centres and queues."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for the optimiser: ``params``, and maybe ``lr_scale`` (multiplies the schedule) and ``weight_decay`` (fixed, not
        scheduled). Unless ``decays_all``, biases and 1-d tensors have no weight decay (as DINO's ``utils.get_params_groups``)."""
        decayed, plain = [], []
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                is_plain = not self.decays_all and (parameter.ndim == 1 or name.endswith(".bias"))
                (plain if is_plain else decayed).append(parameter)
        groups = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
        return [group for group in groups if group["params"]]


def facts_of(name: str) -> dict[str, Any]:
    """A method's facts, for reports and the trainer."""
    facts = METHODS.facts(name)
    return {
        key: facts[key] for key in ("title", "citation", "differs", "version", "trains", "reference", "needs_backbone")
    }
