"""No training: the backbone as it was initialised, which shows what training adds."""

from __future__ import annotations

from methods.core.base import METHODS, MakeBackbone, Method, MethodConfig


@METHODS.register("random")
class Random(Method):
    """An untrained backbone."""

    title = "Untrained"
    reference = "the untrained backbone"
    trains = False

    def __init__(self, config: MethodConfig, make_backbone: MakeBackbone, num_classes: int):
        super().__init__(config, make_backbone, num_classes)
        self.backbone = make_backbone()
