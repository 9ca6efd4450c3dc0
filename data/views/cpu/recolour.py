"""Jitter and greyscale, a row at a time."""

from __future__ import annotations

import numpy as np
from numpy import float32, int32

from data.views.colour import LUMA, SIXTH
from data.views.cpu.compiled import ZERO, compiled, cut_level, inlined, round_level
from data.views.plan import BRIGHTNESS, CONTRAST, HUE, SATURATION

RED, GREEN, BLUE = (float32(part) for part in LUMA)
_SIXTH = float32(SIXTH)


@inlined
def _luma(red, green, blue):
    return round_level(RED * red + GREEN * green + BLUE * blue)


@inlined
def _floor(value):
    whole = float32(int32(value))
    return whole - float32(1) if whole > value else whole


@compiled()
def _sum_of_luma(red, green, blue):
    total = 0
    for x in range(red.shape[0]):
        total += int32(_luma(red[x], green[x], blue[x]))
    return total


@compiled()
def _blend_with_level(red, green, blue, factor, level):
    rest = (float32(1) - factor) * level
    for x in range(red.shape[0]):
        red[x] = cut_level(red[x] * factor + rest)
        green[x] = cut_level(green[x] * factor + rest)
        blue[x] = cut_level(blue[x] * factor + rest)


@compiled()
def _blend_with_luma(red, green, blue, factor):
    for x in range(red.shape[0]):
        rest = (float32(1) - factor) * _luma(red[x], green[x], blue[x])
        red[x] = cut_level(red[x] * factor + rest)
        green[x] = cut_level(green[x] * factor + rest)
        blue[x] = cut_level(blue[x] * factor + rest)


@compiled()
def _to_grey(red, green, blue):
    for x in range(red.shape[0]):
        level = _luma(red[x], green[x], blue[x])
        red[x], green[x], blue[x] = level, level, level


@compiled()
def _shift_hue(reds, greens, blues, shift):
    """``data.views.colour.shift_hue``, explained there, by ``shift`` 255ths of a turn."""
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


@compiled()
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


@compiled()
def recolour(image, kinds, factors, grey):
    """Apply jitter and greyscale in place. Only the contrast needs the whole image first, for its mean level."""
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
