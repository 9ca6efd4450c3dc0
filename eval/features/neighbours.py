"""Exact nearest neighbours by inner product, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from training.machine.devices import pick_precision

#: Queries and bank rows of one tile of similarities: 256 MiB of float32 on a CPU, 512 MiB on an accelerator.
_TILE = {"cpu": (1024, 65536)}
_TILE_ACCELERATOR = (2048, 65536)
#: Least queries, and least bank rows per candidate, that make a first search in bfloat16 faster.
_ROUNDED_FROM = (64, 100)


def tile_rows(device: torch.device) -> int:
    """Queries that ``nearest_neighbours`` treats at a time on that device."""
    return _TILE.get(device.type, _TILE_ACCELERATOR)[0]


@torch.no_grad()
def nearest_neighbours(bank: Tensor, queries: Tensor, k: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Search the k bank rows of greatest inner product, with arbitrary ones of those tied at the k-th place.

    On a CPU that is fast at bfloat16, a pass in that precision selects more than k candidates, and float32 ranks them. If a bound
    on the rounding (proved in ``_search_rounded``) cannot rule out a nearer row, the query is searched in float32 again.

    Args:
        bank: ``[N, D]``, float32, on the device of ``queries``.
        queries: ``[Q, D]``, float32.
        k: 1 to N, else ValueError.

    Yields similarities ``[q, k]``, falling, and bank rows, int64 ``[q, k]``, of at most ``tile_rows(device)`` queries at a time.
    """
    device = queries.device
    rows, columns = _TILE.get(device.type, _TILE_ACCELERATOR)
    if not 1 <= k <= len(bank):
        raise ValueError(f"k is {k}, and the bank has {len(bank)} rows")
    many = len(queries) >= _ROUNDED_FROM[0] and len(bank) >= _ROUNDED_FROM[1] * _candidates(k)
    rounded = device.type == "cpu" and many and pick_precision("auto", device) == "bf16"
    lengths = _lengths_of(bank, columns) if rounded else None
    for chunk in queries.split(rows):
        if rounded:
            best, places, sure = _search_rounded(bank, chunk, k, columns, lengths)
            unsure = (~sure).nonzero()[:, 0]
            if len(unsure):
                best[unsure], places[unsure] = _search(bank, chunk[unsure], k, columns)
            # It does not pay if all features are alike, as an untrained network's may be.
            rounded = len(unsure) < len(chunk) / 2
        else:
            best, places = _search(bank, chunk, k, columns)
        best, order = best.sort(dim=1, descending=True)
        yield best, places.gather(1, order)


def _search(
    bank: Tensor, queries: Tensor, k: int, columns: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """The k greatest inner products of each query, computed in ``dtype``, and their bank rows, in no order."""
    queries = queries.to(dtype)
    best = places = None
    for start in range(0, len(bank), columns):
        tile = queries @ bank[start : start + columns].to(dtype).T
        values, rows = _top(tile, min(k, tile.shape[1]))
        rows = rows + start
        if best is None:
            best, places = values, rows
        else:
            best, kept = torch.cat([best, values], 1).topk(min(k, best.shape[1] + values.shape[1]), sorted=False)
            places = torch.cat([places, rows], 1).gather(1, kept)
    return best, places


def _candidates(k: int) -> int:
    """Rows of a search in bfloat16, enough to contain the k nearest nearly always."""
    return 2 * k + 64


def _lengths(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Norms of rows ``[n, D]``, and of what rounding to bfloat16 changes in them: ``[n]`` each."""
    return tuple(torch.linalg.vector_norm(part, dim=1) for part in (rows, rows - rows.bfloat16().float()))


def _lengths_of(bank: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """The greatest of each of the bank's ``_lengths``."""
    parts = [torch.stack(_lengths(tile)).amax(1) for tile in bank.split(columns)]
    return tuple(torch.stack(parts).amax(0))


def _search_rounded(
    bank: Tensor, queries: Tensor, k: int, columns: int, lengths: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """``_search`` by way of bfloat16, and bool ``[q]``: the result is sure. ``lengths``: ``_lengths_of`` the bank.

    Proof that no other row is among the k nearest of a sure result. For a query a and a row b outside the candidates, let a' and b'
    be both in bfloat16, r their product as float32 sums it, and m the least candidate's product in bfloat16. All sums below are
    over D terms, and norms are Euclidean.

    - b is no candidate, so r rounded to bfloat16 is at most m. bfloat16 has 8 bits of precision, so the next number above m lies
      at most 2^-7 |m| away, and r, rounded to the nearest, is at most half of that above m: r <= m + 2^-8 |m|.
    - float32 sums D products in any order and with either rounding to within g |a'| |b'|, g = D 2^-22 (Higham, Accuracy and
      Stability of Numerical Algorithms, 2002, section 3.1: D u / (1 - D u) with u = 2^-23, times the sum of |a'_i b'_i|, which
      Cauchy and Schwarz bound): a'b' <= r + g |a'| |b'|.
    - ab - a'b' = (a - a')b + a'(b - b') <= |a - a'| |b| + |a'| |b - b'|, where |a'| <= |a| + |a - a'|.
    - The product that float32 would rank is at most ab + g |a| |b|.

    These add up to ``bound``; where it is below the k-th best candidate's, float32 would rank b lower, too. The factor 1 + 8g
    covers the rounding of the norms and of the bound itself, and the last term what is less than 2^-126, which may count as 0.
    """
    rounded, places = _search(bank, queries, min(_candidates(k), len(bank)), columns, torch.bfloat16)
    # Row by row: torch's batched product with a vector takes four times as long.
    exact = torch.stack([bank.index_select(0, rows) @ query for rows, query in zip(places, queries, strict=True)])
    best, kept = exact.topk(k, sorted=False)
    (length, change), (longest, most) = _lengths(queries), lengths
    dimensions = bank.shape[1]
    g = dimensions * 2**-22
    of_factors = change * longest + (length + change) * most
    of_sums = 2 * g * (length + change) * (longest + most)
    least = rounded.amin(1).float()
    bound = least + 2**-8 * least.abs() + (1 + 8 * g) * (of_factors + of_sums)
    bound += dimensions * 2**-125 * (1 + length + longest)
    sure = (bound < best.amin(1)) | (places.shape[1] == len(bank))
    return best, places.gather(1, kept), sure


def _top(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """A ``values.topk(k, sorted=False)`` that is faster for small k: the best lie in the k groups of greatest maxima."""
    length = values.shape[1]
    # This compares about as many group maxima as group members.
    size = 2 ** round(math.log2(max(1.0, math.sqrt(length / k))))
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
