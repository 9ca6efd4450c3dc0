"""What whole views differ by from torchvision's operations on PIL images, over photos:

python benchmarks/fidelity.py imagenette/val 150
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.reference.augmentation import planned
from data.store.decode import decode_image
from data.store.store import ImageBatch
from data.views.maker import ViewMaker
from data.views.plan import plan_crops
from data.views.spec import Augmentation, View


def difference(image: np.ndarray, view: View, seed: int) -> np.ndarray:
    """Absolute difference in grey levels, ``[size, size, 3]``, between a view of an image, uint8 ``[H, W, 3]``, and the same
    operations on PIL's image with the same parameters."""
    maker = ViewMaker([view], mean=(0.0, 0.0, 0.0), std=(1 / 255,) * 3)
    params = maker.sample(1, torch.Generator().manual_seed(seed))
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].contiguous()
    batch, source = ImageBatch.padded(pixels, torch.tensor([image.shape[:2]])), torch.zeros(1, 1, dtype=torch.int64)
    ours = maker.make(batch, source, params)[0][0].permute(1, 2, 0).numpy()
    plan = plan_crops(view, source[0], batch.sizes, params[0])
    theirs = planned(Image.fromarray(image), plan, 0, view.size)
    return np.abs(ours - np.asarray(theirs).astype(np.float32))


#: Kinds of views: what all methods do with both, and the whole jitter alone, each time.
VIEWS = {
    "jitter alone, always": View(
        name="jitter", size=224, scale=(0.25, 1.0), augmentation=Augmentation(jitter_p=1.0, grayscale_p=0.0)
    ),
    "first view (blur)": View(name="first", size=224, scale=(0.25, 1.0), blur_p=1.0, augmentation=Augmentation()),
    "second view (blur 0.1, solarisation 0.2)": View(
        name="second", size=224, scale=(0.25, 1.0), blur_p=0.1, solarize_p=0.2, augmentation=Augmentation()
    ),
}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, help="folder of photos")
    parser.add_argument("count", type=int, help="photos to take, at random")
    args = parser.parse_args(words)
    files = sorted(path for path in args.photos.rglob("*") if path.is_file())
    if not files:
        parser.error(f"no file in {args.photos}")
    taken = np.random.default_rng(0).permutation(len(files))[: args.count]
    images = [decode_image(files[i]).pixels for i in taken]
    for name, view in VIEWS.items():
        each = [difference(image, view, seed) for seed, image in enumerate(images)]
        mean, most = np.mean([part.mean() for part in each]), np.max([part.max() for part in each])
        print(f"{name}: mean {mean:.2f} levels, most {most:.1f}; {len(each)} photos", flush=True)


if __name__ == "__main__":
    main()
