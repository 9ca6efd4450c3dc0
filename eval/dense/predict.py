"""Segments images at their original resolution: whole or by sliding windows, at several scales, flipped or not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from common.ahead import ahead
from common.images import normalise
from data.store.store import ImageStore
from data.views.dense import fit_image, pad_image, resize_image
from eval.dense.batches import original
from eval.features.extract import FrozenBackbone
from heads.segmentation.core.base import SegmentationHead
from training.machine.devices import autocast

#: Pixels of network input in a batch.
PIXELS = 2**20

#: By name: a head, on the network's device and in evaluation mode, and its blocks.
Heads = Mapping[Any, tuple[SegmentationHead, Sequence[int]]]


@dataclass(frozen=True, kw_only=True)
class View:
    """How the network sees test images.

    Attributes:
        size: side of the network's square input in pixels.
        mode: ``whole``: resize the longer side to ``size`` and pad to a square, as in training. ``slide``: resize the shorter
            side to ``size``, cover the image with windows of that side, and average logits where they overlap.
        scales: factors on the image's size (windows keep theirs); probabilities are averaged.
        flip: also average over the mirrored image.
        multiple: the side of a whole image's square is rounded up to it (a ViT's patch size).
    """

    size: int
    mode: Literal["whole", "slide"] = "whole"
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    multiple: int = 1

    @property
    def stride(self) -> int:
        """Distance between sliding windows in pixels."""
        return max(1, round(self.size * 2 / 3))

    @property
    def words(self) -> str:
        """The view in words, for protocols."""
        if self.mode == "whole":
            return f"whole image, longer side {self.size}, padded to a square with the mean colour"
        return f"windows of {self.size} on the image with shorter side {self.size}, {self.stride} apart"


@torch.inference_mode()
def predict(
    network: FrozenBackbone, heads: Heads, store: ImageStore, view: View
) -> Iterator[tuple[int, dict[Any, Tensor]]]:
    """Segment a store's images by several heads on one pass of the backbone. Yields each image's index, and by head its classes,
    uint8 ``[H, W]`` on the CPU."""
    # A batch's memory grows with the number of looks at each image.
    looks = sum(scale**2 for scale in view.scales) * (1 + view.flip)
    count = max(1, int(PIXELS / (view.size**2 * max(1, looks)))) if view.mode == "whole" else 1
    parts = [range(start, min(start + count, len(store))) for start in range(0, len(store), count)]
    batches = ahead(lambda part: [original(store, image) for image in part], parts)
    for part, images in zip(parts, batches, strict=True):
        for image, by_head in zip(part, predict_images(network, heads, images, view), strict=True):
            yield image, {head: p_CHW.argmax(0).to(torch.uint8).cpu() for head, p_CHW in by_head.items()}


@torch.inference_mode()
def predict_images(
    network: FrozenBackbone, heads: Heads, images: Sequence[Tensor], view: View
) -> Iterator[dict[Any, Tensor]]:
    """Yield each image's (uint8 ``[3, H, W]``) mean class probabilities over scales and flips by head, ``[C, H, W]``. Logits of
    other images stay at the network's resolution, where they are small."""
    look = _whole if view.mode == "whole" else _slide
    looks = []
    for scale in view.scales:
        for flip in (False, True) if view.flip else (False,):
            seen = [image.flip(-1) for image in images] if flip else images
            looks.append((flip, list(look(network, heads, seen, view, scale))))
    for place, image in enumerate(images):
        totals: dict[Any, Tensor] = {}
        for flip, by_image in looks:
            for head, logits_Chw in by_image[place].items():
                # Resized before the softmax, since interpolated probabilities would blur sure predictions.
                logits_CHW = F.interpolate(logits_Chw[None], image.shape[-2:], mode="bilinear", align_corners=False)[0]
                p_CHW = logits_CHW.softmax(0)
                p_CHW = p_CHW.flip(-1) if flip else p_CHW
                totals[head] = totals[head] + p_CHW if head in totals else p_CHW
        yield {head: total / len(looks) for head, total in totals.items()}


def _logits(network: FrozenBackbone, heads: Heads, inputs_B3SS: Tensor) -> dict[Any, Tensor]:
    """Each head's logits for normalised inputs, float32 ``[B, C, S, S]``."""
    blocks = sorted({block for _, of_head in heads.values() for block in of_head})
    size = tuple(inputs_B3SS.shape[-2:])
    with autocast(network.device, network.precision):
        maps = dict(zip(blocks, network.backbone.maps(inputs_B3SS.to(network.device), blocks), strict=True))
        return {name: head([maps[b] for b in of_head], size).float() for name, (head, of_head) in heads.items()}


def _whole(
    network: FrozenBackbone, heads: Heads, images: Sequence[Tensor], view: View, scale: float
) -> Iterator[dict[Any, Tensor]]:
    """Yield each fitted image's logits by head, ``[C, h, w]``."""
    side = math.ceil(view.size * scale / view.multiple - 1e-9) * view.multiple
    fitted, sizes = zip(*(fit_image(image, side) for image in images), strict=True)
    logits = _logits(network, heads, torch.stack(fitted))
    for place, (height, width) in enumerate(sizes):
        yield {head: logits_BCSS[place, :, :height, :width] for head, logits_BCSS in logits.items()}


def _slide(
    network: FrozenBackbone, heads: Heads, images: Sequence[Tensor], view: View, scale: float
) -> Iterator[dict[Any, Tensor]]:
    """Yield each resized image's logits by head, ``[C, h, w]``, averaged over windows."""
    side = view.size
    batch = max(1, PIXELS // side**2)
    for image in images:
        factor = side * scale / min(image.shape[-2:])
        height, width = (max(1, round(length * factor)) for length in image.shape[-2:])
        pixels_3hw = normalise(resize_image(image, (height, width)))
        places = [(top, left) for top in _starts(height, view) for left in _starts(width, view)]
        windows = [pad_image(pixels_3hw[:, t : t + side, l : l + side], side) for t, l in places]
        sums: dict[Any, Tensor] = {}
        counts_hw = torch.zeros(height, width, device=network.device)
        for start in range(0, len(windows), batch):
            logits = _logits(network, heads, torch.stack(windows[start : start + batch]))
            for place, (top, left) in enumerate(places[start : start + batch]):
                area = (slice(top, min(top + side, height)), slice(left, min(left + side, width)))
                inside = (slice(0, area[0].stop - top), slice(0, area[1].stop - left))
                counts_hw[area] += 1
                for head, logits_BCSS in logits.items():
                    if head not in sums:
                        sums[head] = torch.zeros(logits_BCSS.shape[1], height, width, device=network.device)
                    sums[head][(slice(None), *area)] += logits_BCSS[(place, slice(None), *inside)]
        yield {head: sum_Chw / counts_hw for head, sum_Chw in sums.items()}


def _starts(length: int, view: View) -> list[int]:
    """Starts of windows that cover ``length``; the last one ends at the border."""
    if length <= view.size:
        return [0]
    return sorted({*range(0, length - view.size, view.stride), length - view.size})
