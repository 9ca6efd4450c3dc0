"""Barlow Twins' training step in plain PyTorch, written from its recipe (arXiv 2103.03230)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torchvision.models import ResNet


class BarlowTwins(nn.Module):
    """A torchvision ResNet, the projector, and the loss of two views."""

    def __init__(self, backbone: ResNet, widths: Sequence[int] = (8192, 8192, 8192), lambd: float = 0.0051):
        super().__init__()
        self.backbone = backbone
        self.lambd = lambd
        sizes = [backbone.fc.in_features, *widths]
        backbone.fc = nn.Identity()
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(sizes[:-1]):
            layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]
        self.projector = nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1], bias=False))
        self.bn = nn.BatchNorm1d(sizes[-1], affine=False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        z1, z2 = self.projector(self.backbone(first)), self.projector(self.backbone(second))
        c = self.bn(z1).T @ self.bn(z2) / len(first)
        D = len(c)
        # Read off from the second entry on in rows of D + 1, the diagonal is the last column.
        off_diagonal = c.flatten()[1:].view(D - 1, D + 1)[:, :-1]
        return (c.diagonal() - 1).pow(2).sum() + self.lambd * off_diagonal.pow(2).sum()


class LARS(torch.optim.Optimizer):
    """A loop over parameters: layer-wise rates (eta 0.001) and momentum 0.9, neither adaptation nor decay of 1-d tensors."""

    def __init__(self, params: Iterable, lr: float = 0.0, weight_decay: float = 1e-6):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                update = p.grad
                if p.ndim > 1:
                    update = update + group["weight_decay"] * p
                    weight_norm, update_norm = p.norm(), update.norm()
                    if weight_norm > 0 and update_norm > 0:
                        update = update * (0.001 * weight_norm / update_norm)
                state = self.state[p]
                if "mu" not in state:
                    state["mu"] = torch.zeros_like(p)
                state["mu"].mul_(0.9).add_(update)
                p.sub_(group["lr"] * state["mu"])


class PlainStep:
    """One optimiser step after the other, in the order of the published training loop."""

    def __init__(self, model: BarlowTwins, device: torch.device):
        self.model = model.to(device)
        self.device = device
        weights = [p for p in model.parameters() if p.ndim > 1]
        biases = [p for p in model.parameters() if p.ndim == 1]
        self.optimizer = LARS([{"params": weights}, {"params": biases}])

    def __call__(self, views: Sequence[Tensor], bf16: bool = False, lr: float = 0.01) -> Tensor:
        """The loss before the step. ``lr``: of the weights; that of biases and norms is 0.024 of it."""
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.param_groups[1]["lr"] = 0.024 * lr
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16) if bf16 else nullcontext():
            loss = self.model(*views)
        loss.backward()
        self.optimizer.step()
        return loss.detach()
