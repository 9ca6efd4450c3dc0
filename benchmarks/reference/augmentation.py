"""One view of an image by torchvision's operations on a PIL image, as both papers' code makes it: drawn, or as a plan has it."""

from __future__ import annotations

import math
import random

from PIL import Image, ImageFilter, ImageOps
from torchvision import transforms
from torchvision.transforms import functional

from common.images import IMAGENET_MEAN, IMAGENET_STD
from data.views.plan import Crops
from data.views.spec import View

#: By torchvision's numbers.
JITTER = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation, functional.adjust_hue)


def augmentation(view: View) -> transforms.Compose:
    """The transforms that make ``view``."""
    shared = view.augmentation
    jitter = transforms.ColorJitter(shared.brightness, shared.contrast, shared.saturation, shared.hue)

    def blur(image: Image.Image) -> Image.Image:
        if random.random() >= view.blur_p:
            return image
        return image.filter(ImageFilter.GaussianBlur(random.uniform(*shared.blur_sigma)))

    return transforms.Compose(
        [
            transforms.RandomResizedCrop(
                view.size, view.scale, shared.ratio, interpolation=transforms.InterpolationMode.BICUBIC
            ),
            transforms.RandomHorizontalFlip(shared.flip),
            transforms.RandomApply([jitter], shared.jitter_p),
            transforms.RandomGrayscale(shared.grayscale_p),
            blur,
            lambda image: ImageOps.solarize(image) if random.random() < view.solarize_p else image,
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )


def planned(image: Image.Image, plan: Crops, row: int, size: int) -> Image.Image:
    """The view of ``size`` pixels that a row of a plan makes of its image."""
    made = functional.resized_crop(image, *plan.boxes[row].tolist(), [size, size], transforms.InterpolationMode.BICUBIC)
    made = functional.hflip(made) if plan.flips[row] else made
    for operation in plan.order[row]:
        if operation >= 0:
            made = JITTER[operation](made, plan.factors[row, operation])
    made = functional.rgb_to_grayscale(made, 3) if plan.grey[row] else made
    made = made.filter(ImageFilter.GaussianBlur(float(plan.sigmas[row]))) if plan.sigmas[row] else made
    return ImageOps.solarize(made, int(plan.solarize[row])) if plan.solarize[row] < math.inf else made
