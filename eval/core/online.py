"""Measures a run while it trains: k-NN on held-out training images, and diagnostics of features.

The run stays the same: buffers are restored, and every training step seeds its own random numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.distributed import all_gather_rows, is_main, rank, world_size
from common.progress import track, warn, working
from data.store.store import ImageStore
from data.views.central import eval_images
from eval.features.votes import knn_classify
from methods.core.base import Method, ViewBatch
from training.batches import fixed_batches
from training.diagnostics import (
    alignment,
    cross_correlation,
    effective_rank,
    feature_std,
    summarize_correlation,
    uniformity,
)
from training.machine.devices import autocast
from training.plan import Plan

#: Most training images that the online k-NN searches, its k (the reference's best) and temperature.
BANK = 20_000
NEIGHBOURS = 20
TEMPERATURE = 0.07
#: Most images of the diagnostics, and images per forward pass.
PROBE = 256
BATCH = 128


class Monitor:
    """The online evaluation of a run. All processes call its methods together; each does its share."""

    def __init__(self, plan: Plan, method: Method):
        self.method, self.config, self.device = method, plan.config, plan.device
        self._views = plan.views
        self._train, self._held_out = train, held_out = plan.images
        self._queries = np.flatnonzero(held_out.labels >= 0)
        labels = train.labels  # a copy of all, which is not kept
        self._bank = np.sort(np.random.default_rng(0).permutation(np.flatnonzero(labels >= 0))[:BANK])
        self._bank_labels = labels[self._bank]
        lacking = int((~np.isin(held_out.labels[self._queries], self._bank_labels)).sum())
        if len(self._bank) and lacking and is_main():
            warn(
                f"warning: online k-NN: {lacking} of {len(self._queries)} held-out images are of classes without an image among "
                f"the {len(self._bank):,} training images that it searches"
            )
        self._probe_store = held_out if len(held_out) else train
        self._probe = np.sort(np.random.default_rng(0).permutation(len(self._probe_store))[:PROBE])

    def knn(self) -> dict[str, Any] | None:
        """Top-1 (percent) of weighted k-NN from training to held-out images; None if either have no label."""
        if not len(self._queries) or not len(self._bank):
            return None
        with _evaluating(self.method.backbone):
            bank = self._features(self._train, self._bank)
            queries = self._features(self._held_out, self._queries)
        labels = torch.from_numpy(self._bank_labels)
        k = min(NEIGHBOURS, len(bank))
        guesses = knn_classify(bank, labels, queries, [k], TEMPERATURE, self._train.num_classes)[k]
        truth = torch.from_numpy(self._held_out.labels[self._queries]).to(guesses.device)
        top1 = 100 * int((guesses[:, 0] == truth).sum()) / len(truth)
        return {"top1": top1, "k": k, "n": len(queries), "bank": len(bank)}

    @torch.no_grad()
    def _features(self, store: ImageStore, images: np.ndarray) -> Tensor:
        """Pooled features ``[n, width]`` of images, each process computing an equal share."""
        share = -(-len(images) // world_size())
        padded = np.resize(images, share * world_size())  # repeats the first ones, which are cut off below
        mine = padded[rank() * share : (rank() + 1) * share]
        features = []
        with working("features of images for the online k-NN", len(images), show=is_main()) as work:
            for start in range(0, share, BATCH):
                batch = store.batch(mine[start : start + BATCH]).to(self.device)
                pixels = eval_images(batch, self.config.image_size)
                with autocast(self.device, self.config.precision):
                    features.append(self.method.backbone(pixels).float())
                work.advance(min((start + BATCH) * world_size(), len(images)))
        return all_gather_rows(torch.cat(features))[: len(images)]

    @torch.no_grad()
    def diagnose(self) -> tuple[dict[str, Any], np.ndarray | None]:
        """Diagnose two views, augmented as in training, of a few hundred fixed images.

        Returns the log's entries (``on_diagonal`` and ``off_diagonal`` if the method has projections; the others for the evaluated
        backbone's pooled features), and the projections' cross-correlation (``diagnostics.summarize_correlation``) or None.
        """
        share = min(len(self._probe), PROBE) // world_size()
        rows = min(self.config.batch_size // world_size() // self.config.accumulate, share)
        share -= share % rows if rows else 0
        if share * world_size() < 2 or not self._views:
            return {}, None
        views = (self._views if len(self._views) > 1 else self._views * 2)[: self.method.projected_views]
        features, projections = [], []
        parts = [slice(start, start + rows) for start in range(rank() * share, (rank() + 1) * share, rows)]
        batches = fixed_batches(self._probe_store, self._probe[: share * world_size()], parts, views, self.device)
        for batch in track(batches, "diagnosing features of fixed images, batches", len(parts), show=is_main()):
            two = batch.views[:2]
            with autocast(self.device, self.config.precision):
                with _evaluating(self.method.backbone):
                    features.append(torch.cat([self.method.backbone(view).float()[:, None] for view in two], 1))
                with _buffers_kept(self.method):
                    pair = self.method.project(ViewBatch(batch.views[: len(self._views)], batch.labels))
            if pair is not None:
                projections.append(torch.stack([z.float() for z in pair], 1))
        first, second = all_gather_rows(torch.cat(features)).unbind(1)
        record: dict[str, Any] = {
            "effective_rank": effective_rank(first),
            "feature_std": feature_std(first),
            "alignment": alignment(first, second),
            "uniformity": uniformity(first),
            "n": len(first),
        }
        if not projections:
            return record, None
        matrix = cross_correlation(*all_gather_rows(torch.cat(projections)).unbind(1))
        picture, record["on_diagonal"], record["off_diagonal"] = summarize_correlation(matrix)
        return record, picture


@contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Switch to evaluation mode within the block, and restore each submodule's mode after it."""
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, mode in modes:
            child.training = mode


@contextmanager
def _buffers_kept(module: torch.nn.Module) -> Iterator[None]:
    """Restore centres and running statistics after the block."""
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, value in buffers:
            buffer.copy_(value)
