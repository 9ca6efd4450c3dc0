"""Features of a benchmark's image files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.images import normalise
from data.sets.core.benchmark import fingerprint_of
from data.store.decode import require_pixels
from eval.core.context import EvalContext
from eval.features.extract import cached_rows


def file_features(
    context: EvalContext,
    name: str,
    files: Sequence[Path],
    prepare: Callable[[Image.Image, int], Image.Image],
    encode: Callable[[Tensor], Tensor],
    about: dict[str, Any],
    batch_size: int = 1,
) -> Tensor:
    """Compute features of image files once, and cache them: float32 ``[n, D]``.

    Args:
        name: name of the cache file, such as "roxford5k-queries".
        prepare: makes the network's view of an RGB image, given its index in ``files``. Views in a batch have one size.
        encode: normalised images ``[B, 3, h, w]`` on the device to features ``[B, D]``.
        about: what the features depend on beside weights, files and precision, JSON-able.

    Raises UserError for a file that is no image, or features that are not finite.
    """

    def read(place: int) -> Tensor:
        image = prepare(Image.fromarray(require_pixels(files[place])), place)
        return torch.tensor(np.asarray(image)).permute(2, 0, 1)

    depends = [context.weights_hash, fingerprint_of(files, files[0].parent), context.precision, about]
    features = cached_rows(
        context,
        {name: context.cache(name, len(files), depends)},
        f"features of {name}",
        lambda part: torch.stack([read(place) for place in part]),
        lambda images: normalise(images.to(context.device)),
        lambda pixels, _: {name: encode(pixels)},
        batch_size,
        threads=4,
    )
    return features[name]
