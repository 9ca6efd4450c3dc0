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

from backbones import build_backbone
from backbones.base import Backbone
from backbones.formats import networks
from backbones.formats.huggingface import INDEX, as_published, files_of_index, is_layout
from backbones.formats.networks import Network, begins_network, networks_in
from backbones.formats.shapes import names_by_shapes
from backbones.formats.standins import stand_ins
from backbones.vit import VisionTransformer, interpolate_positions
from common.errors import UserError
from common.files import archive_damage
from common.names import first_names

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
    if "backbone_prefix" in content:
        target: nn.Module = backbone
        state, *notes = _from_run(content, path, backbone_name, key)
    else:
        target = backbone.published
        state, notes = _from_others(content, target, path, backbone_name, key)
    wanted = target.state_dict()
    matched = _check(state, wanted, path, backbone_name)
    target.load_state_dict({**wanted, **state})
    return LoadReport(matched, len(wanted), source, "; ".join(note for note in [*notes, remark] if note))


def read_weights(path: Path) -> Mapping[str, Any]:
    """Read a weights file without running code in it: tensors, plain values, argparse.Namespace (``args`` in the authors' DINO
    checkpoints), and records in place of other objects. Raises UserError for damaged files, and for objects that could do harm."""
    try:
        if path.name == INDEX:
            content = {name: value for file in files_of_index(path) for name, value in read_weights(file).items()}
        elif path.suffix == ".safetensors":
            content = safetensors.torch.load_file(path)
        else:
            if zipfile.is_zipfile(path) and (reason := archive_damage(path)):
                raise UserError(f"{path}: damaged ({reason}); download or copy it again")
            with torch.serialization.safe_globals([argparse.Namespace, *stand_ins(path)]), warnings.catch_warnings():
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


def _from_others(
    content: Mapping[str, Any], target: nn.Module, path: Path, backbone_name: str, key: str | None
) -> tuple[dict[str, Tensor], list[str]]:
    """The state for ``target`` of the one network in another program's file that fits, or of the nearest, and notes on it. Raises
    UserError if several fit and none is preferred, if there is no network under the key, or if none fits but another backbone's."""
    wanted = target.state_dict()
    networks = networks_in(content, max(1, len(wanted) // 2))
    if key is not None:
        best = max((network.under(key) for network in networks), default=0)
        under = [network for network in networks if best and network.under(key) == best]
        if not under:
            raise UserError(f"{path}: no network under --key {key}; {_listed(content, networks)}")
        networks = under
    networks = networks or [network for network in networks_in(content, 1) if begins_network(network.state)]
    if not networks:
        raise UserError(
            f"{path}: not the weights of {backbone_name}, which has {len(wanted)} tensors; {_listed(content, [])}"
            + _fitting(content, backbone_name)
        )
    fits = [(network, *_fit(network, target)) for network in networks]
    problems = [len(_problems(state, wanted)) for _, state, _ in fits]
    fitting = [fit for fit, count in zip(fits, problems, strict=True) if not count]
    if not fitting:
        network, state, _ = fits[problems.index(min(problems))]
        other = _fitting({"": network.state}, backbone_name) or _fitting(content, backbone_name)
        _check(state, wanted, path, backbone_name, other)  # raises
    first = min(network.rank for network, _, _ in fitting)
    preferred = [fit for fit in fitting if fit[0].rank == first]
    if len(preferred) > 1:
        names = ", ".join(network.name for network, _, _ in fitting)
        raise UserError(f"{path}: several networks fit {backbone_name}; choose one by --key (networks: {names})")
    network, state, notes = preferred[0]
    return state, [network.name, *notes]


def _listed(content: Mapping[str, Any], networks: list[Network]) -> str:
    """Name the networks in a file, else what holds tensors, else its entries."""
    everything = networks_in(content, 1)
    beginnings = [network.name for network in everything if begins_network(network.state)]
    names = list(filter(None, beginnings or [network.name for network in networks]))
    if names:
        return f"its networks: {', '.join(dict.fromkeys(names))}"
    if beginnings:
        return "it holds one network, without a name, so leave --key out"
    return (
        f"no network is known in it (its entries: {first_names(list(content), 8)}; with tensors: "
        f"{', '.join(n.name for n in everything if len(n.place) == 1) or 'none'})"
    )


def fitting_backbone(content: Mapping[str, Any]) -> str | None:
    """The name of a backbone that a network in a file fits, by its tensors' names and shapes; None if no backbone here does."""
    for network in sorted(networks_in(content, 8), key=lambda network: network.rank):
        if not begins_network(network.state):
            continue
        for name in names_by_shapes(_renamed(network.state)):
            with contextlib.suppress(UserError, RuntimeError), torch.device("meta"):
                target = build_backbone(name, 224).published
                state, _ = _fit(network, target)
                if not _problems(state, target.state_dict()):
                    return name
    return None


def _fitting(content: Mapping[str, Any], backbone_name: str) -> str:
    other = fitting_backbone(content)
    return f"; it fits {other}: give --backbone {other}" if other not in (None, backbone_name) else ""


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state in the layout of the networks' authors: from transformers' and from DINOv2's blocks in chunks."""
    state = as_published(state) if is_layout(state) else dict(state)
    if any(re.match(r"blocks\.\d+\.\d+\.attn\.qkv\.", name) for name in state):  # blocks.CHUNK.NUMBER
        state = {re.sub(r"^blocks\.\d+\.(\d+\.)", r"blocks.\1", name): value for name, value in state.items()}
    return state


def _fit(network: Network, target: nn.Module) -> tuple[dict[str, Tensor], list[str]]:
    """A network's state under the target's names, as far as that is known, and notes on what was left out or changed."""
    wanted = target.state_dict()
    state, beside = _renamed(network.state), set(network.beside)
    if is_layout(network.state):
        beside |= {name.partition(".")[0] for name in network.state if name.startswith("pooler.")}
    if state and all(re.match(r"\d+\.", name) for name in state):  # nn.Sequential(*network.children())
        children = [name for name, _ in target.named_children()]
        state = {
            ".".join([children[int(place)] if int(place) < len(children) else place, rest]): value
            for name, value in state.items()
            for place, _, rest in [name.partition(".")]
        }
    classifier = [name for name in state if name.startswith(CLASSIFIERS) and name not in wanted]
    state = {name: value for name, value in state.items() if name not in classifier}
    if "mask_token" in state and "mask_token" not in wanted:
        beside.add("mask_token")
    if not hasattr(target, "no_embed_class") and "mask_token" not in wanted:  # timm's converter knows DINOv2 by it
        state.pop("mask_token", None)
    state, changed = _adapt(state, target)
    left_out = sorted(beside | {name.partition(".")[0] for name in classifier})
    return state, [f"left out: {', '.join(left_out)}" if left_out else "", changed]


def without_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove what DistributedDataParallel, torch.compile and others add to the names of a state dict."""
    return {networks.without_wrappers(name): value for name, value in state.items()}


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


def _check(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path, backbone_name: str, other: str = ""
) -> int:
    """Count the matching tensors. Raises UserError for a file of another backbone (and ``other``), or with values that are
    not finite."""
    matched = sum(name in state and state[name].shape == value.shape for name, value in wanted.items())
    if problems := _problems(state, wanted):
        raise UserError(
            f"{path}: not the weights of {backbone_name}: {matched} of its {len(wanted)} tensors match; {problems[0]}"
            + (f", and {len(problems) - 1} more difference{'s' * (len(problems) > 2)}" if len(problems) > 1 else "")
            + f" (the file begins with {_first(state)}; {backbone_name} with {_first(wanted)}){other}"
        )
    if broken := [name for name, value in state.items() if not value.isfinite().all()]:
        raise UserError(
            f"{path}: {broken[0]} holds values that are not finite; the training it comes from had diverged"
        )
    return matched


def _first(state: Mapping[str, Tensor]) -> str:
    return first_names([f"{name} {tuple(value.shape)}" for name, value in state.items()], 3) or "nothing"
