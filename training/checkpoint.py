"""Checkpoints: everything that the next step depends on, in one file that is whole or absent.

The order of images, their pairing, crops and all random numbers of a step are functions of the seed and the step, so no
random state has to be kept: a resumed run draws what the uninterrupted one would.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.errors import UserError
from common.files import atomic_file
from methods.base import Method

#: Raised when what a checkpoint holds changes.
FORMAT = 1


def last_checkpoint(run: Path) -> Path:
    """Where a run's newest checkpoint is."""
    return run / "checkpoints" / "last.pt"


def save_checkpoint(path: Path, method: Method, optimizer: torch.optim.Optimizer | None, **about: Any) -> None:
    """Write a checkpoint, atomically.

    Args:
        path: of the file.
        method: its state dict holds weights, teacher and loss centre.
        optimizer: None for a method that does not train.
        about: ``step``, ``config`` (all options, plain values), ``backbone_name``, ``image_size``, ``scaler`` (state),
            ``seconds`` (of training so far).
    """
    state = {
        "format": FORMAT,
        "method": method.state_dict(),
        "backbone_prefix": backbone_prefix(method),
        "optimizer": None if optimizer is None else optimizer.state_dict(),
        **about,
    }
    with atomic_file(path) as file:
        torch.save(state, file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        UserError: it is not one of ours, or damaged.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: cannot be read as a checkpoint ({reason}); give the run another --out") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else None
        raise UserError(f"{path}: no checkpoint of format {FORMAT} (found {found}); give the run another --out")
    return state


def remove_unfinished(path: Path) -> None:
    """Delete what killed processes left of half-written versions of ``path``."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        leftover.unlink(missing_ok=True)


def backbone_prefix(method: Method) -> str:
    """What the names of the evaluated backbone's tensors begin with in the method's state dict: ``teacher.backbone.``."""
    for name, module in method.named_modules():
        if module is method.backbone:
            return f"{name}." if name else ""
    raise ValueError(f"{type(method).__name__}.backbone is none of its modules, so its weights would not be saved")


def is_finite(module: nn.Module) -> bool:
    """True if no parameter or buffer holds NaN or infinity. Asks the device once."""
    tensors = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point() and t.numel()]
    if not tensors:
        return True
    largest = torch._foreach_norm([t.detach() for t in tensors], float("inf"))
    return bool(torch.stack([norm.float() for norm in largest]).isfinite().all())
