"""Finds, checks and reads the weights that a user names, for ``--weights``, ``--init``, ``export`` and pictures."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from backbones import build_backbone
from backbones.base import Backbone
from backbones.formats import huggingface
from backbones.formats.released import Release, find_release, is_released, normalised_otherwise, release_of
from backbones.formats.weights import LoadReport, fitting_backbone, load_state, read_weights
from common.download import digest
from common.errors import UsageError, UserError
from rundir.paths import has_checkpoint, require_checkpoint


class Source:
    """Where weights come from. Nothing is read, and no release fetched, before ``path`` or ``content`` is first used.

    Args:
        spec: a run directory (its last checkpoint), a run's checkpoint, a file of the authors, timm or torchvision, a folder that
            transformers saved, the name of released weights (``dino:vit_s8``, ``hf:ORG/NAME``), or None: untrained.
    """

    def __init__(self, spec: str | Path | None):
        self.spec = None if spec is None else str(spec)
        self.release: Release | None = release_of(self.spec) if is_released(spec) else None

    @cached_property
    def path(self) -> Path:
        """The file. Raises UserError if it does not exist."""
        if self.release is not None:
            return find_release(self.spec)
        path = Path(self.spec)
        if self.is_transformers_folder:
            return huggingface.weights_file(path)
        if path.is_dir():
            return require_checkpoint(path)
        if not path.is_file():
            raise UserError(
                f"{path}: no such weights file or run directory; names of released weights begin with dino:, barlow_twins:, "
                "timm:, torchvision: or hf:"
            )
        return path

    @cached_property
    def content(self) -> Mapping[str, Any]:
        """The file's content; see ``read_weights``."""
        return read_weights(self.path)

    @cached_property
    def sha256(self) -> str:
        return digest(self.path, "sha256")

    @property
    def is_run_directory(self) -> bool:
        is_folder = self.spec is not None and self.release is None and Path(self.spec).is_dir()
        return is_folder and not self.is_transformers_folder

    @property
    def is_transformers_folder(self) -> bool:
        """Whether it is a folder that transformers' ``save_pretrained`` wrote."""
        if self.spec is None or self.release is not None:
            return False
        return huggingface.is_folder(Path(self.spec)) and not has_checkpoint(Path(self.spec))

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """``config.json`` of a model of transformers; empty for other weights."""
        if self.release is not None and self.release.family == "hf":
            repository, revision = self.release.repository, self.release.revision
            return huggingface.read_config(huggingface.fetch(repository, revision, huggingface.CONFIG))
        return huggingface.read_config(Path(self.spec) / huggingface.CONFIG) if self.is_transformers_folder else {}

    @property
    def run_directory(self) -> Path | None:
        """The run that the weights come from: itself, or the one whose checkpoint is named; None for other weights."""
        if self.spec is None or self.release is not None:
            return None
        path = Path(self.spec)
        run = path if path.is_dir() else path.parent.parent
        return run if has_checkpoint(run) else None

    @cached_property
    def run(self) -> Mapping[str, Any]:
        """``backbone_name``, ``image_size`` and ``config`` from a run's checkpoint; empty for other files."""
        if self.spec is None or self.release is not None or "backbone_prefix" not in self.content:
            return {}
        return {name: self.content[name] for name in ("backbone_name", "image_size", "config") if name in self.content}

    @property
    def options(self) -> Mapping[str, Any]:
        """The run's options; empty for other files."""
        return self.run.get("config", {})

    def backbone_name(self, given: str | None = None) -> str:
        """The ``given`` name, else the weights' own. Raises UsageError if both are missing."""
        name = given or (self.release.backbone if self.release else self.run.get("backbone_name"))
        if name is None and self.spec is not None:
            fits = fitting_backbone(self.content)
            if fits is not None and (self.is_transformers_folder or self.release is not None):
                return fits
            hint = f"; it fits {fits}" if fits else ""
            raise UsageError(f"--backbone is needed, since {self.spec} does not name its own{hint}")
        if name is None:
            raise UsageError("--backbone is needed, since no --weights are given")
        return name

    def load_into(self, backbone: Backbone, backbone_name: str, key: str | None = None) -> LoadReport:
        """Load the weights into ``backbone``, in place, all or nothing.

        Args:
            backbone_name: the name ``backbone`` was built by; a run's checkpoint must have the same.
            key: a network of a checkpoint, by its entry or its names' prefix ("student", "teacher", "state_dict_ema"); default:
                the network that the run evaluates, else the teacher, else the only one that is no moving average.

        Raises UserError if the file is missing, unreadable, would run code, or does not wholly fit this backbone.
        """
        where = f"{self.spec}, {self.path}" if self.release else str(self.path)
        remark = self.release.remark if self.release else ""
        huggingface.check_config(self.config, backbone, where)
        return load_state(backbone, self.content, self.path, backbone_name, key, where, remark or self._remark)

    @property
    def _remark(self) -> str:
        """A remark if a model of transformers was trained on images normalised otherwise than here."""
        if not self.config:
            return ""
        if self.release is None:
            return normalised_otherwise(*huggingface.normalisation_of(Path(self.spec) / huggingface.PREPROCESSOR))
        with contextlib.suppress(UserError):  # not every model has one
            file = huggingface.fetch(self.release.repository, self.release.revision, huggingface.PREPROCESSOR)
            return normalised_otherwise(*huggingface.normalisation_of(file))
        return ""

    def build(self, backbone_name: str, image_size: int, seed: int = 0, key: str | None = None) -> tuple[Backbone, str]:
        """Build a backbone with these weights; also returns in words where they come from. ``seed`` is for untrained ones."""
        torch.manual_seed(seed)
        backbone = build_backbone(backbone_name, image_size)
        if self.spec is not None:
            return backbone, str(self.load_into(backbone, backbone_name, key))
        return backbone, "untrained" if any(True for _ in backbone.parameters()) else "no weights"
