"""DINO: self-distillation without labels (Caron et al. 2021, arXiv 2104.14294; reference: facebookresearch/dino).

A student sees all crops and learns to predict, from each, what a teacher says of the full-size ones. The teacher is the
moving average of the student. Centring and sharpening of its outputs keep both from saying the same of every image.

Shapes: B images, V student views, T teacher views, K outputs of the head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.base import Backbone
from common.distributed import all_reduce_mean
from common.errors import UsageError
from common.schedules import cosine, linear
from data.views.spec import View, dino_views
from heads.dino import DINOHead
from methods.core.augmentation import AugmentationConfig, checked_views
from methods.core.base import METHODS, Method, Progress, StepOutput, ViewBatch, ema_update
from methods.core.multi_crop import agreement, backbone_features, sinkhorn_knopp

#: Alternating normalisations of the teacher's outputs: SwAV and DINOv2 make three; one is the paper's "softmax (batch)".
SINKHORN_ITERATIONS = {"softmax": 1, "sinkhorn_knopp": 3}


@dataclass(kw_only=True)
class DINOConfig(AugmentationConfig):
    """DINO's options. Defaults: dino/main_dino.py. The switches are those of the paper's table 7 and appendix."""

    out_dim: int = 65536
    """outputs K of the head (prototypes)"""
    hidden_dim: int = 2048
    """hidden width of the head"""
    bottleneck_dim: int = 256
    """width of the head before its last layer"""
    head_layers: int = 3
    """linear layers of the head before its last layer"""
    norm_last_layer: bool = True
    """keep the last layer's weights at unit length; without, results are better and training less stable"""
    use_bn_in_head: bool = False
    """BatchNorm in the head"""
    drop_path: float = 0.1
    """stochastic depth of the student's backbone (ViTs)"""
    predictor: bool = False
    """a further hidden layer in the student's head, which the teacher has not"""

    teacher: Literal["momentum", "copy"] = "momentum"
    """teacher: moving average of the student, or a copy of it"""
    momentum_teacher: float = 0.996
    """of the moving average at the start; a cosine takes it to 1. 0.9995 is advised at batch 256"""

    student_temp: float = 0.1
    """temperature of the student's softmax"""
    warmup_teacher_temp: float = 0.04
    """temperature of the teacher's softmax at the start"""
    teacher_temp: float = 0.04
    """temperature of the teacher's softmax after its warm-up; above 0.07 is unstable"""
    warmup_teacher_temp_epochs: int = 0
    """epochs of linear warm-up between the two"""
    centering: Literal["center", "softmax", "sinkhorn_knopp", "none"] = "center"
    """against collapse: subtract a running mean; normalise over the batch once (softmax) or thrice (sinkhorn_knopp); nothing"""
    center_momentum: float = 0.9
    """of the running mean"""
    loss: Literal["cross_entropy", "mse"] = "cross_entropy"
    """cross-entropy of the two softmaxes, or squared distance of the two outputs scaled to unit length"""
    freeze_last_layer: int = 1
    """epochs during which the head's last layer stays as it is"""

    local_crops: int = 8
    """small crops of each image; 0: no multi-crop (then a global_scale of 0.14 1 is advised)"""
    local_size: int | None = None
    """side of the small crops in pixels; default: 96 for images of 224, in proportion, to the nearest multiple of 16"""
    local_scale: tuple[float, float] = (0.05, 0.4)
    """area of a small crop, as a part of the image's, drawn uniformly"""
    local_blur_p: float = 0.5
    """probability of a Gaussian blur, for small crops"""
    local_solarize_p: float = 0.0
    """probability of solarisation, for small crops"""

    def __post_init__(self) -> None:
        positive = ("out_dim", "hidden_dim", "bottleneck_dim", "head_layers", "local_size")
        self.require(lambda value: value >= 1, "give at least 1", *positive)
        counts = ("warmup_teacher_temp_epochs", "freeze_last_layer", "local_crops")
        self.require(lambda value: value >= 0, "give 0 or more", *counts)
        temperatures = ("student_temp", "warmup_teacher_temp", "teacher_temp")
        self.require(lambda value: value > 0, "a temperature must be above 0", *temperatures)
        self.require(lambda value: 0 <= value <= 1, "give 0 to 1", "momentum_teacher", "center_momentum")
        self.require(lambda value: 0 <= value < 1, "give 0 or more and less than 1", "drop_path")
        if self.loss == "mse" and self.centering in SINKHORN_ITERATIONS:
            raise UsageError(
                f"--loss mse compares outputs, but --centering {self.centering} makes probabilities of them; "
                "choose --centering center or none"
            )


class DINONetwork(nn.Module):
    """A backbone and its head, under the authors' names: images of several sizes in, logits ``[V, B, K]`` out."""

    def __init__(self, backbone: Backbone, config: DINOConfig, norm_last_layer: bool, predictor: bool):
        super().__init__()
        self.backbone = backbone
        self.head = DINOHead(
            backbone.width,
            config.out_dim,
            use_bn=config.use_bn_in_head,
            norm_last_layer=norm_last_layer,
            nlayers=config.head_layers,
            hidden_dim=config.hidden_dim,
            bottleneck_dim=config.bottleneck_dim,
        )
        self.predictor = make_predictor(config) if predictor else None

    def features(self, views: Sequence[Tensor]) -> Tensor:
        """Pooled features ``[V, B, width]``."""
        return backbone_features(self.backbone, views)

    def project(self, features_VBD: Tensor) -> Tensor:
        """Features ``[V, B, width]`` to logits ``[V, B, K]``: all views pass the head as one batch."""
        features = features_VBD.flatten(0, 1)
        if self.predictor is None:
            logits = self.head(features)
        else:
            bottleneck = self.predictor(self.head.mlp(features))
            logits = self.head.last_layer(F.normalize(bottleneck, dim=-1))
        return logits.unflatten(0, features_VBD.shape[:2])


def make_predictor(config: DINOConfig) -> nn.Module:
    """What BYOL puts after the student's projection: one hidden layer, back to the same width. The DINO paper says no more
    of its own than that it has one (table 7, row 6); here it works on the bottleneck, before the last layer."""
    norm = [nn.BatchNorm1d(config.hidden_dim)] if config.use_bn_in_head else []
    return nn.Sequential(
        nn.Linear(config.bottleneck_dim, config.hidden_dim),
        *norm,
        nn.GELU(),
        nn.Linear(config.hidden_dim, config.bottleneck_dim),
    )


class DINOLoss(nn.Module):
    """The loss, and the running centre it keeps (buffer ``center [1, K]``; reference: ``DINOLoss``)."""

    def __init__(self, config: DINOConfig):
        super().__init__()
        self.config = config
        self.register_buffer("center", torch.zeros(1, config.out_dim))

    def forward(
        self, student_VBK: Tensor, teacher_TBK: Tensor, teacher_temp: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (mean over the rank's own samples) and metrics; then the centre takes these teacher outputs in.

        Cross-entropy equals, in plain loops over ``targets`` made of all teacher views::

            pairs = [(t, v) for t in range(T) for v in range(V) if t != v]
            sum(-(targets[t] * log_softmax(student[v] / student_temp)).sum(-1).mean() for t, v in pairs) / len(pairs)

        Args:
            student_VBK: logits of all views, the teacher's first.
            teacher_TBK: logits of the teacher's views; no gradient flows into them.
            teacher_temp: of this epoch.
        """
        student_VBK, teacher_TBK = student_VBK.float(), teacher_TBK.detach().float()
        if self.config.loss == "mse":
            result = self._mse(student_VBK, teacher_TBK)
        else:
            result = self._cross_entropy(student_VBK, self._targets(teacher_TBK, teacher_temp))
        if self.config.centering == "center":
            self._update_center(teacher_TBK)
        return result

    def _targets(self, teacher_TBK: Tensor, temperature: float) -> Tensor:
        """The teacher's probabilities ``[T, B, K]``."""
        if self.config.centering == "center":
            teacher_TBK = teacher_TBK - self.center
        logits_TBK = teacher_TBK / temperature
        if iterations := SINKHORN_ITERATIONS.get(self.config.centering):
            # All teacher views are shared out together, as the centre is the mean of them all.
            return sinkhorn_knopp(logits_TBK.flatten(0, 1), iterations).view_as(logits_TBK)
        return logits_TBK.softmax(-1)

    def _cross_entropy(self, student_VBK: Tensor, targets_TBK: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        # A shift changes no softmax. With the largest logit at 0, the log-sum-exp is small and keeps its last digits.
        student_VBK = (student_VBK - student_VBK.detach().amax(-1, keepdim=True)) / self.config.student_temp
        count, views = len(targets_TBK), len(student_VBK)
        # log softmax = logits - log-sum-exp; targets sum to 1, so the latter counts once for each pair it is in.
        partition_VB = torch.logsumexp(student_VBK, dim=-1)
        pairs_V = torch.full((views, 1), float(count), device=student_VBK.device)
        pairs_V[:count] -= 1
        loss = (pairs_V * partition_VB).sum(0).mean() / (count * (views - 1)) - agreement(targets_TBK, student_VBK)
        # The two parts of the cross-entropy (figure 7), and what the teacher's outputs tell of which image they are of: the
        # entropy of their mean less their mean entropy. That is 0 for both kinds of collapse, one output or uniform ones.
        entropy = torch.special.entr(targets_TBK).sum(-1).mean()
        information = torch.special.entr(targets_TBK.mean((0, 1))).sum() - entropy
        return loss, {"teacher_entropy": entropy, "kl": loss.detach() - entropy, "teacher_information": information}

    def _mse(self, student_VBK: Tensor, teacher_TBK: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared distance of unit vectors, as BYOL has it; temperatures play no part. (The paper's table 7, row 5, does not
        say what the squared error is of.)"""
        if self.config.centering == "center":
            teacher_TBK = teacher_TBK - self.center
        targets_TBK = F.normalize(teacher_TBK, dim=-1)
        return 2 - 2 * agreement(targets_TBK, F.normalize(student_VBK, dim=-1)), {}

    @torch.no_grad()
    def _update_center(self, teacher_TBK: Tensor) -> None:
        mean = all_reduce_mean(teacher_TBK.mean(dim=(0, 1))[None])
        self.center.lerp_(mean, 1 - self.config.center_momentum)


@METHODS.register("dino")
class DINO(Method):
    """The state dict holds ``student.backbone.…``, ``student.head.…``, the same of ``teacher``, and ``loss.center``. What
    gets evaluated is the teacher's backbone."""

    title = "DINO"
    Config = DINOConfig
    #: dino/main_dino.py. The trainer's other defaults are DINO's; its batch of 64 is per GPU, 1024 in the published runs.
    recipe: ClassVar[dict[str, Any]] = {"clip_grad": 3.0, "weight_decay_end": 0.4}

    config: DINOConfig

    def __init__(self, config: DINOConfig, make_backbone: Callable[..., Backbone], num_classes: int):
        super().__init__(config, make_backbone, num_classes)
        backbone = make_backbone(drop_path_rate=config.drop_path)
        self.student = DINONetwork(backbone, config, config.norm_last_layer, config.predictor)
        self.teacher = DINONetwork(make_backbone(), config, norm_last_layer=True, predictor=False)
        for student, teacher in self._twins():
            teacher.load_state_dict(student.state_dict())
        self.teacher.requires_grad_(False)
        self.loss = DINOLoss(config)
        self._teacher_temp = config.warmup_teacher_temp

    @property
    def backbone(self) -> Backbone:
        return self.teacher.backbone

    def _twins(self) -> list[tuple[nn.Module, nn.Module]]:
        """The parts of the student that the teacher has too."""
        return [(self.student.backbone, self.teacher.backbone), (self.student.head, self.teacher.head)]

    @classmethod
    def views(cls, config: DINOConfig, image_size: int) -> list[View]:
        return checked_views(
            dino_views,
            config,
            global_size=image_size,
            local_size=config.local_size or max(16, round(image_size * 96 / 224 / 16) * 16),
            local_crops=config.local_crops,
            global_scale=config.global_scale,
            local_scale=config.local_scale,
            blur_p=(*config.blur_p, config.local_blur_p),
            solarize_p=(*config.solarize_p, config.local_solarize_p),
        )

    def before_step(self, progress: Progress) -> None:
        config = self.config
        warmup = config.warmup_teacher_temp_epochs
        if warmup > progress.epochs:
            raise UsageError(
                f"--warmup_teacher_temp_epochs {warmup} is more than the run's {progress.epochs:g} epochs; give at most as many"
            )
        if progress.epoch < warmup:
            self._teacher_temp = linear(config.warmup_teacher_temp, config.teacher_temp, progress.epoch, warmup)
        else:
            self._teacher_temp = config.teacher_temp

    def forward(self, batch: ViewBatch) -> StepOutput:
        with torch.no_grad():
            teacher_TBK = self.teacher.project(self.teacher.features(batch.views[:2]))
        features_VBD = self.student.features(batch.views)
        student_VBK = self.student.project(features_VBD)
        loss, metrics = self.loss(student_VBK, teacher_TBK, self._teacher_temp)
        # Of the student's features, not of its K outputs, whose cross-correlation would be K × K.
        pair = (features_VBD[0].detach(), features_VBD[1].detach())
        return StepOutput(loss, {**metrics, "teacher_temp": self._teacher_temp}, pair)

    def after_backward(self, progress: Progress) -> None:
        if progress.epoch < self.config.freeze_last_layer:
            for parameter in self.student.head.last_layer.parameters():
                parameter.grad = None

    def after_step(self, progress: Progress) -> None:
        momentum = 0.0
        if self.config.teacher == "momentum":
            momentum = cosine(self.config.momentum_teacher, 1.0, progress.step, progress.total_steps)
        for student, teacher in self._twins():
            ema_update(teacher, student, momentum)
