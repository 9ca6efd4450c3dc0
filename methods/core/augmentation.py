"""The augmentation that DINO and Barlow Twins share, with every probability and range an option.

Source: dino/main_dino.py, ``DataAugmentationDINO``, and barlowtwins/main.py, ``Transform``: the same operations and strengths;
they differ in the crops' scale and number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from common.errors import UsageError
from data.views.spec import View, barlow_twins_views
from methods.core.base import MethodConfig


@dataclass(kw_only=True)
class AugmentationConfig(MethodConfig):
    """Options of a method that crops, recolours, blurs and solarises its views."""

    global_scale: tuple[float, float] = (0.4, 1.0)
    """area of a full-size crop, as a part of the image's, drawn uniformly"""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """width / height of every crop before it is resized"""
    flip: float = 0.5
    """probability of a horizontal flip"""
    jitter_p: float = 0.8
    """probability of the colour jitter"""
    brightness: float = 0.4
    """of the colour jitter: factor within 1 ± this"""
    contrast: float = 0.4
    """of the colour jitter: factor within 1 ± this"""
    saturation: float = 0.2
    """of the colour jitter: factor within 1 ± this"""
    hue: float = 0.1
    """of the colour jitter: shift within ± this part of the colour circle (at most 0.5)"""
    grayscale_p: float = 0.2
    """probability of greyscale"""
    blur_p: tuple[float, float] = (1.0, 0.1)
    """probability of a Gaussian blur, for the first and the second full-size crop"""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """standard deviation of the blur in pixels of the crop, drawn uniformly"""
    solarize_p: tuple[float, float] = (0.0, 0.2)
    """probability of solarisation, for the first and the second full-size crop"""
    solarize_threshold: int = 128
    """grey level (0 to 255) from which solarisation inverts"""

    def views(self, image_size: int) -> list[View]:
        """Two full-size views, as of all methods without small crops; raises UsageError as ``checked_views`` does."""
        return checked_views(
            barlow_twins_views,
            self,
            size=image_size,
            scale=self.global_scale,
            blur_p=self.blur_p,
            solarize_p=self.solarize_p,
        )


#: What all views of a method have in common; the rest differs between them.
SHARED = (
    *("ratio", "flip", "jitter_p", "brightness", "contrast", "saturation", "hue"),
    *("grayscale_p", "blur_sigma", "solarize_threshold"),
)


def checked_views(make: Callable[..., list[View]], config: AugmentationConfig, **options: Any) -> list[View]:
    """``make(…)`` (of ``data.views.spec``) with its own ``options`` and those that every view of ``config`` shares; raises
    UsageError for one that is out of its range."""
    try:
        return make(**options, **{name: getattr(config, name) for name in SHARED})
    except ValueError as error:
        raise UsageError(f"augmentation: {error}") from error
