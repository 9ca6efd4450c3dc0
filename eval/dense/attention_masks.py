"""Masks from attention: the patches that hold most of its mass (DINO, arXiv 2104.14294, figures 1 and 4)."""

from __future__ import annotations

from torch import Tensor


def keep_mass(attention: Tensor, mass: float = 0.6) -> Tensor:
    """Keep the fewest patches that hold the given part of the attention, bool ``[…, h, w]``: patches are dropped in rising order
    while their sum is at most ``1 - mass`` (reference: visualize_attention.py, ``threshold``).

    Args:
        attention: from CLS to patches, ``[…, h, w]``, not negative, with any sum above 0.
        mass: in (0, 1], else ValueError.
    """
    if not 0 < mass <= 1:
        raise ValueError(f"a part of the attention's mass lies in (0, 1], not {mass}")
    values, places = attention.flatten(-2).sort(dim=-1, stable=True)
    values = values / values.sum(dim=-1, keepdim=True)
    kept = values.cumsum(dim=-1) > (1 - mass)
    return kept.gather(-1, places.argsort(dim=-1)).unflatten(-1, attention.shape[-2:])
