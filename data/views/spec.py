"""A view is a kind of random crop with changes of its colours."""

from __future__ import annotations

from dataclasses import dataclass, field

from common.errors import UsageError
from common.options import check, option

PROBABILITY = {"at_least": 0, "at_most": 1}


def rising(pair: tuple[float, float]) -> None:
    """Raise ValueError unless a range's second number is at least its first."""
    if not pair[0] <= pair[1]:
        raise ValueError("give two rising numbers")


@dataclass(kw_only=True)
class Augmentation:
    """What happens to every crop of a sample; each field is an option of the methods.

    The defaults are DINO's and Barlow Twins' (dino/main_dino.py, ``DataAugmentationDINO``; barlowtwins/main.py, ``Transform``),
    which differ only in scale and number of their crops. The jitter is torchvision's ``ColorJitter``: its operations come in a
    random order for each crop. How near whole views are to PIL's: docs/performance.md, "Augmentation".
    """

    ratio: tuple[float, float] = option((3 / 4, 4 / 3), above=0, form=rising)
    """width / height of every crop before it is resized; its logarithm is drawn uniformly"""
    flip: float = option(0.5, **PROBABILITY)
    """probability of a horizontal flip"""
    jitter_p: float = option(0.8, **PROBABILITY)
    """probability of the colour jitter"""
    brightness: float = option(0.4, at_least=0)
    """of the colour jitter: factor within 1 ± this"""
    contrast: float = option(0.4, at_least=0)
    """of the colour jitter: factor within 1 ± this"""
    saturation: float = option(0.2, at_least=0)
    """of the colour jitter: factor within 1 ± this"""
    hue: float = option(0.1, at_least=0, at_most=0.5)
    """of the colour jitter: shift within ± this part of the colour circle"""
    grayscale_p: float = option(0.2, **PROBABILITY)
    """probability of greyscale"""
    blur_sigma: tuple[float, float] = option((0.1, 2.0), above=0, form=rising)
    """standard deviation of the blur in pixels of the crop, drawn uniformly"""
    solarize_threshold: int = option(128, at_least=0, at_most=255)
    """grey level from which solarisation inverts"""


def crop_and_flip(flip: float = 0.5) -> Augmentation:
    """Make an augmentation that leaves the colours as they are."""
    return Augmentation(flip=flip, jitter_p=0.0, grayscale_p=0.0)


@dataclass(frozen=True, kw_only=True)
class View:
    """One view of a training sample; by default a bare random crop with flip. Raises UsageError for a value out of its range.

    Attributes:
        name: for the log.
        size: side in pixels.
        scale: range of the box's area as a part of the image's, drawn uniformly.
        blur_p, solarize_p: probabilities of a Gaussian blur and of solarisation.
        augmentation: shared by all views of a sample.
    """

    name: str
    size: int = option(at_least=1, at_most=4096, unit="pixels")
    scale: tuple[float, float] = option((0.08, 1.0), above=0, at_most=1, form=rising)
    blur_p: float = option(0.0, **PROBABILITY)
    solarize_p: float = option(0.0, **PROBABILITY)
    augmentation: Augmentation = field(default_factory=crop_and_flip)

    def __post_init__(self):
        try:
            check(self)
        except UsageError as error:
            raise UsageError(f"view {self.name}: {error}") from error
