"""The interface of pictures: a dataclass of options whose ``draw`` writes files. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from common.cli import PluginOption
from common.errors import unknown_name
from common.options import IMAGE_SIZE, option
from common.registry import Registry
from rundir.paths import FIGURES

#: Kinds of pictures by name, each registered by the file of its name.
VISUALIZATIONS: Registry[type[Visualization]] = Registry("picture", "reports.visual")


@dataclass(kw_only=True)
class Visualization(PluginOption):
    """A kind of picture. The first line of its docstring is its help.

    A kind with a ``title`` can be drawn of any run by default options (``of_run``): ``run.py --visualize NAME`` draws it, and
    reports show the first of a run's ``figures/NAME-*.png``, in the order of ``place``.
    """

    #: Heading, explanation and order on a report's page: literals, which are read without an import of what draws.
    title = ""
    caption = ""
    place = 100

    out: str | None = None
    """folder for the pictures; default: the run's figures/ where one run is looked at, else pictures/"""

    def draw(self) -> list[Path]:
        """Write the pictures and return their files. Raises UserError for unusable weights, data or images."""
        raise NotImplementedError

    def folder(self, *runs: str | None) -> Path:
        """Folder of the files: ``--out``, else the figures of the only run, else ``pictures``."""
        if self.out:
            return Path(self.out)
        is_run = len(runs) == 1 and runs[0] is not None and Path(runs[0]).is_dir()
        return Path(runs[0]) / FIGURES if is_run else Path("pictures")

    @classmethod
    def help(cls) -> str:
        """Describe the picture in a line."""
        return cls.__doc__.splitlines()[0]

    @classmethod
    def of_run(cls, run: str) -> Self:
        """Options for a picture of one run, with defaults."""
        return cls(weights=run)


@dataclass(kw_only=True)
class DataVisualization(Visualization):
    """Options of pictures that look at images of a data set."""

    data: str | None = None
    """data set, by its name; default: the (first) run's"""
    data_root: str | None = None
    """folder of the data set; default: the (first) run's; demo needs none"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps"""
    seed: int = 0
    """of untrained weights, and of which images are chosen"""


@dataclass(kw_only=True)
class NetworkVisualization(DataVisualization):
    """Options of pictures of one network."""

    weights: str | None = None
    """run directory, checkpoint, weights file (the authors', timm's, torchvision's) or released weights by name: dino:vit_s8,
    barlow_twins:resnet50, timm:NAME.TAG, torchvision:NAME; default: untrained"""
    key: str | None = None
    """which network of a checkpoint, such as teacher or student; default: the one that the run evaluates, else the teacher"""
    backbone: str | None = None
    """backbone, by its name; default: the run's"""


@dataclass(kw_only=True)
class ImagesVisualization(NetworkVisualization):
    """Options of pictures of single images."""

    images: list[str] | None = None
    """image files or folders of them; default: some test images of the data set"""
    count: int = option(4, at_least=1)
    """how many images of the data set to take, of different classes where it has them"""
    image_size: int | None = option(None, at_least=0, at_most=IMAGE_SIZE["at_most"], unit="pixels")
    """short side in pixels to which images are resized before both sides are cut to multiples of the patch; 0: not resized;
    default: the run's, else 224"""


@dataclass(kw_only=True)
class FeaturesVisualization(NetworkVisualization):
    """Options of pictures of a data set's features."""

    image_size: int | None = option(None, **IMAGE_SIZE)
    """side of the images that features are of, in pixels; default: the run's, else the data set's own"""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """of feature extraction"""
    class_names: str | None = None
    """file of names for the classes: one a line in their order, or CLASS NAME; default: for ImageNet's synsets the words"""


def for_reports() -> dict[str, dict[str, Any]]:
    """The facts of the kinds with a ``title`` by name, in the order of a report's page. Imports none of them."""
    kinds = {name: VISUALIZATIONS.facts(name) for name in VISUALIZATIONS.names()}
    return dict(
        sorted(((n, kind) for n, kind in kinds.items() if kind.get("title")), key=lambda item: item[1]["place"])
    )


def check_for_reports(names: list[str]) -> None:
    """Raise UsageError, naming the nearest kind, for a name that is not in ``for_reports``."""
    kinds = for_reports() if names else {}
    for name in names:
        if name not in kinds:
            raise unknown_name("picture of a run", name, kinds)
