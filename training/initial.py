"""Weights that a training starts from (``--init``): a backbone's, or the whole state of an earlier training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from backbones.base import Backbone
from backbones.formats.authors import method_state
from backbones.formats.source import Source
from common.errors import UsageError, UserError
from methods.core.base import METHODS, Method, MethodConfig
from methods.core.recipes import defaults_of
from rundir.log import holds_work
from rundir.options import label_use, written_options
from rundir.paths import has_checkpoint
from training.checkpoint import is_finite
from training.config import TrainConfig

#: A learning rate above this part of the recipe's, or a teacher with less momentum than ``GENTLE_MOMENTUM``, has undone trained
#: weights (facebookresearch/dino issues 116, 207 and 284).
GENTLE_LR = 0.2
#: The authors' learning rates (DINO's ViTs and ResNet-50, Barlow Twins, SwAV) for a method whose recipe has another optimiser.
USUAL_LR = {"adamw": TrainConfig.lr, "sgd": 0.03, "lars": 0.2, "larc": 0.3}
GENTLE_MOMENTUM = 0.999


def with_initial_weights(config: TrainConfig) -> tuple[TrainConfig, Source | None]:
    """Look for the weights of ``--init``, and fetch released ones. Returns the options with ``init_sha256`` and ``init_labels``,
    and the weights; None for a run that continues, which keeps these options and needs no file. Raises UsageError for options that
    contradict each other, UserError if the weights are missing or have another digest."""
    if config.init is None:
        if config.init_sha256 or config.init_labels:
            raise UsageError("--init_sha256 and --init_labels are about --init; add that option")
        return config, None
    if not METHODS.get(config.method).trains:
        raise UsageError(
            f"--init: {config.method} trains nothing; run.py evaluate --weights {config.init} measures them"
        )
    run = Path(config.out)
    written = written_options(run)
    if has_checkpoint(run) and holds_work(run) and written.get("init") == config.init and written.get("init_sha256"):
        digest, labels = written["init_sha256"], written.get("init_labels")
        return dataclasses.replace(
            config, init_sha256=config.init_sha256 or digest, init_labels=config.init_labels or labels
        ), None
    source = Source(config.init)
    if config.init_sha256 not in (None, source.sha256):
        raise UserError(
            f"--init {config.init}: {source.path} has the SHA-256 digest {source.sha256}, not {config.init_sha256}; give the file "
            "that the run was started from, or leave --init_sha256 out"
        )
    labels = config.init_labels or labels_of(source)
    return dataclasses.replace(config, init_sha256=source.sha256, init_labels=labels), source


def labels_of(source: Source) -> str:
    """Say which labels the training of weights used, as reports show it ("none", "10% (pairs)"); "?" if unknown."""
    if source.release is not None:
        return source.release.labels
    options = source.content.get("config")
    if not isinstance(options, Mapping) or "method" not in options:
        return "?"
    try:
        uses_labels = METHODS.get(options["method"]).label_use(options)
    except UsageError:  # its plug-in is not loaded
        return "?"
    return label_use(options, uses_labels)


def start_from(method: Method, source: Source, backbone_name: str) -> str:
    """Put initial weights into a method, in place, and return in words what was taken.

    A whole state (a run's checkpoint, or the authors' ``checkpoint.pth``) with exactly the method's tensors is loaded whole.
    Otherwise each of the method's backbones gets the backbone that the weights' run evaluates. All else, and always the
    optimiser, starts anew. Raises UserError if the weights cannot be read, or are of another backbone.
    """
    state = method_state(source.content)
    reason = misfit(state, method, source.content.get("backbone_name", backbone_name) == backbone_name)
    if reason is None:
        method.load_state_dict(state)
        if not is_finite(method):
            raise UserError(f"{source.path}: holds values that are not finite; the training it comes from had diverged")
        parts = ", ".join(dict.fromkeys(name.partition(".")[0] for name in state))
        return f"the whole state ({parts}) of {source.spec}"
    reports = [source.load_into(part, backbone_name) for part in method.modules() if isinstance(part, Backbone)]
    return f"the backbone of {source.spec} ({reports[0]}); all else starts anew, since {reason}"


def starts_at_zero(backbone: Backbone) -> str | None:
    """Name the layers of a fresh backbone whose weights are all zero: a residual branch that ends in one adds nothing at first.
    None if there are none."""
    layers = [
        name
        for name, module in backbone.named_modules()
        if isinstance(weight := getattr(module, "weight", None), nn.Parameter) and not weight.any()
    ]
    if not layers:
        return None
    return (
        f"{len(layers)} residual branches of {backbone.label} start at zero (the weights of {layers[0]} to {layers[-1]}), so that "
        "untrained, each adds nothing"
    )


def advice(config: TrainConfig, method_config: MethodConfig) -> str | None:
    """Warn, with gentler options, if such options have degraded trained weights before; else None."""
    recipe, _ = defaults_of(METHODS.get(config.method), config.recipe)
    usual = USUAL_LR[config.optimizer]
    if config.optimizer == recipe.get("optimizer", TrainConfig.optimizer):
        usual = recipe.get("lr", TrainConfig.lr)
    wanted = []
    if config.lr > GENTLE_LR * usual:
        wanted.append(f"--lr {usual / 10:g}")
    if config.warmup_epochs == 0:
        wanted.append("--warmup_epochs 1")
    if getattr(method_config, "momentum_teacher", 1.0) < GENTLE_MOMENTUM:
        wanted.append("--momentum_teacher 0.9995")
    if not wanted:
        return None
    return (
        "warning: training on from trained weights with the settings of a fresh start has undone them (facebookresearch/dino "
        f"issues 116, 207, 284); gentler ones are {' '.join(wanted)}; compare the online k-NN with that of epoch 0"
    )


def misfit(state: Mapping[str, torch.Tensor] | None, method: Method, same_backbone: bool = True) -> str | None:
    """Say why a state does not fit a method; None if it does."""
    if state is None:
        return "the file holds no whole training"
    if not same_backbone:
        return "it is of another backbone"
    wanted = method.state_dict()
    theirs, ours = (dict.fromkeys(name.partition(".")[0] for name in names) for names in (state, wanted))
    if theirs != ours:
        return f"it holds a training of {', '.join(theirs)}, and {type(method).__name__} has {', '.join(ours)}"
    for name, value in wanted.items():
        if name not in state:
            return f"{name} is not in the file"
        if state[name].shape != value.shape:
            return f"{name} has the shape {tuple(state[name].shape)} there, not {tuple(value.shape)}"
    unknown = next((name for name in state if name not in wanted), None)
    return None if unknown is None else f"{unknown} is not in {type(method).__name__}"
