"""Features of images that are files of a benchmark, each prepared in its own way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.images import normalise
from data.store.decode import require_pixels
from eval.features.cache import ArrayCache
from eval.features.extract import FrozenBackbone, cached_rows


def file_features(
    network: FrozenBackbone,
    cache: ArrayCache,
    title: str,
    files: Sequence[Path],
    prepare: Callable[[Image.Image, int], Image.Image],
    encode: Callable[[Tensor], Tensor],
    batch_size: int = 1,
) -> Tensor:
    """Features of files, in their order, float32 ``[n, D]``; see ``cached_rows``.

    Args:
        prepare: makes of an RGB image and its place in ``files`` the one that is looked at; all of one size where batches are
            larger than 1.
        encode: normalised images ``[B, 3, h, w]`` on the device to features ``[B, D]``.

    Raises:
        UserError: a file that is no image, or features that are not finite.
    """

    def read(place: int) -> Tensor:
        image = prepare(Image.fromarray(require_pixels(files[place])), place)
        return torch.tensor(np.asarray(image)).permute(2, 0, 1)

    features = cached_rows(
        network,
        {"files": cache},
        title,
        lambda part: torch.stack([read(place) for place in part]),
        lambda images: normalise(images.to(network.device)),
        lambda pixels, _: {"files": encode(pixels)},
        batch_size,
        threads=4,
    )
    return features["files"]
