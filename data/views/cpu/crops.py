"""Whole crops: resized, recoloured, blurred, solarised and normalised, one after the other."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np
from numpy import float32, uint32

from data.views import colour, plan
from data.views.cpu.blur import blur
from data.views.cpu.compiled import FULL, compiled
from data.views.cpu.recolour import recolour
from data.views.cpu.resample import crop
from data.views.plan import HUE, Crops
from data.views.tensors import box_radius, down_first, small_blur_weights

#: Pieces of the work for each thread, since some crops take longer than others.
PIECES = 4
#: Files whose code and constants are compiled into ``_make``.
SOURCES = (*sorted(Path(__file__).parent.glob("*.py")), Path(colour.__file__), Path(plan.__file__))


def make_crops(
    pixels: np.ndarray, crops: Crops, size: int, mean: Sequence[float], std: Sequence[float], threads: int
) -> np.ndarray:
    """Make crops, float32 ``[n, 3, size, size]``, from contiguous uint8 ``[B, 3, H, W]``, normalised by ``mean`` and ``std`` of
    channels in [0, 1]. Each depends on its own plan only, to the bit."""
    out = np.empty((len(crops.rows), 3, size, size), np.float32)
    blurred = crops.sigmas > 0
    radii = [box_radius(sigma) for sigma in crops.sigmas[blurred].tolist()]
    all_radii = np.full(len(out), -1.0)
    all_radii[blurred] = radii
    small = small_blur_weights(radii, size).numpy()  # all rows of the large matrices: see ``data.views.tensors.spread``
    kernels = np.zeros((len(out), *small.shape[1:]), np.float32)
    kernels[blurred] = small
    factors = np.take_along_axis(crops.factors, crops.order, axis=1)  # in the order; any for -1, no operation
    factors = np.where(crops.order == HUE, np.trunc(factors * colour.TURN), factors).astype(np.float32)
    down = np.array([down_first(height, width, size, size) for _, _, height, width in crops.boxes.tolist()], bool)
    solarize = crops.solarize.astype(np.float32)
    scale = (1 / (255 * np.array(std))).astype(np.float32)
    shift = (255 * np.array(mean)).astype(np.float32)
    of_crops = (
        crops.rows,
        crops.boxes,
        crops.flips,
        down,
        crops.order,
        factors,
        crops.grey,
        kernels,
        all_radii,
        solarize,
    )

    def work(part: slice) -> None:
        _make(pixels, *(values[part] for values in of_crops), scale, shift, out[part])

    if threads == 1:
        work(slice(None))
    else:
        step = -(-len(out) // (PIECES * threads))
        with ThreadPoolExecutor(threads) as pool:  # the compiled code lets other threads run
            list(pool.map(work, (slice(start, start + step) for start in range(0, len(out), step))))
    return out


@compiled()
def _finish(image, threshold, scale, shift, out):
    """Solarise and normalise."""
    # PIL has rounded a level of threshold - 0.5 or more up to the threshold.
    threshold -= float32(0.5)
    for plane in range(3):
        factor, middle = scale[plane], shift[plane]
        for y in range(out.shape[1]):
            row, to = image[plane, y], out[plane, y]
            for x in range(row.shape[0]):
                level = FULL - row[x] if row[x] >= threshold else row[x]
                to[x] = (level - middle) * factor


def _compile_make(sources: str) -> Callable:
    """Compile ``_make``, once if numba can write a cache, whose key includes the closure: the hash of ``SOURCES``."""

    def make(pixels, rows, boxes, flips, down, order, factors, grey, kernels, radii, solarize, scale, shift, out):
        """Make crops one after the other in shared memory."""
        sources  # noqa: B018
        size = out.shape[2]
        height, width = 1, 1
        for i in range(len(rows)):
            height, width = max(height, boxes[i, 2]), max(width, boxes[i, 3])
        area = max((height + 3) * max(width, size), (width + 3) * max(height, size), size * size)
        one, two = np.empty(area, uint32), np.empty(area, uint32)
        sums = np.empty((3, max(height, width, size)), float32)
        taps = 4 * max(1, height // size + 1, width // size + 1) + 8
        weights = np.empty((2, size, taps), float32)
        first, count = np.empty((2, size), np.int64), np.empty((2, size), np.int64)
        packed, half = np.empty((size, size), uint32), np.empty((size, size), float32)
        image = np.empty((3, size, size), float32)
        lines = np.empty((2, size + 2 * (int(radii.max()) + 1)), float32)
        for i in range(len(rows)):
            crop(pixels[rows[i]], boxes[i], flips[i], down[i], one, two, sums, weights, first, count, packed, image)
            recolour(image, order[i], factors[i], grey[i])
            if radii[i] >= 0:
                blur(image, radii[i], kernels[i], half, lines)
            _finish(image, solarize[i], scale, shift, out[i])

    signature = (
        "void(uint8[:,:,:,::1], int64[::1], int64[:,::1], boolean[::1], boolean[::1], int64[:,::1], float32[:,::1],"
        "boolean[::1], float32[:,:,::1], float64[::1], float32[::1], float32[::1], float32[::1], float32[:,:,:,::1])"
    )
    try:
        return numba.njit(signature, nogil=True, cache=True)(make)
    except RuntimeError:  # no place for a cache
        return numba.njit(signature, nogil=True)(make)


_make = _compile_make(hashlib.sha256(b"".join(path.read_bytes() for path in SOURCES)).hexdigest())
