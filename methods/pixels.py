"""Raw pixels as features: what the data gives away without any network."""

from __future__ import annotations

from typing import Any

from backbones.pixels import Pixels as PixelBackbone
from common.errors import UsageError
from methods.core.base import METHODS, MakeBackbone, MethodConfig
from methods.random import Random


@METHODS.register("pixels")
class Pixels(Random):
    """Nothing is trained: features are the pixels themselves (``backbones/pixels.py``)."""

    title = "Raw pixels"
    reference = "raw pixels"
    needs_backbone = False
    recipe = {"backbone": "pixels"}

    def __init__(self, config: MethodConfig, make_backbone: MakeBackbone, num_classes: int):
        super().__init__(config, make_backbone, num_classes)
        if not isinstance(self.backbone, PixelBackbone):
            raise UsageError(
                f"method pixels has no backbone but pixels, not {self.backbone.label}; leave --backbone out"
            )

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": []}]  # torch's optimisers refuse an empty list of groups
