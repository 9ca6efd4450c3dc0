"""Read images to look at, from files, folders or a data set, at the sizes of networks' inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageOps
from torch import Tensor

from common.errors import UsageError, UserError
from common.images import normalise
from data.datasets import open_dataset
from data.sets.core.base import DATASETS
from data.store.store import ImageStore
from reports.visual.core.base import ImagesVisualization
from reports.visual.core.files import files_of, picture_pixels
from reports.visual.core.network import DEFAULT_SIZE, Network

#: Limit of cells of an image's map, since attention costs its square.
MOST_CELLS = 2**15


@dataclass(frozen=True)
class InputImage:
    """An image, uint8 ``[H, W, 3]``, named by its file or its path in the data set."""

    name: str
    pixels: np.ndarray


def choose(store: ImageStore, count: int, seed: int) -> list[int]:
    """Draw ``count`` images at most, of different classes as far as possible."""
    order = np.random.default_rng(seed).permutation(len(store))
    labels = store.labels[order] if store.label_sets is None else store.label_sets[order].argmax(axis=1)
    place_in_class = pd.Series(labels).groupby(labels).cumcount()
    return order[np.argsort(place_in_class, kind="stable")[:count]].tolist()


def read_inputs(options: Any, run: Mapping[str, Any], size: int) -> tuple[list[InputImage], str]:
    """Read images at full resolution, and describe them in words.

    Args:
        options: ``images``, or else ``data`` (default: the run's), ``data_root``, ``count`` and ``seed``.
        run: options of the network's run; empty for other weights.
        size: side of the network's input in pixels.
    """
    if options.images is not None:
        images = [InputImage(file.name, picture_pixels(file)) for file in files_of(options.images)]
        return images, "images given" if len(images) > 1 else "image given"
    data = options.data or run.get("data")
    root = options.data_root or (None if options.data else run.get("data_root"))
    if data is None:
        raise UsageError("--images or --data is needed: what to look at")
    split = "test" if DATASETS.facts(data).get("has_labels", True) else "train"
    store = open_dataset(data, split, None if root is None else Path(root), round(size * 256 / 224))
    chosen = choose(store, options.count, options.seed)
    which = "test images" if split == "test" else "images"
    return [InputImage(store.names[i], store.original_image(i)) for i in chosen], f"{which} of {data_title(store)}"


def images_of(options: ImagesVisualization, network: Network) -> tuple[list[InputImage], str]:
    """Read images (``read_inputs``) and fit them to the network, and describe both in words."""
    short_side, how = fitting(network, options.image_size)
    images, which = read_inputs(options, network.options, options.image_size or network.image_size or DEFAULT_SIZE)
    fit = [InputImage(image.name, fitted(image, network.backbone.stride, short_side)) for image in images]
    return fit, f"{which[0].upper()}{which[1:]}; {how}"


def data_title(store: ImageStore) -> str:
    """Name a data set, with its folder if it is the user's own."""
    return f"{store.name} ({store.root.name})" if store.name in ("imagefolder", "images") else store.name


def class_names(store: ImageStore, index: int) -> str:
    """Join the classes of an image by commas."""
    if store.label_sets is not None:
        return ", ".join(name for name, has in zip(store.titles, store.label_sets[index], strict=True) if has)
    return store.titles[store.labels[index]] if store.labels[index] >= 0 else ""


def fitted(picture: InputImage, multiple: int, short_side: int) -> np.ndarray:
    """Resize the short side (bicubic; 0: not at all) and crop both sides about the centre to multiples: uint8 ``[h, w, 3]``.
    Raises UserError for less than one patch, or far too many."""
    image = Image.fromarray(picture.pixels)
    width, height = image.size
    if short_side:
        factor = short_side / min(width, height)
        width, height = max(short_side, round(width * factor)), max(short_side, round(height * factor))
    about = f"{picture.name}: {width} × {height} pixels are"
    columns, rows = width // multiple, height // multiple
    if not rows * columns:
        raise UserError(f"{about} less than one patch of {multiple}; give --image_size {multiple} or more")
    if rows * columns > MOST_CELLS:
        raise UserError(
            f"{about} {rows * columns} patches of {multiple}, more than {MOST_CELLS}; give a smaller --image_size"
        )
    if short_side:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = width % multiple // 2, height % multiple // 2
    return np.asarray(image.crop((left, top, left + columns * multiple, top + rows * multiple)))


def square(pixels: np.ndarray, size: int) -> np.ndarray:
    """Crop the central square and resize it: uint8 ``[size, size, 3]``."""
    return np.asarray(ImageOps.fit(Image.fromarray(pixels), (size, size), Image.Resampling.BICUBIC))


def fitting(network: Network, size: int | None) -> tuple[int, str]:
    """The short side of fitted images, and their fitting in words. Raises UsageError for an impossible size."""
    multiple = network.backbone.stride
    side = size if size is not None else network.image_size or DEFAULT_SIZE
    if side < 0 or 0 < side < multiple:
        raise UsageError(
            f"--image_size {side}: give at least one patch, {multiple} pixels, or 0 to leave images as they are"
        )
    resized = f"short side resized to {side} pixels, then" if side else "not resized,"
    return side, f"{resized} sides cut to multiples of {multiple}"


def normalised(images: np.ndarray, device: torch.device | None = None) -> Tensor:
    """Normalise uint8 ``[B, H, W, 3]`` as in training: float32 ``[B, 3, H, W]`` on the device."""
    return normalise(torch.from_numpy(images.copy()).to(device).permute(0, 3, 1, 2))
