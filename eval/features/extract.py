"""Frozen features: extracted once, kept under the run, and continued where an extraction was interrupted.

A cache file's name holds a digest of everything that the features depend on, so that other weights, data or sizes have other
files.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from rich.progress import TextColumn
from torch import Tensor

from backbones.base import Backbone
from backbones.vit import VisionTransformer
from common.errors import UserError
from common.progress import progress_bar
from data.store.store import ImageBatch, ImageStore
from data.views.central import eval_images
from eval.features.cache import COMMIT_EVERY, ArrayCache
from training.machine.devices import Precision, autocast

#: "pooled": the backbone's own (CLS of a ViT, mean of a ResNet's last map). "last4": CLS of the last four blocks, concatenated,
#: and so for other numbers (reference: eval_linear.py, n_last_blocks). "cls+mean": CLS and mean patch token of the last block
#: (avgpool_patchtokens).
Kind = str


@torch.inference_mode()
def compute_features(backbone: Backbone, images: Tensor, kinds: Sequence[Kind]) -> dict[Kind, Tensor]:
    """Features of normalised images ``[B, 3, H, W]``, float32 ``[B, D]`` for each kind, from as few passes as possible.

    Raises:
        UserError: features of tokens of a backbone that has none, or of more blocks than it has.
    """
    found: dict[Kind, Tensor] = {}
    numbers = {kind: int(kind.removeprefix("last")) for kind in kinds if kind.startswith("last")}
    if numbers or "cls+mean" in kinds:
        last = backbone.tokens(images, range(-max(numbers.values(), default=1), 0))
        found |= {kind: torch.cat([tokens[:, 0] for tokens in last[-n:]], dim=1) for kind, n in numbers.items()}
        found["cls+mean"] = torch.cat([last[-1][:, 0], last[-1][:, 1:].mean(dim=1)], dim=1)
    if "pooled" in kinds:
        # timm's ViTs may pool otherwise, so theirs takes a pass of its own.
        shared = found and isinstance(backbone, VisionTransformer)
        found["pooled"] = last[-1][:, 0] if shared else backbone(images)
    return {kind: found[kind].float() for kind in kinds}


def cached_features(
    backbone: Backbone,
    store: ImageStore,
    kinds: Sequence[Kind],
    image_size: int,
    device: torch.device,
    precision: Precision,
    folder: Path,
    digests: dict[Kind, str],
) -> dict[Kind, Tensor]:
    """Features of every image of a store, in its order, from the cache or computed into it.

    Args:
        backbone: on ``device``.
        image_size: side in pixels of the central crop, after a resize of the short side to 256/224 of it.
        folder: of the cache.
        digests: for each kind, of everything that its features depend on.

    Returns:
        float32 ``[n, D]`` on the CPU for each kind, memory-mapped.

    Raises:
        UserError: features that are not finite, or a kind that the backbone does not have.
    """
    caches = {
        kind: ArrayCache(folder / f"{store.name}-{store.split}-{kind}-{digests[kind]}.npy", len(store))
        for kind in kinds
    }
    ready = {kind: array for kind, cache in caches.items() if (array := cache.load()) is not None}
    missing = [kind for kind in kinds if kind not in ready]
    if missing:
        _extract(backbone, store, {kind: caches[kind] for kind in missing}, image_size, device, precision)
        for kind in missing:
            array = caches[kind].load()
            if array is None:
                raise UserError(f"{caches[kind].path}: damaged while it was written; is the disk full?")
            ready[kind] = array
    return {kind: torch.from_numpy(ready[kind]) for kind in kinds}


def _extract(
    backbone: Backbone,
    store: ImageStore,
    caches: dict[Kind, ArrayCache],
    image_size: int,
    device: torch.device,
    precision: Precision,
) -> None:
    done = min(cache.resume() for cache in caches.values())
    kinds = list(caches)
    batch_size = max(1, min(512, 2**23 // image_size**2))
    was_training = backbone.training
    backbone.eval()
    bar = progress_bar(TextColumn("images/s {task.fields[rate]:.0f}"))
    try:
        with bar:
            task = bar.add_task(f"features of {store.name} {store.split}", total=len(store), completed=done, rate=0.0)
            for cache in caches.values():
                cache.begin(done)
            began, first = time.monotonic(), done
            committed = began
            for images in _batches(store, done, batch_size):
                pixels = eval_images(images.to(device), image_size)
                with torch.inference_mode(), autocast(device, precision):
                    found = compute_features(backbone, pixels, kinds)
                for kind, values in found.items():
                    rows = values.cpu().numpy()
                    if not np.isfinite(rows).all():
                        raise UserError(
                            f"features of {store.name} {store.split} are not finite (images {done} to {done + len(rows) - 1}); "
                            "the weights have diverged" + (", or try --precision fp32" if precision != "fp32" else "")
                        )
                    caches[kind].append(rows)
                done += len(images.sizes)
                now = time.monotonic()
                if now - committed > COMMIT_EVERY:
                    for cache in caches.values():
                        cache.commit()
                    committed = now
                bar.update(task, completed=done, rate=(done - first) / max(now - began, 1e-9))
            for cache in caches.values():
                cache.finish()
    finally:
        for cache in caches.values():
            cache.close()
        backbone.train(was_training)


def _batches(store: ImageStore, start: int, batch_size: int) -> Iterator[ImageBatch]:
    """Batches in order, the next one gathered while the current one is used; none where an extraction was killed at its end."""
    parts = [np.arange(low, min(low + batch_size, len(store))) for low in range(start, len(store), batch_size)]
    with ThreadPoolExecutor(1, thread_name_prefix="gather") as pool:
        waiting = [pool.submit(store.batch, part) for part in parts[:1]]
        for following in [*parts[1:], None][: len(parts)]:
            batch = waiting.pop().result()
            if following is not None:
                waiting.append(pool.submit(store.batch, following))
            yield batch
