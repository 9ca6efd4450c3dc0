"""The scenes of the built-in data set: 10 classes, from the 1,797 handwritten digits (8 x 8 pixels) of scikit-learn.

A scene is covered by a loose lattice of copies of *one* digit sample, so two crops of it share the handwriting and hence the
class. Scenes of a class differ in handwriting and in the lattice's phase, pitch, size and tilt. The label is the digit.

Self-supervised methods learn whatever two crops of an image share and other images do not. They learnt grounds, ink colours
or polarities drawn per image *instead* of the digits, so all scenes share one ground and one ink; only the brightness of
copies and a little noise vary. Training and test scenes come from disjoint digit samples.
"""

from __future__ import annotations

import csv
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from common.images import VOID, voc_palette

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIDE = 40  # pixels
TRAIN_SCENES, TEST_SCENES = 2600, 1000
TEST_SOURCES = 500  # of the 1,797 samples; the other 1,297 make the training scenes
PITCH = (15.0, 24.0)  # pixels between neighbouring copies, one value per scene
SIZE = (0.76, 0.88)  # side of the 8 x 8 sample, as a share of the pitch
TILT = 12.0  # degrees either way, one value per scene; the lattice tilts with its copies
SHIFT = 0.06  # how far a copy may leave its lattice point, as a share of the pitch
INK_GAIN = (0.8, 1.0)  # brightness of each copy
NOISE = 0.02  # standard deviation of the pixel noise; the scale is 0..1
GROUND = np.array([0.16, 0.20, 0.30])  # RGB, the same in every scene
INK = np.array([1.0, 0.92, 0.70])
OBJECT_ABOVE, VOID_ABOVE = 0.5, 0.12  # coverage from which a pixel is the object, or its border
JPEG_QUALITY = 97


def split_sources(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide the digit samples at random: indices for training and for test."""
    order = np.random.default_rng([seed, 0]).permutation(len(labels))
    return order[TEST_SOURCES:], order[:TEST_SOURCES]


def draw_scene(sample: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a scene of a sample (8 x 8, 0..1): RGB uint8 ``[SIDE, SIDE, 3]``, coverage ``[SIDE, SIDE]``."""
    pitch = rng.uniform(*PITCH)
    size = pitch * rng.uniform(*SIZE)
    angle = np.deg2rad(rng.uniform(-TILT, TILT))
    # Pixel centres in the frame of the lattice, in pitches, from a random origin (the phase).
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    phase = rng.uniform(0, 1, 2)
    across = (columns * np.cos(angle) + rows * np.sin(angle)) / pitch + phase[0]
    down = (rows * np.cos(angle) - columns * np.sin(angle)) / pitch + phase[1]
    cell_x, cell_y = np.floor(across).astype(int), np.floor(down).astype(int)
    # One entry per cell for its shift and brightness; 8 x 8 cells are more than any scene shows.
    shift = rng.uniform(-SHIFT, SHIFT, (2, 8, 8))
    gain = rng.uniform(*INK_GAIN, (8, 8))
    cell = (cell_y % 8, cell_x % 8)
    x = (across - cell_x - 0.5 - shift[0][cell]) * pitch / size * 8 + 3.5
    y = (down - cell_y - 0.5 - shift[1][cell]) * pitch / size * 8 + 3.5
    # Bilinear look-up in the sample, which two pixels of zeros surround.
    padded = np.pad(sample, 2)
    x, y = np.clip(x + 2, 0, 10.999), np.clip(y + 2, 0, 10.999)
    left, top = x.astype(int), y.astype(int)
    fx, fy = x - left, y - top
    upper = padded[top, left] * (1 - fx) + padded[top, left + 1] * fx
    lower = padded[top + 1, left] * (1 - fx) + padded[top + 1, left + 1] * fx
    # Steeper than the 17 grey levels of the samples, so that strokes have an edge.
    cover = np.clip((upper * (1 - fy) + lower * fy) * 1.6 - 0.2, 0, 1)
    ink = INK * gain[cell][..., None]
    image = GROUND + (ink - GROUND) * cover[..., None] + rng.normal(0, NOISE, (SIDE, SIDE, 1))
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8), cover


def scene_mask(cover: np.ndarray, label: int) -> np.ndarray:
    """Make a scene's VOC mask: 0 ground, label + 1 strokes, 255 along their edges."""
    mask = np.zeros(cover.shape, np.uint8)
    mask[cover > VOID_ABOVE] = VOID
    mask[cover > OBJECT_ABOVE] = label + 1
    return mask


def build_demo(root: Path, seed: int = 0) -> None:
    """Write the data set to ``root``, whole or not at all: VOC layout, ``labels.csv``, and ``classes.txt`` in label order."""
    from sklearn.datasets import load_digits  # slow to import, needed here only

    if root.exists():
        raise FileExistsError(f"{root} exists; remove it to build the data set again")
    digits = load_digits()
    samples, labels = digits.images / 16.0, digits.target
    train, test = split_sources(labels, seed)
    palette = voc_palette().tobytes()
    root.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        voc = building / "VOCdevkit" / "VOC2012"
        for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
            (voc / folder).mkdir(parents=True)
        rows = []
        lists = (("train", train, TRAIN_SCENES), ("val", test, TEST_SCENES))
        for number, (name, sources, count) in enumerate(lists, 1):
            rng = np.random.default_rng([seed, number])
            names = []
            for index in range(count):
                source = sources[index % len(sources)]
                image, cover = draw_scene(samples[source], rng)
                label = int(labels[source])
                scene = f"{name}_{index:05d}_s{source:04d}"  # the name tells the source sample
                names.append(scene)
                rows.append((scene, label))
                # 4:4:4, as colour at half resolution would blur the strokes of so small a scene
                Image.fromarray(image).save(voc / "JPEGImages" / f"{scene}.jpg", quality=JPEG_QUALITY, subsampling=0)
                mask = Image.fromarray(scene_mask(cover, label))
                mask.putpalette(palette)
                mask.save(voc / "SegmentationClass" / f"{scene}.png")
            listing = voc / "ImageSets" / "Segmentation" / f"{name}.txt"
            listing.write_text("".join(f"{scene}\n" for scene in names))
        with (building / "labels.csv").open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("name", "label"))
            writer.writerows(rows)
        (building / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
        building.chmod(0o755)  # mkdtemp makes folders private
        building.replace(root)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
