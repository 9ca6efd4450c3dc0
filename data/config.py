"""Options of ``run.py data``. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from simple_parsing import field


@dataclass(kw_only=True)
class DataCommand:
    """Options of the command that builds, checks and describes a data set."""

    name: str = field(positional=True)
    """demo, imagefolder, cifar10, imagenet, voc2007 or voc2012"""
    data_root: str | None = None
    """folder of the data set; demo needs none"""
    short_side: int | None = None
    """largest short side of the stored images, in pixels; default: as they are"""
    download: bool = False
    """fetch what is missing (voc2012: images, masks, and SBD's masks of train_aug), with checksums; continues when repeated"""
