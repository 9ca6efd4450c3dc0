"""A frozen backbone's maps of whole images: computed once for all heads, kept under the run while these train."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from backbones.base import Backbone
from common.errors import UserError
from common.files import digest_of
from common.progress import progress_bar
from data.store.store import ImageStore
from data.views.dense import fit_image
from eval.dense.task import original
from eval.features.cache import COMMIT_EVERY, ArrayCache
from training.machine.devices import Precision, autocast

#: Pixels of images that are looked at together.
PIXELS = 2**21


def map_shapes(
    backbone: Backbone, blocks: Sequence[int], size: int, device: torch.device
) -> dict[int, tuple[int, ...]]:
    """``(C, h, w)`` of each block's map of a square image. Raises UserError where the backbone does not take that size."""
    with torch.inference_mode():
        maps = backbone.maps(torch.zeros(1, 3, size, size, device=device), blocks)
    return {block: tuple(m.shape[1:]) for block, m in zip(blocks, maps, strict=True)}


def cached_maps(
    backbone: Backbone,
    store: ImageStore,
    blocks: Sequence[int],
    size: int,
    device: torch.device,
    precision: Precision,
    folder: Path,
    about: dict[str, object],
) -> tuple[dict[int, Tensor], list[Path]]:
    """Maps of every image of a store, fitted into a square, as it is and flipped; continued where it was interrupted.

    Args:
        backbone: on ``device``, in evaluation mode.
        blocks: whose maps.
        size: side of the square in pixels.
        folder: of the cache.
        about: what the maps depend on beside the arguments (weights).

    Returns:
        for each block float32 ``[n, 2, C, h, w]`` on the CPU, memory-mapped, and the files.

    Raises:
        UserError: no room for them on the disk, or maps that are not finite.
    """
    shapes = map_shapes(backbone, blocks, size, device)
    about = {**about, "data": store.fingerprint, "size": size, "precision": precision}
    names = {
        block: f"{store.name}-{store.split}-map{block}-{digest_of({**about, 'block': block})}.npy" for block in blocks
    }
    caches = {block: ArrayCache(folder / names[block], 2 * len(store)) for block in blocks}
    missing = {block: cache for block, cache in caches.items() if cache.load() is None}
    if missing:
        _require_room(folder, sum(4 * int(np.prod(shapes[block])) for block in missing) * 2 * len(store))
        _extract(backbone, store, missing, size, device, precision)
    arrays = {block: caches[block].load() for block in blocks}
    for block, array in arrays.items():
        if array is None:
            raise UserError(f"{caches[block].path}: damaged while it was written; is the disk full?")
    maps = {b: torch.from_numpy(array).view(len(store), 2, *shapes[b]) for b, array in arrays.items()}
    return maps, [path for cache in caches.values() for path in (cache.path, cache.checksum)]


def _require_room(folder: Path, needed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: the maps of the training images take {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} are free; free some, "
            "take a smaller crop_size, or a random scale (0.5 2), which computes them anew for each batch"
        )


def _extract(
    backbone: Backbone,
    store: ImageStore,
    caches: dict[int, ArrayCache],
    size: int,
    device: torch.device,
    precision: Precision,
) -> None:
    done = min(cache.resume() for cache in caches.values()) // 2  # rows come in pairs
    batch_size = max(1, min(64, PIXELS // size**2))
    bar = progress_bar()
    try:
        with bar:
            task = bar.add_task(f"maps of {store.name} {store.split}", total=len(store), completed=done)
            for cache in caches.values():
                cache.begin(2 * done)
            committed = time.monotonic()
            for start in range(done, len(store), batch_size):
                images = [original(store, i) for i in range(start, min(start + batch_size, len(store)))]
                # Flipped before it is fitted: what is padded stays at the right.
                pairs = [fit_image(view, size)[0] for image in images for view in (image, image.flip(-1))]
                with torch.inference_mode(), autocast(device, precision):
                    maps = backbone.maps(torch.stack(pairs).to(device), list(caches))
                for cache, values in zip(caches.values(), maps, strict=True):
                    rows = values.float().cpu().numpy().reshape(len(pairs), -1)
                    if not np.isfinite(rows).all():
                        raise UserError(f"maps of {store.name} {store.split} are not finite; the weights have diverged")
                    cache.append(rows)
                if time.monotonic() - committed > COMMIT_EVERY:
                    for cache in caches.values():
                        cache.commit()
                    committed = time.monotonic()
                bar.update(task, completed=start + len(images))
            for cache in caches.values():
                cache.finish()
    finally:
        for cache in caches.values():
            cache.close()
