"""Loads weights into a backbone: from our runs, the authors' DINO and Barlow Twins files, and state dicts of timm or torchvision,
pickled or as safetensors. A file that does not fit wholly is refused."""

from __future__ import annotations

import argparse
import contextlib
import math
import pickle
import re
import sys
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from backbones.base import Backbone
from backbones.vit import VisionTransformer, interpolate_positions
from common.errors import UserError
from common.files import archive_damage

#: Entries of a checkpoint that may hold weights, in order of preference: DINO's, Barlow Twins', timm's and others'.
CONTAINERS = ("teacher", "model", "state_dict")
#: Prefixes that DistributedDataParallel and torch.compile add to names.
WRAPPERS = ("module.", "_orig_mod.")
#: Prefixes of classifiers in torchvision and timm.
CLASSIFIERS = ("fc.", "head.", "head_dist.", "classifier.", "last_linear.")


@dataclass(frozen=True)
class LoadReport:
    """What a load did. ``matched`` is below ``total``, the backbone's tensors, only for old files, which lack BatchNorm's step
    counts; ``note`` tells what was chosen, left out or changed."""

    matched: int
    total: int
    source: str
    note: str

    def __str__(self) -> str:
        note = f" ({self.note})" if self.note else ""
        return f"{self.matched} of {self.total} tensors loaded from {self.source}{note}"


def load_state(
    backbone: Backbone,
    content: Mapping[str, Any],
    path: Path,
    backbone_name: str,
    key: str | None,
    source: str,
    remark: str = "",
) -> LoadReport:
    """Load the content of ``path`` into ``backbone``, in place, all or nothing; ``source`` and ``remark`` go into the report."""
    target: nn.Module = backbone
    if "backbone_prefix" in content:
        state, *notes = _from_run(content, path, backbone_name, key)
    else:
        state, entry = _from_others(content, path, key)
        target = backbone.published
        state, left_out = _select(state, target.state_dict())
        state, changed = _adapt(state, target)
        notes = [entry, left_out, changed]
    wanted = target.state_dict()
    matched = _check(state, wanted, path, backbone_name)
    target.load_state_dict({**wanted, **state})
    return LoadReport(matched, len(wanted), source, "; ".join(note for note in [*notes, remark] if note))


def read_weights(path: Path) -> Mapping[str, Any]:
    """Read a weights file without running code in it: it may hold tensors, plain values, and argparse.Namespace (``args`` in the
    authors' DINO checkpoints). Raises UserError for anything else."""
    try:
        if path.suffix == ".safetensors":
            content = safetensors.torch.load_file(path)
        else:
            if zipfile.is_zipfile(path) and (reason := archive_damage(path)):
                raise UserError(f"{path}: damaged ({reason}); download or copy it again")
            with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns of odd pickles, which are refused below
                content = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except PermissionError as error:
        raise UserError(f"{path}: no permission to read it") from error
    except Exception as error:  # damaged bytes can raise anything in a reader
        code = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if code:
            raise UserError(
                f"{path}: refused, because reading it could run code ({code[1]}); "
                "have whoever trusts it save the bare state dict, or a .safetensors file"
            ) from error
        raise UserError(f"{path}: not a weights file, or cut short; download or copy it again") from error
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{path}: holds no weights by name (but a {type(content).__name__}); give a state dict")
    return content


def _from_run(
    content: Mapping[str, Any], path: Path, backbone_name: str, key: str | None
) -> tuple[dict[str, Tensor], str]:
    """The backbone's state in a run's checkpoint, and the network's name."""
    if absent := {"backbone_name", "method"} - content.keys():
        raise UserError(f"{path}: a run's checkpoint without {' and '.join(sorted(absent))}; give another checkpoint")
    if content["backbone_name"] != backbone_name:
        raise UserError(
            f"{path}: weights of {content['backbone_name']}, not of {backbone_name}; "
            f"give --backbone {content['backbone_name']}"
        )
    prefix = f"{key}.backbone." if key else content["backbone_prefix"]
    state = {name.removeprefix(prefix): value for name, value in content["method"].items() if name.startswith(prefix)}
    if not state:
        others = {name.partition("backbone.")[0].strip(".") for name in content["method"] if "backbone." in name}
        choices = ", ".join(sorted(others - {""})) or "only one, without a name"
        raise UserError(f"{path}: the run has no backbone {key or prefix!r} (it has: {choices})")
    return state, key or prefix.partition("backbone.")[0].strip(".")


def _from_others(content: Mapping[str, Any], path: Path, key: str | None) -> tuple[dict[str, Tensor], str]:
    """The state dict in another program's file, without ``WRAPPERS``, and the entry that held it."""
    entries = [name for name, value in content.items() if _is_state_dict(value)]
    if key is None and _is_state_dict(content):
        return without_wrappers(content), ""
    key = key or next((name for name in CONTAINERS if name in entries), None)
    if key not in entries:
        raise UserError(
            f"{path}: no weights under {key or ' or '.join(CONTAINERS)!r}; choose a key "
            f"(the file's entries: {', '.join(map(str, list(content)[:8]))}; with weights: {', '.join(entries) or 'none'})"
        )
    return without_wrappers(content[key]), key


def without_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove ``WRAPPERS`` from the names of a state dict."""
    stripped = {}
    for name, value in state.items():
        while name.startswith(WRAPPERS):
            name = name.partition(".")[2]
        stripped[name] = value
    return stripped


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(name, str) and isinstance(entry, Tensor) for name, entry in value.items())
    )


def _select(state: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """The backbone's entries, and a note on the heads, projectors and classifiers left out."""
    inside = {name.removeprefix("backbone."): value for name, value in state.items() if name.startswith("backbone.")}
    outside = [name for name in state if not name.startswith("backbone.")] if inside else []
    state = inside or state
    classifier = [name for name in state if name.startswith(CLASSIFIERS) and name not in wanted]
    state = {name: value for name, value in state.items() if name not in classifier}
    left_out = sorted({name.partition(".")[0] for name in outside + classifier})
    return state, f"left out: {', '.join(left_out)}" if left_out else ""


def _adapt(state: dict[str, Tensor], target: nn.Module) -> tuple[dict[str, Tensor], str]:
    """The state with positions on the target's grid or under timm's present names, and a note on changes."""
    wanted = target.state_dict()
    before = {name: tuple(value.shape) for name, value in state.items()}
    if isinstance(target, VisionTransformer):
        positions = state.get("pos_embed")
        if positions is not None and _other_square_grid(positions, wanted["pos_embed"]):
            state = state | {"pos_embed": interpolate_positions(positions.float(), target.grid, target.grid)}
    elif not isinstance(target, Backbone) and _problems(state, wanted):
        state = _converted_by_timm(state, target)
    changed = [
        f"{name} interpolated from {before[name]} to {tuple(value.shape)}"
        for name, value in state.items()
        if name in before and value.numel() != math.prod(before[name])
    ]
    return state, "; ".join(changed)


def _converted_by_timm(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Convert from an older layout by timm's own converter; unchanged if that does not fit."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    converted = state
    # A converter may fail so on files that it was not made for; ``_check`` then names the differences.
    with contextlib.suppress(KeyError, IndexError, AttributeError, AssertionError, RuntimeError, ValueError, TypeError):
        converted = dict(convert(dict(state), model)) if convert else state
    # Converters also resample patch embeddings, so another patch size would pass for this one.
    same = [name for name in converted if name in state and "pos" not in name]
    return converted if all(converted[name].numel() == state[name].numel() for name in same) else state


def _other_square_grid(positions: Tensor, wanted: Tensor) -> bool:
    """Whether these position embeddings have a CLS token, the wanted width, and another square grid."""
    if positions.ndim != 3 or positions.shape[::2] != wanted.shape[::2] or positions.shape == wanted.shape:
        return False
    patches = positions.shape[1] - 1
    return patches > 0 and math.isqrt(patches) ** 2 == patches


def _problems(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    missing = [
        f"{name} is missing" for name in wanted if name not in state and not name.endswith("num_batches_tracked")
    ]
    shapes = [
        f"{name} has shape {tuple(state[name].shape)}, not {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in state and state[name].shape != value.shape
    ]
    unknown = [f"{name} is not in the backbone" for name in state if name not in wanted]
    return missing + shapes + unknown


def _check(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path, backbone_name: str) -> int:
    """Count the matching tensors. Raises UserError for a file of another backbone, or with values that are not finite."""
    matched = sum(name in state and state[name].shape == value.shape for name, value in wanted.items())
    if problems := _problems(state, wanted):
        raise UserError(
            f"{path}: not the weights of {backbone_name}: {matched} of its {len(wanted)} tensors match; {problems[0]}"
            + (f", and {len(problems) - 1} more difference{'s' * (len(problems) > 2)}" if len(problems) > 1 else "")
            + f" (the file begins with {_first(state)}; {backbone_name} with {_first(wanted)})"
        )
    if broken := [name for name, value in state.items() if not value.isfinite().all()]:
        raise UserError(
            f"{path}: {broken[0]} holds values that are not finite; the training it comes from had diverged"
        )
    return matched


def _first(state: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {tuple(value.shape)}" for name, value in list(state.items())[:3]) or "nothing"
