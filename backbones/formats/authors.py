"""Training checkpoints in the authors' layouts: ``checkpoint.pth`` of ``main_dino.py`` and of Barlow Twins' ``main.py``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from backbones.formats.weights import without_wrappers
from common.errors import UsageError, UserError

#: Entries of parameter groups that only our optimisers have.
_OUR_GROUP_ENTRIES = ("lr_scale", "fixed_weight_decay")
_ARCHITECTURES = {
    "vit_t16": "vit_tiny",
    "vit_s16": "vit_small",
    "vit_s8": "vit_small",
    "vit_b16": "vit_base",
    "vit_b8": "vit_base",
}


def dino_checkpoint(state: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a run's checkpoint (``training.checkpoint``) to ``main_dino.py``'s: ``student`` (with DistributedDataParallel's
    prefix), ``teacher`` (with it if it has BatchNorm), ``optimizer``, ``epoch`` (the number done), ``args``, ``dino_loss``, and
    in fp16 ``fp16_scaler``. Raises UsageError for a run of another method, or with a predictor."""
    method, options = state["method"], state["config"]
    parts = {name.partition(".")[0] for name in method}
    if parts != {"student", "teacher", "loss"} or "loss.center" not in method:
        raise UsageError(f"--format dino_full: a run of {options['method']}, not of dino or weak_dino")
    if any(name.startswith("student.predictor.") for name in method):
        raise UsageError("--format dino_full: the run has a predictor, for which the authors' layout has no place")
    student, teacher = _under(method, "student."), _under(method, "teacher.")
    wrapper = "module." if any(name.endswith("running_mean") for name in student) else ""
    checkpoint = {
        "student": {f"module.{name}": value for name, value in student.items()},
        "teacher": {f"{wrapper}{name}": value for name, value in teacher.items()},
        "optimizer": _optimizer(state, filters=None),
        "epoch": _epochs_done(state),
        "args": argparse.Namespace(**_dino_arguments(state)),
        "dino_loss": {"center": method["loss.center"]},
    }
    return checkpoint | ({"fp16_scaler": state["scaler"]} if options["precision"] == "fp16" else {})


def barlow_twins_checkpoint(state: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a run's checkpoint (``training.checkpoint``) to Barlow Twins' ``main.py``'s: ``epoch`` (the number done), ``model``
    (with DistributedDataParallel's prefix), ``optimizer``. Raises UsageError unless the run is Barlow Twins as published."""
    method, options = state["method"], state["config"]
    parts = {name.partition(".")[0] for name in method}
    published = parts == {"backbone", "projector", "bn"} and options["method"] == "barlow_twins"
    if not published or not options["bn_in_projector"]:
        raise UsageError(
            f"--format barlow_twins_full: a run of {options['method']} with {', '.join(sorted(parts))}; the authors' layout is of "
            "barlow_twins with a backbone, a projector with BatchNorm, and bn"
        )
    model = {f"module.{name}": value.contiguous() for name, value in method.items()}
    return {"epoch": _epochs_done(state), "model": model, "optimizer": _optimizer(state, filters=True)}


def method_state(content: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """A method's whole state under our names, from a checkpoint of ours or the authors'; None for other files."""
    if "backbone_prefix" in content:
        return dict(content["method"])
    if {"student", "teacher", "dino_loss"} <= content.keys():
        parts = {part: without_wrappers(content[part]) for part in ("student", "teacher")} | {
            "loss": content["dino_loss"]
        }
        return {f"{part}.{name}": value for part, state in parts.items() for name, value in state.items()}
    if isinstance(content.get("model"), Mapping):
        state = without_wrappers(content["model"])
        if {name.partition(".")[0] for name in state} == {"backbone", "projector", "bn"}:
            return state
    return None


def _under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value.contiguous() for name, value in state.items() if name.startswith(prefix)}


def _epochs_done(state: Mapping[str, Any]) -> int:
    if "steps_per_epoch" not in state:
        raise UserError(
            "the checkpoint does not say how many steps an epoch has; continue its run, whose next checkpoint will"
        )
    return state["step"] // max(1, state["steps_per_epoch"])


def _optimizer(state: Mapping[str, Any], filters: bool | None) -> dict[str, Any]:
    """The optimiser's state for the authors' groups, which equal ours; ``filters`` goes into both filters of their LARS."""
    optimizer = state["optimizer"]
    if optimizer is None:
        raise UsageError("the run has not trained anything, so it has no optimiser")
    if state["config"]["optimizer"] == "larc":
        raise UsageError(
            "the authors' code has no LARC, so it cannot go on from this optimiser; export the backbone alone"
        )
    is_lars = state["config"]["optimizer"] == "lars"
    added = {"weight_decay_filter": filters, "lars_adaptation_filter": filters} if is_lars else {}
    groups = [
        {**{name: value for name, value in group.items() if name not in _OUR_GROUP_ENTRIES}, **added}
        for group in optimizer["param_groups"]
    ]
    return {"state": optimizer["state"], "param_groups": groups}


def _dino_arguments(state: Mapping[str, Any]) -> dict[str, Any]:
    """The run's options under ``main_dino.py``'s names, which give a ViT's patch size apart from its name."""
    options, name = state["config"], state["backbone_name"]
    ours = (
        "out_dim norm_last_layer momentum_teacher use_bn_in_head warmup_teacher_temp teacher_temp warmup_teacher_temp_epochs "
        "weight_decay weight_decay_end clip_grad epochs freeze_last_layer lr warmup_epochs min_lr optimizer seed"
    )
    return {
        "arch": _ARCHITECTURES.get(name, name),
        "patch_size": int(name.partition("_")[2][1:]) if name in _ARCHITECTURES else 16,
        **{option: options[option] for option in ours.split()},
        "use_fp16": options["precision"] == "fp16",
        "batch_size_per_gpu": options["batch_size"],
        "drop_path_rate": options["drop_path"],
        "global_crops_scale": tuple(options["global_scale"]),
        "local_crops_number": options["local_crops"],
        "local_crops_scale": tuple(options["local_scale"]),
    }
