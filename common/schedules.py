"""Learning rates, weight decays, temperatures and momenta as functions of the step."""

import math


def steps_of(epochs: float, steps_per_epoch: int) -> int:
    """Optimiser steps of a run: a whole number, at least 1."""
    return max(1, round(epochs * steps_per_epoch))


def linear(start: float, end: float, step: int, steps: int, endpoint: bool = True) -> float:
    """Element ``step`` (from 0) of ``numpy.linspace(start, end, steps, endpoint=endpoint)``."""
    if not 0 <= step < steps:
        raise ValueError(f"step {step} of a schedule of {steps} steps")
    intervals = steps - 1 if endpoint else steps
    return start + (end - start) * step / max(intervals, 1)


def cosine(
    start: float, end: float, step: int, total_steps: int, warmup_steps: int = 0, warmup_endpoint: bool = True
) -> float:
    """Linear warm-up from 0 to ``start``, then half a cosine from ``start`` towards ``end``.

    Args:
        end: value at ``total_steps``, the step after the last.
        step: from 0.
        total_steps: with the warm-up.
        warmup_endpoint: whether ``start`` is reached at the last warm-up step (DINO: ``utils.cosine_scheduler``) or at the one
            after it (Barlow Twins: ``adjust_learning_rate``).

    Raises ValueError for a step outside the run, or more warm-up than run.
    """
    part = _part(step, total_steps, warmup_steps)
    if part is None:
        return linear(0.0, start, step, warmup_steps, warmup_endpoint)
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * part))


def poly(
    start: float, end: float, step: int, total_steps: int, warmup_steps: int = 0, warmup_endpoint: bool = True
) -> float:
    """As ``cosine``, with ``(1 - t) ** 0.9`` for the half cosine (DeepLab, arXiv 1606.00915, section 4.1)."""
    part = _part(step, total_steps, warmup_steps)
    if part is None:
        return linear(0.0, start, step, warmup_steps, warmup_endpoint)
    return end + (start - end) * (1 - part) ** 0.9


def _part(step: int, total_steps: int, warmup_steps: int) -> float | None:
    """The part in [0, 1) of the steps after the warm-up that is over; None during the warm-up."""
    if not 0 <= step < total_steps or not 0 <= warmup_steps <= total_steps:
        raise ValueError(f"step {step} of a schedule of {total_steps} steps, {warmup_steps} of them warm-up")
    return None if step < warmup_steps else (step - warmup_steps) / (total_steps - warmup_steps)
