"""Views: the random crops of a batch, made together on the device that trains.

The order of operations is the references' (dino/main_dino.py, ``DataAugmentationDINO``; barlowtwins/main.py, ``Transform``):
crop and resize, flip, colour jitter, greyscale, blur, solarise, normalise. Each equals PIL's / torchvision's for the same
parameters: the crop within 1 grey level, colour operations within 1, the blur within 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data import colour
from data.resample import crop_resize, gaussian_blur
from data.store import ImageBatch

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

#: Pixels of the crops that pass through the operations together, for each thread: a few planes of them stay in the cache of a
#: core. An accelerator takes as many as memory is worth.
CPU_CHUNK = 32_768
DEVICE_CHUNK = 2**24


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
        ValueError: an option is out of its range.
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
    options = {"jitter_p": 0.8, "grayscale_p": 0.2, **options}
    views = [
        View(name=f"global{i + 1}", size=global_size, scale=global_scale, blur_p=blur_p[i], solarize_p=solarize_p[i], **options)
        for i in range(2)
    ]
    return views + [
        View(name=f"local{i + 1}", size=local_size, scale=local_scale, blur_p=blur_p[2], solarize_p=solarize_p[2], **options)
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
        View(name=f"view{i + 1}", size=size, scale=scale, blur_p=blur_p[i], solarize_p=solarize_p[i], **options) for i in range(2)
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
    h = torch.where(found, height.gather(1, first)[:, 0], torch.where(central < view.ratio[0], (W / view.ratio[0]).round(), H))
    w = torch.where(found, width.gather(1, first)[:, 0], torch.where(central > view.ratio[1], (H * view.ratio[1]).round(), W))
    h, w = h.clamp(min=1), w.clamp(min=1)
    top = torch.where(found, (randoms[:, TOP] * (H - h + 1)).floor(), ((H - h) / 2).floor())
    left = torch.where(found, (randoms[:, LEFT] * (W - w + 1)).floor(), ((W - w) / 2).floor())
    return torch.stack([top, left, h, w], dim=1).long()


@dataclass
class _Crops:
    """What is to be done for each of n crops of one size."""

    rows: np.ndarray  # [n]: of the images
    boxes: np.ndarray  # [n, 4]
    flips: np.ndarray  # bool [n]
    order: np.ndarray  # [n, 4]: jitter operations, -1: none
    factors: np.ndarray  # [n, 4]: of BRIGHTNESS, CONTRAST, SATURATION, HUE
    grey: np.ndarray  # bool [n]
    sigmas: np.ndarray  # [n], 0: no blur
    solarize: np.ndarray  # [n], inf: none


def _plan(view: View, rows: Tensor, sizes: Tensor, randoms: Tensor) -> _Crops:
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
    return _Crops(
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
        sources, params, sizes = sources.cpu(), params.cpu(), images.sizes.cpu()
        if sources.numel() and not 0 <= int(sources.min()) <= int(sources.max()) < len(sizes):
            raise ValueError(f"sources from {sources.min()} to {sources.max()}; the batch has {len(sizes)} images")
        out: list[Tensor] = [torch.empty(0)] * V
        for size in dict.fromkeys(view.size for view in self.views):
            members = [v for v, view in enumerate(self.views) if view.size == size]
            plans = [_plan(self.views[v], sources[v], sizes[sources[v]], params[v]) for v in members]
            crops = _Crops(*(np.concatenate([getattr(plan, name) for plan in plans]) for name in _Crops.__dataclass_fields__))
            for v, view in zip(members, self._make(images.pixels, crops, size).split(b), strict=True):
                out[v] = view
        return out

    def _make(self, pixels: Tensor, crops: _Crops, size: int) -> Tensor:
        """``[n, 3, size, size]``."""
        n = len(crops.rows)
        out = torch.empty(n, 3, size, size, device=pixels.device)
        mean = torch.tensor(self.mean, device=pixels.device).view(3, 1, 1) * 255
        std = torch.tensor(self.std, device=pixels.device).view(3, 1, 1) * 255
        for chunk in _chunks(crops, size, pixels.device):
            x = crop_resize(pixels, crops.rows[chunk].tolist(), crops.boxes[chunk].tolist(), crops.flips[chunk].tolist(), size)
            _jitter(x, crops.order[chunk], crops.factors[chunk])
            _on(x, crops.grey[chunk], colour.to_grey)
            _on(x, crops.sigmas[chunk] > 0, gaussian_blur, crops.sigmas[chunk])
            for threshold in np.unique(crops.solarize[chunk]):
                if threshold < np.inf:
                    _on(x, crops.solarize[chunk] == threshold, lambda y, t=float(threshold): colour.solarize(y, t))
            out[torch.from_numpy(chunk).to(out.device)] = x.sub_(mean).div_(std)
        return out


def _chunks(crops: _Crops, size: int, device: torch.device) -> list[np.ndarray]:
    """Indices of crops to process together: alike in when the hue is shifted, if at all."""
    limit = CPU_CHUNK * torch.get_num_threads() if device.type == "cpu" else DEVICE_CHUNK
    count = max(1, limit // size**2)
    is_hue = crops.order == colour.HUE
    when = np.where(is_hue.any(axis=1), is_hue.argmax(axis=1), np.where((crops.order < 0).all(axis=1), -1, 4))
    ranking = np.lexsort((*crops.order.T[::-1], when))
    bounds = np.flatnonzero(np.diff(when[ranking])) + 1
    return [part[i : i + count] for part in np.split(ranking, bounds) for i in range(0, len(part), count)]


def _jitter(x: Tensor, order: np.ndarray, factors: np.ndarray) -> None:
    """ColorJitter; the images have their hue shifted at the same place of the order, or none has."""
    for kinds in order.T:
        chosen = np.take_along_axis(factors, np.maximum(kinds, 0)[:, None], axis=1)[:, 0]
        if kinds[0] == colour.HUE:
            colour.shift_hue(x, chosen.tolist())
        elif (kinds >= 0).all():
            colour.blend(x, kinds.tolist(), chosen.tolist())
        elif (kinds >= 0).any():
            _on(x, kinds >= 0, colour.blend, kinds, chosen)


def _on(x: Tensor, chosen: np.ndarray, operation, *parameters: np.ndarray) -> None:
    """Apply an in-place operation to some of the images."""
    if chosen.all():
        operation(x, *(p.tolist() for p in parameters))
    elif chosen.any():
        index = torch.from_numpy(np.flatnonzero(chosen)).to(x.device)
        part = x[index]
        operation(part, *(p[chosen].tolist() for p in parameters))
        x[index] = part


@torch.no_grad()
def eval_images(
    images: ImageBatch,
    size: int,
    resize: int | None = None,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
) -> Tensor:
    """Images as the evaluations see them: the short side resized (bicubic, antialiased), the centre cut out, normalised.

    Follows dino/eval_knn.py: torchvision's ``Resize(256, interpolation=3)`` and ``CenterCrop(224)`` on PIL images.

    Args:
        size: side of the result in pixels.
        resize: short side after the resize; by default ``round(size · 256 / 224)``.

    Returns:
        float32 ``[B, 3, size, size]`` on the device of the images.
    """
    resize = round(size * 256 / 224) if resize is None else resize
    out = torch.empty(len(images.sizes), 3, size, size, device=images.pixels.device)
    for target, pixels, (height, width) in zip(out, images.pixels, images.sizes.tolist(), strict=True):
        short, long = min(height, width), max(height, width)
        long = int(resize * long / short)
        new = (resize, long) if height <= width else (long, resize)
        resized = F.interpolate(pixels[None, :, :height, :width], new, mode="bicubic", antialias=True)[0]
        pad = [max(size - side, 0) for side in new]
        if any(pad):  # torchvision pads with black
            resized = F.pad(resized, (pad[1] // 2, (pad[1] + 1) // 2, pad[0] // 2, (pad[0] + 1) // 2))
        top, left = (round((side - size) / 2) for side in resized.shape[1:])
        target.copy_(resized[:, top : top + size, left : left + size])
    device = out.device
    return out.div_(255).sub_(torch.tensor(mean, device=device).view(3, 1, 1)).div_(torch.tensor(std, device=device).view(3, 1, 1))
