"""Random numbers become the plan of a batch of crops: boxes, flips, colours and blurs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from data.views.spec import View

#: torchvision's RandomResizedCrop tries this many boxes before it takes the centre.
ATTEMPTS = 10

# Places of a crop's random numbers: two for each attempted box, four that order the jitter, four for its factors.
AREA, RATIO = slice(0, ATTEMPTS), slice(ATTEMPTS, 2 * ATTEMPTS)
TOP, LEFT, FLIP, JITTER, GREY, BLUR, SIGMA, SOLARIZE = range(2 * ATTEMPTS, 2 * ATTEMPTS + 8)
ORDER, FACTORS = slice(2 * ATTEMPTS + 8, 2 * ATTEMPTS + 12), slice(2 * ATTEMPTS + 12, 2 * ATTEMPTS + 16)
RANDOMS = 2 * ATTEMPTS + 16

# The operations of a jitter, numbered as in torchvision's ColorJitter.
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)

#: float32 ``[V, B, RANDOMS]``, uniform in [0, 1): the random numbers of each view of each anchor.
ViewParams = Tensor


@dataclass(kw_only=True)
class Crops:
    """The plan of n crops of one size."""

    rows: np.ndarray  # [n]: of the images
    boxes: np.ndarray  # [n, 4]: top, left, height and width in pixels
    flips: np.ndarray  # bool [n]
    order: np.ndarray  # [n, 4]: jitter operations, -1: none
    factors: np.ndarray  # [n, 4]: of BRIGHTNESS, CONTRAST, SATURATION, HUE
    grey: np.ndarray  # bool [n]
    sigmas: np.ndarray  # [n], 0: no blur
    solarize: np.ndarray  # [n]: threshold, inf: none

    def part(self, chosen: np.ndarray | slice) -> Crops:
        return Crops(**{name: values[chosen] for name, values in vars(self).items()})


def join(parts: Sequence[Crops]) -> Crops:
    """Concatenate the crops of several views."""
    return Crops(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Crops)})


def plan_crops(view: View, rows: Tensor, sizes: Tensor, randoms: Tensor) -> Crops:
    """Plan the crops of one view from images ``rows [n]``, their heights and widths ``[n, 2]``, and ``randoms [n, RANDOMS]``."""
    shared, u = view.augmentation, randoms.double().numpy()
    strengths = np.array([shared.brightness, shared.contrast, shared.saturation, shared.hue])
    centre = np.array([1, 1, 1, 0])
    low = np.maximum(centre - strengths, [0, 0, 0, -0.5])
    factors = low + (centre + strengths - low) * u[:, FACTORS]
    order = np.argsort(u[:, ORDER], axis=1)
    order[u[:, JITTER] >= shared.jitter_p] = -1
    order[(order == HUE) & (shared.hue == 0)] = -1
    low, high = shared.blur_sigma
    return Crops(
        rows=rows.numpy(),
        boxes=crop_boxes(sizes, view, randoms).numpy(),
        flips=u[:, FLIP] < shared.flip,
        order=order,
        factors=factors,
        grey=u[:, GREY] < shared.grayscale_p,
        sigmas=np.where(u[:, BLUR] < view.blur_p, low + (high - low) * u[:, SIGMA], 0),
        solarize=np.where(u[:, SOLARIZE] < view.solarize_p, shared.solarize_threshold, np.inf),
    )


def crop_boxes(sizes: Tensor, view: View, randoms: Tensor) -> Tensor:
    """Boxes as of torchvision's ``RandomResizedCrop.get_params``: the first of ten boxes of random area and ratio that fits, at a
    random place; if none fits, the largest central box with an allowed ratio.

    Args:
        sizes: int64 ``[n, 2]``, height and width.
        randoms: ``[n, RANDOMS]``.

    Returns int64 ``[n, 4]``: top, left, height and width in pixels.
    """
    H, W = sizes.double().unbind(1)
    randoms = randoms.double()
    (least, most), ratios = view.scale, view.augmentation.ratio
    area = (H * W)[:, None] * (least + (most - least) * randoms[:, AREA])
    log_ratio = math.log(ratios[0]), math.log(ratios[1])
    ratio = torch.exp(log_ratio[0] + (log_ratio[1] - log_ratio[0]) * randoms[:, RATIO])
    width, height = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (width > 0) & (width <= W[:, None]) & (height > 0) & (height <= H[:, None])
    # argmax may return any of equal values, so the first is made the largest.
    first = (fits * torch.arange(ATTEMPTS, 0, -1)).argmax(dim=1, keepdim=True)
    any_fits = fits.any(dim=1)
    own_ratio = W / H
    central_h = torch.where(own_ratio < ratios[0], (W / ratios[0]).round(), H)
    central_w = torch.where(own_ratio > ratios[1], (H * ratios[1]).round(), W)
    h = torch.where(any_fits, height.gather(1, first)[:, 0], central_h).clamp(min=1)
    w = torch.where(any_fits, width.gather(1, first)[:, 0], central_w).clamp(min=1)
    top = torch.where(any_fits, (randoms[:, TOP] * (H - h + 1)).floor(), ((H - h) / 2).floor())
    left = torch.where(any_fits, (randoms[:, LEFT] * (W - w + 1)).floor(), ((W - w) / 2).floor())
    return torch.stack([top, left, h, w], dim=1).long()
