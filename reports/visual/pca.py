"""``run.py visualize pca``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA

from backbones.base import Backbone
from common.errors import UserError
from common.progress import track
from reports.visual.features import principal_components
from reports.visual.images import fitted, fitting, normalised, pictures_of
from reports.visual.network import folder_of, load_network
from reports.visual.options import PCAOptions
from reports.visual.style import file_stem, save_figure


@torch.inference_mode()
def last_map(backbone: Backbone, image: np.ndarray) -> np.ndarray:
    """The last map's cells: normed patch tokens, or the last stage of a ResNet; float32 ``[h, w, D]``. ``image``: uint8
    ``[H, W, 3]``."""
    device = next(backbone.parameters()).device
    return backbone.maps(normalised(image[None], device))[0][0].permute(1, 2, 0).float().cpu().numpy()


def components(maps: Sequence[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """The first three principal components of the cells of all maps together.

    Args:
        maps: ``[h, w, D]`` each.

    Returns:
        scores ``[h, w, 3]`` for each, and the part of the variance that each component explains ``[3]``. A component's sign is
        such that its greatest loading is positive.

    Raises:
        UserError: fewer than four cells, or all of them equal.
    """
    cells = np.concatenate([m.reshape(-1, m.shape[-1]) for m in maps])
    if len(cells) < 4 or np.ptp(cells, axis=0).max() == 0:
        raise UserError(
            f"{len(cells)} cells of the map are too few or all equal, so they have no components; give larger or more images"
        )
    pca = PCA(3, svd_solver="full" if cells.shape[1] <= 2048 else "randomized", random_state=0).fit(cells)
    scores = pca.transform(cells)
    bounds = np.cumsum([m.shape[0] * m.shape[1] for m in maps])[:-1]
    split = [part.reshape(*m.shape[:2], 3) for part, m in zip(np.split(scores, bounds), maps, strict=True)]
    return split, pca.explained_variance_ratio_


def draw(options: PCAOptions) -> list[Path]:
    """One picture, a line for each image."""
    # Built for its own size: images of other sizes, square or not, only have to divide into patches.
    network = load_network(options.weights, options.backbone, options.key, None, options.device, options.seed)
    side, how = fitting(network, options.image_size)
    pictures, which = pictures_of(
        options.images, options.count, network, options.data, options.data_root, options.image_size, options.seed
    )
    images = [fitted(picture, network.backbone.stride, side) for picture in pictures]
    scores, explained = components(
        [last_map(network.backbone, image) for image in track(images, "features", len(images))]
    )
    title = f"Principal components of {network.name}, {network.weights}\n{which}; {how}."
    figure = principal_components(images, [picture.name for picture in pictures], scores, explained, title)
    return save_figure(figure, folder_of(options.out, options.weights), f"pca-{file_stem(network.name)}")
