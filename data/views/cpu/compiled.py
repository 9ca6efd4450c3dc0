"""How the loops are compiled, and the arithmetic of levels that they share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from numpy import float32

#: Added to a float32 and subtracted again, it rounds to a whole number (halves to even), for magnitudes below 2²².
WHOLE = float32(1.5 * 2**23)
ZERO, FULL = float32(0), float32(255)


def compiled(**options: Any) -> Callable[[Callable], Callable]:
    """Decorator of a function that ``crops`` compiles into its own; other threads run while it does. It has no cache of its own,
    since numba would not notice a change of what it calls in other files."""
    return numba.njit(nogil=True, **options)


def inlined(function: Callable) -> Callable:
    return numba.njit(function, nogil=True, inline="always")


@inlined
def round_level(level):
    return (level + WHOLE) - WHOLE


@inlined
def cut_level(level):
    return min(max(level, ZERO), FULL)
