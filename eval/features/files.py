"""Features of images that are files, each prepared in its own way; computed once and kept under the run like those of image
stores."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.errors import UserError
from common.files import digest_of
from common.images import normalise
from common.progress import progress_bar
from data.sets.benchmark import fingerprint_of
from data.store.decode import DamagedImage, decode_image
from eval.features.cache import COMMIT_EVERY, ArrayCache
from training.machine.devices import autocast

if TYPE_CHECKING:
    from eval.core.context import EvalContext

_READERS = 4


def file_features(
    context: EvalContext,
    name: str,
    files: Sequence[Path],
    prepare: Callable[[Image.Image, int], Image.Image],
    encode: Callable[[Tensor], Tensor],
    about: dict[str, Any],
    batch_size: int = 1,
) -> Tensor:
    """Features of files, in their order, from the run's cache or computed into it; an interrupted computation continues.

    Args:
        name: of the cache file, such as "roxford5k-queries".
        files: images.
        prepare: makes of an RGB image and its place in ``files`` the one that is looked at; of one size where batches are larger
            than 1.
        encode: normalised images ``[B, 3, h, w]`` on the device to features ``[B, D]``.
        about: everything that the features depend on beside weights, files and precision.
        batch_size: images looked at together.

    Returns:
        float32 ``[n, D]`` on the CPU.

    Raises:
        UserError: a file that is no image, or features that are not finite.
    """
    parts = [context.weights_hash, fingerprint_of(files, files[0].parent), context.precision, about]
    cache = ArrayCache(context.run_dir / "features" / f"{name}-{digest_of(parts)}.npy", len(files))
    found = cache.load()
    if found is None:
        _compute(context, name, files, prepare, encode, cache, batch_size)
        found = cache.load()
        if found is None:
            raise UserError(f"{cache.path}: damaged while it was written; is the disk full?")
    return torch.from_numpy(np.array(found))


def _compute(
    context: EvalContext,
    name: str,
    files: Sequence[Path],
    prepare: Callable[[Image.Image, int], Image.Image],
    encode: Callable[[Tensor], Tensor],
    cache: ArrayCache,
    batch_size: int,
) -> None:
    done = cache.resume()
    try:
        with progress_bar() as bar:
            task = bar.add_task(f"features of {name}", total=len(files), completed=done)
            cache.begin(done)
            committed = time.monotonic()
            for images in _read(files, done, prepare, batch_size):
                with torch.inference_mode(), autocast(context.device, context.precision):
                    features = encode(normalise(images.to(context.device)))
                rows = features.float().cpu().numpy()
                if not np.isfinite(rows).all():
                    raise UserError(
                        f"features of {name} are not finite; the weights have diverged"
                        + (", or try --precision fp32" if context.precision != "fp32" else "")
                    )
                cache.append(rows)
                bar.advance(task, len(rows))
                if time.monotonic() - committed > COMMIT_EVERY:
                    cache.commit()
                    committed = time.monotonic()
            cache.finish()
    finally:
        cache.close()


def _read(
    files: Sequence[Path], start: int, prepare: Callable[[Image.Image, int], Image.Image], batch_size: int
) -> Iterator[Tensor]:
    """Batches uint8 ``[B, 3, h, w]``, read ahead by threads."""

    def read(place: int) -> Tensor:
        try:
            image = Image.fromarray(decode_image(files[place]).pixels)
        except DamagedImage as error:
            raise UserError(f"{files[place]}: the image cannot be used: {error}") from error
        return torch.tensor(np.asarray(prepare(image, place))).permute(2, 0, 1)

    parts = (range(low, min(low + batch_size, len(files))) for low in range(start, len(files), batch_size))
    with ThreadPoolExecutor(_READERS, "images") as pool:

        def submit(part: range) -> list[Future[Tensor]]:
            return [pool.submit(read, place) for place in part]

        pending = deque(map(submit, islice(parts, max(2, 2 * _READERS // batch_size))))
        while pending:
            images = [future.result() for future in pending.popleft()]
            pending.extend(map(submit, islice(parts, 1)))
            yield torch.stack(images)
