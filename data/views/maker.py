"""Views: the random crops of a batch, made together on the device that trains.

The order of operations is the references' (dino/main_dino.py, ``DataAugmentationDINO``; barlowtwins/main.py, ``Transform``):
crop and resize, flip, colour jitter, greyscale, blur, solarise, normalise. Each equals PIL's / torchvision's for the same
parameters: the crop and colour operations within 1 grey level, the blur within 2. A CPU makes one crop after the other
(``data.views.loops``), an accelerator many at once (``data.views.tensors``, ``data.views.colour``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from common.images import IMAGENET_MEAN, IMAGENET_STD
from data.store.store import ImageBatch
from data.views import colour
from data.views.central import _in_float32, normalize
from data.views.plan import RANDOMS, Crops, ViewParams, _plan
from data.views.spec import View
from data.views.tensors import crop, gaussian_blur, to_device

#: Pixels of the crops that an accelerator makes together: as many as memory is worth.
CHUNK = 2**24


class ViewMaker:
    """Makes the views of a batch.

    Args:
        views: what to make.
        mean, std: for the normalisation, of pixels in [0, 1].
    """

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
        """Random numbers for ``batch`` anchors. Draw them for the global batch with the same seed on every rank and take the
        rank's ``[:, lo:hi]``: then the views do not depend on the number of ranks. ``generator``: of the CPU."""
        return torch.rand(len(self.views), batch, RANDOMS, generator=generator)

    @torch.no_grad()
    @_in_float32
    def make(self, images: ImageBatch, sources: Tensor, params: ViewParams) -> list[Tensor]:
        """The views, a function of the arguments only.

        Args:
            images: on any device; that is where the views are made.
            sources: int64 ``[V, b]``: the image that each view of each anchor comes from, a row of ``images``.
            params: ``[V, b, RANDOMS]`` from ``sample``.

        Returns:
            A float32 tensor ``[b, 3, size, size]`` for each view, normalised.

        Raises:
            ValueError: the shapes do not fit, or a source is not a row of ``images``.
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
        out: list[Tensor] = [torch.empty(0)] * V
        for size in dict.fromkeys(view.size for view in self.views):
            members = [v for v, view in enumerate(self.views) if view.size == size]
            plans = [_plan(self.views[v], sources[v], sizes[sources[v]], params[v]) for v in members]
            crops = Crops(
                *(np.concatenate([getattr(plan, name) for plan in plans]) for name in Crops.__dataclass_fields__)
            )
            make = self._one_by_one if images.pixels.device.type == "cpu" else self._together
            for v, view in zip(members, make(images.pixels, crops, size).unflatten(0, (len(members), b)), strict=True):
                out[v] = view
        return out

    def _one_by_one(self, pixels: Tensor, crops: Crops, size: int) -> Tensor:
        """The crops, ``[n, 3, size, size]``, on a CPU."""
        from data.views.loops import make_crops  # its compiler takes a third of a second to import

        levels = pixels.contiguous().numpy()
        return torch.from_numpy(make_crops(levels, crops, size, self.mean, self.std, torch.get_num_threads()))

    def _together(self, pixels: Tensor, crops: Crops, size: int) -> Tensor:
        """The crops, ``[n, 3, size, size]``, on any device."""
        out = torch.empty((len(crops.rows), 3, size, size), device=pixels.device)
        for chunk in _chunks(crops, size, pixels):
            part = Crops(**{name: values[chunk] for name, values in vars(crops).items()})
            x = crop(pixels, part.rows.tolist(), part.boxes.tolist(), part.flips.tolist(), size)
            for kinds in part.order.T:
                factors = part.factors[np.arange(len(kinds)), kinds]  # of -1, no operation, any
                _on(x, kinds == colour.HUE, colour.shift_hue, factors)
                _on(x, (kinds >= 0) & (kinds != colour.HUE), colour.blend, kinds, factors)
            _on(x, part.grey, colour.to_grey)
            _on(x, part.sigmas > 0, gaussian_blur, part.sigmas)
            _on(x, part.solarize < np.inf, colour.solarize, part.solarize)
            out.index_copy_(0, to_device(chunk, out.device), normalize(x, self.mean, self.std))
        return out


def _chunks(crops: Crops, size: int, pixels: Tensor) -> list[np.ndarray]:
    """Indices of crops to process together, those beside each other to which the same is done."""
    count = max(1, CHUNK // max(size**2, pixels[0, 0].numel() // 4))
    ranking = np.lexsort((crops.sigmas > 0, *crops.order.T[::-1]))
    return [ranking[i : i + count] for i in range(0, len(ranking), count)]


def _on(x: Tensor, chosen: np.ndarray, operation: Callable[..., Tensor], *parameters: np.ndarray) -> None:
    """Replace some of the images by what an operation makes of them, with their parameters."""
    at = np.flatnonzero(chosen)
    if len(at):
        index = to_device(at, x.device)
        x.index_copy_(0, index, operation(x.index_select(0, index), *(values[at].tolist() for values in parameters)))
