"""Barlow Twins: redundancy reduction (Zbontar et al. 2021, arXiv 2103.03230; reference: facebookresearch/barlowtwins).

Two crops of an image pass one network. The cross-correlation of their projections over the batch is drawn towards the
identity: each feature agrees with itself in the other crop, and with no other feature.

Shapes: B images, D features of the projector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.distributed import all_gather_rows, all_reduce_mean, all_reduce_sum, world_size
from common.errors import UserError
from common.options import option
from heads.mlp import MLP, parse_widths
from methods.core.augmentation import AugmentationConfig
from methods.core.base import METHODS, MakeBackbone, Method, StepOutput, ViewBatch, full_precision


@dataclass(kw_only=True)
class BarlowTwinsConfig(AugmentationConfig):
    """Barlow Twins' options. Defaults: barlowtwins/main.py. The switches are those of the paper's tables 5 and 6."""

    global_scale: tuple[float, float] = (0.08, 1.0)

    projector: str = option("8192-8192-8192", form=parse_widths)
    """widths of the projector's layers"""
    lambd: float = option(0.0051, at_least=0)
    """lambda: weight of the off-diagonal term"""
    bias_lr_scale: float = option(0.024, at_least=0)
    """learning rate of biases and norms, as a part of lr (published: 0.0048 of 0.2, with LARS; 1 suits other optimizers)"""

    loss: Literal["full", "on_diagonal", "off_diagonal", "cross_entropy"] = "full"
    """both terms, only that of invariance, only that of redundancy reduction, or a cross-entropy of the correlations"""
    temperature: float = option(0.1, above=0)
    """of the cross_entropy loss"""
    normalization: Literal["batch", "feature", "none"] = "batch"
    """of the projections: each feature over the batch, each image over its features, or none (cross-covariance)"""
    bn_in_projector: bool = True
    """BatchNorm in the projector"""
    stop_gradient: bool = False
    """let no gradient through the second crop's branch"""
    predictor: bool = False
    """a further hidden layer on the first crop's branch only"""

    def of_another(self, optimizer: str) -> dict[str, float]:
        published = type(self).bias_lr_scale  # for LARS, which adapts the rates of all but biases and norms
        return {"bias_lr_scale": 1.0} if optimizer != "lars" and self.bias_lr_scale == published else {}


def loss_of_the_paper(z1_BD: Tensor, z2_BD: Tensor, lambd: float) -> Tensor:
    """The paper's equations 1 and 2, of one process and of projections that are normalised over the batch. Training uses
    ``BarlowTwins.loss``: the same number on any number of processes, with fewer operations where images are few."""
    correlation_DD = z1_BD.T @ z2_BD / len(z1_BD)
    diagonal_D = correlation_DD.diagonal()
    invariance = (1 - diagonal_D).square().sum()
    redundancy = (correlation_DD - diagonal_D.diag()).square().sum()
    return invariance + lambd * redundancy


@METHODS.register("barlow_twins")
class BarlowTwins(Method):
    """The state dict holds ``backbone.…``, ``projector.…`` and ``bn.…``, as the authors' does."""

    title = "Barlow Twins"
    citation = "Zbontar et al. 2021, arXiv 2103.03230"
    differs = ("the gradient of the correlation is the whole batch's (the reference's depends on the number of GPUs)",)
    batch_statistics = {"the cross-correlation": {}, "BatchNorm in the projector": {"bn_in_projector": [True]}}
    smallest_batch = 2
    Config = BarlowTwinsConfig
    #: barlowtwins/main.py
    recipe = {
        "optimizer": "lars",
        "lr": 0.2,
        "min_lr": 0.0,
        "min_lr_scale": 0.001,
        "weight_decay": 1e-6,
        "batch_size": 2048,
        "epochs": 1000,
    }
    #: The lower rate of biases and norms is LARS'. With AdamW it keeps a ResNet's residual branches at zero, where they begin.
    small = {"projector": "512-512-512", "bias_lr_scale": 1.0}
    warmup_endpoint = False

    def __init__(self, config: BarlowTwinsConfig, make_backbone: MakeBackbone, num_classes: int):
        super().__init__(config, make_backbone, num_classes)
        self.backbone = make_backbone(zero_init_residual=True)
        norm = nn.BatchNorm1d if config.bn_in_projector else nn.Identity
        self.projector = MLP(self.backbone.width, parse_widths(config.projector), bias=False, norm=norm)
        width = self.projector.out_dim
        # The "predictor" of the paper's table 6: one hidden layer, as wide as the projections.
        self.predictor = MLP(width, [width, width], bias=False) if config.predictor else None
        self.bn = nn.BatchNorm1d(width, affine=False) if config.normalization == "batch" else None

    def forward(self, batch: ViewBatch) -> StepOutput:
        # As in the reference, crops pass one by one, so BatchNorm's statistics are those of one crop.
        first, second = (self.backbone(view) for view in batch.views)
        if self.config.stop_gradient:
            second = second.detach()
        z1, z2 = self.projector(torch.cat([first, second]), views=2).chunk(2)
        if self.predictor is not None:
            z1 = self.predictor(z1)
        if self.config.stop_gradient:
            z2 = z2.detach()
        # Sums over the batch and squares of D × D entries: half precision has no room for them.
        with full_precision(z1):
            loss, metrics = self.loss(self.normalized(z1.float()), self.normalized(z2.float()))
        return StepOutput(loss, metrics, (z1.detach(), z2.detach()))

    def normalized(self, z_BD: Tensor) -> Tensor:
        """Projections for the cross-correlation. With BatchNorm, a call changes its running statistics."""
        if len(z_BD) * world_size() < 2:
            raise UserError("barlow_twins needs at least 2 images in a batch; raise --batch_size")
        if self.config.normalization == "batch":
            return self.bn(z_BD)
        if self.config.normalization == "feature":
            # To unit variance rather than unit length, so that the diagonal can still reach 1.
            return F.layer_norm(z_BD, z_BD.shape[1:])
        return z_BD - all_reduce_mean(z_BD.mean(0))

    def loss(self, z1_BD: Tensor, z2_BD: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of normalised projections (of the global batch, the same on all ranks) and its two terms: ``loss_of_the_paper``, one
        term alone, or ``cross_entropy`` (table 5): ``-log Σ_i exp(C_ii / T) + lambd · log Σ_{i≠j} exp(max(C_ij, 0) / T)``."""
        config = self.config
        if config.loss != "cross_entropy" and cheaper_by_images(len(z1_BD) * world_size(), z1_BD.shape[1]):
            diagonal_D, off_diag = diagonal_and_rest_by_images(z1_BD, z2_BD)
        else:
            diagonal_D, rest_DD = diagonal_and_rest(cross_correlation(z1_BD, z2_BD))
            off_diag = rest_DD.square().sum()
        on_diag = (diagonal_D - 1).square().sum()
        metrics = {"on_diag": on_diag.detach(), "off_diag": off_diag.detach()}
        if config.loss == "on_diagonal":
            return on_diag, metrics
        if config.loss == "off_diagonal":
            return config.lambd * off_diag, metrics
        if config.loss == "cross_entropy":
            diagonal = torch.eye(len(diagonal_D), dtype=torch.bool, device=rest_DD.device)
            rest = (rest_DD.clamp(min=0) / config.temperature).masked_fill(diagonal, -torch.inf)
            attraction = torch.logsumexp(diagonal_D / config.temperature, dim=0)
            return config.lambd * torch.logsumexp(rest.flatten(), dim=0) - attraction, metrics
        return on_diag + config.lambd * off_diag, metrics

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Weights, and 1-d tensors (biases and norms) with their own learning rate and without weight decay."""
        parameters = [p for p in self.parameters() if p.requires_grad]
        weights, rest = ([p for p in parameters if (p.ndim == 1) == is_rest] for is_rest in (False, True))
        groups = [{"params": weights}, {"params": rest, "lr_scale": self.config.bias_lr_scale, "weight_decay": 0.0}]
        return [group for group in groups if group["params"]]


def cross_correlation(z1_BD: Tensor, z2_BD: Tensor) -> Tensor:
    """``[D, D]`` over the batch of all ranks; entry (i, j) is of feature i of the first crop and j of the second."""
    # This sum over ranks is differentiable. The reference's is not, so its gradients depend on the number of GPUs.
    return all_reduce_sum((z1_BD / (len(z1_BD) * world_size())).T @ z2_BD)


def diagonal_and_rest(correlation_DD: Tensor) -> tuple[Tensor, Tensor]:
    """The diagonal ``[D]``, and the matrix with zeros in its place: in a sum of all squares, the diagonal's would swallow the
    rest's small ones."""
    diagonal_D = correlation_DD.diagonal().clone()
    return diagonal_D, correlation_DD.fill_diagonal_(0)


def cheaper_by_images(images: int, features: int) -> bool:
    """Whether ``diagonal_and_rest_by_images`` takes fewer operations: two products of images² × features instead of one of
    images × features²."""
    return 2 * images < features


def diagonal_and_rest_by_images(z1_BD: Tensor, z2_BD: Tensor) -> tuple[Tensor, Tensor]:
    """The cross-correlation's diagonal ``[D]`` and the sum of all other entries' squares, from the images' inner products. The
    sum of all squares is ``Σ_ij (Z1ᵀ Z2)²_ij = Σ_ab (Z1 Z1ᵀ)_ab (Z2 Z2ᵀ)_ab``, without any D × D matrix.

    With n images the matrix's rank is below n, so the squares of all entries sum to at least (Σ_i C_ii)² / (n - 1). With n below
    D / 2, the rest is therefore no small difference of large numbers.
    """
    images = len(z1_BD) * world_size()
    diagonal_D = all_reduce_sum((z1_BD * z2_BD).sum(0)) / images
    inner1, inner2 = (z_BD @ all_gather_rows(z_BD).T for z_BD in (z1_BD, z2_BD))
    squares = all_reduce_sum((inner1 * inner2).sum()) / images**2
    return diagonal_D, squares - diagonal_D.square().sum()
