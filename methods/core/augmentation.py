"""Augmentation as options of a method: of all crops together, and of the two full-size ones."""

from __future__ import annotations

from dataclasses import dataclass

from common.options import option
from data.views.spec import PROBABILITY, Augmentation, View, rising
from methods.core.base import MethodConfig


@dataclass(kw_only=True)
class AugmentationConfig(Augmentation, MethodConfig):
    """Options of a method that crops, recolours, blurs and solarises its views."""

    global_scale: tuple[float, float] = option((0.4, 1.0), above=0, at_most=1, form=rising)
    """area of a full-size crop, as a part of the image's, drawn uniformly"""
    blur_p: tuple[float, float] = option((1.0, 0.1), **PROBABILITY)
    """probability of a Gaussian blur, for the first and the second full-size crop"""
    solarize_p: tuple[float, float] = option((0.0, 0.2), **PROBABILITY)
    """probability of solarisation, for the first and the second full-size crop"""

    def views(self, image_size: int) -> list[View]:
        return self.full_size_views("view", image_size)

    def full_size_views(self, name: str, image_size: int) -> list[View]:
        """Two views of ``image_size`` pixels, called ``name`` 1 and 2."""
        return [
            View(
                name=f"{name}{i + 1}",
                size=image_size,
                scale=self.global_scale,
                blur_p=self.blur_p[i],
                solarize_p=self.solarize_p[i],
                augmentation=self,
            )
            for i in range(2)
        ]
