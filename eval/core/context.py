"""The input of evaluations: a backbone with its weights, data, and the folder for results."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backbones import build_backbone
from backbones.base import Backbone
from backbones.formats.source import Source
from common.errors import UsageError
from common.files import as_file_name, digest_of
from common.options import check
from common.progress import working
from common.schedules import steps_of
from data.datasets import default_image_size, no_labels, open_benchmark, open_dataset, require_same_classes
from data.sets.core.base import DATASETS
from data.sets.core.benchmark import Benchmark
from data.store.store import ImageStore
from eval.core.options import WeightsOptions
from eval.core.untrained import without_training
from eval.features.cache import ArrayCache
from eval.features.extract import FrozenBackbone, Kind, store_features
from rundir.paths import FEATURES
from training.machine.devices import pick_device, pick_precision


@dataclass(kw_only=True)
class EvalContext(FrozenBackbone):
    """A backbone to evaluate, with data and options.

    Attributes:
        weights: where its weights come from, in words.
        train, test: the splits; ``test`` may choose nothing. A benchmark, which has no splits, is both.
        image_size: side in pixels of evaluation images.
        run_dir: gets ``results/``, ``predictions/`` and ``features/``.
        trained: options of the training that the weights come from, with ``checkpoint`` ("after step 40") where it had not
            ended; {} for others' weights.
        trained_in: the run directory that the weights come from; None for others.
        data_root: the folder that the data set was opened in.
    """

    backbone_name: str
    weights: str
    train: ImageStore | Benchmark
    test: ImageStore | Benchmark
    image_size: int
    run_dir: Path
    seed: int = 0
    trained: dict[str, Any] = field(default_factory=dict)
    trained_in: Path | None = None
    data_root: Path | None = None
    _features: dict[tuple[str, Kind], Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.run_dir = Path(self.run_dir)

    @cached_property
    def weights_hash(self) -> str:
        """16 hexadecimal digits of a digest of the weights and the backbone's name."""
        digest = hashlib.sha256(self.backbone_name.encode())
        for name, tensor in self.backbone.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()[:16]

    def copy_of_backbone(self, image_size: int, **hints: Any) -> Backbone:
        """Build another backbone with the same weights; hints as for ``backbones.build_backbone``."""
        backbone = build_backbone(self.backbone_name, image_size, **hints)
        backbone.load_state_dict(self.backbone.state_dict())
        return backbone

    def frozen(self, backbone: Backbone) -> FrozenBackbone:
        """Put another backbone on the same device in the same precision."""
        return FrozenBackbone(backbone=backbone, device=self.device, precision=self.precision)

    def store(self, split: str) -> ImageStore:
        return self.train if split == "train" else self.test

    def features(self, split: str, kind: Kind = "pooled") -> Tensor:
        """Features of all images of ``"train"`` or ``"test"``, float32 ``[n, D]`` on the CPU, extracted once and cached."""
        self.prepare(split, [kind])
        return self._features[split, kind]

    def prepare(self, split: str, kinds: Sequence[Kind]) -> None:
        """Extract features of several kinds in one pass."""
        store, caches = self.store(split), {}
        for kind in kinds:
            if (split, kind) not in self._features:
                about = {
                    "weights": self.weights_hash,
                    "data": store.fingerprint,
                    "size": self.image_size,
                    "precision": self.precision,
                    "kind": kind,
                }
                caches[kind] = self.cache(f"{store.name}-{store.split}-{kind}", len(store), about)
        if caches:
            features = store_features(self, store, caches, self.image_size)
            self._features |= {(split, kind): tensor for kind, tensor in features.items()}

    def cache(self, name: str, rows: int, about: Any) -> ArrayCache:
        """A file under ``features/``; ``about`` is everything that its rows depend on (JSON-able)."""
        return ArrayCache(self.run_dir / FEATURES / f"{as_file_name(name)}-{digest_of(about)}.npy", rows)

    def labelled(self, split: str) -> np.ndarray:
        """Indices of the images with a label, int64. Raises UserError if none has."""
        rows = np.flatnonzero(self.store(split).labelled)
        if len(rows) == 0:
            raise no_labels(self.test.name, split)
        return rows

    def labels(self, split: str, rows: np.ndarray) -> Tensor:
        """Labels of these images: int64 ``[n]``, or bool ``[n, classes]`` where images have several."""
        return torch.from_numpy(self.store(split).label_of(rows))

    def protocol(self) -> dict[str, Any]:
        """The entries of every protocol that the context fixes."""
        return {
            "image_size": self.image_size,
            "view": "short side resized to 256/224 of the size (bicubic), central crop",
            "precision": self.precision,
        }

    def data(self, rows: np.ndarray | None = None, train: ImageStore | None = None) -> dict[str, Any]:
        """``Measurement.data``: the name, sizes and fingerprints (of pixels and of their sources) of the data, and test images of
        classes without training images.

        Args:
            rows: the training images whose labels are used; default: all.
            train: another list of the data set than ``self.train``, if that is what was trained on.
        """
        if isinstance(self.test, Benchmark):
            about_files = {"files": len(self.test.files), "fingerprint": self.test.fingerprint}
            return {"name": self.test.name, "test": about_files}

        def about(store: ImageStore) -> dict[str, Any]:
            counts = {"images": len(store), "labelled": int(store.labelled.sum()), "skipped": len(store.damaged)}
            return {**counts, "fingerprint": store.fingerprint, "source": store.source}

        train = self.train if train is None else train
        list_of_its_own = {} if train.split == self.train.split else {"split": train.split}
        untrained = without_training(train, self.test, rows)
        return {
            "name": self.test.name,
            "classes": self.test.num_classes,
            "several_labels": self.test.label_sets is not None,
            "train": about(train) | list_of_its_own,
            "test": about(self.test) | ({"without_training": untrained} if untrained else {}),
        }


def make_context(options: WeightsOptions) -> EvalContext:
    """Make a context for any weights. Where ``options`` are silent, the run that the weights belong to decides.

    Raises UsageError for a missing or unknown option, UserError for weights or data that cannot be read.
    """
    check(options)
    data, data_root = options.data, options.data_root
    source = Source(options.weights)
    with working(f"reading {options.weights}"):
        backbone = source.backbone_name(options.backbone)
        of_run = source.options
    if data is None:
        data = of_run.get("data")
        data_root = data_root or of_run.get("data_root")
    if data is None:
        raise UsageError("--data is needed: the data set to evaluate on")
    image_size = options.image_size
    if image_size is None:
        same_data = of_run.get("data") == data and source.run.get("image_size")
        image_size = source.run["image_size"] if same_data else default_image_size(data)
    device = pick_device(options.device)

    with working(f"making {backbone}"):
        network, weights = source.build(backbone, image_size, options.seed, options.key)
    root = None if data_root is None else Path(data_root)
    if DATASETS.facts(data).get("is_benchmark"):
        train = test = open_benchmark(data, root)
    else:
        short_side = round(image_size * 256 / 224)
        # The test split first: where it is missing, the training images need not be decoded to learn that.
        test, train = (open_dataset(data, split, root, short_side) for split in ("test", "train"))
        require_same_classes(data, train.classes, test.classes)
        for store in (train, test):
            store.name_classes(options.class_names)
    out = options.out
    if out is None and source.is_run_directory:
        out = options.weights
    elif out is None:
        stem = Path(options.weights).stem if options.weights else "untrained"
        stem = as_file_name(source.spec) if source.release else stem
        out = f"runs/evaluate-{backbone.replace(':', '_')}-{stem}-{as_file_name(data)}-{options.seed}"
    return EvalContext(
        backbone=network,
        backbone_name=backbone,
        weights=weights,
        train=train,
        test=test,
        image_size=image_size,
        device=device,
        precision=pick_precision(options.precision, device),
        run_dir=Path(out),
        seed=options.seed,
        trained=_training_of(source),
        trained_in=source.run_directory,
        data_root=root,
    )


def _training_of(source: Source) -> dict[str, Any]:
    """See ``EvalContext.trained``."""
    options = dict(source.options)
    if "method" not in options:
        return {}
    step, per_epoch, epochs = source.content.get("step"), source.content.get("steps_per_epoch"), options.get("epochs")
    if isinstance(step, int) and per_epoch and isinstance(epochs, (int, float)) and step < steps_of(epochs, per_epoch):
        options["checkpoint"] = f"after step {step}"
    return options
