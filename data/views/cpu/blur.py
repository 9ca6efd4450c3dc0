"""The Gaussian blur."""

from __future__ import annotations

from numpy import float32

from data.views.cpu.compiled import compiled, round_level


@compiled(fastmath={"contract"})
def _box_blur(row, radius, out):
    """Three box blurs along ``row`` into ``out``, which both have ``int(radius) + 1`` spare places before and after."""
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


@compiled(fastmath={"contract"})
def blur(image, radius, weights, half, lines):
    """``data.views.tensors.gaussian_blur`` of one image, in place: boxes along x, then the small matrix ``weights`` of
    ``data.views.tensors.spread`` along y, where a row is a vector. ``half``, ``[size, size]``, and ``lines`` are memory."""
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
                to[x] = round_level(row[x])
            _box_blur(line, radius, other)
            row, to = other[margin:], half[y]
            for x in range(size):
                to[x] = round_level(row[x])
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
                out[x] = round_level(out[x])
