"""A training by lightly: its transforms, heads, losses and schedules, in the loop of its benchmarks. Runs in an environment with
lightly, and imports nothing of this project (``beside_lightly.py`` makes the environment and starts it).

The recipe is that of ``experiments/beside_lightly.yaml``, given as one JSON file. What lightly leaves to its user is written as its
``imagenette_benchmark.py`` writes it, but AdamW: one cosine for the learning rate, ``update_momentum`` for the teacher.

    python lightly_training.py recipe.json

Writes ``METHOD-lightly-seedN.pth`` (the backbone, by torchvision's names) and ``training.json`` (losses, images per second without
the first tenth, versions).
"""

from __future__ import annotations

import copy
import json
import math
import os
import sys
import time
from pathlib import Path

import lightly
import numpy as np
import torch
import torchvision
from lightly.loss import BarlowTwinsLoss, DINOLoss
from lightly.models.modules import BarlowTwinsProjectionHead, DINOProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.transforms.dino_transform import DINOViewTransform
from lightly.transforms.multi_view_transform import MultiViewTransform
from lightly.utils.scheduler import cosine_schedule
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder


class BarlowTwins(nn.Module):
    """``lightly/examples``' Barlow Twins on torchvision's ResNet."""

    def __init__(self, recipe: dict):
        super().__init__()
        self.backbone = resnet(recipe)
        width = recipe["projector"]
        self.head = BarlowTwinsProjectionHead(512, width, width)
        self.criterion = BarlowTwinsLoss(lambda_param=recipe["lambd"])
        self.precision = recipe["precision"]

    def loss(self, views: list[Tensor], part: float) -> Tensor:
        return self.criterion(*outputs_of(self.head, self.backbone, views, self.precision))


class DINO(nn.Module):
    """``lightly/examples``' DINO on torchvision's ResNet."""

    def __init__(self, recipe: dict):
        super().__init__()
        sizes = (512, recipe["hidden_dim"], recipe["bottleneck_dim"], recipe["out_dim"])
        self.backbone = resnet(recipe)
        self.head = DINOProjectionHead(*sizes, batch_norm=recipe["use_bn_in_head"])
        self.teacher_backbone = copy.deepcopy(self.backbone)
        # A layer with weight norm cannot be copied.
        self.teacher_head = DINOProjectionHead(*sizes, batch_norm=recipe["use_bn_in_head"])
        self.teacher_head.load_state_dict(self.head.state_dict())
        for module in (self.teacher_backbone, self.teacher_head):
            deactivate_requires_grad(module)
        self.momentum = recipe["momentum_teacher"]
        self.criterion = DINOLoss(recipe["out_dim"], recipe["teacher_temp"], recipe["teacher_temp"], 0)
        self.precision = recipe["precision"]

    def loss(self, views: list[Tensor], part: float) -> Tensor:
        # As in lightly's benchmarks, the teacher moves before the step.
        momentum = 1 - (1 - self.momentum) * (math.cos(math.pi * part) + 1) / 2
        update_momentum(self.backbone, self.teacher_backbone, m=momentum)
        update_momentum(self.head, self.teacher_head, m=momentum)
        with torch.no_grad():
            teacher = outputs_of(self.teacher_head, self.teacher_backbone, views[:2], self.precision)
        student = outputs_of(self.head, self.backbone, views, self.precision)
        return self.criterion(teacher, student)


def outputs_of(head: nn.Module, backbone: nn.Module, views: list[Tensor], precision: str) -> list[Tensor]:
    """Each view's outputs, float32 for the loss; networks compute in bfloat16 where this project's training did."""
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        outputs = [head(backbone(view)) for view in views]
    return [output.float() for output in outputs]


def resnet(recipe: dict) -> nn.Module:
    """torchvision's ResNet without the classifier; residual branches begin at zero where this project's method begins so."""
    network = torchvision.models.resnet18(zero_init_residual=recipe["zero_init_residual"])
    network.fc = nn.Identity()
    return network


def views_of(recipe: dict) -> MultiViewTransform:
    """lightly's transform of DINO's authors, for each view of the recipe."""
    return MultiViewTransform(
        [
            DINOViewTransform(
                crop_size=view["size"],
                crop_scale=tuple(view["scale"]),
                hf_prob=view["flip"],
                cj_prob=view["jitter_p"],
                cj_strength=1.0,
                cj_bright=view["brightness"],
                cj_contrast=view["contrast"],
                cj_sat=view["saturation"],
                cj_hue=view["hue"],
                random_gray_scale=view["grayscale_p"],
                gaussian_blur=view["blur_p"],
                sigmas=tuple(view["blur_sigma"]),
                solarization_prob=view["solarize_p"],
            )
            for view in recipe["views"]
        ]
    )


def groups_of(model: nn.Module, weight_decay: float) -> list[dict]:
    """Biases and norms have no weight decay, as in this project and in both papers' code."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def seed_worker(worker: int) -> None:
    """Give numpy's global generator in a loader's worker the seed that torch has there; else all workers draw alike."""
    np.random.seed(torch.initial_seed() % 2**32)  # noqa: NPY002 lightly draws from it


def train(recipe: dict, out: Path) -> None:
    """Train for ``recipe["steps"]`` steps; see the module."""
    torch.manual_seed(recipe["seed"])
    np.random.seed(recipe["seed"])  # noqa: NPY002 lightly draws from it
    images = ImageFolder(recipe["train"], transform=views_of(recipe))
    loader = DataLoader(
        images,
        batch_size=recipe["batch_size"],
        shuffle=True,
        drop_last=True,
        num_workers=len(os.sched_getaffinity(0)),
        persistent_workers=True,
        worker_init_fn=seed_worker,
    )
    model = {"barlow_twins": BarlowTwins, "dino": DINO}[recipe["method"]](recipe)
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(groups_of(model, recipe["weight_decay"]), lr=recipe["lr"])
    steps, losses, step = recipe["steps"], [], 0
    started, warm, counted_from = time.monotonic(), 0.0, max(1, steps // 10)
    while step < steps:
        for views, _ in loader:
            if step == counted_from:
                warm = time.monotonic()
            for group in optimizer.param_groups:
                group["lr"] = cosine_schedule(step, steps, recipe["lr"], 0.0)
            loss = model.loss([view.contiguous(memory_format=torch.channels_last) for view in views], step / steps)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 100 == 0 or step == steps - 1:
                losses.append([step, loss.item()])
                print(
                    f"step {step:,}/{steps:,}, loss {losses[-1][1]:.4f}, {time.monotonic() - started:.0f} s", flush=True
                )
            step += 1
            if step == steps:
                break
    seconds = time.monotonic() - warm
    backbone = model.teacher_backbone if recipe["method"] == "dino" else model.backbone
    name = f"{recipe['method']}-lightly-seed{recipe['seed']}.pth"
    torch.save(backbone.state_dict(), out / f"{name}.part")
    (out / f"{name}.part").rename(out / name)
    report = {
        "images_per_second": (steps - counted_from) * recipe["batch_size"] / seconds,
        "minutes": (time.monotonic() - started) / 60,
        "losses": losses,
        "versions": {
            "lightly": lightly.__version__,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        },
    }
    (out / "training.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    file = Path(sys.argv[1])
    train(json.loads(file.read_text()), file.parent)
