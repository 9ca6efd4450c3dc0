"""The authors' own code, out of a checkout of facebookresearch/dino. It was written for CUDA and several processes; its parts are
put together here in the order of its training loop, on any device and in one process."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from benchmarks.reference.dino import PlainStep
from common.errors import UserError


class Authors:
    """
    Args:
        folder: of the checkout.

    Raises:
        UserError: it is none.
    """

    def __init__(self, folder: Path):
        for name in ("main_dino.py", "utils.py", "vision_transformer.py"):
            if not (folder / name).is_file():
                raise UserError(f"--reference {folder}: no {name} there; give a checkout of facebookresearch/dino")
        sys.path.insert(0, str(folder.resolve()))
        try:
            self._main = importlib.import_module("main_dino")
            self._utils = importlib.import_module("utils")
            self._vits = importlib.import_module("vision_transformer")
        finally:
            sys.path.pop(0)
        # Its loss asks the process group for the mean over processes; here is one.
        self._main.dist = SimpleNamespace(all_reduce=lambda tensor: None, get_world_size=lambda: 1)

    def dino_step(self, backbone: str, out_dim: int, views: int, device: torch.device) -> PlainStep:
        """Its networks, loss and multi-crop wrapper. ``backbone``: ``vit_tiny``, ``vit_small`` or ``vit_base``, patches of 16."""

        def network(**options: float) -> nn.Module:
            vit = self._vits.__dict__[backbone](patch_size=16, **options)
            return self._utils.MultiCropWrapper(vit, self._vits.DINOHead(vit.embed_dim, out_dim))

        student, teacher = network(drop_path_rate=0.1), network()
        teacher.load_state_dict(student.state_dict())
        return PlainStep(student, teacher, _Loss(self._main.DINOLoss(out_dim, views, 0.04, 0.04, 0, 100)), device)

    def augmentation(self) -> Callable[[object], list[Tensor]]:
        """Makes the 2×224 + 8×96 crops of a PIL image."""
        return self._main.DataAugmentationDINO((0.4, 1.0), (0.05, 0.4), 8)


class _Loss(nn.Module):
    """Its loss, called as ours is."""

    def __init__(self, loss: nn.Module):
        super().__init__()
        self.loss = loss

    def forward(self, student: Tensor, teacher: Tensor, views: int) -> Tensor:
        return self.loss(student, teacher, 0)
