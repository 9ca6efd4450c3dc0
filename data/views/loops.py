"""Crops on a CPU: all that is done to one of them, in compiled loops over rows that stay in the cache of a core.

The operations are those of ``data.views.tensors`` and ``data.views.colour``, which an accelerator carries out on many crops at once; what of
PIL each follows is said there. Levels are float32; they are whole after the resize and the blur and before it. Every loop runs
along a row, without a branch for a pixel, so that the compiler makes vector instructions of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from numpy import float32, int32, uint32

from data.views.colour import BRIGHTNESS, CONTRAST, HUE, LUMA, SATURATION, SIXTH, TURN
from data.views.tensors import box_radius, down_first, small_blur_weights

if TYPE_CHECKING:
    from data.views.plan import Crops

# Constants are compiled in, and what is compiled is kept until this file changes: after a change of data/views/colour.py's, touch it.

#: Pieces of the work for each of several threads, since some crops take longer than others.
PIECES = 4
#: Rows that are transposed together: each of their pixels is then written beside that of the row before, in the same cache line.
BAND = 16
#: Added to a float32 and taken away again, it rounds to a whole number (halves to even), for magnitudes below 2²².
WHOLE = float32(1.5 * 2**23)
ZERO, FULL = float32(0), float32(255)
RED, GREEN, BLUE = (float32(part) for part in LUMA)
_SIXTH = float32(SIXTH)


def make_crops(
    pixels: np.ndarray,
    crops: Crops,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    threads: int,
) -> np.ndarray:
    """Crops, normalised. What a crop is like depends on its own plan only, to the bit.

    Args:
        pixels: uint8 ``[B, 3, H, W]``, contiguous.
        crops: what to make.
        size: side in pixels.
        mean, std: of channels in [0, 1].
        threads: to share the work between.

    Returns:
        float32 ``[n, 3, size, size]``.
    """
    out = np.empty((len(crops.rows), 3, size, size), np.float32)
    blurred = crops.sigmas > 0
    radii = [box_radius(sigma) for sigma in crops.sigmas[blurred].tolist()]
    blurs = np.full(len(out), -1.0)
    blurs[blurred] = radii
    # Which hold all rows of those of the size: see ``data.views.tensors.spread``.
    small = small_blur_weights(radii, size).numpy()
    kernels = np.zeros((len(out), *small.shape[1:]), np.float32)
    kernels[blurred] = small
    factors = np.take_along_axis(crops.factors, crops.order, axis=1)  # in the order; -1, no operation, takes any
    factors = np.where(crops.order == HUE, np.trunc(factors * TURN), factors).astype(np.float32)
    down = np.array([down_first(height, width, size, size) for _, _, height, width in crops.boxes.tolist()], bool)
    scale = (1 / (255 * np.array(std))).astype(np.float32)
    shift = (255 * np.array(mean)).astype(np.float32)

    def work(part: slice) -> None:
        _make(
            pixels,
            crops.rows[part],
            crops.boxes[part],
            crops.flips[part],
            down[part],
            crops.order[part],
            factors[part],
            crops.grey[part],
            kernels[part],
            blurs[part],
            crops.solarize[part].astype(np.float32),
            scale,
            shift,
            out[part],
        )

    if threads == 1:
        work(slice(None))
    else:
        step = -(-len(out) // (PIECES * threads))
        with ThreadPoolExecutor(threads) as pool:  # the compiled code lets other threads run
            list(pool.map(work, (slice(start, start + step) for start in range(0, len(out), step))))
    return out


def _compiled(*signature: str, **options: Any) -> Callable[[Callable], Callable]:
    """Compiled once, and kept beside this file or in the user's cache; where neither can be written, anew in each process."""

    def compiled(function: Callable) -> Callable:
        try:
            return numba.njit(*signature, nogil=True, cache=True, **options)(function)
        except RuntimeError:
            return numba.njit(*signature, nogil=True, **options)(function)

    return compiled


def _inlined(function: Callable) -> Callable:
    return numba.njit(function, nogil=True, inline="always")


# Crop and resize. The three levels of a pixel lie in one uint32: what costs most is to transpose, and so a pixel moves once.


@_inlined
def _round(level):
    return (level + WHOLE) - WHOLE


@_inlined
def _cut(level):
    return min(max(level, ZERO), FULL)


@_inlined
def _byte(level):
    """Halves up, as Pillow rounds here."""
    return uint32(int32(_cut(level) + float32(0.5)))


@_inlined
def _pack(red, green, blue):
    return uint32(red) | (uint32(green) << uint32(8)) | (uint32(blue) << uint32(16))


@_inlined
def _red(pixel):
    return float32(int32(pixel & uint32(255)))


@_inlined
def _green(pixel):
    return float32(int32((pixel >> uint32(8)) & uint32(255)))


@_inlined
def _blue(pixel):
    return float32(int32(pixel >> uint32(16)))


@_compiled()
def _bicubic(length, size, first, count, weights):
    """Of ``length`` pixels that become ``size``: those that enter each, from ``first`` on, their count, and their weights
    (``data.views.tensors.bicubic_weights`` without its zeros, but for zeros that make the count a multiple of four)."""
    wide = max(length, size)
    half = 2.0 * wide / size
    exact = np.empty(weights.shape[1])
    for target in range(size):
        centre = (target + 0.5) * length / size
        start, total, n = -1, 0.0, 0
        for source in range(max(0, int(centre - half)), min(length, int(centre + half) + 1)):
            # The distance of pixel centres in units of the filter, from whole numbers: exact before the division.
            x = abs((2 * source + 1) * size - (2 * target + 1) * length) / (2.0 * wide)
            if x < 2:
                exact[n] = (1.5 * x - 2.5) * x * x + 1.0 if x < 1 else ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
                start = source if start < 0 else start
                total += exact[n]
                n += 1
        for k in range(n):  # of 22 bits, as Pillow's
            weights[target, k] = np.floor(exact[k] / total * 2**22 + 0.5) / 2**22
        weights[target, n : n + 3] = 0
        first[target], count[target] = start, n


@_compiled()
def _pack_box(planes, top, left, out):
    height, width = out.shape
    for y in range(height):
        row = out[y]
        red = planes[0, top + y][left : left + width]
        green = planes[1, top + y][left : left + width]
        blue = planes[2, top + y][left : left + width]
        for x in range(width):
            row[x] = _pack(red[x], green[x], blue[x])


@_compiled()
def _unpack(pixels, out):
    for y in range(pixels.shape[0]):
        row, red, green, blue = pixels[y], out[0, y], out[1, y], out[2, y]
        for x in range(row.shape[0]):
            pixel = row[x]
            red[x], green[x], blue[x] = _red(pixel), _green(pixel), _blue(pixel)


@_compiled()
def _transpose(pixels, out):
    height, width = pixels.shape
    for start in range(0, height, BAND):
        for y in range(start, min(height, start + BAND)):
            row = pixels[y]
            for x in range(width):
                out[x, y] = row[x]


@_compiled(fastmath={"contract"})
def _resize_down(pixels, first, count, weights, flip, sums, out):
    """Resize along y; ``flip``: the last row first. ``pixels`` has three rows more than are used, of any content."""
    size, width = out.shape
    red, green, blue = sums[0], sums[1], sums[2]
    for target in range(size):
        row = out[size - 1 - target] if flip else out[target]
        for k in range(0, count[target], 4):
            start = first[target] + k
            a, b, c, d = pixels[start], pixels[start + 1], pixels[start + 2], pixels[start + 3]
            w0, w1, w2, w3 = weights[target, k], weights[target, k + 1], weights[target, k + 2], weights[target, k + 3]
            if k == 0:
                for x in range(width):
                    p, q, r, s = a[x], b[x], c[x], d[x]
                    red[x] = w0 * _red(p) + w1 * _red(q) + w2 * _red(r) + w3 * _red(s)
                    green[x] = w0 * _green(p) + w1 * _green(q) + w2 * _green(r) + w3 * _green(s)
                    blue[x] = w0 * _blue(p) + w1 * _blue(q) + w2 * _blue(r) + w3 * _blue(s)
            else:
                for x in range(width):
                    p, q, r, s = a[x], b[x], c[x], d[x]
                    red[x] += w0 * _red(p) + w1 * _red(q) + w2 * _red(r) + w3 * _red(s)
                    green[x] += w0 * _green(p) + w1 * _green(q) + w2 * _green(r) + w3 * _green(s)
                    blue[x] += w0 * _blue(p) + w1 * _blue(q) + w2 * _blue(r) + w3 * _blue(s)
        for x in range(width):
            row[x] = _pack(_byte(red[x]), _byte(green[x]), _byte(blue[x]))


@_compiled()
def _crop(planes, box, flip, down, one, two, sums, x_weights, y_weights, first, count, packed, out):
    """``data.views.tensors.crop`` of one box, into ``out`` ``[3, size, size]``."""
    top, left, height, width = box[0], box[1], box[2], box[3]
    size = packed.shape[0]
    _bicubic(width, size, first[0], count[0], x_weights)
    _bicubic(height, size, first[1], count[1], y_weights)
    # The three rows more of _resize_down.
    crop = one[: (height + 3) * width].reshape(height + 3, width)
    _pack_box(planes, top, left, crop[:height])
    if down:
        short = two[: size * width].reshape(size, width)
        _resize_down(crop, first[1], count[1], y_weights, False, sums, short)
        turned = one[: (width + 3) * size].reshape(width + 3, size)
        _transpose(short, turned[:width])
        square = two[: size * size].reshape(size, size)
        _resize_down(turned, first[0], count[0], x_weights, flip, sums, square)
        _transpose(square, packed)
    else:
        turned = two[: (width + 3) * height].reshape(width + 3, height)
        _transpose(crop[:height], turned[:width])
        narrow = one[: size * height].reshape(size, height)
        _resize_down(turned, first[0], count[0], x_weights, flip, sums, narrow)
        upright = two[: (height + 3) * size].reshape(height + 3, size)
        _transpose(narrow, upright[:height])
        _resize_down(upright, first[1], count[1], y_weights, False, sums, packed)
    _unpack(packed, out)


# Colours, a row at a time.


@_inlined
def _luma(red, green, blue):
    return _round(RED * red + GREEN * green + BLUE * blue)


@_inlined
def _floor(value):
    whole = float32(int32(value))
    return whole - float32(1) if whole > value else whole


@_compiled()
def _sum_of_luma(red, green, blue):
    total = 0
    for x in range(red.shape[0]):
        total += int32(_luma(red[x], green[x], blue[x]))
    return total


@_compiled()
def _blend_with_level(red, green, blue, factor, level):
    rest = (float32(1) - factor) * level
    for x in range(red.shape[0]):
        red[x] = _cut(red[x] * factor + rest)
        green[x] = _cut(green[x] * factor + rest)
        blue[x] = _cut(blue[x] * factor + rest)


@_compiled()
def _blend_with_luma(red, green, blue, factor):
    for x in range(red.shape[0]):
        rest = (float32(1) - factor) * _luma(red[x], green[x], blue[x])
        red[x] = _cut(red[x] * factor + rest)
        green[x] = _cut(green[x] * factor + rest)
        blue[x] = _cut(blue[x] * factor + rest)


@_compiled()
def _to_grey(red, green, blue):
    for x in range(red.shape[0]):
        level = _luma(red[x], green[x], blue[x])
        red[x], green[x], blue[x] = level, level, level


@_compiled()
def _shift_hue(reds, greens, blues, shift):
    """``data.views.colour.shift_hue`` by ``shift`` 255ths of a turn; the reasons stand there."""
    for x in range(reds.shape[0]):
        red, green, blue = reds[x], greens[x], blues[x]
        top, low = max(max(red, green), blue), min(min(red, green), blue)
        chroma = top - low
        turn, sector = red - blue, float32(5)
        if red == low:
            turn, sector = blue - green, float32(3)
        if blue == low:
            turn, sector = green - red, float32(1)
        turn = (turn / max(chroma, float32(1e-6)) + sector) / float32(6)
        whole = _floor(turn * float32(256))
        rest = turn * float32(256) - whole - turn + max(turn - float32(0.832), ZERO) * float32(0.008)
        whole = whole + _floor(rest) + shift
        hue = whole - float32(256) * _floor(whole * float32(1 / 256))
        chroma = max(chroma - top * float32(0.5 / 255), ZERO) * (float32(1) / _SIXTH)
        base, low_end, high_end = top + chroma * _SIXTH, _SIXTH, float32(2) * _SIXTH
        from_red = float32(3) * _SIXTH - abs(hue - float32(3) * _SIXTH)
        from_green, from_blue = abs(hue - float32(2) * _SIXTH), abs(hue - float32(4) * _SIXTH)
        reds[x] = base - chroma * min(max(from_red, low_end), high_end)
        greens[x] = base - chroma * min(max(from_green, low_end), high_end)
        blues[x] = base - chroma * min(max(from_blue, low_end), high_end)


@_compiled()
def _jitter(red, green, blue, kinds, factors, level):
    for t in range(kinds.shape[0]):
        if kinds[t] == BRIGHTNESS:
            _blend_with_level(red, green, blue, factors[t], ZERO)
        elif kinds[t] == CONTRAST:
            _blend_with_level(red, green, blue, factors[t], level)
        elif kinds[t] == SATURATION:
            _blend_with_luma(red, green, blue, factors[t])
        elif kinds[t] == HUE:
            _shift_hue(red, green, blue, factors[t])


@_compiled()
def _recolour(image, kinds, factors, grey):
    """The jitter and greyscale. Only the contrast needs to have seen all of the image."""
    height, before, level = image.shape[1], 0, ZERO
    for t in range(kinds.shape[0]):
        if kinds[t] == CONTRAST:
            before, total = t, 0
            for y in range(height):
                red, green, blue = image[0, y], image[1, y], image[2, y]
                _jitter(red, green, blue, kinds[:t], factors[:t], level)
                total += _sum_of_luma(red, green, blue)
            level = float32(np.floor(total / (height * image.shape[2]) + 0.5))
    for y in range(height):
        red, green, blue = image[0, y], image[1, y], image[2, y]
        _jitter(red, green, blue, kinds[before:], factors[before:], level)
        if grey:
            _to_grey(red, green, blue)


# The blur.


@_compiled(fastmath={"contract"})
def _box_blur(row, radius, out):
    """Three box blurs along ``row`` (``data.views.tensors.blur_weights``). Both rows have ``int(radius) + 1`` places of any content
    before and after their levels."""
    reach = int(radius) + 1
    size = row.shape[0] - 2 * reach
    inner = float32(1 / (2 * radius + 1))
    outer = float32((radius + 1 - reach) / (2 * radius + 1))
    source, target = row, out
    for _ in range(3):
        for i in range(reach):
            source[i], source[reach + size + i] = source[reach], source[reach + size - 1]
        middle, to = source[reach:], target[reach:]
        first, last = source, source[2 * reach :]
        if reach == 1:
            for x in range(size):
                to[x] = inner * middle[x] + outer * (first[x] + last[x])
        else:
            a, b = source[1:], source[2 * reach - 1 :]
            for x in range(size):
                to[x] = inner * (middle[x] + a[x] + b[x]) + outer * (first[x] + last[x])
            for k in range(2, reach):
                a, b = source[k:], source[2 * reach - k :]
                for x in range(size):
                    to[x] += inner * (a[x] + b[x])
        source, target = target, source


@_compiled(fastmath={"contract"})
def _blur(image, radius, weights, half, lines):
    """``data.views.tensors.gaussian_blur`` of one image, into whole levels.

    Along x by boxes; along y, where a row is a vector, by the product of the three: ``weights`` is the matrix of an image that may
    be smaller, whose first and last rows are those of any, and the one between is like all others between. ``half``,
    ``[size, size]``, and ``lines`` are memory.
    """
    size, small, margin = image.shape[1], weights.shape[0], int(radius) + 1
    reach = 3 * margin
    low = min(reach, size)
    high = max(size - reach, low)
    kernel = weights[min(reach, small - 1)]
    line, other = lines[0][: size + 2 * margin], lines[1][: size + 2 * margin]
    for plane in range(3):
        for y in range(size):
            row, to = image[plane, y], line[margin:]
            for x in range(size):
                to[x] = _round(row[x])
            _box_blur(line, radius, other)
            row, to = other[margin:], half[y]
            for x in range(size):
                to[x] = _round(row[x])
        for y in range(size):
            out = image[plane, y]
            if low <= y < high:
                for t in range(0, reach, 3):
                    i, j = y - reach + t, y + reach - t
                    a, b, c, d, e, f = half[i], half[i + 1], half[i + 2], half[j], half[j - 1], half[j - 2]
                    w0, w1, w2 = kernel[t], kernel[t + 1], kernel[t + 2]
                    if t == 0:
                        w, row = kernel[reach], half[y]
                        for x in range(size):
                            out[x] = w * row[x] + w0 * (a[x] + d[x]) + w1 * (b[x] + e[x]) + w2 * (c[x] + f[x])
                    else:
                        for x in range(size):
                            out[x] += w0 * (a[x] + d[x]) + w1 * (b[x] + e[x]) + w2 * (c[x] + f[x])
            else:
                place, offset = (y, 0) if y < low else (y - size + small, size - small)
                out[:] = 0
                for k in range(max(0, place - reach), min(small, place + reach + 1)):
                    w, row = weights[place, k], half[offset + k]
                    for x in range(size):
                        out[x] += w * row[x]
            for x in range(size):
                out[x] = _round(out[x])


@_compiled()
def _finish(image, threshold, scale, shift, out):
    """Solarise and normalise."""
    # A level between threshold - 0.5 and threshold would have been rounded up, and so inverted, by then.
    threshold -= float32(0.5)
    for plane in range(3):
        factor, middle = scale[plane], shift[plane]
        for y in range(out.shape[1]):
            row, to = image[plane, y], out[plane, y]
            for x in range(row.shape[0]):
                level = FULL - row[x] if row[x] >= threshold else row[x]
                to[x] = (level - middle) * factor


@_compiled(
    "void(uint8[:,:,:,::1], int64[::1], int64[:,::1], boolean[::1], boolean[::1], int64[:,::1], float32[:,::1], boolean[::1],"
    "float32[:,:,::1], float64[::1], float32[::1], float32[::1], float32[::1], float32[:,:,:,::1])"
)
def _make(pixels, rows, boxes, flips, down, order, factors, grey, kernels, radii, solarize, scale, shift, out):
    """The crops, one after the other, in memory that they share."""
    size = out.shape[2]
    height, width = 1, 1
    for i in range(len(rows)):
        height, width = max(height, boxes[i, 2]), max(width, boxes[i, 3])
    area = max((height + 3) * max(width, size), (width + 3) * max(height, size), size * size)
    one, two = np.empty(area, uint32), np.empty(area, uint32)
    sums = np.empty((3, max(height, width, size)), float32)
    taps = 4 * max(1, height // size + 1, width // size + 1) + 8
    x_weights, y_weights = np.empty((size, taps), float32), np.empty((size, taps), float32)
    first, count = np.empty((2, size), np.int64), np.empty((2, size), np.int64)
    packed, half = np.empty((size, size), uint32), np.empty((size, size), float32)
    image = np.empty((3, size, size), float32)
    lines = np.empty((2, size + 2 * (int(radii.max()) + 1)), float32)
    for i in range(len(rows)):
        _crop(
            pixels[rows[i]],
            boxes[i],
            flips[i],
            down[i],
            one,
            two,
            sums,
            x_weights,
            y_weights,
            first,
            count,
            packed,
            image,
        )
        _recolour(image, order[i], factors[i], grey[i])
        if radii[i] >= 0:
            _blur(image, radii[i], kernels[i], half, lines)
        _finish(image, solarize[i], scale, shift, out[i])
