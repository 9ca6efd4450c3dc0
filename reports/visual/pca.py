"""Draw principal components of a backbone's last map as colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from common.errors import UserError
from common.names import short
from reports.visual.core.base import VISUALIZATIONS, ImagesVisualization
from reports.visual.core.style import file_stem, grid, headed, heading, save_figure, show, style

if TYPE_CHECKING:
    from backbones.base import Backbone
    from reports.visual.core.images import InputImage


@VISUALIZATIONS.register("pca")
@dataclass(kw_only=True)
class PrincipalComponents(ImagesVisualization):
    """Principal components of patch tokens (of a ResNet: of the last map's cells) as colours."""

    title = "Principal components"
    place = 3
    caption = "The first three principal components of patch features, as colours."

    def draw(self) -> list[Path]:
        """Write one picture."""
        from common.progress import track
        from reports.visual.core.images import images_of
        from reports.visual.core.network import network_of

        network = network_of(self)
        images, which = images_of(self, network)
        maps = [last_map(network.backbone, image.pixels) for image in track(images, "features", len(images))]
        scores, explained = components(maps)
        title = f"Principal components of {network.name}, {network.weights}\n{which}."
        figure = principal_components(images, scores, explained, title)
        return save_figure(figure, self.folder(self.weights), f"pca-{file_stem(network.name)}")


def last_map(backbone: Backbone, image: np.ndarray) -> np.ndarray:
    """Compute the last map, float32 ``[h, w, D]``, of an image, uint8 ``[H, W, 3]``."""
    import torch

    from reports.visual.core.images import normalised

    with torch.inference_mode():
        map_Dhw = backbone.maps(normalised(image[None], next(backbone.parameters()).device))[0][0]
        return map_Dhw.permute(1, 2, 0).float().cpu().numpy()


def components(maps: Sequence[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """Fit three principal components to the cells of all maps ``[h, w, D]``: scores ``[h, w, 3]`` of each map, and each
    component's part of the variance ``[3]``. Raises UserError for fewer than four cells, or equal ones."""
    from sklearn.decomposition import PCA

    cells = np.concatenate([m.reshape(-1, m.shape[-1]) for m in maps])
    if len(cells) < 4 or np.ptp(cells, axis=0).max() == 0:
        raise UserError(
            f"{len(cells)} cells of the map are too few or all equal, so they have no components; give larger or more images"
        )
    pca = PCA(3, svd_solver="full" if cells.shape[1] <= 2048 else "randomized", random_state=0).fit(cells)
    bounds = np.cumsum([m.shape[0] * m.shape[1] for m in maps])[:-1]
    parts = np.split(pca.transform(cells), bounds)
    return [part.reshape(*m.shape[:2], 3) for part, m in zip(parts, maps, strict=True)], pca.explained_variance_ratio_


def as_colours(scores: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Turn scores ``[h, w, 3]`` into RGB in [0, 1], stretching each component over all images from its 1st to its 99th
    percentile."""
    low, high = np.percentile(_together(scores), [1, 99], axis=0)
    return [np.clip((s - low) / np.maximum(high - low, 1e-12), 0, 1) for s in scores]


def _together(scores: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([s.reshape(-1, 3) for s in scores])


def principal_components(
    images: Sequence[InputImage], scores: Sequence[np.ndarray], explained: Sequence[float], title: str
) -> Figure:
    """Draw a line for each image: itself, its components as RGB, and each one alone. Arguments as from ``components``."""
    import seaborn  # noqa: F401 - brings the colour map "vlag"

    limit = np.percentile(np.abs(_together(scores)), 99, axis=0)
    ratios = np.clip([len(image.pixels) / image.pixels.shape[1] for image in images], 0.4, 3)
    headings = ["image", "components as RGB"]
    headings += [f"component {number} ({100 * part:.0f}%)" for number, part in enumerate(explained, 1)]
    with style():
        height = 1.45 * float(ratios.mean()) + 0.08
        figure, axes = grid(len(images), 5, 1.45, height, gridspec_kw={"height_ratios": ratios})
        for row, image, score, colour in zip(axes, images, scores, as_colours(scores), strict=True):
            height, width = image.pixels.shape[:2]
            extent = (-0.5, width - 0.5, height - 0.5, -0.5)
            show(row[0], image.pixels)
            row[0].set_ylabel(short(image.name, 20), fontsize=7)
            show(row[1], colour, extent=extent)
            for axis, values, most in zip(row[2:], np.moveaxis(score, -1, 0), limit, strict=True):
                show(axis, values, extent=extent, cmap="vlag", vmin=-most, vmax=most)
        for axis, words in zip(axes[0], headings, strict=True):
            heading(axis, words)
        return headed(
            figure,
            title,
            "Principal components of the last map's cells, of all images together: equal colours are similar features. RGB: "
            "components 1, 2 and 3 as red, green and blue, stretched from the 1st to the 99th percentile. In brackets: the part "
            "of the variance. The signs of components mean nothing.",
        )
