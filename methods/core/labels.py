"""Means over the images of one label.

Shapes: B images of this rank, N of all ranks, T views, C classes, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.distributed import all_gather_rows, all_reduce_sum


def alike(labels_B: Tensor, labels_N: Tensor) -> Tensor:
    """Which images share a label with which: bool ``[B, N]``. Labels are those of ``ViewBatch``; an unlabelled image shares none,
    not even with itself."""
    if labels_B.ndim == 1:
        return (labels_B[:, None] == labels_N) & (labels_N >= 0)
    return labels_B.float() @ labels_N.float().T > 0


class LabelMeans(nn.Module):
    """Gives each labelled image the mean vector of its label, without a gradient.

    Without ``momentum`` this is the mean over all images of the batch, of all ranks, that share a label with the image, each
    counted once. With ``momentum``, each label has a running mean, ``momentum · old + (1 - momentum) · its mean in the batch``,
    which starts as the first batch's, and an image gets the mean of its labels' running means after this update. The buffer
    ``means [C, D]`` holds them; a row of zeros is a label not seen yet.
    """

    def __init__(self, num_classes: int, width: int, momentum: float):
        super().__init__()
        self.momentum = momentum
        if momentum:
            self.register_buffer("means", torch.zeros(num_classes, width))

    @torch.no_grad()
    def forward(self, vectors_TBD: Tensor, labels: Tensor) -> Tensor:
        """Replace all T vectors of each labelled image by one mean, over the T views as well; others keep theirs. All ranks call
        it together with equally many images, and ``labels`` are those of ``ViewBatch``."""
        own_BD = vectors_TBD.float().mean(0)
        if self.momentum:
            shares_BN = self._members(labels)
            vectors_ND = self._updated(own_BD, shares_BN)
        else:
            shares_BN, vectors_ND = alike(labels, all_gather_rows(labels)).to(own_BD.dtype), all_gather_rows(own_BD)
        count_B1 = shares_BN.sum(1, keepdim=True)
        means_BD = shares_BN @ vectors_ND / count_B1.clamp(min=1)
        return torch.where(count_B1 > 0, means_BD.to(vectors_TBD.dtype), vectors_TBD)

    def _members(self, labels: Tensor) -> Tensor:
        """Multi-hot labels ``[B, C]``."""
        if labels.ndim == 1:
            labels = labels[:, None] == torch.arange(len(self.means), device=labels.device)
        return labels.to(self.means.dtype)

    def _updated(self, vectors_BD: Tensor, members_BC: Tensor) -> Tensor:
        """Update the running means by a batch's vectors; returns them."""
        sums_CD = all_reduce_sum(members_BC.T @ vectors_BD.to(members_BC.dtype))
        count_C1 = all_reduce_sum(members_BC.sum(0))[:, None]
        batch_CD = sums_CD / count_C1.clamp(min=1)
        seen_C1 = self.means.any(dim=1, keepdim=True)
        moved_CD = torch.where(seen_C1, torch.lerp(batch_CD, self.means, self.momentum), batch_CD)
        self.means.copy_(torch.where(count_C1 > 0, moved_CD, self.means))
        return self.means
