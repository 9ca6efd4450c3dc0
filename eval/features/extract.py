"""The one loop that takes images through a frozen backbone, and features cached on disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from backbones.base import Backbone
from backbones.vit import VisionTransformer
from common.ahead import ahead
from common.errors import UserError
from common.progress import working
from data.store.store import ImageStore
from data.views.central import eval_images
from eval.features.cache import ArrayCache, fill
from training.machine.devices import Precision, autocast

#: "pooled": the backbone's own. "last4" (or another number): CLS of the last four blocks, concatenated (reference: eval_linear.py,
#: n_last_blocks). "cls+mean": CLS and mean patch token of the last block (avgpool_patchtokens).
Kind = str

#: Pixels of a batch.
PIXELS = 2**23

Key = TypeVar("Key", int, str)
Batch = TypeVar("Batch")
Result = TypeVar("Result")


@dataclass(kw_only=True)
class FrozenBackbone:
    """A backbone in evaluation mode, with the device and precision of its forward passes."""

    backbone: Backbone
    device: torch.device
    precision: Precision

    def __post_init__(self) -> None:
        self.backbone.to(self.device).eval()

    def over(
        self,
        title: str,
        parts: Sequence[Sequence[int]],
        gather: Callable[[Sequence[int]], Batch],
        prepare: Callable[[Batch], Tensor],
        compute: Callable[[Tensor], Result],
        done: int = 0,
        threads: int = 1,
    ) -> Iterator[Result]:
        """Yield ``compute(prepare(gather(part)))`` for each part, and show the progress.

        Args:
            parts: image indices of each batch.
            gather: reads a batch, ahead of the loop, in ``threads`` threads.
            prepare: turns it into the network's input, float32 on the device.
            compute: runs in inference mode and the backbone's precision.
            done: images computed before, for the progress.
        """
        total, first, began = done + sum(map(len, parts)), done, time.monotonic()
        with working(title, total, done) as work:
            for part, batch in zip(parts, ahead(gather, parts, threads), strict=True):
                inputs = prepare(batch)
                with torch.inference_mode(), autocast(self.device, self.precision):
                    result = compute(inputs)
                yield result
                done += len(part)
                work.advance(done, f"{(done - first) / max(time.monotonic() - began, 1e-9):.0f} images/s")


def cached_rows(
    network: FrozenBackbone,
    caches: Mapping[Key, ArrayCache],
    title: str,
    gather: Callable[[range], Batch],
    prepare: Callable[[Batch], Tensor],
    compute: Callable[[Tensor, list[Key]], Mapping[Key, Tensor]],
    batch_size: int,
    rows_each: int = 1,
    threads: int = 1,
) -> dict[Key, Tensor]:
    """Load what a network computes of every image from caches, after filling the unfinished ones.

    Args:
        title: for progress and messages ("features of cifar10 test").
        gather, prepare, threads: as for ``FrozenBackbone.over``.
        compute: returns ``[B * rows_each, …]`` for each of the given keys.
        rows_each: rows of the caches for each image.

    Returns each key's ``[rows, D]`` on the CPU, memory-mapped; axes after the first are flattened. Raises UserError for
    values that are not finite, or a cache that was damaged while it was written.
    """
    arrays = {key: cache.load() for key, cache in caches.items()}
    missing = [key for key, array in arrays.items() if array is None]

    def batches(done: int) -> Iterator[list[np.ndarray]]:
        done //= rows_each
        images = caches[missing[0]].rows // rows_each
        parts = [range(low, min(low + batch_size, images)) for low in range(done, images, batch_size)]
        results = network.over(title, parts, gather, prepare, lambda inputs: compute(inputs, missing), done, threads)
        for part, values in zip(parts, results, strict=True):
            rows = [values[key].float().cpu().numpy().reshape(rows_each * len(part), -1) for key in missing]
            if not all(np.isfinite(array).all() for array in rows):
                hint = ", or try --precision fp32" if network.precision != "fp32" else ""
                raise UserError(
                    f"{title} are not finite (images {part[0]} to {part[-1]}); the weights have diverged{hint}"
                )
            yield rows

    if missing:
        fill([caches[key] for key in missing], batches)
    for key in missing:
        arrays[key] = caches[key].load()
        if arrays[key] is None:
            raise UserError(f"{caches[key].path}: damaged while it was written; is the disk full?")
    return {key: torch.from_numpy(array) for key, array in arrays.items()}


def store_features(
    network: FrozenBackbone, store: ImageStore, caches: Mapping[Kind, ArrayCache], image_size: int
) -> dict[Kind, Tensor]:
    """Features of a store's central crops by kind, float32 ``[n, D]``; see ``cached_rows``."""
    return cached_rows(
        network,
        caches,
        f"features of {store.name} {store.split}",
        lambda part: store.batch(np.asarray(part)),
        lambda images: eval_images(images.to(network.device), image_size),
        lambda pixels, kinds: compute_features(network.backbone, pixels, kinds),
        batch_size=max(1, min(512, PIXELS // image_size**2)),
    )


@torch.inference_mode()
def compute_features(backbone: Backbone, images: Tensor, kinds: Sequence[Kind]) -> dict[Kind, Tensor]:
    """Features of normalised images ``[B, 3, H, W]`` by kind, float32 ``[B, D]``, from as few passes as possible. Raises UserError
    for kinds whose tokens or blocks the backbone lacks."""
    features: dict[Kind, Tensor] = {}
    numbers = {kind: int(kind.removeprefix("last")) for kind in kinds if kind.startswith("last")}
    if numbers or "cls+mean" in kinds:
        blocks = range(-max(numbers.values(), default=1), 0)
        # timm's ViTs may pool differently, so they take another pass.
        if "pooled" in kinds and isinstance(backbone, VisionTransformer):
            last, features["pooled"] = backbone.tokens_and_pooled(images, blocks)
        else:
            last = backbone.tokens(images, blocks)
        features |= {kind: torch.cat([tokens[:, 0] for tokens in last[-n:]], dim=1) for kind, n in numbers.items()}
        features["cls+mean"] = torch.cat([last[-1][:, 0], last[-1][:, 1:].mean(dim=1)], dim=1)
    if "pooled" in kinds and "pooled" not in features:
        features["pooled"] = backbone(images)
    return {kind: features[kind].float() for kind in kinds}
