"""Draw t-SNE of the test images' features, coloured by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from common.errors import UserError, unknown_name
from common.names import short
from common.options import option
from reports.visual.core.base import VISUALIZATIONS, FeaturesVisualization
from reports.visual.core.style import COLOURS, FAINT, MARKERS, bare, file_stem, grid, headed, save_figure, style

#: Default number of classes with a colour and marker of their own.
MOST_CLASSES = 16


@VISUALIZATIONS.register("embedding")
@dataclass(kw_only=True)
class Embedding(FeaturesVisualization):
    """t-SNE of the test images' features, coloured by class."""

    title = "Embedding"
    caption = "t-SNE of test images’ features, coloured by class."
    place = 5

    count: int = option(2000, at_least=3)
    """test images, at most"""
    classes: list[str] | None = None
    """names of the classes to draw; default: the largest, at most 16"""
    perplexity: float = option(30.0, above=0)
    """of t-SNE: about how many neighbours each image keeps"""

    def draw(self) -> list[Path]:
        """Write one picture."""
        from reports.visual.core.images import data_title
        from reports.visual.core.network import context_of

        context, weights = context_of(self)
        store = context.test
        rows, left_out = self._chosen(store.labels, store.titles, store.classes)
        features = context.features("test").numpy()[rows].astype(np.float32)
        points = embed(features, self.perplexity, self.seed)
        title = (
            f"t-SNE of the features of {context.backbone_name}, {weights}\n"
            f"{len(rows)} of {len(store)} test images of {data_title(store)}; {context.image_size} pixels.{left_out}"
        )
        caption = (
            f"Perplexity {self.perplexity:g}, on features of unit length. Neighbours are kept near; distances between groups and "
            "their sizes mean nothing."
        )
        figure = embedding(points, store.labels[rows], store.titles, title, caption)
        stem = f"embedding-{file_stem(context.backbone_name)}"
        return save_figure(figure, self.folder(self.weights), stem)

    def _chosen(self, labels: np.ndarray, titles: Sequence[str], classes: Sequence[str]) -> tuple[np.ndarray, str]:
        """Choose rows to draw, and describe the omitted ones."""
        if (labels < 0).all():  # no classes to colour or choose by
            rows, left_out = np.arange(len(labels)), " No image has exactly one label, so there are no colours."
        else:
            counts = np.bincount(labels[labels >= 0], minlength=len(classes))
            if unknown := [name for name in self.classes or [] if name not in {*titles, *classes}]:
                raise unknown_name("class", unknown[0], titles)
            wanted = [(titles if name in titles else classes).index(name) for name in self.classes or []]
            wanted = wanted or np.argsort(-counts, kind="stable")[:MOST_CLASSES].tolist()
            rows = np.flatnonzero(np.isin(labels, wanted))
            others = (counts > 0).sum() - (counts[wanted] > 0).sum()
            left_out = f" {others} classes are left out." if others else ""
            if unlabelled := int((labels < 0).sum()):
                left_out += f" {unlabelled} images without exactly one label are left out."
        return np.sort(np.random.default_rng(self.seed).permutation(rows)[: self.count]), left_out


def embed(features: np.ndarray, perplexity: float, seed: int) -> np.ndarray:
    """Embed rows ``[n, D]``, scaled to unit length, by t-SNE (van der Maaten & Hinton 2008) from their principal components:
    ``[n, 2]``. Raises UserError for too few rows for the perplexity."""
    from sklearn.manifold import TSNE
    from sklearn.preprocessing import normalize

    if len(features) < 3 or perplexity >= len(features):
        raise UserError(
            f"--perplexity {perplexity:g} is too much for {len(features)} images; give less, or more images"
        )
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(normalize(features))


def embedding(points: np.ndarray, labels: np.ndarray, classes: Sequence[str], title: str, caption: str) -> Figure:
    """Draw points ``[n, 2]`` with a colour and marker for each class; label -1 is grey."""
    import seaborn as sns

    present = [label for label in range(len(classes)) if (labels == label).any()]
    colours = [*COLOURS, *sns.color_palette("dark", 8)]
    with style():
        width, height = np.ptp(points, axis=0)
        figure, ((axis,),) = grid(1, 1, 6.2, float(np.clip(4.9 * height / width, 2.4, 5.2)))
        axis.scatter(*points[labels < 0].T, s=8, color=FAINT, alpha=0.5, lw=0)
        for number, label in enumerate(present):
            axis.scatter(
                *points[labels == label].T,
                s=17,
                color=[colours[number % len(colours)]],
                marker=MARKERS[(number + number // len(MARKERS)) % len(MARKERS)],
                alpha=0.8,
                lw=0,
                label=short(classes[label], 22),
            )
        axis.set_aspect("equal", adjustable="datalim")
        axis.set(xticks=[], yticks=[])
        bare(axis)
        if present:
            figure.legend(loc="outside right upper", fontsize=7.5, markerscale=1.4, handletextpad=0.3)
        return headed(figure, title, caption)
