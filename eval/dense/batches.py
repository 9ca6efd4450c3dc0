"""Training batches of segmentation: images with masks, or a frozen backbone's maps of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from common.ahead import ahead
from data.store.store import ImageStore
from data.views.dense import SegmentationAugmentation, fit_image, fit_mask
from methods.core.base import ViewBatch
from training.batches import AHEAD, CROPS, WholeBatches, seed_of
from training.config import TrainConfig

#: ``sample(image, seed)`` returns an image's part of ``ViewBatch.views``, and its mask.
Sample = Callable[[int, int], tuple[list[Tensor], Tensor]]


class SegmentationBatches(WholeBatches):
    """Batches of samples from ``workers`` threads; see ``training.batches.BatchSource``."""

    def __init__(self, store: ImageStore, sample: Sample, config: TrainConfig, device: torch.device, workers: int = 1):
        super().__init__(store, config, device, " (beside other evaluations: --segmentation_batch_size)")
        self._sample, self._workers = sample, workers

    def _gather(self, step: int, pool: ThreadPoolExecutor) -> ViewBatch:
        """This rank's part of a step's batch, on the CPU."""
        mine = self.own_rows()
        seeds = [seed_of(CROPS, self.config.seed, step, row) for row in range(mine.start, mine.stop)]
        samples = list(pool.map(self._sample, self.images_of(step)[mine].tolist(), seeds))
        views = [torch.stack(tensors) for tensors in zip(*(views for views, _ in samples), strict=True)]
        masks_BHW = torch.stack([mask for _, mask in samples])
        if self.device.type == "cuda":  # a copy from unpinned memory would wait for the step before
            views, masks_BHW = [view.pin_memory() for view in views], masks_BHW.pin_memory()
        return ViewBatch(views, masks_BHW)

    def stream(self, first: int, end: int) -> Iterator[ViewBatch]:
        with ThreadPoolExecutor(self._workers, "samples") as pool:
            for batch in ahead(lambda step: self._gather(step, pool), range(first, end), most=AHEAD):
                views = [view.to(self.device, non_blocking=True) for view in batch.views]
                yield ViewBatch(views, batch.labels.to(self.device, non_blocking=True))


def image_samples(store: ImageStore, augmentation: SegmentationAugmentation) -> Sample:
    """Sample augmented images from the originals at full resolution."""

    def sample(image: int, seed: int) -> tuple[list[Tensor], Tensor]:
        pixels, mask = augmentation(original(store, image), torch.from_numpy(store.mask(image)), seed)
        return [pixels], mask

    return sample


def whole_samples(
    store: ImageStore, augmentation: SegmentationAugmentation, maps: Mapping[int, Tensor], blocks: Sequence[int]
) -> Sample:
    """Sample whole images, flipped or not: ``cached_maps`` of them, in the order of ``blocks``, or without maps their pixels."""
    size = augmentation.crop_size

    def sample(image: int, seed: int) -> tuple[list[Tensor], Tensor]:
        flipped = augmentation.flips(seed)
        mask_HW = torch.from_numpy(store.mask(image))
        # Flipped before it is fitted, so that padding stays at the right.
        mask_HW = fit_mask(mask_HW.flip(-1) if flipped else mask_HW, size)
        if maps:
            return [maps[block][image, int(flipped)] for block in blocks], mask_HW
        pixels = original(store, image)
        return [fit_image(pixels.flip(-1) if flipped else pixels, size)[0]], mask_HW

    return sample


def original(store: ImageStore, image: int) -> Tensor:
    """Read an image at full resolution, uint8 ``[3, H, W]``. Raises UserError if the file has become unreadable."""
    return torch.tensor(store.original_image(image)).permute(2, 0, 1).contiguous()
