"""Make the folder of photos that study_voc trains on: Imagenette's and VOC 2012's training photos.

    python docs/studies/voc_photos.py --imagenette DIR --voc DIR --out photos
    python run.py compare --grid experiments/study_voc.yaml --data_root photos --out study_voc

``photos/train/CLASS`` and ``photos/val/CLASS`` link to Imagenette's photos, ``photos/train/voc_CLASS`` to those of the list
``train`` of VOC's segmentation task. A photo's class, which weak supervision uses, is the object that takes most of its mask.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from common.errors import UserError, first_line  # noqa: E402
from data.sets.core.voc import CLASSES  # noqa: E402
from data.sets.imagefolder import ImageFolder  # noqa: E402
from data.sets.voc2012 import VOC2012  # noqa: E402


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name, about in (("imagenette", "holds train and val"), ("voc", "holds VOCdevkit"), ("out", "folder to make")):
        parser.add_argument(f"--{name}", type=Path, required=True, help=about)
    options = parser.parse_args(words)
    try:
        count = make(options.imagenette, options.voc, options.out)
    except (UserError, OSError) as error:
        print(f"error: {first_line(error)}", file=sys.stderr)
        return 1
    print(f"{options.out}: {count:,} links to photos")
    return 0


def make(imagenette: Path, voc: Path, out: Path) -> int:
    """Link the photos; returns how many. Raises UserError if ``out`` exists or an image set is not as expected."""
    if out.exists():
        raise UserError(f"{out}: exists; name a folder that does not, or remove it")
    links: list[tuple[str, Path]] = []
    for split, folder in (("train", "train"), ("test", "val")):
        listing = ImageFolder("imagefolder", imagenette).listing(split)
        of_class = [listing.classes[label] for label in listing.labels]
        links += [
            (f"{folder}/{c}/{Path(name).name}", listing.root / name)
            for c, name in zip(of_class, listing.names, strict=True)
        ]
    listing = VOC2012("voc2012", voc).listing("train")
    for name, mask in zip(listing.names, listing.masks, strict=True):
        links.append((f"train/voc_{largest_object(listing.root / mask)}/{Path(name).name}", listing.root / name))
    for name, target in links:
        link = out / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target.resolve())
    return len(links)


def largest_object(mask: Path) -> str:
    """The class, other than background and void, with most pixels. Raises UserError for a mask without objects."""
    with Image.open(mask) as image:
        pixels = np.bincount(np.asarray(image).ravel(), minlength=256)[1 : len(CLASSES) + 1]
    if not pixels.any():
        raise UserError(f"{mask}: the mask has no object, so its photo has no class")
    return CLASSES[pixels.argmax()]


if __name__ == "__main__":
    raise SystemExit(main())
