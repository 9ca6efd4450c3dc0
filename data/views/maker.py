"""Views: the random crops of a batch, made on the device that trains.

Operations follow dino/main_dino.py, ``DataAugmentationDINO``, and barlowtwins/main.py, ``Transform``: crop and resize, flip,
colour jitter, greyscale, blur, solarise, normalise. By itself each operation on whole levels is within 1 grey level of PIL's, the
blur within 2. PIL cuts to whole levels after each, so differences of a chain add up: by a whole jitter 1.4 levels on average and
11 at most, over 150 photos (``benchmarks/fidelity.py``). A CPU makes one crop after the other (``data.views.cpu``), an accelerator
many at once (``data.views.tensors``).
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from common.images import IMAGENET_MEAN, IMAGENET_STD
from common.progress import working
from data.store.store import ImageBatch
from data.views import colour
from data.views.plan import HUE, RANDOMS, Crops, ViewParams, join, plan_crops
from data.views.spec import View
from data.views.tensors import crop, gaussian_blur, in_float32, normalise_levels, to_device

#: Pixels of the crops that an accelerator makes together; more would take memory for no speed.
CHUNK = 2**24
#: The loops for a CPU, whose import compiles them if numba's cache lacks them.
CPU = "data.views.cpu.crops"


class ViewMaker:
    """Makes the views of a batch, normalised by ``mean`` and ``std`` of pixels in [0, 1]."""

    def __init__(
        self,
        views: Sequence[View],
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
    ):
        self.views = list(views)
        self.mean = mean
        self.std = std

    def sample(self, batch: int, generator: torch.Generator) -> ViewParams:
        """Draw random numbers for ``batch`` anchors from a CPU generator. Views do not depend on the number of ranks if each
        rank draws for the global batch with the same seed and takes its own ``[:, lo:hi]``."""
        return torch.rand(len(self.views), batch, RANDOMS, generator=generator)

    @torch.no_grad()
    @in_float32
    def make(self, images: ImageBatch, sources: Tensor, params: ViewParams) -> list[Tensor]:
        """Make the views on the device of the images: float32 ``[b, 3, size, size]`` each.

        Args:
            sources: int64 ``[V, b]``: the row of ``images`` that each view of each anchor comes from.
            params: ``[V, b, RANDOMS]`` from ``sample``.

        Raises ValueError if shapes do not fit, or a source is no row of ``images``.
        """
        V, b = sources.shape
        if len(self.views) != V or params.shape != (V, b, RANDOMS):
            raise ValueError(
                f"{len(self.views)} views, sources {tuple(sources.shape)} and params {tuple(params.shape)} do not fit together; "
                f"expected [V, b] and [V, b, {RANDOMS}]"
            )
        sources, params, sizes = sources.cpu(), params.cpu(), images.sizes
        if sources.numel() and not 0 <= int(sources.min()) <= int(sources.max()) < len(sizes):
            raise ValueError(f"sources from {sources.min()} to {sources.max()}; the batch has {len(sizes)} images")
        make = self._one_by_one if images.device.type == "cpu" else self._together
        out: list[Tensor] = [torch.empty(0)] * V
        for size in dict.fromkeys(view.size for view in self.views):
            members = [v for v, view in enumerate(self.views) if view.size == size]
            crops = join([plan_crops(self.views[v], sources[v], sizes[sources[v]], params[v]) for v in members])
            made = _of_blocks(make, images, crops, size).unflatten(0, (len(members), b))
            for v, view in zip(members, made, strict=True):
                out[v] = view
        return out

    def _one_by_one(self, pixels: Tensor, crops: Crops, size: int) -> Tensor:
        """Make the crops, ``[n, 3, size, size]``, on a CPU."""
        if CPU not in sys.modules:
            with working("loading the crops' loops, which takes ten seconds if they have yet to be compiled"):
                importlib.import_module(CPU)
        from data.views.cpu.crops import make_crops

        levels = pixels.contiguous().numpy()
        return torch.from_numpy(make_crops(levels, crops, size, self.mean, self.std, torch.get_num_threads()))

    def _together(self, pixels: Tensor, crops: Crops, size: int) -> Tensor:
        """Make the crops, ``[n, 3, size, size]``, on any device."""
        out = torch.empty((len(crops.rows), 3, size, size), device=pixels.device)
        for chunk in _chunks(crops, size, pixels):
            part = crops.part(chunk)
            x = crop(pixels, part.rows.tolist(), part.boxes.tolist(), part.flips.tolist(), size)
            for kinds in part.order.T:
                factors = part.factors[np.arange(len(kinds)), kinds]  # any for -1, no operation
                _apply(x, kinds == HUE, colour.shift_hue, factors)
                _apply(x, (kinds >= 0) & (kinds != HUE), colour.blend, kinds, factors)
            _apply(x, part.grey, colour.to_grey)
            _apply(x, part.sigmas > 0, gaussian_blur, part.sigmas)
            _apply(x, part.solarize < np.inf, colour.solarize, part.solarize)
            out.index_copy_(0, to_device(chunk, out.device), normalise_levels(x, self.mean, self.std))
        return out


def _of_blocks(make: Callable[[Tensor, Crops, int], Tensor], images: ImageBatch, crops: Crops, size: int) -> Tensor:
    """Make the crops, in their order, of each of the batch's blocks."""
    if len(images.blocks) == 1:
        return make(images.blocks[0][1], crops, size)
    out = torch.empty((len(crops.rows), 3, size, size), device=images.device)
    for rows, pixels in images.blocks:
        row_in_block = np.full(len(images.sizes), -1)
        row_in_block[rows.numpy()] = np.arange(len(rows))
        at = np.flatnonzero(row_in_block[crops.rows] >= 0)
        if len(at):
            part = crops.part(at)
            made = make(pixels, dataclasses.replace(part, rows=row_in_block[part.rows]), size)
            out.index_copy_(0, to_device(at, out.device), made)
    return out


def _chunks(crops: Crops, size: int, pixels: Tensor) -> list[np.ndarray]:
    """Indices of crops to make together, where crops with the same operations are neighbours."""
    count = max(1, CHUNK // max(size**2, pixels[0, 0].numel() // 4))
    ranking = np.lexsort((crops.sigmas > 0, *crops.order.T[::-1]))
    return [ranking[i : i + count] for i in range(0, len(ranking), count)]


def _apply(x: Tensor, chosen: np.ndarray, operation: Callable[..., Tensor], *parameters: np.ndarray) -> None:
    """Apply an operation to the chosen images, in place, with the parameters of each."""
    at = np.flatnonzero(chosen)
    if len(at):
        index = to_device(at, x.device)
        x.index_copy_(0, index, operation(x.index_select(0, index), *(values[at].tolist() for values in parameters)))
