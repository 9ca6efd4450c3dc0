"""Schedules: learning rates, weight decays, temperatures and momenta as functions of the step."""

import math


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
        start: value after the warm-up, or of step 0 without one.
        end: value at ``total_steps``, the step after the last.
        step: from 0, below ``total_steps``.
        total_steps: of the whole run, warm-up included.
        warmup_steps: from 0 to ``total_steps``.
        warmup_endpoint: True: the last warm-up step has the value ``start``, and so has the one after it (DINO:
            ``utils.cosine_scheduler``). False: only the one after it (Barlow Twins: ``adjust_learning_rate``).

    Raises:
        ValueError: a step outside the run, or more warm-up than run.
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
    """The part of the steps after the warm-up that is over, in [0, 1); None during the warm-up."""
    if not 0 <= step < total_steps or not 0 <= warmup_steps <= total_steps:
        raise ValueError(f"step {step} of a schedule of {total_steps} steps, {warmup_steps} of them warm-up")
    return None if step < warmup_steps else (step - warmup_steps) / (total_steps - warmup_steps)
