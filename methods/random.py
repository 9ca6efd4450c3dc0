"""No training: the backbone as it was initialised. What a method adds is what it has beyond this."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from backbones.base import Backbone
from data.views.spec import View
from methods.core.base import METHODS, Method, MethodConfig


@METHODS.register("random")
class Random(Method):
    """An untrained backbone."""

    title = "Untrained"
    reference = "the untrained backbone"
    trains: ClassVar[bool] = False

    def __init__(self, config: MethodConfig, make_backbone: Callable[..., Backbone], num_classes: int):
        super().__init__(config, make_backbone, num_classes)
        self.backbone = make_backbone()

    @classmethod
    def views(cls, config: MethodConfig, image_size: int) -> Sequence[View]:
        return []
