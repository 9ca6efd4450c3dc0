"""Evaluations in plain PyTorch and NumPy, written from the recipes."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def knn(
    bank: Tensor, labels: Tensor, queries: Tensor, k: int, temperature: float, classes: int, rows: int = 500
) -> Tensor:
    """Weighted k-NN by one-hot votes of the k neighbours: all classes ``[Q, classes]``, best first.

    Args:
        bank, queries: L2-normalised, ``[N, D]`` and ``[Q, D]``.
        rows: queries at a time (the published protocol takes 100 chunks: 500 of ImageNet's 50,000).
    """
    guesses = []
    for part in queries.split(rows):
        similarity, places = (part @ bank.T).topk(k)
        votes = torch.zeros(len(part) * k, classes, device=bank.device)
        votes.scatter_(1, labels[places].view(-1, 1), 1)
        weights = (similarity / temperature).exp()
        scores = (votes.view(len(part), k, classes) * weights[:, :, None]).sum(1)
        guesses.append(scores.sort(1, descending=True).indices)
    return torch.cat(guesses)


class LinearProbe:
    """One linear classifier: SGD with momentum 0.9, weights from N(0, 0.01)."""

    def __init__(self, width: int, classes: int, rate: float, device: torch.device):
        self.layer = torch.nn.Linear(width, classes, device=device)
        torch.nn.init.normal_(self.layer.weight, std=0.01)
        torch.nn.init.zeros_(self.layer.bias)
        self.optimizer = torch.optim.SGD(self.layer.parameters(), lr=rate, momentum=0.9)

    def epoch(self, features: Tensor, labels: Tensor, batch_size: int = 256) -> None:
        """One pass in the images' order."""
        for part, truth in zip(features.split(batch_size), labels.split(batch_size), strict=True):
            loss = F.cross_entropy(self.layer(part), truth)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()


def miou_of_resamples(matrices: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Mean IoU in percent of ``resamples`` bootstrap resamples of images, one after the other; ``matrices``: confusion matrices
    ``[n, C, C]`` of the images."""
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(resamples):
        total = matrices[draw.integers(len(matrices), size=len(matrices))].sum(0)
        hit = np.diag(total)
        union = total.sum(0) + total.sum(1) - hit
        found.append(100 * (hit[union > 0] / union[union > 0]).mean())
    return np.array(found)
