"""``run.py visualize neighbours``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import UsageError
from data.store.store import ImageBatch, ImageStore
from data.views.central import eval_images
from eval.core.context import EvalContext
from eval.features.neighbours import nearest_neighbours as search
from reports.visual import features as drawing
from reports.visual.images import choose, data_title, files_of, read_image
from reports.visual.network import context_of, folder_of
from reports.visual.options import NeighboursOptions
from reports.visual.style import file_stem, save_figure


def nearest(bank: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k rows of ``bank [N, D]`` of greatest cosine similarity to each of ``queries [Q, D]``: similarities, falling, and rows,
    both ``[Q, k]``."""
    chunks = list(search(F.normalize(bank, dim=1), F.normalize(queries, dim=1), k))
    return torch.cat([values for values, _ in chunks]), torch.cat([rows for _, rows in chunks])


def class_names(store: ImageStore, index: int) -> str:
    """The classes of an image, with commas; "" without any."""
    if store.label_sets is not None:
        return ", ".join(name for name, has in zip(store.classes, store.label_sets[index], strict=True) if has)
    return store.classes[store.labels[index]] if store.labels[index] >= 0 else ""


def draw(options: NeighboursOptions) -> list[Path]:
    """One picture, a line for each query."""
    given = None if options.images is None else [read_image(file) for file in files_of(options.images)]
    context, weights = context_of(options)
    if not 1 <= options.k <= len(context.train):
        raise UsageError(f"--k {options.k}: give 1 to {len(context.train)}, the number of training images")
    if given is None:
        chosen = choose(context.test, options.count, options.seed)
        queries = context.features("test")[torch.tensor(chosen)]
        shown = [(context.test.image(i), class_names(context.test, i)) for i in chosen]
        which = "test images"
    else:
        queries = torch.cat([_feature(context, picture.pixels) for picture in given])
        shown = [(picture.pixels, "") for picture in given]
        which = "images given"
    similarities, rows = nearest(context.features("train").float(), queries.float(), options.k)
    found = [
        drawing.Neighbours(
            image,
            label,
            [context.train.image(i) for i in places],
            [class_names(context.train, i) for i in places],
            values,
        )
        for (image, label), places, values in zip(shown, rows.tolist(), similarities.tolist(), strict=True)
    ]
    title = (
        f"Nearest neighbours in the features of {context.backbone_name}, {weights}\n"
        f"Queries: {which}; neighbours: {len(context.train)} training images of {data_title(context.train)}; "
        f"{context.image_size} pixels."
    )
    stem = f"neighbours-{file_stem(context.backbone_name)}"
    return save_figure(drawing.nearest_neighbours(found, title), folder_of(options.out, options.weights), stem)


@torch.inference_mode()
def _feature(context: EvalContext, pixels: np.ndarray) -> Tensor:
    """Pooled features ``[1, D]`` of an image that is in no store, made in the same way."""
    planes = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
    batch = ImageBatch(planes, torch.tensor([pixels.shape[:2]])).to(context.device)
    return context.backbone(eval_images(batch, context.image_size)).float().cpu()
