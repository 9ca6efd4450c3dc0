"""Compilation of the loops, and the arithmetic of levels that they share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from numpy import float32

#: Adding this to a float32 below 2²² and subtracting it again rounds to a whole number, halves to even.
WHOLE = float32(1.5 * 2**23)
ZERO, FULL = float32(0), float32(255)


def compiled(**options: Any) -> Callable[[Callable], Callable]:
    """Compile a function for ``crops``, without the GIL and without a cache: numba's would miss changes in other files."""
    return numba.njit(nogil=True, **options)


def inlined(function: Callable) -> Callable:
    return numba.njit(function, nogil=True, inline="always")


@inlined
def round_level(level):
    return (level + WHOLE) - WHOLE


@inlined
def cut_level(level):
    return min(max(level, ZERO), FULL)
