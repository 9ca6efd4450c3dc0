"""The plan of a batch of crops: boxes, flips, colours and blurs from random numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.views import colour
from data.views.spec import View

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
