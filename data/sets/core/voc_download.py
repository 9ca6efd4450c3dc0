"""PASCAL VOC 2012 from its servers, with the masks of SBD that make its train_aug list."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

from common.download import download, unpack
from common.errors import UserError
from common.files import atomic_file, write_text
from common.images import voc_palette
from common.lock import owned_lock
from common.progress import Console, track
from data.sets.core.lists import read_names
from data.sets.core.voc import AUG_MASKS, CLASSES


@dataclass(frozen=True)
class Source:
    """An archive's address and MD5 digest, both as torchvision has them."""

    url: str
    md5: str


#: VOC 2012 train and val (2.0 GB), and SBD (Hariharan et al., ICCV 2011; 1.4 GB).
SOURCES = {
    "voc": Source(
        "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        "6cd6e144f989b92b3379bac3b3de84fd",
    ),
    "sbd": Source(
        "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
        "82b4d87ceb2ed10f6038a1cba92111cb",
    ),
}


def fetch_voc2012(root: Path, sources: Mapping[str, Source] = SOURCES, console: Console | None = None) -> None:
    """Fetch the missing parts of ``root/VOCdevkit/VOC2012``: VOC itself, SBD's masks, and the list train_aug.

    train_aug is VOC's train list and SBD's images, less VOC's val list: 10,582 images. Images of both keep VOC's mask, since
    SBD's has no void border. Raises UserError for an archive that cannot be fetched or unpacked, or holds other files.
    """
    console = console or Console(stderr=True)
    root.mkdir(parents=True, exist_ok=True)
    folder = root / "VOCdevkit" / "VOC2012"
    names = folder / "ImageSets" / "Segmentation" / "train_aug.txt"
    with owned_lock(
        root / "VOCdevkit" / ".lock", lambda owner: console.print(f"waiting for {owner}, which fetches into {root}")
    ):
        if not folder.is_dir():
            with _unpacked(root, sources["voc"]) as unpacked:
                if not (unpacked / "VOCdevkit" / "VOC2012" / "ImageSets").is_dir():
                    raise UserError(f"{sources['voc'].url}: holds no VOCdevkit/VOC2012")
                (unpacked / "VOCdevkit" / "VOC2012").rename(folder)
        if not names.is_file():
            with _unpacked(root, sources["sbd"]) as unpacked:
                convert_sbd(unpacked / "benchmark_RELEASE" / "dataset", folder)
    count = len(read_names(names))
    console.print(
        f"{folder}: complete; {count:,} images in train_aug (published: 10,582)", soft_wrap=True, highlight=False
    )


def convert_sbd(sbd: Path, folder: Path) -> None:
    """Write SBD's masks (``cls/*.mat``) into VOC's folder as palette PNG files, then their list. Raises UserError."""
    files = sorted((sbd / "cls").glob("*.mat"))
    if not files:
        raise UserError(f"{sbd}: no masks in cls; is this the dataset folder of SBD?")
    lists = {name: read_names(folder / "ImageSets" / "Segmentation" / f"{name}.txt") for name in ("train", "val")}
    wanted = [file for file in files if file.stem not in lists["val"]]
    added = [file for file in wanted if file.stem not in lists["train"]]
    (folder / AUG_MASKS).mkdir(exist_ok=True)
    for file in track(added, "converting SBD's masks", len(added)):
        image = Image.fromarray(_read_sbd(file))
        image.putpalette(voc_palette().tobytes())
        with atomic_file(folder / AUG_MASKS / f"{file.stem}.png") as target:
            image.save(target, format="PNG")
    ids = [*lists["train"], *(file.stem for file in added)]
    write_text(folder / "ImageSets" / "Segmentation" / "train_aug.txt", "\n".join(ids) + "\n")


def _read_sbd(file: Path) -> np.ndarray:
    try:
        mask = np.asarray(scipy.io.loadmat(file)["GTcls"][0]["Segmentation"][0])
    except Exception as error:  # damaged bytes raise nearly anything
        raise UserError(f"{file}: no mask of SBD can be read from it ({error})") from error
    if mask.ndim != 2 or mask.dtype != np.uint8 or mask.max(initial=0) > len(CLASSES):
        raise UserError(f"{file}: no mask of the classes 0 to {len(CLASSES)}")
    return mask


@contextmanager
def _unpacked(root: Path, source: Source) -> Iterator[Path]:
    """Fetch and unpack an archive; both are deleted when the block ends without an error."""
    archive = root / Path(source.url).name
    target = root / f"{archive.name}.unpacked"
    if not target.is_dir():
        unfinished = root / f"{archive.name}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unpack(download(source.url, archive, source.md5), unfinished)
        unfinished.rename(target)
    yield target
    archive.unlink(missing_ok=True)
    shutil.rmtree(target, ignore_errors=True)
