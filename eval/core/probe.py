"""Linear classifiers on frozen features, many learning rates at once. Shapes: B samples, D features, M heads, C classes."""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.base import Backbone
from common.errors import UserError
from common.files import archive_damage, as_file_name, atomic_file, digest_of
from common.progress import track, warn
from common.statistics.average_precision import mean_average_precision
from eval.core.context import EvalContext
from eval.core.scoring import measure_classes, measure_label_scores
from eval.features.extract import Kind
from eval.features.votes import best_classes
from rundir.paths import FEATURES
from rundir.results import Measurement

MOMENTUM = 0.9
#: Part of the labelled training images that chooses the learning rate.
HELD_OUT = 0.1
#: Seconds of work that an interruption may cost, if an epoch does not take longer.
SAVE_EVERY = 60.0


class Heads:
    """M linear classifiers on the same batches with different peak learning rates, trained by ``torch.optim.SGD``'s momentum. One
    matrix product serves all, so that M heads cost little more than one.

    Weights start from one draw of N(0, 0.01), biases at 0, as in both references (dino/eval_linear.py,
    barlowtwins/evaluate.py). Weights and biases decay. ``multi_label``: binary cross-entropy, its mean over classes.
    """

    def __init__(
        self,
        width: int,
        classes: int,
        rates: Sequence[float],
        device: torch.device,
        weight_decay: float = 0.0,
        multi_label: bool = False,
        seed: int = 0,
    ):
        draw = torch.randn(width, classes, generator=torch.Generator().manual_seed(seed)) * 0.01
        self.weight_DMC = draw[:, None].repeat(1, len(rates), 1).to(device)
        self.bias_MC = torch.zeros(len(rates), classes, device=device)
        self.rates_M = torch.tensor(rates, dtype=torch.float32, device=device)
        self.velocities = [torch.zeros_like(self.weight_DMC), torch.zeros_like(self.bias_MC)]
        self.weight_decay = weight_decay
        self.multi_label = multi_label

    def logits(self, features_BD: Tensor) -> Tensor:
        """``[B, M, C]``."""
        product = torch.addmm(self.bias_MC.flatten(), features_BD, self.weight_DMC.flatten(1))
        return product.unflatten(1, self.bias_MC.shape)

    @torch.no_grad()
    def step(self, features_BD: Tensor, targets: Tensor, factor: float, used_BM: Tensor | None = None) -> Tensor:
        """Step at ``factor`` times the peak learning rates; returns each head's loss before the step, ``[M]``.

        Args:
            targets: int64 ``[B]``, or multi-hot ``[B, C]`` with ``multi_label``.
            used_BM: bool: samples that each head may learn from; default: all.
        """
        logits_BMC = self.logits(features_BD)
        # The gradient of (binary) cross-entropy by the logits is probability minus target.
        if self.multi_label:
            targets_B1C = targets[:, None].float()
            targets_BMC = targets_B1C.expand_as(logits_BMC)
            losses_BM = F.binary_cross_entropy_with_logits(logits_BMC, targets_BMC, reduction="none").mean(2)
            grad_BMC = (logits_BMC.sigmoid() - targets_B1C) / logits_BMC.shape[2]
        else:
            index_BM1 = targets[:, None, None].expand(-1, logits_BMC.shape[1], 1)
            grad_BMC = logits_BMC.log_softmax(2)
            losses_BM = -grad_BMC.gather(2, index_BM1).squeeze(2)
            grad_BMC.exp_().scatter_add_(2, index_BM1, torch.full_like(index_BM1, -1, dtype=grad_BMC.dtype))
        if used_BM is None:
            share_BM = torch.full_like(losses_BM, 1 / len(losses_BM))
        else:
            share_BM = used_BM.float() / used_BM.sum(0).clamp(min=1)
        grad_BMC *= share_BM[:, :, None]
        # In place, since a copy would cost an eighth of a step of 40 heads with 1,000 classes.
        self.velocities[0].flatten(1).addmm_(features_BD.T, grad_BMC.flatten(1), beta=MOMENTUM)
        self.velocities[1].mul_(MOMENTUM).add_(grad_BMC.sum(0))
        rates_M1 = (factor * self.rates_M)[:, None]
        for values, velocity in zip([self.weight_DMC, self.bias_MC], self.velocities, strict=True):
            if self.weight_decay:
                velocity.add_(values, alpha=self.weight_decay)
            values.addcmul_(velocity, rates_M1, value=-1)
        return (losses_BM * share_BM).sum(0)

    def state_dict(self) -> dict[str, Tensor]:
        return {
            "weight": self.weight_DMC,
            "bias": self.bias_MC,
            "weight_velocity": self.velocities[0],
            "bias_velocity": self.velocities[1],
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, tensor in self.state_dict().items():
            tensor.copy_(state[name])


def train_heads(
    heads: Heads,
    features: Tensor,
    targets: Tensor,
    epochs: int,
    batch_size: int,
    seed: int,
    title: str,
    checkpoint: HeadsCheckpoint | None = None,
    rows: Tensor | None = None,
) -> None:
    """Train, or continue from the checkpoint, on features ``[N, D]`` and targets (int64 ``[N]`` or multi-hot ``[N, C]``) in random
    order, or on some ``rows`` of them. Learning rates fall to 0 along half a cosine over all steps."""
    device = heads.bias_MC.device
    features, targets = _near(features, device), targets.to(device)
    generator = torch.Generator().manual_seed(seed)
    start = checkpoint.load(heads) if checkpoint else 0
    rows = torch.arange(len(features)) if rows is None else rows
    per_epoch = math.ceil(len(rows) / batch_size)
    steps, step = epochs * per_epoch, start * per_epoch
    for epoch in track(range(epochs), title, epochs):
        order = rows[torch.randperm(len(rows), generator=generator)]
        if epoch < start:  # its order is still drawn, since the next epoch's order follows from it
            continue
        # Copied whole, since a copy in each step would wait for the step before.
        batches = zip(order.to(features.device).split(batch_size), order.to(device).split(batch_size), strict=True)
        for feature_rows, target_rows in batches:
            factor = 0.5 * (1 + math.cos(math.pi * step / steps))
            heads.step(features[feature_rows].to(device, non_blocking=True), targets[target_rows], factor)
            step += 1
        if checkpoint:
            checkpoint.save(heads, epoch + 1, last=epoch + 1 == epochs)


class HeadsCheckpoint:
    """Heads after an epoch, in a file under the run's ``features/``. Only a training with the same context and ``options``
    (JSON-able) continues."""

    def __init__(self, context: EvalContext, name: str, options: list):
        self.path = context.run_dir / FEATURES / f"{name}-{as_file_name(context.train.name)}.pt"
        about = [context.weights_hash, context.train.fingerprint, context.image_size, context.precision, context.seed]
        self.digest = digest_of([about, *options])
        self._saved = time.monotonic()

    def load(self, heads: Heads) -> int:
        """Restore the heads; returns the epochs they have had (0: nothing to continue)."""
        try:
            if archive_damage(self.path) is not None:
                return 0
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            if state["digest"] != self.digest:
                return 0
            heads.load_state_dict(state["heads"])
            return int(state["epochs"])
        except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError):
            return 0

    def save(self, heads: Heads, epochs: int, last: bool) -> None:
        """Write the heads if they are the last ones or the file is old."""
        if not last and time.monotonic() - self._saved < SAVE_EVERY:
            return
        with atomic_file(self.path) as file:
            torch.save({"digest": self.digest, "heads": heads.state_dict(), "epochs": epochs}, file)
        self._saved = time.monotonic()


def _near(features: Tensor, device: torch.device) -> Tensor:
    """Move the features to the device if they take at most half of its free memory."""
    if device.type == "cuda":
        # torch's allocator keeps free memory for later tensors.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        if features.nbytes > (torch.cuda.mem_get_info(device)[0] + kept) / 2:
            return features
    return features.to(device)


@torch.no_grad()
def head_scores(heads: Heads, features: Tensor, head: int) -> Tensor:
    """Logits ``[N, C]`` of one head, on the CPU, in bounded memory."""
    weight, bias = heads.weight_DMC[:, head], heads.bias_MC[head]
    return torch.cat([(part.to(bias.device) @ weight + bias).cpu() for part in features.split(4096)])


def quality(scores: Tensor, targets: Tensor) -> float:
    """Score a learning rate in [0, 1]: accuracy, or mean average precision for multi-hot targets; -1 after divergence."""
    if not scores.isfinite().all():
        return -1.0
    if targets.ndim == 1:
        return int((scores.argmax(1) == targets).sum()) / len(targets)
    statistic = mean_average_precision(scores.numpy(), targets.numpy().astype(bool))
    return float(statistic(np.ones((1, len(targets))))[0])


def held_out(targets: Tensor, part: float, seed: int) -> np.ndarray:
    """Draw the samples that choose the learning rate, bool ``[N]``: about ``part`` of each class (multi-hot: of all)."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(targets))
    if targets.ndim == 1:
        order = order[np.argsort(targets.numpy()[order], kind="stable")]
    # Equal steps through an order by class, shuffled within each, make a stratified draw.
    step = 1 / part
    places = np.floor(np.arange(rng.random() * step, len(targets), step)).astype(np.int64)
    chosen = np.zeros(len(targets), bool)
    chosen[order[places]] = True
    return chosen


def scaler(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (1 if constant) of each feature, ``[D]``, in bounded memory."""
    parts = features.split(65536)
    mean = sum(part.double().sum(0) for part in parts) / len(features)
    std = (sum((part.double() - mean).square().sum(0) for part in parts) / len(features)).sqrt()
    return mean.float(), torch.where(std > 1e-6 * (1 + mean.abs()), std, 1.0).float()


def kind_for(backbone: Backbone) -> Kind:
    """Features of both papers' linear probes: CLS of the last four blocks for ViTs narrower than 768, CLS and mean patch token
    for wider ones, pooled features for other backbones."""
    if not backbone.has_tokens:
        return "pooled"
    return f"last{min(4, backbone.depth)}" if backbone.width < 768 else "cls+mean"


def heads_for(
    context: EvalContext, width: int, rates: Sequence[float], batch_size: int, weight_decay: float = 0.0
) -> Heads:
    """Make heads for the context's classes; ``rates`` are for 256 images."""
    return Heads(
        width,
        context.train.num_classes,
        [rate * batch_size / 256 for rate in rates],
        context.device,
        weight_decay=weight_decay,
        multi_label=context.train.label_sets is not None,
        seed=context.seed,
    )


def different_rates(rates: Sequence[float]) -> None:
    """Check an option that lists learning rates."""
    if len(set(rates)) != len(rates):
        raise ValueError("give different learning rates")


def require_images(evaluation: str, labelled_images: int) -> None:
    """Raise UserError if so many labelled training images are too few to hold some out."""
    if labelled_images < 10:
        raise UserError(
            f"{evaluation}: {labelled_images} labelled training images are too few to choose a learning rate on; give at least 10"
        )


def targets_of(context: EvalContext, evaluation: str, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """Labels of training images, int64 ``[n]`` or multi-hot float32 ``[n, C]``, and the ``held_out`` ones, bool ``[n]``."""
    require_images(evaluation, len(rows))
    labels = context.labels("train", rows)
    targets = labels if labels.ndim == 1 else labels.float()
    return targets, torch.from_numpy(held_out(targets, HELD_OUT, context.seed))


def best_head(
    evaluation: str, heads: Heads, features: Tensor, targets: Tensor, rates: Sequence[float]
) -> tuple[int, float]:
    """``best_rate`` of the first heads, one per rate, on these features."""
    qualities = [quality(head_scores(heads, features, head), targets) for head in range(len(rates))]
    return best_rate(evaluation, qualities, rates)


def best_rate(evaluation: str, qualities: Sequence[float], rates: Sequence[float]) -> tuple[int, float]:
    """The index of the best of the rising ``rates``, and its quality. Warns if rates beyond them may be better. Raises UserError if
    all diverged."""
    best = int(np.argmax(qualities))
    if qualities[best] < 0:
        raise UserError(f"{evaluation}: training diverged at every learning rate; give smaller --{evaluation}_lrs")
    others = [*qualities[:best], *qualities[best + 1 :]]
    if best in (0, len(rates) - 1) and others and qualities[best] > max(others):
        side, further = ("smallest", "smaller") if best == 0 else ("largest", "larger")
        warn(
            f"{evaluation}: the best learning rate, {rates[best]:g}, is the {side} tried; {further} ones in "
            f"--{evaluation}_lrs may be better"
        )
    return best, qualities[best]


def measure_logits(
    context: EvalContext,
    evaluation: str,
    logits: Tensor,
    protocol: dict,
    suffix: str = "",
    data: dict[str, Any] | None = None,
) -> list[Measurement]:
    """Measure logits ``[n, C]`` of the labelled test images; ``suffix`` goes into the predictions file's name, ``data`` as for
    ``eval.core.scoring.measure``."""
    if not logits.isfinite().all():
        raise UserError(f"{evaluation}: training diverged; give smaller --{evaluation}_lrs")
    if context.train.label_sets is not None:
        return measure_label_scores(context, evaluation, logits.numpy(), protocol, suffix, data)
    return measure_classes(context, evaluation, best_classes(logits).numpy(), protocol, suffix, data=data)
