"""Follows video objects from their first frame's mask by frozen patch features alone (DINO, arXiv 2104.14294, table 5; reference:
dino/eval_video_segmentation.py). Measures as DAVIS 2017's semi-supervised task (davis2017-evaluation)."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.ahead import ahead
from common.errors import UserError
from common.images import normalise
from common.options import option
from common.progress import track
from data.sets.davis import Davis, Video
from data.store.decode import require_pixels
from data.views.dense import resize_mask
from eval.core.base import EVALUATIONS, Evaluation, EvaluationConfig
from eval.core.context import EvalContext
from eval.core.scoring import measure_means
from eval.dense.boundary import BOUND, boundary_f, recall_and_decay, region_jaccard
from eval.dense.masks import write_mask
from eval.dense.propagation import propagate
from rundir.results import Measurement
from training.machine.devices import autocast, synchronize

#: The longer side of a frame is cut to a multiple of it (reference: ``read_frame``).
LONG_MULTIPLE = 64


@dataclass(kw_only=True)
class DavisConfig(EvaluationConfig):
    """Options of label propagation on DAVIS (defaults: the authors')."""

    size: int = option(480, at_least=1)
    """shorter side of the frames in pixels"""
    n_last_frames: int = option(7, at_least=0)
    """frames before a frame that labels come from, beside the first"""
    size_mask_neighborhood: int = option(12, at_least=0)
    """rows and columns of patches that something may move between two frames; 0: any number"""
    topk: int = option(5, at_least=1)
    """most similar patches that give a patch its label"""
    temperature: float = option(0.1, above=0)
    """of their weights exp(cosine / temperature)"""


@EVALUATIONS.register("davis")
class DavisPropagation(Evaluation):
    """J&F, J and F (mean over objects of the mean over frames), recall and decay of J and F in percent, and seconds a frame.

    Each patch takes the soft labels of its most similar patches in the first frame and the last ``n_last_frames``. J is the
    Jaccard index of regions, F the F-measure of contours (``eval.dense.boundary``), both at the original resolution, without the
    first and the last frame. The benchmark's own program can read the masks, palette PNG files under ``davis/VIDEO`` of the run.

    Raises UserError for a backbone without maps, unreadable frames, and masks that are wrong or differ in size from their frames.
    """

    title = "DAVIS"
    citation = "Pont-Tuset et al. 2017, arXiv 1704.00675"
    metrics = {
        "jf_mean": "J&F",
        "j_mean": "J",
        "j_recall": "J recall",
        "j_decay": "J decay",
        "f_mean": "F",
        "f_recall": "F recall",
        "f_decay": "F decay",
        "seconds_per_frame": "s/frame",
    }
    units = {"seconds_per_frame": "s"}
    scales = {"j_decay": (-100, 100), "f_decay": (-100, 100), "seconds_per_frame": (0, None)}
    lower_is_better = ("decay", "seconds")
    headline = ("jf_mean",)
    grouped_by = "videos"
    Config = DavisConfig
    config: DavisConfig
    benchmarks = ("davis",)

    def run(self, context: EvalContext) -> list[Measurement]:
        data: Davis = context.test
        stride = context.backbone.stride
        if not stride or self.config.size % stride:
            raise UserError(
                f"--davis_size {self.config.size} is no multiple of the {stride} pixels of a cell of {context.backbone_name}'s map"
            )
        names, of_video, measures = [], [], []
        seconds = frames = 0
        for number, video in enumerate(track(data.videos, "following objects", len(data.videos))):
            truth = video.read_masks()
            began = time.perf_counter()
            masks = self.follow(context, video, truth[0])
            seconds += time.perf_counter() - began
            frames += len(masks) - 1
            _write_masks(context.run_dir / "davis" / video.name, video, masks)
            for place, measured in enumerate(object_measures(masks, truth), 1):
                names.append(f"{video.name}_{place}")
                of_video.append(number)
                measures.append(measured)
        means = measure_means(
            context,
            "davis",
            names,
            object_outcomes(measures),
            self._protocol(context),
            samples="videos, objects counted",
            groups=of_video,
        )
        timed = dataclasses.replace(
            means[0],
            metric="seconds_per_frame",
            value=seconds / frames,
            low=None,
            high=None,
            n=frames,
            predictions=None,
            interval=f"none: one measurement, reading included, on {context.device}",
        )
        return [*means, timed]

    def _protocol(self, context: EvalContext) -> dict[str, str | float]:
        return {
            "task": "semi-supervised: from the first frame's mask; first and last frame not measured",
            "size": f"shorter side {self.config.size}, longer side a multiple of {LONG_MULTIPLE} or of the patch",
            "sources": f"first frame and the last {self.config.n_last_frames}",
            "neighborhood": self.config.size_mask_neighborhood,
            "topk": self.config.topk,
            "temperature": self.config.temperature,
            "boundary": f"contours match within {BOUND} of the diagonal",
            "mean": "over frames, then objects",
            "precision": context.precision,
        }

    @torch.inference_mode()
    def follow(self, context: EvalContext, video: Video, first: np.ndarray) -> np.ndarray:
        """Predict the masks of a video, uint8 ``[T, H, W]``, from the first one."""
        config, device = self.config, context.device
        labels_HW = torch.from_numpy(first).to(device)
        objects = int(first.max())
        previous: deque[tuple[Tensor, Tensor]] = deque(maxlen=config.n_last_frames)
        start = None
        masks = [labels_HW]
        for frame in self._frames(context, video, first.shape):
            with autocast(device, context.precision):
                features = context.backbone.maps(frame.to(device)[None])[0][0]
            features_hwD = features.float().permute(1, 2, 0)
            if start is None:
                small_hw = resize_mask(labels_HW, features_hwD.shape[:2])
                start = features_hwD, F.one_hot(small_hw.long(), objects + 1).float()
                continue
            sources_ShwD, labels_ShwC = (torch.stack(maps) for maps in zip(start, *previous, strict=True))
            radius = config.size_mask_neighborhood or max(features_hwD.shape[:2])
            soft_hwC = propagate(features_hwD, sources_ShwD, labels_ShwC, radius, config.topk, config.temperature)
            previous.append((features_hwD, soft_hwC))
            masks.append(hard_labels(soft_hwC, frame.shape[-2:], first.shape))
        masks_THW = torch.stack(masks).cpu().numpy()  # once a video, since the copy makes the device wait
        synchronize(device)
        return masks_THW

    def _frames(self, context: EvalContext, video: Video, shape: tuple[int, int]) -> Iterator[Tensor]:
        """Read frames ahead, normalised float32 ``[3, h, w]``."""
        multiple = LONG_MULTIPLE if LONG_MULTIPLE % context.backbone.stride == 0 else context.backbone.stride
        size = frame_size(shape, self.config.size, multiple)

        def read(file: Path) -> Tensor:
            pixels = require_pixels(file)
            if pixels.shape[:2] != tuple(shape):
                (h, w), (mask_h, mask_w) = pixels.shape[:2], shape
                raise UserError(
                    f"{file}: the frame is {h}×{w} pixels and the video's masks {mask_h}×{mask_w} (height×width); "
                    "masks have the size of their frames"
                )
            levels = torch.tensor(pixels).permute(2, 0, 1)[None].float()
            return normalise(F.interpolate(levels, size, mode="bilinear").round()[0])

        return ahead(read, video.frames, threads=2, most=3)


def frame_size(shape: tuple[int, int], short: int, multiple: int) -> tuple[int, int]:
    """Height and width for a shorter side ``short``, the longer rounded down to a multiple (reference: ``read_frame``)."""
    height, width = shape
    long = int(short * max(shape) / min(shape) // multiple * multiple)
    return (long, short) if height > width else (short, long)


def hard_labels(soft_hwC: Tensor, frame: tuple[int, int], shape: tuple[int, int]) -> Tensor:
    """Upsample soft labels to the frame, stretch each to [0, 1], and let the largest win: object ids, uint8 of the original
    ``shape`` (reference: ``norm_mask`` and the lines after it)."""
    full = F.interpolate(soft_hwC.permute(2, 0, 1)[None], tuple(frame), mode="bilinear")[0]
    lowest, highest = full.amin((1, 2), keepdim=True), full.amax((1, 2), keepdim=True)
    spread = torch.where(highest > lowest, highest - lowest, 1)
    stretched = torch.where(highest > 0, (full - lowest) / spread, full)
    return resize_mask(stretched.argmax(0).to(torch.uint8), shape)


def object_measures(masks: np.ndarray, truth: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield each object's J and F of the measured frames, ``[T - 2]``, from masks ``[T, H, W]``."""
    for number in range(1, int(truth[0].max()) + 1):
        pairs = [(mask == number, true == number) for mask, true in zip(masks[1:-1], truth[1:-1], strict=True)]
        yield np.array([region_jaccard(*pair) for pair in pairs]), np.array([boundary_f(*pair) for pair in pairs])


def object_outcomes(measures: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    """Each metric's vector over objects, as fractions, from ``object_measures``."""
    j, f = (np.array([values.mean() for values in measure]) for measure in zip(*measures, strict=True))
    outcomes = {"jf_mean": (j + f) / 2}
    for name, means, measure in zip("jf", (j, f), zip(*measures, strict=True), strict=True):
        recall, decay = np.array([recall_and_decay(values) for values in measure]).T
        outcomes |= {f"{name}_mean": means, f"{name}_recall": recall, f"{name}_decay": decay}
    return outcomes


def _write_masks(folder: Path, video: Video, masks: np.ndarray) -> None:
    for file, mask in zip(video.frames, masks, strict=True):
        write_mask(folder / f"{file.stem}.png", mask)
