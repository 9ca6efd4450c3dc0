"""Draw the training images with the features most similar to queries' features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from common.errors import UsageError
from common.names import short
from common.options import option
from reports.visual.core.base import VISUALIZATIONS, FeaturesVisualization
from reports.visual.core.style import COLOURS, FAINT, INK, file_stem, grid, headed, save_figure, show, style

if TYPE_CHECKING:
    from torch import Tensor

    from eval.core.context import EvalContext


@VISUALIZATIONS.register("neighbours")
@dataclass(kw_only=True)
class NearestNeighbours(FeaturesVisualization):
    """The training images whose features are most similar to those of queries."""

    title = "Nearest neighbours"
    place = 4
    caption = "Training images with the features most similar to those of test images."

    images: list[str] | None = None
    """image files or folders of them as queries; default: test images of different classes"""
    count: int = option(6, at_least=1)
    """how many queries to take from the data set"""
    k: int = option(8, at_least=1)
    """neighbours of each query"""

    def draw(self) -> list[Path]:
        """Write one picture."""
        import torch

        from reports.visual.core.files import files_of, picture_pixels
        from reports.visual.core.images import choose, class_names, data_title
        from reports.visual.core.network import context_of

        given = None if self.images is None else [picture_pixels(file) for file in files_of(self.images)]
        context, weights = context_of(self)
        train, test = context.train, context.test
        if self.k > len(train):
            raise UsageError(f"--k {self.k}: give 1 to {len(train)}, the number of training images")
        if given is None:
            chosen = choose(test, self.count, self.seed)
            queries = context.features("test")[chosen]
            shown = [(test.image(i), class_names(test, i)) for i in chosen]
        else:
            queries = torch.cat([_feature(context, pixels) for pixels in given])
            shown = [(pixels, "") for pixels in given]
        similarities, rows = nearest(context.features("train").float(), queries.float(), self.k)
        lines = []
        for (image, label), indices, values in zip(shown, rows.tolist(), similarities.tolist(), strict=True):
            near = [train.image(i) for i in indices], [class_names(train, i) for i in indices]
            lines.append(Neighbours(image, label, *near, values))
        which = "test images" if given is None else "images given"
        title = (
            f"Nearest neighbours in the features of {context.backbone_name}, {weights}\n"
            f"Queries: {which}; neighbours: {len(train)} training images of {data_title(train)}; {context.image_size} pixels."
        )
        stem = f"neighbours-{file_stem(context.backbone_name)}"
        return save_figure(nearest_neighbours(lines, title), self.folder(self.weights), stem)


def nearest(bank: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Search ``bank [N, D]`` for the k nearest rows by cosine to each of ``queries [Q, D]``: falling similarities and row numbers,
    both ``[Q, k]``."""
    import torch
    import torch.nn.functional as F

    from eval.features.neighbours import nearest_neighbours as search

    chunks = list(search(F.normalize(bank, dim=1), F.normalize(queries, dim=1), k))
    return torch.cat([values for values, _ in chunks]), torch.cat([rows for _, rows in chunks])


def _feature(context: EvalContext, pixels: np.ndarray) -> Tensor:
    """Compute the pooled features ``[1, D]`` of an image outside the store, as for images in it."""
    import torch

    from data.store.store import ImageBatch
    from data.views.central import eval_images

    planes = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
    batch = ImageBatch.padded(planes, torch.tensor([pixels.shape[:2]])).to(context.device)
    with torch.inference_mode():
        return context.backbone(eval_images(batch, context.image_size)).float().cpu()


@dataclass(frozen=True)
class Neighbours:
    """A query and its neighbours, nearest first: images (uint8 ``[H, W, 3]``), class names joined by commas, and cosines."""

    image: np.ndarray
    label: str
    images: Sequence[np.ndarray]
    labels: Sequence[str]
    similarities: Sequence[float]


def nearest_neighbours(queries: Sequence[Neighbours], title: str) -> Figure:
    """Draw a line for each query; neighbours with a class of the query have a blue frame and ✓, others vermilion and ✗."""
    with style():
        figure, axes = grid(len(queries), len(queries[0].images) + 1, 1.05, 1.28)
        for (first, *others), query in zip(axes, queries, strict=True):
            show(first, query.image, short(query.label, 15) or "query", INK, 1.8)
            classes = set(query.label.split(", "))
            for axis, image, label, cosine in zip(others, query.images, query.labels, query.similarities, strict=True):
                colour, mark = FAINT, ""
                if query.label and label:
                    colour, mark = (COLOURS[0], "✓ ") if classes & set(label.split(", ")) else (COLOURS[1], "✗ ")
                show(axis, image, f"{mark}{short(label, 14)}", colour, 1.8)
                axis.set_xlabel(f"{cosine:.2f}", fontsize=7, labelpad=1.5)
        return headed(
            figure,
            title,
            "Left: queries. Then the training images with the most similar features, the nearest first; below each the cosine "
            "similarity. ✓ and blue: the query's class (or one of them); ✗ and orange: another.",
        )
