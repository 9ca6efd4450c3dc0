"""What features say: principal components of patch tokens as colours, nearest neighbours, t-SNE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from reports.visual.style import COLOURS, FAINT, INK, MARKERS, grid, headed, short, show, style

#: Classes of an embedding that get a colour and marker of their own.
MOST_CLASSES = 16
RIGHT, WRONG = COLOURS[0], COLOURS[1]


def as_colours(scores: Sequence[np.ndarray], percent: float = 1.0) -> list[np.ndarray]:
    """Scores on three components as red, green and blue: each component stretched over all images together, from its ``percent``
    percentile to that from above.

    Args:
        scores: ``[h, w, 3]`` for each image.

    Returns:
        float ``[h, w, 3]`` in [0, 1] for each image.
    """
    together = np.concatenate([s.reshape(-1, 3) for s in scores])
    low, high = np.percentile(together, [percent, 100 - percent], axis=0)
    return [np.clip((s - low) / np.maximum(high - low, 1e-12), 0, 1) for s in scores]


def principal_components(
    images: Sequence[np.ndarray],
    names: Sequence[str],
    scores: Sequence[np.ndarray],
    explained: Sequence[float],
    title: str,
) -> Figure:
    """For each image: itself, its cells' first three components as red, green and blue, and each component by itself.

    Args:
        images: uint8 ``[H, W, 3]`` each.
        names: of the images.
        scores: ``[h, w, 3]`` each.
        explained: part of the variance that each component explains.
        title: what, of which weights and images.
    """
    colours = as_colours(scores)
    limit = np.percentile(np.abs(np.concatenate([s.reshape(-1, 3) for s in scores])), 99, axis=0)
    ratio = float(np.mean([len(image) / image.shape[1] for image in images]))
    with style():
        figure, axes = grid(len(images), 5, 1.45, 1.45 * float(np.clip(ratio, 0.3, 3)) + 0.08)
        for line, (image, name, score, colour) in enumerate(zip(images, names, scores, colours, strict=True)):
            height, width = image.shape[:2]
            extent = (-0.5, width - 0.5, height - 0.5, -0.5)
            heads = [
                "image",
                "components as RGB",
                *(f"component {c + 1} ({100 * explained[c]:.0f}%)" for c in range(3)),
            ]
            heads = heads if line == 0 else [""] * 5
            show(axes[line, 0], image, heads[0])
            axes[line, 0].set_ylabel(short(name, 20), fontsize=7)
            show(axes[line, 1], colour, heads[1], extent=extent)
            for c in range(3):
                show(
                    axes[line, 2 + c],
                    score[..., c],
                    heads[2 + c],
                    extent=extent,
                    cmap="vlag",
                    vmin=-limit[c],
                    vmax=limit[c],
                )
        return headed(
            figure,
            title,
            "Principal components of the last map's cells, of all images together: equal colours are similar features. RGB: "
            "components 1, 2 and 3 as red, green and blue, stretched from the 1st to the 99th percentile. In brackets: the part "
            "of the variance. The signs of components mean nothing.",
        )


@dataclass(frozen=True)
class Neighbours:
    """A query and what lies nearest to it.

    Attributes:
        image: uint8 ``[H, W, 3]``.
        label: class name; "" if it has none.
        images, labels, similarities: of the neighbours, the nearest first; similarities are cosines.
    """

    image: np.ndarray
    label: str
    images: Sequence[np.ndarray]
    labels: Sequence[str]
    similarities: Sequence[float]


def nearest_neighbours(queries: Sequence[Neighbours], title: str) -> Figure:
    """A line for each query, framed by whether the neighbour has the query's class (blue, ✓) or not (vermilion, ✗)."""
    columns = max(len(query.images) for query in queries)
    with style():
        figure, axes = grid(len(queries), columns + 1, 1.05, 1.28)
        for line, query in enumerate(queries):
            show(axes[line, 0], query.image, short(query.label, 15) or "query", INK, 1.8)
            for column in range(columns):
                axis = axes[line, column + 1]
                if column >= len(query.images):
                    show(axis, None)
                    continue
                label = query.labels[column]
                known = bool(query.label and label)
                same = known and bool(set(query.label.split(", ")) & set(label.split(", ")))
                colour = (RIGHT if same else WRONG) if known else FAINT
                mark = ("✓ " if same else "✗ ") if known else ""
                show(axis, query.images[column], f"{mark}{short(label, 14)}", colour, 1.8)
                axis.set_xlabel(f"{query.similarities[column]:.2f}", fontsize=7, labelpad=1.5)
        return headed(
            figure,
            title,
            "Left: queries. Then the training images with the most similar features, the nearest first; below each the cosine "
            "similarity. ✓ and blue: the query's class (or one of them); ✗ and orange: another.",
        )


def embedding(places: np.ndarray, labels: np.ndarray, classes: Sequence[str], title: str, caption: str) -> Figure:
    """Points ``[n, 2]`` with a colour and marker for each class.

    Args:
        labels: int ``[n]``; -1: no label, drawn grey.
    """
    present = [label for label in range(len(classes)) if (labels == label).any()]
    colours = [*COLOURS, *sns.color_palette("dark", 8)]
    with style():
        height, width = np.ptp(places, axis=0)[::-1]
        figure, axes = grid(1, 1, 6.2, float(np.clip(4.9 * height / width, 2.4, 5.2)))
        axis = axes[0, 0]
        axis.scatter(*places[labels < 0].T, s=8, color=FAINT, alpha=0.5, lw=0)
        for number, label in enumerate(present):
            axis.scatter(
                *places[labels == label].T,
                s=17,
                color=[colours[number % len(colours)]],
                marker=MARKERS[(number + number // len(MARKERS)) % len(MARKERS)],
                alpha=0.8,
                lw=0,
                label=short(classes[label], 22),
            )
        axis.set_aspect("equal", adjustable="datalim")
        axis.set_xticks([])
        axis.set_yticks([])
        axis.grid(visible=False)
        for spine in axis.spines.values():
            spine.set(visible=False)
        if present:
            figure.legend(loc="outside right upper", fontsize=7.5, markerscale=1.4, handletextpad=0.3)
        return headed(figure, title, caption)
