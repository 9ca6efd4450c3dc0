"""Nearest neighbours by inner product: exact, in bounded memory, linear in bank and queries."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

#: Queries and bank rows of one tile of similarities: 256 MiB of float32 on a CPU, 512 MiB on an accelerator. (On a CPU, products
#: with 256 queries ran at 0.8 of the rate of those with 1024.)
_TILE = {"cpu": (1024, 65536)}
_TILE_ACCELERATOR = (2048, 65536)


def tile_rows(device: torch.device) -> int:
    """How many queries ``nearest_neighbours`` treats at a time on that device."""
    return _TILE.get(device.type, _TILE_ACCELERATOR)[0]


@torch.no_grad()
def nearest_neighbours(bank: Tensor, queries: Tensor, k: int) -> Iterator[tuple[Tensor, Tensor]]:
    """For consecutive chunks of queries, the k bank rows of greatest inner product.

    One pass over the bank serves a chunk of queries: tile after tile of similarities is reduced to its best k, and these are
    merged with the best so far. Which of equally similar rows are kept at the k-th place is arbitrary.

    Args:
        bank: ``[N, D]``, float32, on the device of ``queries``.
        queries: ``[Q, D]``, float32.
        k: at most N.

    Yields:
        similarities ``[q, k]``, falling, and bank rows, int64 ``[q, k]``; q at most ``tile_rows(device)``.
    """
    rows, columns = _TILE.get(queries.device.type, _TILE_ACCELERATOR)
    if not 1 <= k <= len(bank):
        raise ValueError(f"k is {k}, and the bank has {len(bank)} rows")
    for chunk in queries.split(rows):
        best = places = None
        for start in range(0, len(bank), columns):
            tile = chunk @ bank[start : start + columns].T
            values, found = _top(tile, min(k, tile.shape[1]))
            found = found + start
            if best is None:
                best, places = values, found
            else:
                best, kept = torch.cat([best, values], 1).topk(min(k, best.shape[1] + values.shape[1]), sorted=False)
                places = torch.cat([places, found], 1).gather(1, kept)
        best, order = best.sort(dim=1, descending=True)
        yield best, places.gather(1, order)


def _top(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As ``values.topk(k, sorted=False)`` along rows, several times as fast where k is small beside their length: the best k
    elements lie in those k groups that have the greatest maxima."""
    length = values.shape[1]
    size = 2 ** round(
        math.log2(max(1.0, math.sqrt(length / k)))
    )  # about as many group maxima as group members to look at
    groups = length // size
    if size < 4 or groups < k:
        return values.topk(k, sorted=False)
    # Group g holds the columns g, g + groups, …: maxima over a strided axis vectorise.
    grouped = values[:, : groups * size].unflatten(1, (size, groups))
    chosen = grouped.amax(1).topk(k, sorted=False).indices
    offsets = torch.arange(size, device=values.device) * groups
    columns = (chosen[:, None, :] + offsets[None, :, None]).flatten(1)
    if groups * size < length:
        rest = torch.arange(groups * size, length, device=values.device).expand(len(values), -1)
        columns = torch.cat([columns, rest], 1)
    best, kept = values.gather(1, columns).topk(k, sorted=False)
    return best, columns.gather(1, kept)
