"""VICReg: variance, invariance, covariance (Bardes et al. 2022, arXiv 2105.04906; reference: facebookresearch/vicreg).

Projections of two crops are drawn together, while each feature keeps a standard deviation over the batch and no two features
of a crop vary together.

Shapes: B images, D features of the projector.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from common.distributed import all_gather_rows
from common.errors import UserError
from common.options import option
from heads.mlp import MLP, parse_widths
from methods.core.augmentation import AugmentationConfig
from methods.core.base import METHODS, MakeBackbone, Method, StepOutput, ViewBatch, full_precision


@dataclass(kw_only=True)
class VICRegConfig(AugmentationConfig):
    """VICReg's options. Defaults: main_vicreg.py and augmentations.py."""

    global_scale: tuple[float, float] = (0.08, 1.0)

    projector: str = option("8192-8192-8192", form=parse_widths)
    """widths of the projector's layers (the paper's expander)"""
    sim_coeff: float = option(25.0, at_least=0)
    """weight of invariance: the mean squared distance of the two projections"""
    std_coeff: float = option(25.0, at_least=0)
    """weight of variance: how much standard deviations lack to 1"""
    cov_coeff: float = option(1.0, at_least=0)
    """weight of covariance: squared covariances of different features"""


@METHODS.register("vicreg")
class VICReg(Method):
    """The loss's statistics are of the batch of all ranks together."""

    title = "VICReg"
    citation = "Bardes et al. 2022, arXiv 2105.04906"
    differs = ()
    batch_statistics = {"variances and covariances": {}, "BatchNorm in the projector": {}}
    smallest_batch = 2
    Config = VICRegConfig
    #: main_vicreg.py; 1000 epochs are the paper's.
    recipe = {
        "optimizer": "lars",
        "lr": 0.2,
        "min_lr": 0.0,
        "min_lr_scale": 0.001,
        "weight_decay": 1e-6,
        "batch_size": 2048,
        "epochs": 1000,
    }
    small = {"projector": "512-512-512"}
    warmup_endpoint = False

    def __init__(self, config: VICRegConfig, make_backbone: MakeBackbone, num_classes: int):
        super().__init__(config, make_backbone, num_classes)
        self.backbone = make_backbone(zero_init_residual=True)
        self.projector = MLP(self.backbone.width, parse_widths(config.projector), bias=False)

    def forward(self, batch: ViewBatch) -> StepOutput:
        z1, z2 = self.projector(torch.cat([self.backbone(view) for view in batch.views]), views=2).chunk(2)
        # Squares of D × D entries: half precision has no room for them.
        with full_precision(z1):
            loss, metrics = self.loss(all_gather_rows(z1.float()), all_gather_rows(z2.float()))
        return StepOutput(loss, metrics, (z1.detach(), z2.detach()))

    def loss(self, z1_BD: Tensor, z2_BD: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the global batch, and its three terms. With C the covariance matrix of one crop's projections (divisor B - 1)::

            invariance = ((z1 - z2) ** 2).mean()
            variance = mean over the two crops of mean(max(0, 1 - sqrt(C[i, i] + 1e-4)) for i in range(D))
            covariance = sum over the two crops of sum(C[i, j] ** 2 for i != j) / D

        (The reference, too, halves the sum for the variance but not for the covariance.)
        """
        if len(z1_BD) < 2:
            raise UserError("vicreg needs at least 2 images in a batch; raise --batch_size")
        invariance = F.mse_loss(z1_BD, z2_BD)
        variance, covariance = torch.zeros_like(invariance), torch.zeros_like(invariance)
        for z_BD in (z1_BD, z2_BD):
            centred_BD = z_BD - z_BD.mean(0)
            variances_D = centred_BD.square().sum(0) / (len(z_BD) - 1)
            variance = variance + F.relu(1 - (variances_D + 1e-4).sqrt()).mean() / 2
            covariance_DD = centred_BD.T @ centred_BD / (len(z_BD) - 1)
            covariance = covariance + _off_diagonal_square(covariance_DD) / z_BD.shape[1]
        config = self.config
        total = config.sim_coeff * invariance + config.std_coeff * variance + config.cov_coeff * covariance
        terms = {"invariance": invariance, "variance": variance, "covariance": covariance}
        return total, {name: term.detach() for name, term in terms.items()}


def _off_diagonal_square(matrix_DD: Tensor) -> Tensor:
    # Without its last entry and in rows of D + 1, the matrix has its diagonal in the first column.
    size = len(matrix_DD)
    if size == 1:
        return matrix_DD.new_zeros(())
    return matrix_DD.flatten()[:-1].view(size - 1, size + 1)[:, 1:].square().sum()
