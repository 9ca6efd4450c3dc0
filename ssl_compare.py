"""The toolkit from Python: what a notebook imports. ``docs/python.md`` shows each call.

    import ssl_compare
    network = ssl_compare.load("runs/dino-vit_s16-imagefolder-0")
    features = network.features(["a.jpg", "b.jpg"])      # float32 [2, D]

The rest of the toolkit is loaded by the first call, not by this import. Its folders have names that others use, too (``data``,
``eval``): inside these calls they are the toolkit's, and outside them yours.
"""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch
    from PIL import Image

    from backbones.base import Backbone
    from training.machine.devices import Precision

    #: One image: a path, a Pillow image, or uint8 ``[H, W, 3]``.
    Photo = str | Path | Image.Image | np.ndarray

__all__ = ["Network", "compare", "evaluate", "features", "load", "results", "train"]

ROOT = Path(__file__).resolve().parent
#: The toolkit's own modules of the top level.
ROOMS = frozenset({"run", *(init.parent.name for init in ROOT.glob("*/__init__.py"))} - {"benchmarks", "tests"})

F = TypeVar("F", bound=Callable[..., Any])

if not (ROOT / "run.py").is_file():
    raise ImportError(f"ssl_compare lies in {ROOT} without the toolkit; install it from a checkout: pip install -e .")


class _Finder:
    """Finds the modules of ``ROOMS`` in the checkout, whatever lies in the working directory or on the path."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.PathFinder.find_spec(name, [str(ROOT)]) if name in ROOMS else None


_ours: dict[str, ModuleType] = {}
_told: set[str] = set()
_depth = 0


def _loaded() -> dict[str, ModuleType]:
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] in ROOMS}


def _is_ours(module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and ROOT in Path(file).resolve().parents


@contextmanager
def _toolkit() -> Iterator[None]:
    """Inside, the names of ``ROOMS`` are the toolkit's modules; afterwards they are again what they were before, where somebody
    else has modules of these names."""
    global _depth
    if _depth:  # a call within a call
        yield
        return
    before = _loaded()
    theirs = {name for name in before if "." not in name and not _is_ours(before[name])}
    for name in sorted(theirs - _told):
        _told.add(name)
        where = getattr(before[name], "__file__", None) or "another place"
        message = f"the module {name!r} is loaded from {where}; ssl_compare's calls use the toolkit's own {name!r} and leave yours"
        warnings.warn(message, stacklevel=4)
    hidden = {name: module for name, module in before.items() if name.partition(".")[0] in theirs}
    for name in hidden:
        del sys.modules[name]
    sys.modules.update(_ours)
    sys.meta_path.insert(0, _Finder)
    _depth = 1
    try:
        yield
    finally:
        _depth = 0
        sys.meta_path.remove(_Finder)
        _ours.update(_loaded())
        for name in _ours:
            top = name.partition(".")[0]
            if top in theirs or _elsewhere(top):
                del sys.modules[name]
        sys.modules.update(hidden)


def _elsewhere(name: str) -> bool:
    """Whether Python would find a module of that name in another place than the checkout."""
    places = [place for place in sys.path if Path(place or ".").resolve() != ROOT]
    spec = importlib.machinery.PathFinder.find_spec(name, places)
    return (
        spec is not None and spec.origin is not None
    )  # a folder without __init__.py, such as one of images, has no origin


def _uses_toolkit(function: F) -> F:
    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        with _toolkit():
            return function(*args, **options)

    return call  # type: ignore[return-value]


@_uses_toolkit
def load(
    weights: str | Path | None = None,
    backbone: str | None = None,
    *,
    key: str | None = None,
    image_size: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    seed: int = 0,
) -> Network:
    """A backbone with its weights.

    Args:
        weights: a run directory, a checkpoint, a file of the authors, timm or torchvision, or the name of released weights
            (``dino:vit_s8``); None: untrained.
        backbone: its name; may be left out for runs and for released weights.
        key: which network of a checkpoint ("student", "teacher"); default: what the run evaluates.
        image_size: side in pixels of the squares at which images are looked at; default: the run's, else 224.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto (bf16 where the device is fast at it, as in evaluations), fp32, bf16 or fp16.
        seed: of untrained weights.

    Raises ``common.errors.UserError``, with one sentence, where the weights cannot be used.
    """
    from common.errors import UsageError
    from common.options import several_values
    from reports.visual.core.network import DEFAULT_SIZE, load_network
    from training.machine.devices import pick_precision

    if isinstance(image_size, (list, tuple)):
        raise UsageError(several_values("image_size", image_size))
    network = load_network(None if weights is None else str(weights), backbone, key, image_size, device, seed)
    return Network(
        network.backbone,
        network.name,
        network.weights,
        image_size or network.image_size or DEFAULT_SIZE,
        network.device,
        pick_precision(precision, network.device),
    )


class Network:
    """What ``load`` returns.

    Attributes:
        backbone: the ``torch.nn.Module``, frozen and in evaluation mode.
        name: what it was built by (``vit_s16``).
        weights: where its weights come from, in words.
        image_size: side in pixels of what ``preprocess`` makes.
        device, precision: of its computing.
    """

    def __init__(
        self, backbone: Backbone, name: str, weights: str, image_size: int, device: torch.device, precision: Precision
    ):
        self.backbone = backbone
        self.name = name
        self.weights = weights
        self.image_size = image_size
        self.device = device
        self.precision = precision

    def __repr__(self) -> str:
        return f"Network({self.name}, {self.weights}, {self.image_size} pixels, on {self.device})"

    @_uses_toolkit
    def preprocess(self, images: Photo | Sequence[Photo]) -> torch.Tensor:
        """Images as every evaluation sees them: short side resized to 256/224 of the size, centre cut out, normalised.

        Args:
            images: one or several: paths, Pillow images, or arrays uint8 ``[H, W, 3]`` (grey ones ``[H, W]``).

        Returns:
            float32 ``[n, 3, image_size, image_size]`` on ``device``.
        """
        import torch

        from data.views.central import eval_images

        several = images if isinstance(images, (list, tuple)) else [images]
        if not several:
            return torch.empty(0, 3, self.image_size, self.image_size, device=self.device)
        batches = [_batch_of(image, round(self.image_size * 256 / 224)).to(self.device) for image in several]
        return torch.cat([eval_images(batch, self.image_size) for batch in batches])

    @_uses_toolkit
    def features(self, images: Photo | Sequence[Photo], batch_size: int = 64) -> np.ndarray:
        """Pooled features, float32 ``[n, D]``: the CLS token of a ViT, the mean of a ResNet's last map."""
        return self._compute(self.backbone, images, batch_size)

    @_uses_toolkit
    def tokens(self, image: Photo) -> np.ndarray:
        """Features of one image's places, float32 ``[h, w, D]``: a ViT's patch tokens, a ResNet's last map."""
        return self._compute(lambda batch: self.backbone.maps(batch)[0].permute(0, 2, 3, 1), [image])[0]

    @_uses_toolkit
    def attention(self, image: Photo) -> np.ndarray:
        """Attention of the last block's CLS token to the patches, float32 ``[heads, h, w]``; a head's sum is 1 less its attention
        to the CLS token itself. Raises UserError for a backbone without a CLS token."""
        attention = self._compute(self.backbone.cls_attention, [image])[0, :, 1:]
        return attention.reshape(len(attention), self.image_size // self.backbone.stride, -1)

    def _compute(self, function: Callable, images: Photo | Sequence[Photo], batch_size: int = 64) -> np.ndarray:
        import numpy as np
        import torch

        from training.machine.devices import autocast

        several = images if isinstance(images, (list, tuple)) else [images]
        with torch.inference_mode(), autocast(self.device, self.precision):
            parts = [
                function(self.preprocess(several[start : start + batch_size])).float().cpu().numpy()
                for start in range(0, max(len(several), 1), batch_size)
            ]
        return np.concatenate(parts)


def _batch_of(image: Photo, short_side: int) -> Any:
    """One image as a batch, decoded as data sets are."""
    import numpy as np
    import torch
    from PIL import Image

    from common.errors import UserError
    from data.store.decode import DamagedImage, decode_image, from_array
    from data.store.store import ImageBatch

    if isinstance(image, (str, Path)):
        try:
            decoded = decode_image(Path(image), short_side, upright=True)
        except DamagedImage as error:
            raise UserError(f"{image}: no usable image: {error}") from error
    else:
        levels = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)
        if levels.ndim == 2:
            levels = np.repeat(levels[..., None], 3, axis=2)
        if levels.dtype != np.uint8 or levels.ndim != 3 or levels.shape[2] != 3 or 0 in levels.shape:
            raise UserError(
                f"an image of {levels.dtype} {list(levels.shape)}; give uint8 [H, W, 3], a Pillow image or a path"
            )
        decoded = from_array(levels, short_side)
    pixels = torch.from_numpy(decoded.pixels.copy()).permute(2, 0, 1)[None]
    return ImageBatch.padded(pixels.contiguous(), torch.tensor([pixels.shape[2:]]))


@_uses_toolkit
def features(weights: str | Path | None, images: str | Path, out: str | Path, **options: Any) -> Path:
    """Write the features of a folder's images to a parquet or npz file, as ``run.py features`` does, and return its path."""
    from commands.features import FeaturesCommand, write_features

    return write_features(
        FeaturesCommand(weights=weights and str(weights), images=str(images), out=str(out), **options)
    )


@_uses_toolkit
def results(*runs: str | Path) -> pd.DataFrame:
    """The measurements of run directories, or of folders of them, one a row.

    Returns:
        a frame with the columns ``run``, ``evaluation``, ``metric``, ``value``, ``low``, ``high`` (95% interval over test items),
        ``n``, ``test_data``; every option of the run (``method``, ``backbone``, ``seed``, …) under its name; and ``protocol.NAME``
        for whatever else fixes the number (``protocol.k``). What cannot be used is left out, with a warning.

    Raises ``common.errors.UserError`` where no directory is given.
    """
    import pandas as pd

    from common.errors import UserError
    from rundir.read import read_runs

    if not runs:
        raise UserError("results: give run directories, or folders of them")
    read, problems = read_runs([Path(run) for run in runs])
    for problem in problems:
        warnings.warn(f"{problem.where}: {problem.what}", stacklevel=3)
    rows = [
        {
            "run": str(run.path),
            "evaluation": one.evaluation,
            "metric": one.metric,
            "value": one.value,
            "low": one.low,
            "high": one.high,
            "n": one.n,
            "test_data": one.data.get("name"),
            **run.config,
            **{f"protocol.{name}": value for name, value in one.protocol.items()},
        }
        for run in read
        if run.finished
        for one in run.results
    ]
    return pd.DataFrame(rows)


@_uses_toolkit
def train(**options: Any) -> Path:
    """Pre-train a backbone, or continue, as ``run.py train`` does; then evaluate it, if ``evals`` are given.

    Args:
        options: of the command line, by name: ``method="dino", backbone="vit_s16", data="imagefolder", data_root="photos"``.

    Returns:
        the run directory; with ``dry_run=True``, which prints the plan, the one that the run would have.

    Raises ``common.errors.UserError``, with the command line's sentence, for wrong options or data.
    """
    from commands.train import train_from_words

    return train_from_words(_words(options))


@_uses_toolkit
def evaluate(weights: str | Path | None = None, **options: Any) -> pd.DataFrame:
    """Evaluate weights as ``run.py evaluate`` does.

    Args:
        weights: as ``load`` takes them.
        options: of the command line, by name: ``evals=["knn", "linear"], knn_ks=[20], data="imagenet", data_root="DIR"``.

    Returns:
        the measurements asked for, as ``results`` has them.
    """
    from commands.evaluate import evaluate_weights, read_options

    command, evaluations = read_options(_words({"weights": weights, **options}))
    measured = evaluate_weights(command, evaluations)
    frame = results(*{one.run for one in measured})
    asked = frame["evaluation"].isin(list(evaluations)) & (frame["test_data"] == measured[0].data["name"])
    return frame[asked].reset_index(drop=True)


@_uses_toolkit
def compare(**options: Any) -> pd.DataFrame:
    """Run a grid as ``run.py compare`` does: train what is missing, evaluate, report.

    Args:
        options: of the command line, by name: ``methods=["dino", "barlow_twins"], backbones=["vit_s16"], seeds=[0, 1, 2],
            evals=["knn"], out="comparison"``, or ``grid="experiments/demo.yaml"``; and any of training's.

    Returns:
        the report's tables of results (``tables/results*.csv``): one row a method and backbone, with means over seeds and
        intervals.
    """
    import pandas as pd

    from commands.compare import main as run_grid
    from rundir.paths import REPORT
    from training.grids.options import CompareCommand

    if run_grid(_words(options)) != 0:
        warnings.warn("some trainings failed, as told above; the report has the others", stacklevel=3)
    tables = sorted((Path(options.get("out", CompareCommand.out)) / REPORT / "tables").glob("results*.csv"))
    return pd.concat(map(pd.read_csv, tables), ignore_index=True) if tables else pd.DataFrame()


def _words(options: dict[str, Any]) -> list[str]:
    """Options as the words of a command line."""
    from common.cli import words_of

    return words_of({name: str(value) if isinstance(value, Path) else value for name, value in options.items()})


def main() -> int:
    """The command ``ssl-compare``, which is ``run.py``."""
    with _toolkit():
        import run

        return run.program()
