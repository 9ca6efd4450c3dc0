"""Carries labels from frame to frame by nearest neighbours of patch features (DINO, arXiv 2104.14294, table 5; Jabri et al. 2020,
arXiv 2006.14613; reference: dino/eval_video_segmentation.py, ``label_propagation``).
Shapes: h × w patches, D features, S source frames, C labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: Side in patches of the square tiles whose queries share their candidates.
TILE = 12


@torch.inference_mode()
def propagate(
    target_hwD: Tensor, sources_ShwD: Tensor, labels_ShwC: Tensor, radius: int, topk: int, temperature: float
) -> Tensor:
    """Predict soft labels ``[h, w, C]`` of a frame: each patch's mean over the labels of its ``topk`` most similar source patches
    (and those tied with the last) within ``radius`` rows and columns, weighted by exp(cosine / temperature). All are float32.

    One matrix product compares a tile of queries with the window around it, for a row of tiles at a time. The result equals the
    full, masked matrix's, with memory linear in the frame's width.
    """
    height, width, _ = target_hwD.shape
    rows, columns = -(-height // TILE), -(-width // TILE)
    bottom, right = rows * TILE - height, columns * TILE - width
    side = TILE + 2 * radius

    def framed(maps: Tensor) -> Tensor:  # [S, h, w, X] with a border of zeros, where no query may look
        return F.pad(maps, (0, 0, radius, radius + right, radius, radius + bottom))

    queries = F.pad(F.normalize(target_hwD, dim=-1) / temperature, (0, 0, 0, right, 0, bottom))
    queries = queries.unflatten(1, (columns, TILE))
    sources, labels = framed(F.normalize(sources_ShwD, dim=-1)), framed(labels_ShwC)
    inside = framed(torch.ones_like(labels_ShwC[:1, ..., :1]))
    # Row (column) j of a window is at most ``radius`` from row (column) i of its tile if 0 <= j - i <= 2 · radius.
    steps = torch.arange(side, device=queries.device) - torch.arange(TILE, device=queries.device)[:, None]
    near = (steps >= 0) & (steps <= 2 * radius)  # [TILE, side]
    near = (near[:, None, :, None] & near[None, :, None, :]).flatten(2).flatten(0, 1)  # [TILE², side²]

    result = []
    for row in range(rows):
        band = slice(row * TILE, row * TILE + side)
        queries_tqD = queries[row * TILE : (row + 1) * TILE].movedim(1, 0).flatten(1, 2)
        similar_tqSk = (queries_tqD @ _windows(sources[:, band], side).mT).unflatten(2, (len(sources), -1))
        allowed_tqk = near & (_windows(inside[:, band], side).mT > 0)
        similar_tqK = similar_tqSk.masked_fill_(~allowed_tqk[:, :, None], -torch.inf).flatten(2)
        best = similar_tqK.topk(min(topk, similar_tqK.shape[2])).values
        weights_tqK = (similar_tqK - best[..., :1]).exp_()
        weights_tqK.masked_fill_(similar_tqK < best[..., -1:], 0)
        sums_tqC = weights_tqK @ _windows(labels[:, band], side)
        means_tqC = sums_tqC / weights_tqK.sum(2, keepdim=True)
        result.append(means_tqC.unflatten(1, (TILE, TILE)).movedim(0, 1).flatten(1, 2))
    return torch.cat(result)[:height, :width]


def _windows(band_SbWX: Tensor, side: int) -> Tensor:
    """The windows of a row of tiles, ``[tiles, S · side², X]``."""
    windows = band_SbWX.unfold(2, side, TILE)  # [S, side, tiles, X, side]
    return windows.permute(2, 0, 1, 4, 3).flatten(1, 3)
