"""Finds the networks in a weights file: in entries of entries, behind prefixes of names, or both.

``{"state_dict": {"model.teacher.backbone.cls_token": …, "model.student.backbone.cls_token": …}}`` holds the networks
``state_dict.model.teacher.backbone`` and ``state_dict.model.student.backbone``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

#: Parts of names that DistributedDataParallel, torch.compile, FSDP and activation checkpointing add, at any place.
WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
#: Attributes of a pickled module that hold its tensors and children.
_OF_MODULES = frozenset({"_parameters", "_buffers", "_modules"})
#: Entries of a checkpoint that may hold weights, in order of preference: DINO's, Barlow Twins', timm's and others'.
CONTAINERS = ("teacher", "model", "state_dict")
#: Names that begin a network: of ViTs and ResNets here, of transformers, of ResNets as ``Sequential``, of ConvNeXts.
_BEGINNINGS = (
    "patch_embed.proj.weight",
    "patch_embed.0.weight",
    "embeddings.patch_embeddings.projection.weight",
    "layer1.0.conv1.weight",
    "4.0.conv1.weight",
    "stem.0.weight",
    "downsample_layers.0.0.weight",
)
_DEEPEST = 30

Place = tuple[str, ...]


@dataclass(frozen=True)
class Network:
    """A part of a file that may be a network: its place there, its tensors by their names below it, and the names of what stands
    beside it in the same state dict."""

    place: Place
    state: dict[str, Tensor]
    beside: list[str]

    @property
    def name(self) -> str:
        """Its place as ``--key`` takes it: ``teacher`` of ``teacher.backbone``; "" for the whole file."""
        return ".".join(self.place[:-1] if self.place[-1:] == ("backbone",) else self.place)

    @property
    def rank(self) -> tuple[int, int]:
        """Which of several networks stands for a file: the teacher, then no moving average; then as ``CONTAINERS``."""
        teacher = any(part == "teacher" or part.startswith("teacher_") for part in self.place)
        average = any("ema" in part.split("_") for part in self.place)
        order = [CONTAINERS.index(part) for part in self.place[:1] if part in CONTAINERS]
        return (0 if teacher else 2 if average else 1, *(order or [len(CONTAINERS)]))

    def under(self, key: str) -> int:
        """How well ``key`` names it: 0 not at all, 1 by the beginning of a part (``teacher_backbone``), 2 by whole parts."""
        wanted = without_wrappers(key).split(".")
        size = len(wanted)
        if any(list(self.place[start : start + size]) == wanted for start in range(len(self.place))):
            return 2
        return int(any(part.startswith(f"{key}_") for part in self.place))


def networks_in(content: Mapping[str, Any], tensors: int) -> list[Network]:
    """Every part of a file's content with at least so many tensors below it, the outermost first."""
    flat: dict[Place, tuple[Tensor, int]] = {}
    for place, entry, tensor in _flatten(content, (), 0):
        short = tuple(part for part in place if part not in WRAPPERS)
        flat[place if short in flat else short] = tensor, sum(part not in WRAPPERS for part in place[:entry])
    counts = Counter(place[:size] for place in flat for size in range(len(place)))
    places = [place for place, count in counts.items() if count >= tensors]
    return [_network(place, flat) for place in sorted(places, key=len)]


def begins_network(state: Mapping[str, Tensor]) -> bool:
    """Whether these names, without any prefix, are those of a network."""
    return any(name in state for name in _BEGINNINGS)


def without_wrappers(name: str) -> str:
    """Remove ``WRAPPERS`` from a name."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _flatten(content: Mapping[Any, Any], above: Place, depth: int) -> Iterator[tuple[Place, int, Tensor]]:
    """Yield the place of each tensor, how much of it are entries (rather than its name in a state dict), and the tensor."""
    for key, value in content.items():
        if not isinstance(key, str) or depth > _DEEPEST:
            continue
        place = above if key in _OF_MODULES else above + tuple(key.split("."))
        if isinstance(value, Tensor):
            yield place, len(above), value
        elif isinstance(value, Mapping):
            yield from _flatten(value, place, depth + 1)


def _network(place: Place, flat: Mapping[Place, tuple[Tensor, int]]) -> Network:
    size = len(place)
    state = {".".join(other[size:]): tensor for other, (tensor, _) in flat.items() if other[:size] == place}
    beside = set()
    for other, (_, entry) in flat.items():
        if size > entry and other[: size - 1] == place[:-1] and other[:size] != place:
            beside.add(other[size - 1])
    return Network(place, state, sorted(beside))
