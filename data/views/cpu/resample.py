"""Crop and resize. A uint32 holds the three levels of a pixel, so that transposing, which costs most, moves it once."""

from __future__ import annotations

import numpy as np
from numpy import float32, int32, uint32

from data.views.cpu.compiled import compiled, cut_level, inlined

#: Rows transposed together, so that neighbours in a column are written to the same cache line.
BAND = 16


@inlined
def _byte(level):
    """Round halves up, as Pillow does here."""
    return uint32(int32(cut_level(level) + float32(0.5)))


@inlined
def _pack(red, green, blue):
    return uint32(red) | (uint32(green) << uint32(8)) | (uint32(blue) << uint32(16))


@inlined
def _red(pixel):
    return float32(int32(pixel & uint32(255)))


@inlined
def _green(pixel):
    return float32(int32((pixel >> uint32(8)) & uint32(255)))


@inlined
def _blue(pixel):
    return float32(int32(pixel >> uint32(16)))


@compiled()
def _bicubic(length, size, first, count, weights):
    """``data.views.tensors.bicubic_weights`` without most zeros: the first source of each of ``size`` pixels, the sources' count,
    and their weights, with zeros up to the next multiple of four."""
    wide = max(length, size)
    half = 2.0 * wide / size
    exact = np.empty(weights.shape[1])
    for target in range(size):
        centre = (target + 0.5) * length / size
        start, total, n = -1, 0.0, 0
        for source in range(max(0, int(centre - half)), min(length, int(centre + half) + 1)):
            # The distance in units of the filter is computed from whole numbers, exact before the division.
            x = abs((2 * source + 1) * size - (2 * target + 1) * length) / (2.0 * wide)
            if x < 2:
                exact[n] = (1.5 * x - 2.5) * x * x + 1.0 if x < 1 else ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
                start = source if start < 0 else start
                total += exact[n]
                n += 1
        for k in range(n):  # rounded to 22 bits, as in Pillow
            weights[target, k] = np.floor(exact[k] / total * 2**22 + 0.5) / 2**22
        weights[target, n : n + 3] = 0
        first[target], count[target] = start, n


@compiled()
def _pack_box(planes, top, left, out):
    height, width = out.shape
    for y in range(height):
        row = out[y]
        red = planes[0, top + y][left : left + width]
        green = planes[1, top + y][left : left + width]
        blue = planes[2, top + y][left : left + width]
        for x in range(width):
            row[x] = _pack(red[x], green[x], blue[x])


@compiled()
def _unpack(pixels, out):
    for y in range(pixels.shape[0]):
        row, red, green, blue = pixels[y], out[0, y], out[1, y], out[2, y]
        for x in range(row.shape[0]):
            pixel = row[x]
            red[x], green[x], blue[x] = _red(pixel), _green(pixel), _blue(pixel)


@compiled()
def _transpose(pixels, out):
    height, width = pixels.shape
    for start in range(0, height, BAND):
        for y in range(start, min(height, start + BAND)):
            row = pixels[y]
            for x in range(width):
                out[x, y] = row[x]


@compiled(fastmath={"contract"})
def _resize_down(pixels, first, count, weights, flip, sums, out):
    """Resize along y; ``flip`` reverses the rows. ``pixels`` ends in three spare rows."""
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


@compiled()
def crop(planes, box, flip, down, one, two, sums, weights, first, count, packed, out):
    """``data.views.tensors.crop`` of one box, into ``out`` ``[3, size, size]``. ``one`` to ``packed`` are memory."""
    x_weights, y_weights = weights[0], weights[1]
    top, left, height, width = box[0], box[1], box[2], box[3]
    size = packed.shape[0]
    _bicubic(width, size, first[0], count[0], x_weights)
    _bicubic(height, size, first[1], count[1], y_weights)
    # _resize_down needs three spare rows.
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
