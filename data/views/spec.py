"""What a view is: a kind of random crop."""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class View:
    """One view of a training sample. The defaults are a bare random crop with flip.

    Attributes:
        name: for the log.
        size: side in pixels.
        scale: area of the crop's box as a part of the image's, drawn uniformly (two numbers in (0, 1]).
        ratio: width / height of the box, its logarithm drawn uniformly.
        flip: probability of a horizontal flip.
        jitter_p: probability of the colour jitter (torchvision's ColorJitter, a random order of operations for each image).
        brightness, contrast, saturation: factor drawn from 1 ± this (at least 0).
        hue: shift drawn from ± this part of a turn, 0 to 0.5.
        grayscale_p: probability of greyscale.
        blur_p: probability of a Gaussian blur.
        blur_sigma: its standard deviation in pixels of the view, drawn uniformly.
        solarize_p: probability of solarisation.
        solarize_threshold: level (0 to 255) from which it inverts.

    Raises:
        UsageError: an option is out of its range.
    """

    name: str
    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter_p: float = 0.0
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    grayscale_p: float = 0.0
    blur_p: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize_p: float = 0.0
    solarize_threshold: float = 128

    def __post_init__(self):
        for name in ("flip", "jitter_p", "grayscale_p", "blur_p", "solarize_p"):
            self._check(name, 0 <= getattr(self, name) <= 1, "a probability, 0 to 1")
        for name in ("brightness", "contrast", "saturation"):
            self._check(name, getattr(self, name) >= 0, "0 or more")
        self._check("size", 1 <= self.size <= 4096, "1 to 4096 pixels")
        self._check(
            "scale", 0 < self.scale[0] <= self.scale[1] <= 1, "two rising parts of the area, above 0 and up to 1"
        )
        self._check("ratio", 0 < self.ratio[0] <= self.ratio[1], "two rising numbers above 0")
        self._check("hue", 0 <= self.hue <= 0.5, "a part of a turn, 0 to 0.5")
        self._check("blur_sigma", 0 < self.blur_sigma[0] <= self.blur_sigma[1], "two rising numbers of pixels above 0")
        self._check("solarize_threshold", 0 <= self.solarize_threshold <= 255, "a level, 0 to 255")

    def _check(self, name: str, fine: bool, allowed: str) -> None:
        if not fine:
            raise UsageError(f"view {self.name}: {name} is {getattr(self, name)}; give {allowed}")


def dino_views(
    global_size: int = 224,
    local_size: int = 96,
    local_crops: int = 8,
    global_scale: tuple[float, float] = (0.4, 1.0),
    local_scale: tuple[float, float] = (0.05, 0.4),
    blur_p: tuple[float, float, float] = (1.0, 0.1, 0.5),
    solarize_p: tuple[float, float, float] = (0.0, 0.2, 0.0),
    **options,
) -> list[View]:
    """DINO's two global and several local crops (dino/main_dino.py, ``DataAugmentationDINO``).

    Args:
        blur_p, solarize_p: for global 1, global 2 and the local crops.
        options: further fields of ``View``, for every view, instead of DINO's.
    """
    if local_crops > 100:
        raise ValueError(f"local_crops is {local_crops}; give at most 100")
    options = {"jitter_p": 0.8, "grayscale_p": 0.2, **options}
    views = [
        View(
            name=f"global{i + 1}",
            size=global_size,
            scale=global_scale,
            blur_p=blur_p[i],
            solarize_p=solarize_p[i],
            **options,
        )
        for i in range(2)
    ]
    return views + [
        View(
            name=f"local{i + 1}",
            size=local_size,
            scale=local_scale,
            blur_p=blur_p[2],
            solarize_p=solarize_p[2],
            **options,
        )
        for i in range(local_crops)
    ]


def barlow_twins_views(
    size: int = 224,
    scale: tuple[float, float] = (0.08, 1.0),
    blur_p: tuple[float, float] = (1.0, 0.1),
    solarize_p: tuple[float, float] = (0.0, 0.2),
    **options,
) -> list[View]:
    """Barlow Twins' two views (barlowtwins/main.py, ``Transform``). ``options`` as for ``dino_views``."""
    options = {"jitter_p": 0.8, "grayscale_p": 0.2, **options}
    return [
        View(name=f"view{i + 1}", size=size, scale=scale, blur_p=blur_p[i], solarize_p=solarize_p[i], **options)
        for i in range(2)
    ]
