"""Checkpoints: everything that the next step depends on, in one file that is whole or absent.

All random numbers of a step are functions of the seed and the step, so no random state is kept. A run keeps its last
checkpoint, some before it, and the one with the best online k-NN (``rundir.paths``); when it has ended, what ``free_space`` leaves.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

from common.distributed import all_reduce_sum, is_main, is_shared_out, own_parts, whole
from common.errors import UserError, first_line, is_out_of_memory, unreadable
from common.files import archive_damage, atomic_file, name_also
from methods.core.base import Method
from rundir.paths import best_checkpoint, damaged_checkpoint, earlier_checkpoints, last_checkpoint, step_checkpoint

#: Version of the content of checkpoints.
FORMAT = 1
#: Entries that every checkpoint must have.
ENTRIES = ("method", "optimizer", "backbone_prefix")


class DamagedCheckpoint(UserError):
    """The file is no whole checkpoint."""


def save_checkpoint(
    path: Path, method: Method, optimizer: torch.optim.Optimizer | None, keep: int = 1, **about: Any
) -> None:
    """Write a run's last checkpoint, and read it back before it replaces the one before. All processes call it together, and the
    first writes; the content depends neither on their number nor on the sharding of tensors.

    Args:
        optimizer: None for a method that does not train.
        keep: number of checkpoints afterwards, this one included.
        about: ``step``, ``steps_per_epoch``, ``config`` (all options, plain values), ``backbone_name``, ``image_size``,
            ``scaler`` (state), ``seconds`` (of training so far).

    Raises:
        OSError: the file cannot be written or read back; the checkpoint before stays.
    """
    state = {
        "format": FORMAT,
        "method": whole(method.state_dict()),
        "backbone_prefix": backbone_prefix(method),
        "optimizer": None if optimizer is None else whole(optimizer.state_dict()),
        **about,
    }
    if not is_main():
        return
    run = path.parent.parent
    with atomic_file(path) as file:
        _write(state, file)
        if reason := archive_damage(Path(file.name)):
            raise OSError(errno.EIO, f"what was written cannot be read back: {reason}", str(path))
        if keep > 1 and path.exists():
            with suppress(Exception):  # a damaged checkpoint is not worth keeping
                step = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["step"]
                name_also(path, step_checkpoint(run, step))
    for file in earlier_checkpoints(run)[keep - 1 :]:
        file.unlink()


def _write(state: dict[str, Any], file: BinaryIO) -> None:
    """Write through to the disk, so that reading back does not come from the system's memory."""
    try:
        torch.save(state, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):  # torch reports a full disk as an unexpected position
            raise error.__context__ from None
        raise
    file.flush()
    os.fsync(file.fileno())
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU. Raises DamagedCheckpoint if it is damaged, or no checkpoint of this toolkit; other UserErrors
    if it cannot be read at all."""
    try:
        reason = archive_damage(path)
        if reason is None:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: {unreadable(error)}") from error
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = first_line(error)
    if reason is not None:
        raise DamagedCheckpoint(
            f"{path}: cannot be read as a checkpoint ({reason}); give the run's training command again, which goes on from the "
            "checkpoint before where there is one, or another --out"
        )
    written = state.get("format") if isinstance(state, dict) else None
    if written != FORMAT:
        raise DamagedCheckpoint(
            f"{path}: no checkpoint of format {FORMAT} (found {written}); give the run another --out"
        )
    if absent := [name for name in ENTRIES if name not in state]:
        raise DamagedCheckpoint(f"{path}: a checkpoint without {', '.join(absent)}; give the run another --out")
    return state


def load_newest(run: Path, say: Callable[[str], None], repair: bool = True) -> dict[str, Any] | None:
    """Load a run's newest whole checkpoint; None if the run has no checkpoint. ``say`` gets a line for each damaged checkpoint.
    With ``repair`` (in one process) damaged checkpoints are set aside, and ``last.pt`` names the loaded one. Raises UserError if
    no checkpoint is whole, or a file cannot be read at all."""
    last = last_checkpoint(run)
    damaged: dict[Path, DamagedCheckpoint] = {}
    for file in (last, *earlier_checkpoints(run), best_checkpoint(run)):
        if not file.exists():
            continue
        try:
            state = load_checkpoint(file)
        except DamagedCheckpoint as error:
            damaged[file] = error
            continue
        if state.get("only_backbone"):  # the best one of a training that had ended
            continue
        for other, error in damaged.items():
            say(f"warning: {error}".partition("; give")[0] + f"; {file.name} is taken in its place")
            if repair:
                other.replace(damaged_checkpoint(run))
        if repair and not last.exists():
            name_also(file, last)
        return state
    if damaged:
        raise next(iter(damaged.values()))
    return None


def free_space(run: Path, keep: int) -> None:
    """Leave of an ended training's checkpoints the last one whole; those before it only if more than two were to be kept, since the
    second is for the case that the last is damaged while it trains; and of the best one the evaluated backbone."""
    last, best = last_checkpoint(run), best_checkpoint(run)
    if keep <= 2:
        for file in earlier_checkpoints(run):
            file.unlink(missing_ok=True)
    if not best.exists() or not last.exists() or best.samefile(last):
        return
    with suppress(DamagedCheckpoint):
        state = load_checkpoint(best)
        if state.get("only_backbone"):
            return
        prefix = state["backbone_prefix"]
        weights = {name: value for name, value in state["method"].items() if name.startswith(prefix)}
        with atomic_file(best) as file:
            _write({**state, "method": weights, "optimizer": None, "only_backbone": True}, file)


def backbone_prefix(method: Method) -> str:
    """Prefix of the evaluated backbone's tensors in the method's state dict, such as ``teacher.backbone.``."""
    for name, module in method.named_modules():
        if module is method.backbone:
            return f"{name}." if name else ""
    raise ValueError(f"{type(method).__name__}.backbone is none of its modules, so its weights would not be saved")


def is_finite(module: nn.Module) -> bool:
    """True if no parameter or buffer holds NaN or infinity. Reads the device once."""
    tensors = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point() and t.numel()]
    if not tensors:
        return True
    parts = [part.detach() for part in own_parts(tensors) if part.numel()]
    largest = torch._foreach_norm(parts, float("inf"))
    unbounded = (~torch.stack([norm.float() for norm in largest]).isfinite()).any().float()
    if any(map(is_shared_out, tensors)):
        unbounded = all_reduce_sum(unbounded)  # each process has looked at its parts only
    return not unbounded.item()
