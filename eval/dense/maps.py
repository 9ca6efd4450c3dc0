"""A frozen backbone's maps of whole images, computed once for all heads and kept in half precision while they train."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.distributed import all_reduce_mean, is_main
from common.errors import UserError
from common.files import digest_of, size_in_words
from common.progress import note
from data.store.open import PART_OF_FREE_SPACE
from data.store.store import ImageStore
from data.views.dense import fit_image
from eval.dense.batches import original
from eval.features.cache import ArrayCache
from eval.features.extract import FrozenBackbone, cached_rows

#: Pixels of a batch.
PIXELS = 2**21
#: Of the maps that heads are trained on: stored in it, or rounded to it where each batch's are computed anew.
PRECISION = "float16"


def map_shapes(network: FrozenBackbone, blocks: Sequence[int], size: int) -> dict[int, tuple[int, ...]]:
    """Shape ``(C, h, w)`` of each block's map of a square image. Raises UserError if the backbone does not take that size."""
    with torch.inference_mode():
        maps = network.backbone.maps(torch.zeros(1, 3, size, size, device=network.device), blocks)
    return {block: tuple(m.shape[1:]) for block, m in zip(blocks, maps, strict=True)}


def rounded(maps: Sequence[Tensor]) -> list[Tensor]:
    """The maps as they are after they were stored. Raises UserError as ``cached_maps`` does."""
    return [_half(m).float() for m in maps]


def cached_maps(
    network: FrozenBackbone, store: ImageStore, blocks: Sequence[int], size: int, folder: Path, about: dict[str, object]
) -> tuple[dict[int, Tensor], list[Path]] | None:
    """Map every image and its mirror image, fitted into a square of ``size`` pixels, and cache the maps in ``folder``.

    Args:
        about: what the maps depend on beside the other arguments, such as weights.

    Returns each block's maps, float16 ``[n, 2, C, h, w]`` on the CPU, memory-mapped, and the files; None, after a note, if the disk
    has no room for them. Raises UserError for maps that are not finite, or too large for half precision.
    """
    shapes = map_shapes(network, blocks, size)
    about = {**about, "data": store.fingerprint, "size": size, "precision": network.precision, "maps": PRECISION}
    caches = {
        block: ArrayCache(
            folder / f"{store.name}-{store.split}-map{block}-{digest_of({**about, 'block': block})}.npy",
            2 * len(store),
            np.float16,
        )
        for block in blocks
    }
    missing = [block for block, cache in caches.items() if not cache.path.is_file()]
    needed = sum(2 * int(np.prod(shapes[block])) for block in missing) * 2 * len(store)
    begun = sum(caches[block].part.stat().st_size for block in missing if caches[block].part.is_file())
    if not _has_room(folder, needed, begun, network.device):
        for cache in caches.values() if is_main() else ():
            cache.remove_begun()  # it may be what fills the disk
        return None

    def gather(part: range) -> Tensor:
        images = [original(store, image) for image in part]
        # Flipped before it is fitted, so that padding stays at the right.
        return torch.stack([fit_image(view, size)[0] for image in images for view in (image, image.flip(-1))])

    rows = cached_rows(
        network,
        caches,
        f"maps of {store.name} {store.split}",
        gather,
        lambda pairs: pairs.to(network.device),
        lambda pairs, missing: dict(zip(missing, map(_half, network.backbone.maps(pairs, missing)), strict=True)),
        batch_size=max(1, min(64, PIXELS // size**2)),
        rows_each=2,
    )
    maps = {block: rows[block].view(len(store), 2, *shapes[block]) for block in blocks}
    return maps, [path for cache in caches.values() for path in (cache.path, cache.checksum)]


def _half(maps: Tensor) -> Tensor:
    largest = float(maps.abs().amax())
    if torch.finfo(torch.float16).max < largest < float("inf"):
        raise UserError(
            f"segmentation: the frozen backbone's maps hold {largest:.3g}, too large for half precision, in which those of whole "
            "images are kept; with a range of --scale (0.5 2) they are computed for each batch, and not kept"
        )
    return maps.half()


def _has_room(folder: Path, needed: int, begun: int, device: torch.device) -> bool:
    """Whether the disk has room by all processes' looks, of which each sees what others write meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free + begun
    has_room = all_reduce_mean(torch.tensor(float(needed <= PART_OF_FREE_SPACE * free), device=device)).item() == 1
    if not has_room and is_main():
        note(
            f"segmentation: the maps of the training images would take {size_in_words(needed)} of half precision, and "
            f"{size_in_words(free)} are free in {folder}: they are computed anew for each batch"
        )
    return has_room
