"""``run.py visualize attention``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from backbones.base import Backbone
from common.errors import UsageError, UserError
from common.progress import track
from eval.dense.attention_masks import keep_mass
from reports.visual.attention import VideoTiles, attention_maps
from reports.visual.images import Picture, fitted, fitting, normalised, pictures_of
from reports.visual.network import Network, folder_of, load_network
from reports.visual.options import AttentionOptions
from reports.visual.paper import file_stem, save_figure
from reports.visual.video import Frames, open_frames, video_writer


@torch.inference_mode()
def cls_attention(backbone: Backbone, image: np.ndarray) -> np.ndarray:
    """Attention of the last block's CLS token to the patches.

    Args:
        image: uint8 ``[H, W, 3]``, sides multiples of the patch.

    Returns:
        float32 ``[heads, H / patch, W / patch]``; a head's sum is 1 less its attention to the CLS token itself.

    Raises:
        UserError: the backbone has no CLS attention.
    """
    device = next(backbone.parameters()).device
    row = backbone.cls_attention(normalised(image[None], device))[0, :, 1:]
    return row.float().unflatten(1, (image.shape[0] // backbone.stride, -1)).cpu().numpy()


def masks_of(attention: np.ndarray, mass: float) -> np.ndarray:
    """bool, as ``attention``: the patches that hold ``mass`` of each head's attention."""
    return keep_mass(torch.from_numpy(attention), mass).numpy()


def draw(options: AttentionOptions) -> list[Path]:
    """One picture for each image, or one video."""
    if not 0 < options.mass <= 1:
        raise UsageError(f"--mass {options.mass}: give a number above 0 and at most 1")
    if options.video is not None and options.images is not None:
        raise UsageError("--video and --images exclude each other; give one of them")
    # Built for its own size: images of other sizes, square or not, only have to divide into patches.
    network = load_network(options.weights, options.backbone, options.key, None, options.device, options.seed)
    if not network.backbone.has_tokens:
        network.backbone.cls_attention(torch.empty(0))  # raises, and says why
    side, how = fitting(network, options.image_size)
    folder = folder_of(options.out, options.weights)
    if options.video is not None:
        return [_video(options, network, side, how, folder)]
    pictures, which = pictures_of(
        options.images, options.count, network, options.data, options.data_root, options.image_size, options.seed
    )
    written: list[Path] = []
    for picture in track(pictures, "attention", len(pictures)):
        image = fitted(picture, network.backbone.stride, side)
        attention = cls_attention(network.backbone, image)
        title = f"Attention of {network.name}, {network.weights}\n{which}: {picture.name}; {how}."
        figure = attention_maps(image, attention, masks_of(attention, options.mass), options.mass, title)
        stem = f"attention-{file_stem(Path(picture.name).stem)}"
        if any(path.stem == stem for path in written):
            stem = f"{stem}-{len(written) + 1}"
        written += save_figure(figure, folder, stem)
    return written


def _video(options: AttentionOptions, network: Network, side: int, how: str, folder: Path) -> Path:
    """Two passes over the frames: attention first, since all frames are drawn on one scale."""
    frames: Frames = open_frames(Path(options.video))
    stride, maps, size = network.backbone.stride, [], None

    def fit(pixels: np.ndarray, number: int) -> np.ndarray:
        image = fitted(Picture(f"{options.video}, frame {number + 1}", pixels), stride, side)
        if size is not None and image.shape[:2] != size:
            frames.wrong_size(number, pixels.shape[:2])
        return image

    for number, pixels in enumerate(track(frames.read(), "attention", frames.count)):
        image = fit(pixels, number)
        size = image.shape[:2]
        maps.append(cls_attention(network.backbone, image))
    if not maps:
        raise UserError(f"{options.video}: holds no frames; give a video file, an animated GIF or a folder of frames")
    scale = np.quantile(np.stack(maps), 0.999, axis=(0, 2, 3))
    held = f"masks hold {100 * options.mass:.0f}% of the attention"
    title = f"Attention of {network.name}, {network.weights}; {Path(options.video).name}, {how}; {held}"
    tiles = VideoTiles(scale, size, title, widest=1280 if frames.is_video else 800)
    path = folder / f"attention-{file_stem(Path(options.video).stem)}{'.mp4' if frames.is_video else '.gif'}"
    with video_writer(path, frames.fps if options.fps is None else options.fps, tiles.size) as write:
        for number, pixels in enumerate(track(frames.read(), "drawing", frames.count)):
            write(tiles.draw(fit(pixels, number), maps[number], masks_of(maps[number], options.mass)))
    return path
