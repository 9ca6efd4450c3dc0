"""Statistics of features (effective rank, spread, alignment, uniformity, cross-correlation), and signs of collapse."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rundir.collapse import PATIENCE, signs_in

#: Rows that per-step diagnostics look at, at most.
ROWS = 256


@torch.no_grad()
def effective_rank(features_ND: Tensor) -> float:
    """exp of the entropy of the normalised singular values of centred features (RankMe, Garrido et al. 2023, arXiv 2210.02885):
    between 0 (all rows equal) and min(N - 1, D). NaN for features that are not finite."""
    features = features_ND.float().cpu().double()
    if not features.isfinite().all():
        return math.nan
    x = features - features.mean(0)
    gram = x @ x.T if len(x) <= x.shape[1] else x.T @ x
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    if singular.sum() <= 1e-6 * features.norm():  # equal rows, but for rounding
        return 0.0
    share = singular / singular.sum()
    return float(torch.special.entr(share).sum().exp())


@torch.no_grad()
def feature_std(features_ND: Tensor) -> float:
    """Mean over features of the standard deviation of unit-length rows, times √D: 0 if all rows are equal, 1 if they are spread
    evenly over the sphere (Chen & He 2021, SimSiam, figure 2)."""
    unit = F.normalize(features_ND.float(), dim=1)
    return float(unit.std(0).mean() * math.sqrt(unit.shape[1]))


@torch.no_grad()
def alignment(first_ND: Tensor, second_ND: Tensor) -> float:
    """Mean squared distance of the two unit-length features of an image; 0 at best (Wang & Isola 2020, arXiv 2005.10242)."""
    return float((F.normalize(first_ND.float(), dim=1) - F.normalize(second_ND.float(), dim=1)).square().sum(1).mean())


@torch.no_grad()
def uniformity(features_ND: Tensor) -> float:
    """ln of the mean of exp(-2 · squared distance) over pairs of unit-length rows: 0 if all are equal, -4 at best (Wang & Isola
    2020)."""
    return float(torch.pdist(F.normalize(features_ND.float(), dim=1)).square().mul(-2).exp().mean().log())


@torch.no_grad()
def cross_correlation(first_ND: Tensor, second_ND: Tensor) -> Tensor:
    """Cross-correlation ``[D, D]`` of two views' features over N images, entries in [-1, 1]; 0 for a constant feature."""
    first, second = (
        (z - z.mean(0)) / z.std(0, unbiased=False).clamp(min=1e-12) for z in (first_ND.double(), second_ND.double())
    )
    return (first.T @ second / len(first)).float()


def summarize_correlation(matrix_DD: Tensor, side: int = 256) -> tuple[np.ndarray, float, float]:
    """Return the entries of evenly spaced features, at most ``side`` × ``side`` (pooling would drown the diagonal in the rest),
    the mean of the whole diagonal, and the root mean square of the whole rest (0 for one feature)."""
    size = len(matrix_DD)
    kept = np.unique(np.linspace(0, size - 1, min(size, side)).round().astype(np.int64))
    diagonal = matrix_DD.diagonal()
    rest = matrix_DD.square().sum() - diagonal.square().sum()
    off = math.sqrt(max(float(rest), 0.0) / (size * (size - 1))) if size > 1 else 0.0
    return matrix_DD[kept][:, kept].cpu().numpy(), float(diagonal.mean()), off


class CollapseWatch:
    """Reads step records as they are logged, and warns once of each sign of collapse in ``loss``, ``effective_rank`` (at most
    ``rank_limit``) and ``teacher_information``. A loss of ln(out_dim) after the warm-up means uniform outputs; ``out_dim`` is
    None if the method has no such outputs."""

    HELP = {
        "flat_loss": "a lower teacher temperature, a higher learning rate or longer training, a smaller out_dim",
        "collapse": "for DINO, centring and a teacher temperature between 0.04 and 0.07; a lower learning rate; more warm-up "
        "epochs; a larger batch",
    }

    def __init__(self, out_dim: int | None, warmup_steps: int):
        self._out_dim = out_dim
        self._warmup_steps = warmup_steps
        self._in_a_row: dict[str, int] = {}  # step records with each sign, up to the newest
        self._warned: set[str] = set()

    def replay(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Take in the log of the steps before a run continues."""
        for record in records:
            if record.get("kind") == "warning":
                self._warned.add(record.get("name", ""))
            elif record.get("kind") == "step":
                self.look(record)

    def look(self, record: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Take in a step record. Returns new warnings: (``flat_loss`` or ``collapse``, message)."""
        signs = signs_in(record, self._out_dim if record["step"] > self._warmup_steps else None)
        self._in_a_row = {sign: self._in_a_row.get(sign, 0) + 1 for sign in signs}
        warnings = []
        for sign, message in signs.items():
            name = "flat_loss" if sign == "flat_loss" else "collapse"
            if self._in_a_row[sign] >= PATIENCE and name not in self._warned:
                self._warned.add(name)
                warnings.append((name, f"{message}. What usually helps: {self.HELP[name]}"))
        return warnings
