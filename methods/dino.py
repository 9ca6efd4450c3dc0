"""DINO: self-distillation without labels (Caron et al. 2021, arXiv 2104.14294; reference: facebookresearch/dino).

From each crop, a student learns to predict a teacher's output for the full-size crops. The teacher is the moving average of the
student. Centring and sharpening its outputs keep both from giving the same output for every image.

Shapes: B images, V student views, T teacher views (the first of the V), K outputs of the head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.base import Backbone
from common.distributed import all_reduce_mean
from common.errors import UsageError
from common.options import option
from common.schedules import linear
from heads.dino import DINOHead
from heads.mlp import MLP
from methods.core.base import METHODS, MakeBackbone, Method, Progress, StepOutput, ViewBatch, power_of_two
from methods.core.labels import LabelMeans
from methods.core.multi_crop import MultiCropConfig, agreement, backbone_features, sinkhorn_knopp
from methods.core.teacher import ema_update, rising_momentum

#: Alternating normalisations of the teacher's outputs: SwAV and DINOv2 make three; one is the paper's "softmax (batch)".
SINKHORN_ITERATIONS = {"softmax": 1, "sinkhorn_knopp": 3}


@dataclass(kw_only=True)
class DINOConfig(MultiCropConfig):
    """DINO's options. Defaults: dino/main_dino.py. The switches are those of the paper's table 7 and appendix."""

    local_solarize_p: float = option(0.0, at_least=0, at_most=1)
    """probability of solarisation, for small crops"""

    out_dim: int = option(65536, at_least=1)
    """outputs K of the head (prototypes)"""
    hidden_dim: int = option(2048, at_least=1)
    """hidden width of the head"""
    bottleneck_dim: int = option(256, at_least=1)
    """width of the head before its last layer"""
    head_layers: int = option(3, at_least=1)
    """linear layers of the head before its last layer"""
    norm_last_layer: bool = True
    """keep the last layer's weights at unit length; without, results are better and training less stable"""
    use_bn_in_head: bool = False
    """BatchNorm in the head"""
    drop_path: float = option(0.1, at_least=0, below=1)
    """stochastic depth of the student's backbone; a ResNet has none"""
    predictor: bool = False
    """a further hidden layer in the student's head only"""

    teacher: Literal["momentum", "copy"] = "momentum"
    """teacher: moving average of the student, or a copy of it"""
    momentum_teacher: float = option(0.996, at_least=0, at_most=1)
    """of the moving average at the start; a cosine takes it to 1. 0.9995 is advised at batch 256"""

    student_temp: float = option(0.1, above=0)
    """temperature of the student's softmax"""
    warmup_teacher_temp: float = option(0.04, above=0)
    """temperature of the teacher's softmax at the start"""
    teacher_temp: float = option(0.04, above=0)
    """temperature of the teacher's softmax after its warm-up; above 0.07 is unstable"""
    warmup_teacher_temp_epochs: int = option(0, at_least=0)
    """epochs of linear warm-up between the two"""
    centering: Literal["center", "softmax", "sinkhorn_knopp", "none"] = "center"
    """against collapse: subtract a running mean; normalise over the batch once (softmax) or thrice (sinkhorn_knopp); nothing"""
    center_momentum: float = option(0.9, at_least=0, at_most=1)
    """of the running mean"""
    loss: Literal["cross_entropy", "mse"] = "cross_entropy"
    """cross-entropy of the two softmaxes, or squared distance of the two outputs scaled to unit length"""
    freeze_last_layer: int = option(1, at_least=0)
    """epochs during which the head's last layer stays as it is"""

    targets: Literal["image", "label"] = "image"
    """what the student predicts: the teacher's output for the other crop of the image, or for the mean of all full-size crops in
    the batch whose images share a label with it (weak supervision; images without a usable label keep their own)"""
    label_momentum: float = option(0.0, at_least=0, below=1)
    """of a running mean for each label with --targets label, for batches with few images of a class; 0: the batch's mean alone"""

    def smaller_for(self, images: int, steps: int, epochs: float) -> dict[str, float]:
        # With 1,024 outputs for 1.28 million images (appendix) DINO loses a point; with more than images, most stand for none.
        return {"out_dim": power_of_two(images / 8, at_least=32)} if self.out_dim > images else {}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label_momentum and self.targets != "label":
            raise UsageError("--label_momentum is about the means of --targets label; add that option")
        if self.loss == "mse" and self.centering in SINKHORN_ITERATIONS:
            raise UsageError(
                f"--loss mse compares outputs, but --centering {self.centering} makes probabilities of them; "
                "choose --centering center or none"
            )


def cross_entropy_by_pairs(student_VBK: Tensor, targets_TBK: Tensor, student_temp: float) -> Tensor:
    """The paper's equation 3: the cross-entropy of the teacher's probabilities for a view and the student's for another, mean over
    pairs of views and over images. ``student_VBK`` holds logits, the teacher's views first. Training uses ``cross_entropy``."""
    log_p_VBK = (student_VBK / student_temp).log_softmax(-1)
    pairs = [(t, v) for t in range(len(targets_TBK)) for v in range(len(student_VBK)) if t != v]
    return sum(-(targets_TBK[t] * log_p_VBK[v]).sum(-1).mean() for t, v in pairs) / len(pairs)


def cross_entropy(student_VBK: Tensor, targets_TBK: Tensor, student_temp: float) -> Tensor:
    """``cross_entropy_by_pairs`` without any pair or log-softmax: log softmax = logits - log-sum-exp, and targets sum to 1, so each
    view's log-sum-exp counts once for each of its pairs."""
    # A shift changes no softmax. With the largest logit at 0, the log-sum-exp is small and keeps its last digits.
    logits_VBK = (student_VBK - student_VBK.detach().amax(-1, keepdim=True)) / student_temp
    count, views = len(targets_TBK), len(logits_VBK)
    partition_VB = torch.logsumexp(logits_VBK, dim=-1)
    pairs_V1 = torch.full((views, 1), float(count), device=logits_VBK.device)
    pairs_V1[:count] -= 1
    return (pairs_V1 * partition_VB).sum(0).mean() / (count * (views - 1)) - agreement(targets_TBK, logits_VBK)


class DINOLoss(nn.Module):
    """The loss, and its running centre (buffer ``center [1, K]``; reference: ``DINOLoss``)."""

    def __init__(self, config: DINOConfig):
        super().__init__()
        self.config = config
        self.register_buffer("center", torch.zeros(1, config.out_dim))
        self._means: list[Tensor] = []  # of the teacher's outputs, of the step's parts

    def forward(
        self, student_VBK: Tensor, teacher_TBK: Tensor, teacher_temp: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of logits (mean over the rank's own images) and metrics. The teacher's outputs get no gradient; their mean waits for
        ``update_center``. The student's views begin with the teacher's."""
        student_VBK, teacher_TBK = student_VBK.float(), teacher_TBK.detach().float()
        centred_TBK = teacher_TBK - self.center if self.config.centering == "center" else teacher_TBK
        if self.config.loss == "mse":
            # BYOL's, without temperatures. (The paper's table 7, row 5, does not name the vectors of its squared error.)
            loss = 2 - 2 * agreement(F.normalize(centred_TBK, dim=-1), F.normalize(student_VBK, dim=-1))
            metrics = {}
        else:
            logits_TBK = centred_TBK / teacher_temp
            if iterations := SINKHORN_ITERATIONS.get(self.config.centering):
                # All teacher views are shared out together, as the centre is the mean of them all.
                targets_TBK = sinkhorn_knopp(logits_TBK.flatten(0, 1), iterations).view_as(logits_TBK)
            else:
                targets_TBK = logits_TBK.softmax(-1)
            loss = cross_entropy(student_VBK, targets_TBK, self.config.student_temp)
            # The two parts of the cross-entropy (figure 7). ``teacher_information``: how much the teacher's output says about which
            # image it is of; 0 for both kinds of collapse, one output or uniform ones.
            entropy = torch.special.entr(targets_TBK).sum(-1).mean()
            information = torch.special.entr(targets_TBK.mean((0, 1))).sum() - entropy
            metrics = {"teacher_entropy": entropy, "kl": loss.detach() - entropy, "teacher_information": information}
        if self.config.centering == "center":
            self._means.append(teacher_TBK.mean(dim=(0, 1))[None])
        return loss, metrics

    def update_center(self) -> None:
        """Move the centre towards the mean of the teacher's outputs for all images of the step, its parts and ranks."""
        if self._means:
            mean_1K = all_reduce_mean(sum(self._means) / len(self._means))
            self.center.lerp_(mean_1K, 1 - self.config.center_momentum)
        self.forget()

    def forget(self) -> None:
        """Drop outputs that wait for ``update_center``."""
        self._means.clear()


class DINONetwork(nn.Module):
    """A backbone and its head, under the authors' names."""

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
        # The paper only names a predictor (table 7, row 6). Here it has one hidden layer, as BYOL's, and maps the bottleneck,
        # before the last layer.
        widths = [config.hidden_dim, config.bottleneck_dim]
        norm = nn.BatchNorm1d if config.use_bn_in_head else None
        self.predictor = MLP(config.bottleneck_dim, widths, norm=norm, activation=nn.GELU) if predictor else None

    def forward(
        self, views: Sequence[Tensor], average: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Pooled features ``[V, B, width]`` and logits ``[V, B, K]``. All views pass the head as one batch. ``average`` maps the
        head's unit vectors ``[V, B, bottleneck]`` before its last layer."""
        features_VBD = backbone_features(self.backbone, views)
        shape = features_VBD.shape[:2]

        def averaged(vectors: Tensor) -> Tensor:
            return average(vectors.unflatten(0, shape)).flatten(0, 1)

        logits = self.head(features_VBD.flatten(0, 1), self.predictor, averaged if average else None)
        return features_VBD, logits.unflatten(0, shape)


@METHODS.register("dino")
class DINO(Method):
    """The state dict holds ``student.backbone.…``, ``student.head.…``, the same of ``teacher``, and ``loss.center``. The teacher's
    backbone is evaluated.

    ``--targets label`` is weak supervision by means: the teacher's unit vectors before the last layer are averaged over all images
    of the batch (all ranks, both full-size crops) that share a label, before centring or Sinkhorn-Knopp and sharpening. The last
    layer is linear, so this averages logits. One other image's sharpened output is mostly that image's own noise; the mean of many
    is the class. It works with either pairing: with ``same_label``, the anchor's labels count for all its crops. With
    ``--accumulate``, means are those of a part, and running means move once a part.

    Its nearest relative is Daino (Fini et al. 2023, arXiv 2306.07483), which ties one prototype to each class and trains it by
    cross-entropy with the label, beside DINO's loss for all images. Here no prototype belongs to a class and no second loss
    exists: labels only say over which images the teacher's output is averaged, and what a class looks like stays the teacher's.
    """

    title = "DINO"
    citation = "Caron et al. 2021, arXiv 2104.14294"
    differs = ("a batch of 64 is the whole one (the reference's 64 are those of each GPU, 1024 in the published runs)",)
    batch_statistics = {
        "BatchNorm in the head": {"use_bn_in_head": [True]},
        "the shares of the teacher's outputs": {"centering": ["softmax", "sinkhorn_knopp"]},
        "labels' means, which also move once a part": {"targets": ["label"]},
    }
    projected_views = 2
    Config = DINOConfig
    #: dino/main_dino.py. The trainer's other defaults are DINO's; its batch of 64 is per GPU, 1024 in the published runs.
    recipe = {"clip_grad": 3.0, "weight_decay_end": 0.4}
    #: Outputs and centring: experiments/demo.yaml; temperature and momentum were searched (docs/methods.md).
    small = {
        "weight_decay_end": 0.1,
        "out_dim": 256,
        "hidden_dim": 256,
        "bottleneck_dim": 64,
        "use_bn_in_head": True,
        "centering": "sinkhorn_knopp",
        "warmup_teacher_temp": 0.01,
        "teacher_temp": 0.01,
        "momentum_teacher": 0.95,
        "freeze_last_layer": 0,
    }

    def __init__(self, config: DINOConfig, make_backbone: MakeBackbone, num_classes: int):
        super().__init__(config, make_backbone, num_classes)
        backbone = make_backbone(drop_path_rate=config.drop_path)
        self.student = DINONetwork(backbone, config, config.norm_last_layer, config.predictor)
        self.teacher = DINONetwork(make_backbone(), config, norm_last_layer=True, predictor=False)
        for student, teacher in self._twins():
            teacher.load_state_dict(student.state_dict())
        self.teacher.requires_grad_(False)
        self.loss = DINOLoss(config)
        self.label_means = None
        if config.targets == "label":
            self.label_means = LabelMeans(num_classes, config.bottleneck_dim, config.label_momentum)
        self._teacher_temp = config.warmup_teacher_temp

    @classmethod
    def label_use(cls, options: Mapping[str, Any]) -> bool | str:
        return "targets" if options.get("targets") == "label" else False

    @property
    def backbone(self) -> Backbone:
        return self.teacher.backbone

    def _twins(self) -> list[tuple[nn.Module, nn.Module]]:
        """The parts of the student that the teacher has too."""
        return [(self.student.backbone, self.teacher.backbone), (self.student.head, self.teacher.head)]

    def before_step(self, progress: Progress) -> None:
        self.loss.forget()
        config = self.config
        warmup = config.warmup_teacher_temp_epochs
        if warmup > progress.epochs:
            raise UsageError(
                f"--warmup_teacher_temp_epochs {warmup} is more than the run's {progress.epochs:g} epochs; give at most as many"
            )
        self._teacher_temp = config.teacher_temp
        if progress.epoch < warmup:
            self._teacher_temp = linear(config.warmup_teacher_temp, config.teacher_temp, progress.epoch, warmup)

    def forward(self, batch: ViewBatch) -> StepOutput:
        with torch.no_grad():
            average = self.label_means and partial(self.label_means, labels=batch.labels)
            _, teacher_TBK = self.teacher(batch.views[:2], average)
        features_VBD, student_VBK = self.student(batch.views)
        loss, metrics = self.loss(student_VBK, teacher_TBK, self._teacher_temp)
        # The student's features rather than its K outputs, whose cross-correlation would be K × K.
        pair = (features_VBD[0].detach(), features_VBD[1].detach())
        return StepOutput(loss, {**metrics, "teacher_temp": self._teacher_temp}, pair)

    def project(self, batch: ViewBatch) -> tuple[Tensor, Tensor]:
        first, second = backbone_features(self.student.backbone, batch.views)
        return first, second

    def after_backward(self, progress: Progress) -> None:
        if progress.epoch < self.config.freeze_last_layer:
            for parameter in self.student.head.last_layer.parameters():
                parameter.grad = None

    def after_step(self, progress: Progress) -> None:
        self.loss.update_center()
        momentum = 0.0
        if self.config.teacher == "momentum":
            momentum = rising_momentum(self.config.momentum_teacher, progress)
        for student, teacher in self._twins():
            ema_update(teacher, student, momentum)
