"""Measures how well the last block's CLS attention covers objects (DINO, arXiv 2104.14294, figure 4)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError
from common.images import VOID, normalise
from common.options import option
from data.store.masks import read_ids
from data.views.dense import fitted_size, resize_image
from eval.core.base import EVALUATIONS, Evaluation, EvaluationConfig, Outlook
from eval.core.context import EvalContext
from eval.core.scoring import measure_means
from eval.dense.attention_masks import keep_mass
from eval.dense.batches import original
from eval.dense.classes import require_classes
from rundir.results import Measurement


def best_jaccard(masks: Tensor, objects: Tensor) -> float:
    """Average the best head's Jaccard over an image's objects, in [0, 1]; NaN without objects. ``masks``: bool
    ``[heads, H, W]``; ``objects``: int ``[H, W]``, 0 background, 255 void, which counts nowhere."""
    masks = (masks & (objects != VOID)).flatten(1).float()
    ids = [number for number in objects.unique().tolist() if number not in (0, VOID)]
    if not ids:
        return float("nan")
    truth = torch.stack([(objects == number).flatten() for number in ids]).float()
    overlap = truth @ masks.T  # [objects, heads]
    union = truth.sum(1, keepdim=True) + masks.sum(1) - overlap
    return float((overlap / union).amax(dim=1).mean())


@dataclass(kw_only=True)
class AttentionJaccardConfig(EvaluationConfig):
    """Options of the attention's Jaccard (defaults: the authors')."""

    mass: float = option(0.6, above=0, at_most=1)
    """part of each head's attention that its mask keeps"""
    size: int | None = None
    """longer side in pixels to which images are resized (published: 480); default: the image size"""


@EVALUATIONS.register("attention_jaccard")
class AttentionJaccard(Evaluation):
    """Jaccard similarity in percent between masks from the last block's CLS attention and the objects of the test images.

    A head's mask is the fewest patches that hold ``mass`` of its attention, enlarged to the image's resolution without
    interpolation. The best head counts for each object; the mean is over an image's objects, then over images. Objects are
    instances if every test image has a mask of them (``SegmentationObject``), else all of an image's pixels of a class, which is
    another quantity: it stands in a column of its own, and beside the published numbers with a remark.
    Published for ViT-S/16 on VOC 2012 (random weights / supervised / DINO): 22.0 / 27.3 / 45.9, without public code.

    Raises UserError for a backbone without CLS attention, and for data without masks.
    """

    title = "Attention"
    citation = "Caron et al. 2021, arXiv 2104.14294"
    metrics = {"jaccard": "Jaccard"}
    headline = ("jaccard",)
    apart = {"objects": "instances"}
    Config = AttentionJaccardConfig
    config: AttentionJaccardConfig

    def check(self, outlook: Outlook) -> None:
        _require_masks(outlook.test.data, outlook.test.masks is not None)
        if _instance_files(outlook.test.root, outlook.test.names) is None:
            require_classes(outlook.test, background=False)
        if not outlook.backbone.has_tokens:
            raise UserError(f"{outlook.backbone_name} has no CLS attention; choose a ViT, such as vit_s16")

    def run(self, context: EvalContext) -> list[Measurement]:
        store = context.test
        _require_masks(store.name, store.has_masks)
        instances = _instance_files(store.root, store.names)
        if instances is None:
            require_classes(store, background=False)
        size, patch = self.config.size or context.image_size, context.backbone.stride
        scores = np.full(len(store), np.nan)

        def prepare(image: Tensor) -> Tensor:
            height, width = (max(1, round(side / patch)) for side in fitted_size(image.shape[-2:], size))
            return normalise(resize_image(image, (height * patch, width * patch)))[None].to(context.device)

        def attention(inputs: Tensor) -> Tensor:
            height, width = (side // patch for side in inputs.shape[-2:])
            return context.backbone.cls_attention(inputs)[0, :, 1:].float().unflatten(1, (height, width))

        images = [[image] for image in range(len(store))]
        attentions = context.over(
            f"attention on {store.name}", images, lambda part: original(store, part[0]), prepare, attention
        )
        for image, attention_Hhw in enumerate(attentions):
            mask = store.mask(image)
            objects = mask
            if instances is not None:
                turn = int(store.turns[image])
                objects = read_ids(instances[image], mask.shape, image_turn=turn, upright=store.upright)
            kept = keep_mass(attention_Hhw, self.config.mass)
            masks = F.interpolate(kept[None].float(), mask.shape, mode="nearest-exact")[0] > 0
            scores[image] = best_jaccard(masks.cpu(), torch.from_numpy(objects))
        rows = np.flatnonzero(~np.isnan(scores))
        if len(rows) == 0:
            raise UserError(
                f"{store.name}: no mask of the {len(store):,} test images in SegmentationObject has an object; number the objects "
                f"of an image 1, 2, …, the background 0 ({VOID} is void, which counts nowhere)"
            )
        names = [store.names[row] for row in rows]
        protocol = {
            "mass": self.config.mass,
            "objects": "all pixels of a class in an image" if instances is None else "instances",
            "head": "the best for each object",
            "mean": "over objects, then images",
            "test_view": f"longer side {size}, sides rounded to multiples of the patch",
            "resolution": "original",
            "void": "counts nowhere",
            "precision": context.precision,
        }
        return measure_means(context, "attention_jaccard", names, {"jaccard": scores[rows]}, protocol)


def _require_masks(data: str, has_masks: bool) -> None:
    if not has_masks:
        raise UserError(f"{data} has no masks of objects; voc2012 and demo have")


def _instance_files(root: Path, names: list[str]) -> list[Path] | None:
    """VOC's masks of instances, if every image has one."""
    files = [root / "SegmentationObject" / f"{Path(name).stem}.png" for name in names]
    return files if all(file.is_file() for file in files) else None
