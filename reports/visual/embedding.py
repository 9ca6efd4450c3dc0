"""``run.py visualize embedding``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.manifold import TSNE
from sklearn.preprocessing import normalize

from common.errors import UsageError, UserError, unknown_name
from reports.visual.features import MOST_CLASSES
from reports.visual.features import embedding as drawing
from reports.visual.images import data_title
from reports.visual.network import context_of, folder_of
from reports.visual.options import EmbeddingOptions
from reports.visual.style import file_stem, save_figure


def embed(features: np.ndarray, perplexity: float, seed: int) -> np.ndarray:
    """t-SNE (van der Maaten & Hinton 2008; scikit-learn's) of rows ``[n, D]`` scaled to unit length, started from their principal
    components: ``[n, 2]``.

    Raises:
        UserError: fewer rows than the perplexity takes.
    """
    if perplexity <= 0:
        raise UsageError(f"--perplexity {perplexity:g}: give a number above 0")
    if len(features) < 3 or perplexity >= len(features):
        raise UserError(
            f"--perplexity {perplexity:g} is too much for {len(features)} images; give less, or more images"
        )
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(normalize(features))


def draw(options: EmbeddingOptions) -> list[Path]:
    """One picture."""
    context, weights = context_of(options)
    store = context.test
    rows, left_out = _chosen(store.labels, store.classes, options)
    features = context.features("test").numpy()[rows].astype(np.float32)
    places = embed(features, options.perplexity, options.seed)
    title = (
        f"t-SNE of the features of {context.backbone_name}, {weights}\n"
        f"{len(rows)} of {len(store)} test images of {data_title(store)}; {context.image_size} pixels.{left_out}"
    )
    caption = (
        f"Perplexity {options.perplexity:g}, on features of unit length. Neighbours are kept near; distances between groups and "
        "their sizes mean nothing."
    )
    stem = f"embedding-{file_stem(context.backbone_name)}"
    return save_figure(
        drawing(places, store.labels[rows], store.classes, title, caption),
        folder_of(options.out, options.weights),
        stem,
        vector=True,
    )


def _chosen(labels: np.ndarray, classes: tuple[str, ...], options: EmbeddingOptions) -> tuple[np.ndarray, str]:
    """Rows to draw, and what that leaves out, in words."""
    if options.count < 3:
        raise UsageError(f"--count {options.count}: give at least 3")
    if (labels < 0).all():  # nothing to colour by, and nothing to choose by
        kept, said = np.arange(len(labels)), " No image has exactly one label, so there are no colours."
    else:
        counts = np.bincount(labels[labels >= 0], minlength=len(classes))
        if options.classes:
            for name in options.classes:
                if name not in classes:
                    raise unknown_name("class", name, classes)
            wanted = [classes.index(name) for name in options.classes]
        else:
            wanted = np.argsort(-counts, kind="stable")[:MOST_CLASSES].tolist()
        kept = np.flatnonzero(np.isin(labels, wanted))
        others = (counts > 0).sum() - (counts[wanted] > 0).sum()
        said = f" {others} classes are left out." if others else ""
        if unlabelled := int((labels < 0).sum()):
            said += f" {unlabelled} images without exactly one label are left out."
    chosen = np.sort(np.random.default_rng(options.seed).permutation(kept)[: options.count])
    return chosen, said
