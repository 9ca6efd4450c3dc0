"""One view of an image by torchvision's transforms on a PIL image, as both papers' code makes it."""

from __future__ import annotations

import random

from PIL import Image, ImageFilter, ImageOps
from torchvision import transforms

from common.images import IMAGENET_MEAN, IMAGENET_STD
from data.views.spec import View


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
