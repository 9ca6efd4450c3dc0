"""Views: the random crops of a batch, made together on the device that trains.

The order of operations is the references' (dino/main_dino.py, ``DataAugmentationDINO``; barlowtwins/main.py, ``Transform``):
crop and resize, flip, colour jitter, greyscale, blur, solarise, normalise. Each equals PIL's / torchvision's for the same
parameters: the crop and colour operations within 1 grey level, the blur within 2. A CPU makes one crop after the other
(``data.crops_cpu``), an accelerator many at once (``data.resample``, ``data.colour``).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import UsageError
from data import colour
from data.resample import bicubic_weights, crop, down_first, gaussian_blur
from data.store import ImageBatch
from data.transfer import to_device

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

#: torchvision's RandomResizedCrop tries so many boxes before it takes the centre.
ATTEMPTS = 10

# Places of the random numbers of a crop: two for each attempted box, four that order the jitter, four for its factors.
AREA, RATIO = slice(0, ATTEMPTS), slice(ATTEMPTS, 2 * ATTEMPTS)
TOP, LEFT, FLIP, JITTER, GREY, BLUR, SIGMA, SOLARIZE = range(2 * ATTEMPTS, 2 * ATTEMPTS + 8)
ORDER, FACTORS = slice(2 * ATTEMPTS + 8, 2 * ATTEMPTS + 12), slice(2 * ATTEMPTS + 12, 2 * ATTEMPTS + 16)
RANDOMS = 2 * ATTEMPTS + 16

#: float32 ``[V, B, RANDOMS]``, uniform in [0, 1): the random numbers of each view of each anchor. ``params[:, lo:hi]`` are
#: those of some anchors.
ViewParams = Tensor

#: Pixels of the crops that an accelerator makes together: as many as memory is worth.
CHUNK = 2**24


def _in_float32(function: Callable) -> Callable:
    """Pixels are computed as written here also where the caller's forward pass is under autocast."""

    @functools.wraps(function)
    def wrapped(*args: Any, **keywords: Any) -> Any:
        # Only there: to leave autocast in one thread empties the cache of casts that another one's forward pass is using.
        if not (torch.is_autocast_enabled("cuda") or torch.is_autocast_enabled("cpu")):
            return function(*args, **keywords)
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            return function(*args, **keywords)

    return wrapped


@dataclass(frozen=True, kw_only=True)
class View:
    """One view of a training sample. The defaults are a bare random crop with flip.

    Attributes:
        name: for the log.
        size: side in pixels.
        scale: area of the crop's box as a part of the image's, drawn uniformly (two numbers in (0, 1]).
        ratio: width / height of the box, its logarithm drawn uniformly.
        flip: probability of a horizontal flip.
        jitter_p: probability of the colour jitter (torchvision's ColorJitter, a random order of operations for each image).
        brightness, contrast, saturation: factor drawn from 1 ± this (at least 0).
        hue: shift drawn from ± this part of a turn, 0 to 0.5.
        grayscale_p: probability of greyscale.
        blur_p: probability of a Gaussian blur.
        blur_sigma: its standard deviation in pixels of the view, drawn uniformly.
        solarize_p: probability of solarisation.
        solarize_threshold: level (0 to 255) from which it inverts.

    Raises:
        UsageError: an option is out of its range.
    """

    name: str
    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter_p: float = 0.0
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    grayscale_p: float = 0.0
    blur_p: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize_p: float = 0.0
    solarize_threshold: float = 128

    def __post_init__(self):
        for name in ("flip", "jitter_p", "grayscale_p", "blur_p", "solarize_p"):
            self._check(name, 0 <= getattr(self, name) <= 1, "a probability, 0 to 1")
        for name in ("brightness", "contrast", "saturation"):
            self._check(name, getattr(self, name) >= 0, "0 or more")
        self._check("size", 1 <= self.size <= 4096, "1 to 4096 pixels")
        self._check(
            "scale", 0 < self.scale[0] <= self.scale[1] <= 1, "two rising parts of the area, above 0 and up to 1"
        )
        self._check("ratio", 0 < self.ratio[0] <= self.ratio[1], "two rising numbers above 0")
        self._check("hue", 0 <= self.hue <= 0.5, "a part of a turn, 0 to 0.5")
        self._check("blur_sigma", 0 < self.blur_sigma[0] <= self.blur_sigma[1], "two rising numbers of pixels above 0")
        self._check("solarize_threshold", 0 <= self.solarize_threshold <= 255, "a level, 0 to 255")

    def _check(self, name: str, fine: bool, allowed: str) -> None:
        if not fine:
            raise UsageError(f"view {self.name}: {name} is {getattr(self, name)}; give {allowed}")


def dino_views(
    global_size: int = 224,
    local_size: int = 96,
    local_crops: int = 8,
    global_scale: tuple[float, float] = (0.4, 1.0),
    local_scale: tuple[float, float] = (0.05, 0.4),
    blur_p: tuple[float, float, float] = (1.0, 0.1, 0.5),
    solarize_p: tuple[float, float, float] = (0.0, 0.2, 0.0),
    **options,
) -> list[View]:
    """DINO's two global and several local crops (dino/main_dino.py, ``DataAugmentationDINO``).

    Args:
        blur_p, solarize_p: for global 1, global 2 and the local crops.
        options: further fields of ``View``, for every view, instead of DINO's.
    """
    if local_crops > 100:
        raise ValueError(f"local_crops is {local_crops}; give at most 100")
    options = {"jitter_p": 0.8, "grayscale_p": 0.2, **options}
    views = [
        View(
            name=f"global{i + 1}",
            size=global_size,
            scale=global_scale,
            blur_p=blur_p[i],
            solarize_p=solarize_p[i],
            **options,
        )
        for i in range(2)
    ]
    return views + [
        View(
            name=f"local{i + 1}",
            size=local_size,
            scale=local_scale,
            blur_p=blur_p[2],
            solarize_p=solarize_p[2],
            **options,
        )
        for i in range(local_crops)
    ]


def barlow_twins_views(
    size: int = 224,
    scale: tuple[float, float] = (0.08, 1.0),
    blur_p: tuple[float, float] = (1.0, 0.1),
    solarize_p: tuple[float, float] = (0.0, 0.2),
    **options,
) -> list[View]:
    """Barlow Twins' two views (barlowtwins/main.py, ``Transform``). ``options`` as for ``dino_views``."""
    options = {"jitter_p": 0.8, "grayscale_p": 0.2, **options}
    return [
        View(name=f"view{i + 1}", size=size, scale=scale, blur_p=blur_p[i], solarize_p=solarize_p[i], **options)
        for i in range(2)
    ]


def crop_boxes(sizes: Tensor, view: View, randoms: Tensor) -> Tensor:
    """Boxes distributed as torchvision's ``RandomResizedCrop.get_params``: of ten boxes of random area and ratio the first that
    fits, at a random place; if none fits, the largest central box with an allowed ratio.

    Args:
        sizes: int64 ``[n, 2]``, height and width.
        randoms: ``[n, RANDOMS]``.

    Returns:
        int64 ``[n, 4]``: top, left, height and width in pixels.
    """
    H, W = sizes.double().unbind(1)
    randoms = randoms.double()
    area = (H * W)[:, None] * (view.scale[0] + (view.scale[1] - view.scale[0]) * randoms[:, AREA])
    log_ratio = math.log(view.ratio[0]), math.log(view.ratio[1])
    ratio = torch.exp(log_ratio[0] + (log_ratio[1] - log_ratio[0]) * randoms[:, RATIO])
    width, height = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (width > 0) & (width <= W[:, None]) & (height > 0) & (height <= H[:, None])
    # argmax of equal values may be any of them, so the first is made the largest.
    first = (fits * torch.arange(ATTEMPTS, 0, -1)).argmax(dim=1, keepdim=True)
    found = fits.any(dim=1)
    central = W / H
    h = torch.where(
        found, height.gather(1, first)[:, 0], torch.where(central < view.ratio[0], (W / view.ratio[0]).round(), H)
    )
    w = torch.where(
        found, width.gather(1, first)[:, 0], torch.where(central > view.ratio[1], (H * view.ratio[1]).round(), W)
    )
    h, w = h.clamp(min=1), w.clamp(min=1)
    top = torch.where(found, (randoms[:, TOP] * (H - h + 1)).floor(), ((H - h) / 2).floor())
    left = torch.where(found, (randoms[:, LEFT] * (W - w + 1)).floor(), ((W - w) / 2).floor())
    return torch.stack([top, left, h, w], dim=1).long()


@dataclass
class Crops:
    """What is to be done for each of n crops of one size."""

    rows: np.ndarray  # [n]: of the images
    boxes: np.ndarray  # [n, 4]
    flips: np.ndarray  # bool [n]
    order: np.ndarray  # [n, 4]: jitter operations, -1: none
    factors: np.ndarray  # [n, 4]: of BRIGHTNESS, CONTRAST, SATURATION, HUE
    grey: np.ndarray  # bool [n]
    sigmas: np.ndarray  # [n], 0: no blur
    solarize: np.ndarray  # [n], inf: none


def _plan(view: View, rows: Tensor, sizes: Tensor, randoms: Tensor) -> Crops:
    boxes = crop_boxes(sizes, view, randoms).numpy()
    u = randoms.double().numpy()
    strengths = np.array([view.brightness, view.contrast, view.saturation, view.hue])
    centre = np.array([1, 1, 1, 0])
    low = np.maximum(centre - strengths, [0, 0, 0, -0.5])
    factors = low + (centre + strengths - low) * u[:, FACTORS]
    order = np.argsort(u[:, ORDER], axis=1)
    order[u[:, JITTER] >= view.jitter_p] = -1
    order[(order == colour.HUE) & (view.hue == 0)] = -1
    low, high = view.blur_sigma
    return Crops(
        rows=rows.numpy(),
        boxes=boxes,
        flips=u[:, FLIP] < view.flip,
        order=order,
        factors=factors,
        grey=u[:, GREY] < view.grayscale_p,
        sigmas=np.where(u[:, BLUR] < view.blur_p, low + (high - low) * u[:, SIGMA], 0),
        solarize=np.where(u[:, SOLARIZE] < view.solarize_p, view.solarize_threshold, np.inf),
    )


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
        from data.crops_cpu import make_crops  # its compiler takes a third of a second to import

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


@torch.no_grad()
@_in_float32
def eval_images(
    images: ImageBatch,
    size: int,
    resize: int | None = None,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
) -> Tensor:
    """Images as the evaluations see them: the short side resized (bicubic, antialiased), the centre cut out, normalised. Within 1
    grey level of torchvision's ``Resize(256, interpolation=3)`` and ``CenterCrop(224)`` on PIL images (dino/eval_knn.py).

    Args:
        size: side of the result in pixels.
        resize: short side after the resize, at least ``size``; by default ``round(size · 256 / 224)``.

    Returns:
        float32 ``[B, 3, size, size]`` on the device of the images.

    Raises:
        ValueError: ``resize`` is less than ``size``.
    """
    resize = round(size * 256 / 224) if resize is None else resize
    if resize < size:
        raise ValueError(f"the short side is resized to {resize} pixels, too few to cut out {size}")
    out = torch.empty(len(images.sizes), 3, size, size, device=images.pixels.device)
    for height, width in images.sizes.unique(dim=0).tolist():
        at = to_device((images.sizes == torch.tensor([height, width])).all(dim=1).nonzero()[:, 0], out.device)
        pixels = images.pixels[:, :, :height, :width][at].float()
        # torchvision truncates the long side and rounds the corner half to even.
        new = [int(resize * side / min(height, width)) for side in (height, width)]
        y, x = (_centre_weights(old, side, size, out.device) for old, side in zip((height, width), new, strict=True))
        if down_first(height, width, *new):
            out[at] = (y @ pixels).clamp_(0, 255) @ x.mT
        else:
            out[at] = y @ (pixels @ x.mT).clamp_(0, 255)
    return normalize(out.round_().clamp_(0, 255), mean, std)


@functools.lru_cache(maxsize=256)  # data sets have few sizes, and many batches
def _centre_weights(old: int, new: int, size: int, device: torch.device) -> Tensor:
    """``[size, old]``: the central ``size`` pixels of ``old`` ones resized to ``new``."""
    first = round((new - size) / 2)
    weights = bicubic_weights(to_device([0], device), to_device([old], device), new, old)
    return weights[0, first : first + size].clone()


def normalize(levels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """``(levels / 255 - mean) / std`` of each channel of ``[n, 3, H, W]``, in place."""
    shift = 255 * to_device(mean, levels.device).view(3, 1, 1)
    scale = 1 / (255 * to_device(std, levels.device).view(3, 1, 1))
    return levels.sub_(shift).mul_(scale)
