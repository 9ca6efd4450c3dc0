"""Copy detection: mean average precision on the strong subset of Copydays (DINO, arXiv 2104.14294, table 4; reference:
dino/eval_copy_detection.py)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from common.errors import UserError
from common.options import option
from common.progress import warn
from common.statistics.retrieval_map import trapezoid_precision
from data.sets.copydays import Copydays, image_files
from data.sets.core.benchmark import fingerprint_of
from eval.core.base import EVALUATIONS, Evaluation, EvaluationConfig
from eval.core.context import EvalContext
from eval.core.files import file_features
from eval.core.scoring import measure_means
from rundir.results import Measurement

#: Exponent and least input of generalised mean pooling.
GEM_POWER, GEM_LEAST = 4, 1e-6
#: Eigenvalues below this part of the largest are raised to it (reference: utils.py, ``PCA.train_pca``).
LEAST_EIGENVALUE = 1e-5
#: How many images of a ranking count (reference: ``similarity.topk(20)``).
RANKS = 20


@dataclass(kw_only=True)
class CopydaysConfig(EvaluationConfig):
    """Options of copy detection (defaults: the authors')."""

    size: int = option(320, at_least=1, unit="pixels")
    """side in pixels of the square that images are resized to, whatever their shape (published: 224 for B/16, 320 for B/8)"""
    whitening: str | None = None
    """folder of images to learn the whitening from (published: 20,000 of YFCC100M); default: no whitening"""
    distractors: str | None = None
    """folder of further images to search through (published: 10,000 others of YFCC100M); default: none"""


@EVALUATIONS.register("copydays")
class CopyDetection(Evaluation):
    """Mean average precision in percent of strong copies that search for their original among originals and distractors.

    An image's descriptor is its CLS token and the generalised mean (exponent 4) of its patch tokens, whitened, and compared by
    cosine. A warning names a missing whitening or missing distractors, which the published protocol has.

    Raises UserError for a backbone without tokens, an unreadable image, and a folder without images.
    """

    title = "Copydays"
    citation = "Douze et al. 2009"
    metrics = {"map_strong": "mAP strong"}
    headline = ("map_strong",)
    grouped_by = "original photos"
    Config = CopydaysConfig
    config: CopydaysConfig
    benchmarks = ("copydays",)

    def files(self) -> list[Path]:
        return [*self._folder(self.config.whitening), *self._folder(self.config.distractors)]

    def run(self, context: EvalContext) -> list[Measurement]:
        data: Copydays = context.test
        if not context.backbone.has_tokens:
            raise UserError(
                f"{context.backbone_name} has no CLS and patch tokens for copydays; choose a ViT, such as vit_s16"
            )
        learnt_from, distractors = self._folder(self.config.whitening), self._folder(self.config.distractors)
        for name, files in (("whitening", learnt_from), ("distractors", distractors)):
            if not files:
                warn(f"copydays: no --copydays_{name}, so this is not the published protocol")
        database = self._descriptors(context, "originals", data.originals)
        queries = self._descriptors(context, "copies", data.copies)
        if distractors:
            database = torch.cat([database, self._descriptors(context, "distractors", distractors)])
        if learnt_from:
            whitening = Whitening(self._descriptors(context, "whitening", learnt_from))
            database, queries = whitening(database), whitening(queries)
        similar = F.normalize(queries, dim=1) @ F.normalize(database, dim=1).T
        ranked = similar.topk(min(RANKS, len(database))).indices.numpy()
        values = [
            trapezoid_precision(np.flatnonzero(np.isin(row, relevant)), len(relevant))
            for row, relevant in zip(ranked, data.relevant, strict=True)
        ]
        names = [copy.name for copy in data.copies]
        protocol = {
            "features": f"CLS and generalised mean (power {GEM_POWER}) of patch tokens, L2-normalised, cosine",
            "size": f"resized to {self.config.size} × {self.config.size} (bicubic)",
            "whitening": _about(learnt_from),
            "distractors": _about(distractors),
            "ranks": RANKS,
            "precision": context.precision,
        }
        return measure_means(
            context,
            "copydays",
            names,
            {"map_strong": np.array(values)},
            protocol,
            samples="originals, copies counted",
            groups=[places[0] for places in data.relevant],
        )

    def _folder(self, folder: str | None) -> tuple[Path, ...]:
        return () if folder is None else image_files(Path(folder).expanduser())

    def _descriptors(self, context: EvalContext, part: str, files: tuple[Path, ...]) -> Tensor:
        size = self.config.size

        return file_features(
            context,
            f"copydays-{part}",
            files,
            lambda image, place: image.resize((size, size), Image.Resampling.BICUBIC),
            lambda images: descriptors(context.backbone.tokens(images)[0].float()),
            {"size": size},
            batch_size=max(1, min(64, 2**21 // size**2)),
        )


def descriptors(tokens_BND: Tensor) -> Tensor:
    """CLS and generalised mean of the patch tokens: normed ``[B, 1 + N, D]`` to ``[B, 2 D]``."""
    patches = tokens_BND[:, 1:].clamp(min=GEM_LEAST)
    pooled = patches.pow(GEM_POWER).mean(dim=1).pow(1 / GEM_POWER)
    return torch.cat([tokens_BND[:, 0], pooled], dim=1)


class Whitening:
    """A linear map that makes the features ``[n, D]`` it learns from uncorrelated, with second moments of 1. As in the reference,
    it decomposes the second moment around 0, but subtracts the mean before whitening."""

    def __init__(self, features: Tensor):
        features = features.double()
        self.mean = features.mean(dim=0)
        moment = features.T @ features / len(features)
        values, vectors = torch.linalg.eigh(moment)
        values = values.clamp(min=LEAST_EIGENVALUE * values.max())
        self.matrix = vectors * values.rsqrt()

    def __call__(self, features: Tensor) -> Tensor:
        """``[m, D]`` to ``[m, D]``, float64."""
        return (features.double() - self.mean) @ self.matrix


def _about(files: tuple[Path, ...]) -> str:
    return f"{len(files)} images {fingerprint_of(files, files[0].parent)}" if files else "none"
