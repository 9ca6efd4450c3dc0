"""Pictures of a few fixed images while a network trains: attention, receptive fields, crops, cross-correlation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from backbones import build_backbone
from common.distributed import is_main, whole
from common.errors import UserError
from common.progress import warn
from methods.core.base import Method
from reports.visual import attention, crops, cross_correlation, receptive_field
from reports.visual.core.images import InputImage, choose, data_title, fitted, fitting, normalised, square
from reports.visual.core.network import Network
from reports.visual.core.style import save_figure
from rundir.paths import training_picture, training_pictures
from training.plan import Plan

#: Images that are looked at, and anchors whose crops are drawn.
COUNT, ANCHORS = 4, 3


class TrainingPictures:
    """Draws a method at times of its training, and leaves it as it was. All processes call ``draw`` together; the first draws.

    Attention and receptive fields are those of the evaluated backbone, on held-out images, or on training images where none are
    held out. The crops are those that the anchors, always the same, would have in the next step.

    Args:
        diagnose: the monitor's, which all processes call together.
    """

    def __init__(self, plan: Plan, method: Method, diagnose: Callable[[], tuple[dict[str, Any], np.ndarray | None]]):
        self.plan, self.method, self._diagnose = plan, method, diagnose
        train, held_out = plan.images
        self._store, self._whose = (held_out, "Held-out") if len(held_out) else (train, "Training")
        self._refused: set[str] = set()
        self._chosen = choose(self._store, COUNT, plan.config.seed)

    def draw(self, step: int, epoch: float) -> dict[str, Path]:
        """Draw the method after ``step`` steps, and return the files by what they show. A kind of picture that this backbone or
        method does not allow is named once, and left out. Raises OSError, in the first process alone."""
        _, matrix = self._diagnose()
        weights = whole(self.method.backbone.state_dict())
        if not is_main():
            return {}
        config, written = self.plan.config, {}
        backbone = build_backbone(config.backbone, config.image_size)
        backbone.load_state_dict(weights)
        backbone.to(self.plan.device).eval().requires_grad_(False)
        when = f"{config.method} on {config.data}, epoch {epoch:g} (run {self.plan.directory.name})"
        network = Network(backbone, config.backbone, when, config.image_size, self.plan.options, self.plan.device)
        images = [InputImage(self._store.names[i], self._store.original_image(i)) for i in self._chosen]
        kinds = {
            "attention": lambda: self._attention(network, images),
            "receptive_field": lambda: self._receptive_fields(network, images),
            "crops": lambda: self._crops(when, step),
            "cross_correlation": lambda: self._cross_correlation(when, matrix),
        }
        for kind, figures in kinds.items():
            try:
                for what, figure in figures():
                    path = training_picture(self.plan.directory, what, step)
                    (written[what],) = save_figure(figure, path.parent, path.stem, ["png"])
            except UserError as error:
                if kind not in self._refused:
                    warn(f"pictures: no {kind}: {error}")
                self._refused.add(kind)
        return written

    def has_drawn(self, step: int) -> bool:
        """Whether pictures of this step exist."""
        return bool(training_pictures(self.plan.directory, step))

    def _attention(self, network: Network, images: list[InputImage]) -> Iterator[tuple[str, Figure]]:
        attention.require_attention(network.backbone)
        short_side, how = fitting(network, None)
        for number, image in enumerate(images, 1):
            pixels = fitted(image, network.backbone.stride, short_side)
            about = f"{self._whose} image {image.name}; {how}"
            yield f"attention-{number}", attention.attention_of(network, pixels, attention.Attention.mass, about)

    def _receptive_fields(self, network: Network, images: list[InputImage]) -> Iterator[tuple[str, Figure]]:
        size = network.image_size
        inputs = normalised(np.stack([square(image.pixels, size) for image in images]))
        fields = receptive_field.fields_of(network, inputs, network.name, show=False)
        about = f"{len(images)} {self._whose.lower()} images of {data_title(self._store)}, {size} × {size} pixels."
        title = f"Effective receptive fields of {network.name}, {network.weights}\n{about}"
        yield "receptive_field", receptive_field.receptive_fields([fields], title)

    def _crops(self, when: str, step: int) -> Iterator[tuple[str, Figure]]:
        config, batches = self.plan.config, crops.batches_of(self.plan)
        anchors = np.random.default_rng([config.seed, 1]).permutation(len(batches.store))[: config.batch_size]
        samples = crops.samples_of(batches, anchors, step, ANCHORS)
        words = crops.pairing_words(config, step, batches.pairing_start)
        title = f"What {when} sees next\nAnchors that are the same each time; {config.image_size} pixels; {words}."
        yield "crops", crops.crops(samples, title)

    def _cross_correlation(self, when: str, matrix: np.ndarray | None) -> Iterator[tuple[str, Figure]]:
        if matrix is None:
            raise UserError(f"{self.plan.config.method} has no projections of two views to correlate")
        what = f"{self.plan.config.backbone}, {when}, {len(matrix)} features, {self._whose.lower()} images"
        name = self.plan.directory.name
        yield "cross_correlation", cross_correlation.heatmaps([cross_correlation.Matrix(name, matrix, what)])
