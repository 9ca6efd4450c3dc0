"""Retrieval of buildings on revisited Oxford and Paris (Radenović et al. 2018, arXiv 1803.11285; DINO, arXiv 2104.14294, table 3;
reference: dino/eval_image_retrieval.py)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from backbones.base import Backbone
from common.errors import UserError
from common.options import option
from common.statistics.retrieval_map import retrieval_map
from data.sets.core.revisited import Revisited
from eval.core.base import EVALUATIONS, Evaluation, EvaluationConfig
from eval.core.context import EvalContext
from eval.core.files import file_features
from eval.core.scoring import measure_means
from rundir.results import Measurement

#: Grades of positives, and grades that count neither way.
SETTINGS = {"medium": (("easy", "hard"), ("junk",)), "hard": (("hard",), ("junk", "easy"))}
CUTOFFS = (1, 5, 10)
#: Factors on an image's sides (reference: utils.py, ``multi_scale``).
SCALES = (1.0, 2**-0.5, 0.5)


@dataclass(kw_only=True)
class RevisitedConfig(EvaluationConfig):
    """Options of retrieval on revisited Oxford and Paris (defaults: the authors', but for the query's box)."""

    size: int = option(224, at_least=1, unit="pixels")
    """longer side of an image in pixels, at most (published: 224 for Oxford, 512 with multi_scale for Paris)"""
    multi_scale: bool = False
    """mean of the features at 1, 1/√2 and 1/2 of the size"""
    whole_queries: bool = False
    """use queries as whole images, as the authors do; without it they are cut to their box, as the benchmark asks"""


@EVALUATIONS.register("revisited")
class RevisitedRetrieval(Evaluation):
    """Mean average precision, and mean precision at 1, 5 and 10, in percent, for the medium and the hard ground truth.

    Pooled features are compared by cosine. A query cut to its box shrinks by its whole image's factor (reference:
    cnnimageretrieval-pytorch, ``ImagesFromList``). A setting leaves out queries without positives.

    Raises UserError for an unreadable image, a box outside its image, or a side shorter than a patch.
    """

    title = "Revisited Oxford/Paris"
    citation = "Radenović et al. 2018, arXiv 1803.11285"
    metrics = {"map_medium": "mAP medium", "map_hard": "mAP hard"}
    headline = ("map_medium", "map_hard")
    grouped_by = "landmarks"
    Config = RevisitedConfig
    config: RevisitedConfig
    benchmarks = ("roxford5k", "rparis6k")

    def run(self, context: EvalContext) -> list[Measurement]:
        data: Revisited = context.test
        config = self.config
        scales = SCALES if config.multi_scale else (1.0,)
        encode = partial(multi_scale_features, context.backbone, scales)

        def whole(image: Image.Image, place: int) -> Image.Image:
            return shrink(image, config.size)

        def cut(image: Image.Image, place: int) -> Image.Image:
            box = clipped(data.boxes[place], image.size)
            if box[0] >= box[2] or box[1] >= box[3]:
                raise UserError(
                    f"{data.queries[place]}: the box {data.boxes[place].tolist()} of the query lies outside of it"
                )
            factor = min(1.0, config.size / max(image.size))
            part = image.crop(box)
            return shrink(part, max(part.size) * factor)

        about = {"size": config.size, "scales": list(scales)}
        gallery = file_features(context, f"{data.name}-images", data.images, whole, encode, about)
        prepare = whole if config.whole_queries else cut
        about["boxes"] = None if config.whole_queries else data.boxes.tolist()
        queries = file_features(context, f"{data.name}-queries", data.queries, prepare, encode, about)
        similar = F.normalize(gallery, dim=1) @ F.normalize(queries, dim=1).T
        ranks = similar.argsort(dim=0, descending=True, stable=True).numpy()
        return [m for setting in SETTINGS for m in self._measure(context, setting, ranks, scales)]

    def _measure(
        self, context: EvalContext, setting: str, ranks: np.ndarray, scales: tuple[float, ...]
    ) -> list[Measurement]:
        data: Revisited = context.test
        ok, junk = (
            [np.concatenate(lists) for lists in zip(*(data.places[grade] for grade in grades), strict=True)]
            for grades in SETTINGS[setting]
        )
        aps, precisions = retrieval_map(ranks, ok, junk, CUTOFFS)
        rows = np.flatnonzero(~np.isnan(aps))
        outcomes = {f"map_{setting}": aps[rows]}
        for column, cutoff in enumerate(CUTOFFS):
            outcomes[f"precision_at_{cutoff}_{setting}"] = precisions[rows, column]
        names = [data.queries[row].name for row in rows]
        protocol = {
            "setting": setting,
            "features": "pooled, L2-normalised, cosine",
            "size": f"longer side at most {self.config.size} (Lanczos)",
            "scales": [round(scale, 4) for scale in scales],
            "queries": "whole images" if self.config.whole_queries else "cut to their box",
            "left_out": len(data.queries) - len(rows),
            "precision": context.precision,
        }
        groups = data.landmarks[rows]
        return measure_means(
            context, "revisited", names, outcomes, protocol, setting, "landmarks, queries counted", groups
        )


def clipped(box: np.ndarray, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Round a box (left, top, right, bottom) to pixels within an image of ``size`` (width, height)."""
    left, top, right, bottom = (round(float(value)) for value in box)
    return max(0, left), max(0, top), min(size[0], right), min(size[1], bottom)


def shrink(image: Image.Image, longer: float) -> Image.Image:
    """Copy an image, with its longer side at most ``longer`` pixels and its aspect ratio kept."""
    image = image.copy()
    side = max(1, round(longer))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def multi_scale_features(backbone: Backbone, scales: tuple[float, ...], images: Tensor) -> Tensor:
    """Average pooled features ``[B, D]`` of normalised images over scales (bilinear, no antialiasing), without the pixels at the
    right and bottom that fill no patch."""
    total = 0
    for scale in scales:
        scaled = images if scale == 1 else F.interpolate(images, scale_factor=scale, mode="bilinear")
        if backbone.has_tokens:
            height, width = (side // backbone.stride * backbone.stride for side in scaled.shape[-2:])
            if not (height and width):
                raise UserError(
                    f"an image of {scaled.shape[-2]}×{scaled.shape[-1]} pixels is smaller than a patch of {backbone.stride}; "
                    "give a larger --revisited_size"
                )
            scaled = scaled[..., :height, :width]
        total = total + backbone(scaled).float()
    return total / len(scales)
