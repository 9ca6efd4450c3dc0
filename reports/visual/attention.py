"""Attention of the CLS token to the patches, on images and videos: every head's map and the patches with most of its mass (DINO,
arXiv 2104.14294, figures 1, 3 and 4)."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from common.errors import UsageError, UserError
from common.options import option
from reports.visual.core.base import VISUALIZATIONS, ImagesVisualization
from reports.visual.core.style import COLOURS, colour_bar, file_stem, grid, headed, readable, save_figure, show, style

if TYPE_CHECKING:
    from backbones.base import Backbone
    from reports.visual.core.network import Network

#: Heads in a line, and perceptually uniform colours from dark to light.
COLUMNS, COLOUR_MAP = 6, "inferno"


@VISUALIZATIONS.register("attention")
@dataclass(kw_only=True)
class Attention(ImagesVisualization):
    """Maps of every head's attention in the last block, and the patches that hold most of it."""

    title = "Attention"
    place = 1
    caption = "Attention of the last block’s CLS token, each head by itself, and the patches that hold most of it."

    video: str | None = None
    """video file (MP4, …; needs the extra "video"), animated GIF or folder of frames, instead of images"""
    fps: float | None = option(None, above=0)
    """frames a second of the video that is written; default: the video's own, 10 for a folder of frames"""
    mass: float = option(0.6, above=0, at_most=1)
    """part of a head's attention that its mask holds"""

    def draw(self) -> list[Path]:
        """Write a picture for each image, or one video."""
        from common.progress import track
        from reports.visual.core.images import images_of
        from reports.visual.core.network import network_of

        if self.video is not None and self.images is not None:
            raise UsageError("--video and --images exclude each other; give one of them")
        network = network_of(self)
        require_attention(network.backbone)
        if self.video is not None:
            return [self._draw_video(network)]
        images, which = images_of(self, network)
        written: list[Path] = []
        for image in track(images, "attention", len(images)):
            figure = attention_of(network, image.pixels, self.mass, f"{which}: {image.name}")
            stem = f"attention-{file_stem(Path(image.name).stem)}"
            if any(path.stem == stem for path in written):
                stem = f"{stem}-{len(written) + 1}"
            written += save_figure(figure, self.folder(self.weights), stem)
        return written

    def _draw_video(self, network: Network) -> Path:
        """Pass over the frames twice, first for the scale that all frames share."""
        from common.progress import track
        from reports.visual.core.images import InputImage, fitted, fitting
        from reports.visual.core.video import INSTEAD, open_frames, video_writer

        short_side, how = fitting(network, self.image_size)
        frames, size = open_frames(Path(self.video)), None

        def fitted_frames(what: str) -> Iterator[np.ndarray]:
            nonlocal size
            for number, pixels in enumerate(track(frames.read(), what, frames.count), 1):
                name = frames.names[number - 1] if frames.names else f"{self.video}, frame {number}"
                image = InputImage(name, pixels)
                fit = fitted(image, network.backbone.stride, short_side)
                size = size or fit.shape[:2]
                if fit.shape[:2] != size:
                    raise UserError(f"{image.name}: of another shape than the frames before; give frames of one size")
                yield fit

        maps = [cls_attention(network.backbone, frame) for frame in fitted_frames("attention")]
        if not maps:
            raise UserError(f"{self.video}: holds no frames; {INSTEAD}")
        scale = np.quantile(np.stack(maps), 0.999, axis=(0, 2, 3))
        mass = f"masks hold {100 * self.mass:.0f}% of the attention"
        title = f"Attention of {network.name}, {network.weights}; {Path(self.video).name}, {how}; {mass}"
        tiles = VideoTiles(scale, size, title, widest=1280 if frames.is_video else 800)
        suffix = ".mp4" if frames.is_video else ".gif"
        path = self.folder(self.weights) / f"attention-{file_stem(Path(self.video).stem)}{suffix}"
        with video_writer(path, frames.fps if self.fps is None else self.fps, tiles.size) as write:
            for frame, attention in zip(fitted_frames("drawing"), maps, strict=True):
                write(tiles.draw(frame, attention, masks_of(attention, self.mass)))
        return path


def require_attention(backbone: Backbone) -> None:
    """Raise UserError, with the reason, for a backbone without attention."""
    import torch

    if not backbone.has_tokens:
        backbone.cls_attention(torch.empty(0))


def attention_of(network: Network, image: np.ndarray, mass: float, about: str) -> Figure:
    """Draw the attention on an image (uint8 ``[H, W, 3]``, sides multiples of the patch), which the title calls ``about``."""
    attention = cls_attention(network.backbone, image)
    title = f"Attention of {network.name}, {network.weights}\n{about}."
    return attention_maps(image, attention, masks_of(attention, mass), mass, title)


def cls_attention(backbone: Backbone, image: np.ndarray) -> np.ndarray:
    """Attention of the last block's CLS token to the patches, float32 ``[heads, H / patch, W / patch]``, for an image (uint8
    ``[H, W, 3]``, sides multiples of the patch). A head's sum is 1 less its attention to the CLS token itself."""
    import torch

    from reports.visual.core.images import normalised

    with torch.inference_mode():
        row = backbone.cls_attention(normalised(image[None], next(backbone.parameters()).device))[0, :, 1:]
        return row.float().unflatten(1, (image.shape[0] // backbone.stride, -1)).cpu().numpy()


def masks_of(attention: np.ndarray, mass: float) -> np.ndarray:
    """Select the patches that hold ``mass`` of each head's attention: bool, shaped like ``attention``."""
    import torch

    from eval.dense.attention_masks import keep_mass

    return keep_mass(torch.from_numpy(attention), mass).numpy()


def head_colours(heads: int) -> np.ndarray:
    """RGB of each head, uint8 ``[heads, 3]``, repeating after eight."""
    palette = (255 * to_rgba_array(COLOURS)[:, :3]).round().astype(np.uint8)
    return palette[np.arange(heads) % len(palette)]


def enlarged(cells: np.ndarray, patch: int) -> np.ndarray:
    """Repeat each value of ``[…, h, w]`` over its patch: ``[…, h · patch, w · patch]``."""
    return cells.repeat(patch, axis=-2).repeat(patch, axis=-1)


def faded(image: np.ndarray, kept: np.ndarray, inside: np.ndarray | None = None) -> np.ndarray:
    """Fade the image towards white where ``kept`` (bool ``[H, W]``) is False; elsewhere show ``inside``, if given."""
    pale = 0.18 * image.mean(axis=2, keepdims=True) + 0.82 * 255
    return np.where(kept[..., None], image if inside is None else inside, pale).round().astype(np.uint8)


def coloured(image: np.ndarray, attention: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Colour each pixel by the head with the greatest attention there, among heads whose mask has the pixel; others are pale.
    Arguments as for ``attention_maps``."""
    share = attention / attention.sum(axis=(1, 2), keepdims=True)
    winner = np.where(masks, share, -1).argmax(axis=0)
    patch = len(image) // len(winner)
    tints = head_colours(len(masks))[enlarged(winner, patch)]
    inside = 0.4 * image.mean(axis=2, keepdims=True) + 0.6 * tints
    return faded(image, enlarged(masks.any(axis=0), patch), inside)


def attention_maps(image: np.ndarray, attention: np.ndarray, masks: np.ndarray, mass: float, title: str) -> Figure:
    """Draw the image and all heads' masks, and beside them each head's map and mask.

    Args:
        image: uint8 ``[H, W, 3]``.
        attention, masks: ``[heads, h, w]``; H and W are the same multiple of h and w.
        mass: part of the attention that a mask holds.
    """
    heads = len(attention)
    patch = len(image) // attention.shape[1]
    columns = min(heads, COLUMNS)
    height = 1.45 * np.clip(len(image) / image.shape[1], 0.55, 3) + 0.1
    with style():
        figure, axes = grid(2 * -(-heads // columns), columns + 1, 1.45, height)
        for axis in axes.ravel():
            show(axis, None)
        show(axes[0, 0], image, f"{image.shape[1]} × {len(image)} pixels")
        show(axes[1, 0], coloured(image, attention, masks), "masks of all heads")
        for head, colour in enumerate(head_colours(heads) / 255):
            line, column = divmod(head, columns)
            upper, lower = axes[2 * line : 2 * line + 2, column + 1]
            most = max(float(attention[head].max()), 1e-12)
            words = f"head {head + 1}, max {_percent(most)}"
            drawn = show(upper, attention[head] / most, words, tuple(colour), 1.6, cmap=COLOUR_MAP, vmin=0, vmax=1)
            show(lower, faded(image, enlarged(masks[head], patch)), "", tuple(colour), 1.6)
        bar = colour_bar(figure, drawn, axes, ticks=(0, 0.5, 1))
        bar.set_label("part of the head's maximum", fontsize=7.5)
        bar.ax.tick_params(labelsize=7)
        return headed(
            figure,
            title,
            f"Attention of the last block's CLS token to {attention.shape[1]} × {attention.shape[2]} patches (rows × columns), "
            f"light where it is high. max: what the patch with most of a head's attention has of it. Below each map: the patches "
            f"that hold {100 * mass:.0f}% of the head's attention to patches.",
        )


def _percent(share: float) -> str:
    return f"{100 * share:.2g}%" if share < 0.1 else f"{100 * share:.0f}%"


class VideoTiles:
    """Draws frames beside their attention, at most about ``widest`` pixels wide.

    Args:
        scale: ``[heads]``: the attention drawn lightest, equal in all frames so that maps do not flicker.
        size: (height, width) of the input frames in pixels, multiples of the patch.
    """

    LABEL, GAP = 16, 4

    def __init__(self, scale: np.ndarray, size: tuple[int, int], title: str, widest: int):
        self.scale = np.maximum(scale, 1e-12)
        count = len(scale) + 2
        self.lines = -(-count // 5)
        self.columns = -(-count // self.lines)
        tile = min(widest // self.columns, max(size[1], 160))
        self.tile = (max(1, round(tile * size[0] / size[1])), tile)
        self.map = mpl.colormaps[COLOUR_MAP]
        self.font = ImageFont.load_default(11)
        self.title = textwrap.wrap(readable(title), self.columns * tile // 7)
        self.head = self.LABEL * len(self.title)
        height = self.lines * (self.tile[0] + self.LABEL) + self.head
        # Video codecs need even sides.
        self.size = (height + height % 2, self.columns * tile + (self.columns * tile) % 2)

    def draw(self, image: np.ndarray, attention: np.ndarray, masks: np.ndarray) -> np.ndarray:
        """Draw the frame, all heads' masks on it, and every head's map: uint8 ``[*size, 3]``."""
        page = Image.new("RGB", self.size[::-1], "white")
        draw = ImageDraw.Draw(page)
        for number, text in enumerate(self.title):
            draw.text((4, self.LABEL * number + 1), text, fill="black", font=self.font)
        maps = self.map(np.clip(attention / self.scale[:, None, None], 0, 1), bytes=True)[..., :3]
        tiles = [(image, "frame"), (coloured(image, attention, masks), "masks of all heads")]
        tiles += [
            (pixels, f"head {head + 1}, 0 to {_percent(most)}")
            for head, (pixels, most) in enumerate(zip(maps, self.scale, strict=True))
        ]
        colours = [None, None, *head_colours(len(attention)).tolist()]
        for place, ((pixels, name), colour) in enumerate(zip(tiles, colours, strict=True)):
            line, column = divmod(place, self.columns)
            left, top = column * self.tile[1], self.head + line * (self.tile[0] + self.LABEL)
            resample = Image.Resampling.NEAREST if colour else Image.Resampling.BILINEAR
            tile = Image.fromarray(pixels).resize((self.tile[1] - self.GAP, self.tile[0]), resample)
            page.paste(tile, (left, top + self.LABEL))
            if colour:
                draw.rectangle((left + 4, top + 4, left + 12, top + 12), fill=tuple(colour))
            draw.text((left + (16 if colour else 4), top + 1), name, fill="black", font=self.font)
        return np.asarray(page)
