"""DINO's training step in plain PyTorch, written from its recipe (arXiv 2104.14294): one forward pass for each resolution, a
log-softmax for each pair of views, a loop over parameters for clipping and for the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


class Network(nn.Module):
    """A backbone (with ``width``) and DINO's head: a list of views in, logits ``[V · B, K]`` out."""

    def __init__(self, backbone: nn.Module, out_dim: int, hidden_dim: int = 2048, bottleneck_dim: int = 256):
        super().__init__()
        self.backbone = backbone
        layers = [nn.Linear(backbone.width, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, hidden_dim), nn.GELU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(hidden_dim, bottleneck_dim))
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.last_layer = weight_norm(nn.Linear(bottleneck_dim, out_dim, bias=False))
        gain = self.last_layer.parametrizations.weight.original0
        gain.data.fill_(1)
        gain.requires_grad_(False)

    def forward(self, views: Sequence[Tensor]) -> Tensor:
        features = []
        for size in sorted({view.shape[-1] for view in views}, reverse=True):
            features.append(self.backbone(torch.cat([view for view in views if view.shape[-1] == size])))
        return self.last_layer(F.normalize(self.mlp(torch.cat(features)), dim=-1))

    def copy_weights(self, state: dict[str, Tensor]) -> None:
        """Take over the weights of a network of ours, from its state dict."""
        names = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
        own = {}
        for name, value in state.items():
            name = name.removeprefix("head.")
            for theirs, mine in names.items():
                name = name.replace(theirs, mine)
            own[name] = value
        self.load_state_dict(own)


class Loss(nn.Module):
    """Cross-entropy over all pairs of a teacher view and another student view, and the centre."""

    def __init__(self, out_dim: int):
        super().__init__()
        self.register_buffer("center", torch.zeros(1, out_dim))

    def forward(self, student: Tensor, teacher: Tensor, views: int) -> Tensor:
        students = (student / 0.1).chunk(views)
        targets = ((teacher - self.center) / 0.04).softmax(dim=-1).detach().chunk(2)
        terms = []
        for t, target in enumerate(targets):
            for v, output in enumerate(students):
                if v != t:
                    terms.append(-(target * F.log_softmax(output, dim=-1)).sum(dim=-1).mean())
        self.center = 0.9 * self.center + 0.1 * teacher.detach().mean(dim=0, keepdim=True)
        return sum(terms) / len(terms)


class PlainStep:
    """One optimiser step after the other, in the order of the published training loop.

    Args:
        student, teacher: networks of equal weights that take a list of views.
        loss: called with the student's and the teacher's logits and the number of views.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, loss: nn.Module, device: torch.device):
        self.student, self.teacher, self.loss = student.to(device), teacher.to(device), loss.to(device)
        self.device = device
        for parameter in teacher.parameters():
            parameter.requires_grad_(False)
        decayed, plain = [], []
        for name, parameter in student.named_parameters():
            if parameter.requires_grad:
                (plain if parameter.ndim == 1 or name.endswith(".bias") else decayed).append(parameter)
        self.optimizer = torch.optim.AdamW([{"params": decayed}, {"params": plain, "weight_decay": 0.0}])

    def __call__(
        self,
        views: Sequence[Tensor],
        bf16: bool = False,
        lr: float = 1e-5,
        weight_decay: float = 0.04,
        momentum: float = 0.996,
        clip: float | None = 3.0,
    ) -> Tensor:
        """The loss before the step, of views made elsewhere, the two of the teacher first; ``clip`` is the largest norm of a
        parameter's gradient."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.param_groups[0]["weight_decay"] = weight_decay
        with torch.autocast(self.device.type, torch.bfloat16) if bf16 else nullcontext():
            with torch.no_grad():
                teacher = self.teacher(views[:2])
            loss = self.loss(self.student(views), teacher, len(views))
        self.optimizer.zero_grad()
        loss.backward()
        for parameter in self.student.parameters():
            if clip is not None and parameter.grad is not None:
                factor = clip / (parameter.grad.norm() + 1e-6)
                if factor < 1:
                    parameter.grad.mul_(factor)
        self.optimizer.step()
        with torch.no_grad():
            for ours, theirs in zip(self.student.parameters(), self.teacher.parameters(), strict=True):
                theirs.mul_(momentum).add_((1 - momentum) * ours)
        return loss.detach()
