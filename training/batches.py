"""Batches as a function of the step: which images, which partners, which crops. They need no state, so a run can continue at
any step, and N processes draw the same batches as one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from common.ahead import ahead
from common.distributed import rank, world_size
from common.errors import UserError
from data.pairing import SameImage, labelled, make_pairing
from data.store.names import place_type
from data.store.store import ImageBatch, ImageStore
from data.views.maker import ViewMaker
from data.views.plan import ViewParams
from data.views.spec import View
from methods.core.base import ViewBatch
from training.config import TrainConfig

Item = TypeVar("Item")

# The purpose of a random stream is part of its seed, so that no two streams are alike.
ORDER, PAIRING, CROPS, MODEL, STEP = range(5)
#: Batches gathered ahead of the one in use, each by a thread: idle cores then decode the next batch's images.
AHEAD = 2
#: The most images held out for the online k-NN; fewer where a tenth of the images is less.
HELD_OUT = 1000


def seed_of(purpose: int, *numbers: int) -> int:
    """Derive a seed for torch, below 2**63, from a purpose and numbers such as seed and step."""
    return int(np.random.SeedSequence([purpose, *numbers]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def short_side_for(image_size: int) -> int:
    """Short side in pixels of stored training images. At twice the crop size DINO's crops (from 5% of the area) are hardly ever
    enlarged, and the store stays small."""
    return 2 * image_size


def hold_out(images: int, knn_every: int) -> tuple[np.ndarray, np.ndarray]:
    """Split images into indices (sorted) to train on and to hold out, the same for every seed and method. Without an online
    k-NN (``knn_every`` 0) none is held out."""
    count = min(images // 10, HELD_OUT) if knn_every else 0
    order = np.arange(images, dtype=place_type(images))
    np.random.default_rng(0).shuffle(order)
    trained, held_out = order[count:], order[:count]
    trained.sort()
    held_out.sort()
    return trained, held_out.copy()  # or a few images would keep all places in memory


def too_few_images(data: str, images: int, batch_size: int, held_out: int = 0) -> str | None:
    """Why so many training images give no batch; None if they do. ``held_out``: images kept for the online k-NN."""
    if images >= batch_size:
        return None
    rest = f" ({held_out} more are held out for the online k-NN; --knn_every 0 trains on them)" if held_out else ""
    return f"{data} has {images} images to train on{rest}, fewer than one batch; give --batch_size {images} or less"


class BatchSource(Protocol):
    """Source of a training's batches. An epoch has ``steps_per_epoch`` whole batches, and leaves out ``left_out`` images."""

    steps_per_epoch: int
    left_out: int

    def stream(self, first: int, end: int) -> Iterator[ViewBatch]:
        """Yield this rank's part of the batches of the steps in ``range(first, end)``, each a function of its step."""


@dataclass
class HostBatch:
    """This rank's part of a batch before its crops are made: each source image once, and for V views of b images ``sources``,
    rows of ``images`` as int64 ``[V, b]``. ``labels`` are as in ``ViewBatch``."""

    images: ImageBatch
    sources: Tensor
    params: ViewParams
    labels: Tensor


class WholeBatches:
    """Decides which images are in which batch. Each epoch has its own order, and leaves out images that do not fill a batch. Raises
    UserError, which ends with ``hint``, if the images do not fill a single one."""

    def __init__(self, store: ImageStore, config: TrainConfig, device: torch.device, hint: str = ""):
        if reason := too_few_images(store.name, len(store), config.batch_size):
            raise UserError(f"{reason}{hint}")
        self.store = store
        self.config = config
        self.device = device
        self.steps_per_epoch = len(store) // config.batch_size
        self.left_out = len(store) - self.steps_per_epoch * config.batch_size
        self._order = (-1, np.empty(0, place_type(len(store))))  # an epoch, and its permutation of the images

    def images_of(self, step: int) -> np.ndarray:
        """Indices of the images of a step's global batch, int64 ``[batch_size]``."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = self._order  # read and set in one piece, since several threads gather
        if order[0] != epoch:
            permutation = np.arange(len(self.store), dtype=order[1].dtype)
            np.random.default_rng([ORDER, self.config.seed, epoch]).shuffle(permutation)
            order = self._order = epoch, permutation
        size = self.config.batch_size
        return order[1][place * size : (place + 1) * size].astype(np.int64)

    def own_rows(self) -> slice:
        """This rank's rows of a global batch."""
        share = self.config.batch_size // world_size()
        return slice(rank() * share, (rank() + 1) * share)


class Batches(WholeBatches):
    """The batches of a method's training, with crops made on ``device``.

    Attributes:
        usable: which images have a label that may be used, bool ``[n]``.
        pairing_start: the first step whose views come from several images, where the options ask for that.
    """

    def __init__(self, store: ImageStore, views: list[View], config: TrainConfig, device: torch.device):
        super().__init__(store, config, device)
        self.maker = ViewMaker(views)
        labels, label_sets = store.labels, store.label_sets
        self.usable = labelled(labels, label_sets, config.label_fraction, config.seed)
        self._pairing = make_pairing(config.pairing, labels, label_sets, len(views), config.paired_views, self.usable)
        self._alone = SameImage(len(views))
        self.pairing_start = round(config.pairing_start * self.steps_per_epoch)

    def draw(self, anchors: np.ndarray, step: int) -> tuple[np.ndarray, ViewParams]:
        """Draw, by the random numbers of ``step``, the images that the views of ``anchors [B]`` are cut from, int64 ``[V, B]``, and
        their crops."""
        seed = self.config.seed
        pairing = self._pairing if step >= self.pairing_start else self._alone
        sources = pairing.sources(anchors, np.random.default_rng([PAIRING, seed, step]))
        return sources, self.maker.sample(len(anchors), torch.Generator().manual_seed(seed_of(CROPS, seed, step)))

    def gather(self, step: int) -> HostBatch:
        """Draw the global batch of ``step``, and read this rank's part."""
        anchors, mine = self.images_of(step), self.own_rows()
        sources, params = self.draw(anchors, step)
        images, rows = np.unique(sources[:, mine], return_inverse=True)
        rows = torch.from_numpy(rows.reshape(len(sources), -1))
        return HostBatch(self.store.batch(images), rows, params[:, mine], self._labels_of(anchors[mine]))

    def _labels_of(self, images: np.ndarray) -> Tensor:
        """``ViewBatch.labels`` of images, by the labels that may be used."""
        labels, usable = self.store.label_of(images), self.usable[images]
        if labels.ndim == 1:
            return torch.from_numpy(np.where(usable, labels, -1))
        return torch.from_numpy((labels & usable[:, None]).astype(np.float32))

    def stream(self, first: int, end: int) -> Iterator[ViewBatch]:
        """See ``BatchSource``."""
        return crops_ahead(self.gather, range(first, end), self.maker, self.device)


def crops_ahead(
    gather: Callable[[Item], HostBatch], items: Iterable[Item], maker: ViewMaker, device: torch.device
) -> Iterator[ViewBatch]:
    """Yield each item's batch with its crops, made on the device. Threads gather ahead, and for a CUDA device also make the crops,
    on a stream beside the caller's; a CPU has no cores to spare for that."""
    side = torch.cuda.Stream(device) if device.type == "cuda" else None

    def make(host: HostBatch) -> ViewBatch:
        # From a plan on the CPU: reading it back would wait for the device.
        views = maker.make(host.images.to(device, non_blocking=True), host.sources, host.params)
        return ViewBatch(views, host.labels.to(device, non_blocking=True))

    def prepare(item: Item) -> Callable[[], ViewBatch]:
        """Do a thread's part of the work on a batch; the returned function does the rest."""
        host = gather(item)
        if side is None:
            return lambda: make(host)
        host = dataclasses.replace(host, images=host.images.pin_memory())
        with torch.cuda.stream(side):
            made, ready = make(host), side.record_event()

        def take() -> ViewBatch:
            training = torch.cuda.current_stream(device)
            training.wait_event(ready)
            for tensor in (*made.views, made.labels):
                # Otherwise a later batch could get this memory before the step has read it.
                tensor.record_stream(training)
            return made

        return take

    for take in ahead(prepare, items, AHEAD):
        yield take()


def fixed_batches(
    store: ImageStore, images: np.ndarray, parts: Iterable[slice], views: list[View], device: torch.device
) -> Iterator[ViewBatch]:
    """Yield parts of ``images``, indices of the store, with crops that are the same at every call; all views of an anchor are of
    its own image."""
    maker = ViewMaker(views)
    params = maker.sample(len(images), torch.Generator().manual_seed(0))
    for part in parts:
        labels = torch.from_numpy(store.label_of(images[part]))
        labels = labels.float() if labels.ndim > 1 else labels
        sources = torch.arange(len(labels)).expand(len(views), -1)
        made = maker.make(store.batch(images[part]).to(device), sources, params[:, part])
        yield ViewBatch(made, labels.to(device))


def split(batch: ViewBatch, parts: int) -> list[ViewBatch]:
    """Split a batch's rows into equal parts, in order."""
    if parts == 1:
        return [batch]
    views = zip(*(view.chunk(parts) for view in batch.views), strict=True)
    labels = batch.labels.chunk(parts)
    return [ViewBatch(list(v), own, batch.labels) for v, own in zip(views, labels, strict=True)]
