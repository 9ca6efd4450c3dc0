"""Images to look at: from files and folders, or from a data set, at the sizes that networks take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.errors import UsageError, UserError
from common.images import IMAGENET_MEAN, IMAGENET_STD
from data.datasets import open_dataset
from data.store.decode import DamagedImage, decode_image
from data.store.store import ImageStore
from reports.visual.network import DEFAULT_SIZE, Network

#: Largest number of cells of an image's map: attention costs the square of it.
MOST_CELLS = 2**15


@dataclass(frozen=True)
class Picture:
    """An image and its name.

    Attributes:
        name: file name, or path in the data set.
        pixels: uint8 ``[H, W, 3]``.
    """

    name: str
    pixels: np.ndarray


def read_image(path: Path) -> Picture:
    """An image file. Raises UserError, with the reason, for one that cannot be used."""
    try:
        return Picture(path.name, decode_image(path).pixels)
    except DamagedImage as error:
        raise UserError(f"{path}: no usable image: {error}") from error


def files_of(paths: Sequence[str]) -> list[Path]:
    """The files named, and those in the folders named, in sorted order; hidden files are left out.

    Raises:
        UserError: a path that does not exist, or a folder without files.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(entry for entry in path.iterdir() if entry.is_file() and not entry.name.startswith("."))
            if not inside:
                raise UserError(f"{path}: a folder without image files in it; give image files, or a folder of them")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise UserError(f"{path}: no such file or folder; give image files, or folders of them")
    return files


def choose(store: ImageStore, count: int, seed: int) -> list[int]:
    """``count`` images (all, if there are no more), drawn by the seed; of different classes as far as that goes."""
    if count < 1:
        raise UsageError(f"--count {count}: give at least 1")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(store))
    labels = store.labels[order] if store.label_sets is None else store.label_sets[order].argmax(axis=1)
    turn = np.zeros(len(order), np.int64)  # the how-manieth of its class an image is
    seen: dict[int, int] = {}
    for place, label in enumerate(labels.tolist()):
        turn[place] = seen.get(label, 0)
        seen[label] = turn[place] + 1
    return order[np.argsort(turn, kind="stable")[:count]].tolist()


def test_images(data: str | None, data_root: str | None, options: dict, image_size: int) -> ImageStore:
    """The test split of the data set that is named, or else the run's. Raises UsageError where neither names one."""
    if data is None:
        data = options.get("data")
        data_root = data_root or options.get("data_root")
    if data is None:
        raise UsageError("--images or --data is needed: what to look at")
    return open_dataset(data, "test", None if data_root is None else Path(data_root), round(image_size * 256 / 224))


def pictures_of(
    images: Sequence[str] | None,
    count: int,
    network: Network,
    data: str | None,
    data_root: str | None,
    size: int | None,
    seed: int,
) -> tuple[list[Picture], str]:
    """The images that the options ask for, at full resolution, and in words which."""
    if images is not None:
        files = files_of(images)
        return [read_image(file) for file in files], "Images given" if len(files) > 1 else "The image given"
    store = test_images(data, data_root, network.options, size or network.image_size or DEFAULT_SIZE)
    chosen = choose(store, count, seed)
    return [Picture(store.names[i], store.original_image(i)) for i in chosen], f"Test images of {data_title(store)}"


def data_title(store: ImageStore) -> str:
    """A data set's name; for one that the user has put together, with its folder's."""
    return f"{store.name} ({store.root.name})" if store.name == "imagefolder" else store.name


def fitted(picture: Picture, multiple: int, short_side: int) -> np.ndarray:
    """The image with its short side resized (bicubic; 0: left as it is) and both sides cut, about the centre, to multiples.

    Returns:
        uint8 ``[h, w, 3]``.

    Raises:
        UserError: less than one patch is left, or far too many.
    """
    image = Image.fromarray(picture.pixels)
    width, height = image.size
    if short_side:
        factor = short_side / min(width, height)
        width, height = max(short_side, round(width * factor)), max(short_side, round(height * factor))
    cut = width - width % multiple, height - height % multiple
    if not all(cut):
        raise UserError(
            f"{picture.name}: {width} × {height} pixels are less than one patch of {multiple}; give --image_size {multiple} or more"
        )
    if cut[0] * cut[1] // multiple**2 > MOST_CELLS:
        raise UserError(
            f"{picture.name}: {width} × {height} pixels are {cut[0] * cut[1] // multiple**2} patches of {multiple}, more than "
            f"{MOST_CELLS}; give a smaller --image_size"
        )
    if short_side:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - cut[0]) // 2, (height - cut[1]) // 2
    return np.asarray(image.crop((left, top, left + cut[0], top + cut[1])))


def fitting(network: Network, size: int | None) -> tuple[int, str]:
    """The short side that images get, and in words what is done to them. Raises UsageError for a size that cannot be."""
    multiple = network.backbone.stride
    side = size if size is not None else network.image_size or DEFAULT_SIZE
    if side < 0 or 0 < side < multiple:
        raise UsageError(
            f"--image_size {side}: give at least one patch, {multiple} pixels, or 0 to leave images as they are"
        )
    resized = f"short side resized to {side} pixels, then" if side else "not resized,"
    return side, f"{resized} sides cut to multiples of {multiple}"


def normalised(images: np.ndarray, device: torch.device) -> Tensor:
    """uint8 ``[B, H, W, 3]`` as float32 ``[B, 3, H, W]``, normalised as in training."""
    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (torch.from_numpy(images.copy()).to(device).permute(0, 3, 1, 2).float() / 255 - mean) / std
