"""Released weights by name, fetched into the cache: ``dino:vit_s8``, ``dino:vit_s8:full``, ``barlow_twins:resnet50``,
``timm:NAME.TAG``, ``torchvision:NAME.WEIGHTS``, ``hf:ORG/NAME``.

Addresses are from the authors' READMEs (facebookresearch/dino 7c446df, facebookresearch/barlowtwins 8e8d284) and the
libraries. Files are kept in ``weights/FAMILY`` of the cache, timm's and transformers' in the Hugging Face hub's cache.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbones import names
from backbones.formats import huggingface
from common.download import WEIGHTS, cache_root, digest, download
from common.errors import UsageError, UserError, unknown_name
from common.files import archive_damage, write_text
from common.images import IMAGENET_MEAN, IMAGENET_STD
from common.lock import owned_lock
from common.progress import Console

FAMILIES = ("dino", "barlow_twins", "timm", "torchvision", "hf")
DINO_URL = "https://dl.fbaipublicfiles.com/dino"
BARLOW_TWINS_URL = "https://dl.fbaipublicfiles.com/barlowtwins/ljng"

#: The names of DINO's backbones in the authors' files.
_DINO_FILES = {
    "vit_s16": "deitsmall16",
    "vit_s8": "deitsmall8",
    "vit_b16": "vitbase16",
    "vit_b8": "vitbase8",
    "resnet50": "resnet50",
    **{name: name for name in ("xcit_small_12_p16", "xcit_small_12_p8", "xcit_medium_24_p16", "xcit_medium_24_p8")},
}


@dataclass(frozen=True)
class Release:
    """Released weights.

    Attributes:
        url: "" if the file is only on the hub.
        backbone: None if no backbone here fits, or the file tells which.
        sha256: first digits of the file's digest, from its name; None: not published.
        repository, revision: on the Hugging Face hub, for weights that come from the hub.
        labels: the labels that their training used, as reports show it ("?": not known).
        remark: a warning for users.
    """

    url: str
    backbone: str | None
    sha256: str | None = None
    repository: str | None = None
    revision: str | None = None
    labels: str = "none"
    remark: str = ""
    family: str = ""

    @property
    def file_name(self) -> str:
        """The file's name in the cache."""
        if self.repository is None:
            return Path(self.url).name
        name = self.repository.replace("/", "--") if self.family == "hf" else Path(self.repository).name
        return f"{name}.safetensors"


#: The authors' releases, whose digests were not published.
PUBLISHED = {
    f"dino:{name}{suffix}": Release(
        f"{DINO_URL}/dino_{stem}_pretrain/dino_{stem}_{file}", f"timm:{name}_224" if name.startswith("xcit") else name
    )
    for name, stem in _DINO_FILES.items()
    for suffix, file in (("", "pretrain.pth"), (":full", "pretrain_full_checkpoint.pth"))
} | {
    # Trained on Google Landmarks v2; the address is in the authors' eval_image_retrieval.py.
    "dino:vit_s16_gldv2": Release(
        f"{DINO_URL}/dino_vitsmall16_googlelandmark_pretrain/dino_vitsmall16_googlelandmark_pretrain.pth", "vit_s16"
    ),
    "barlow_twins:resnet50": Release(f"{BARLOW_TWINS_URL}/resnet50.pth", "resnet50"),
    "barlow_twins:resnet50:full": Release(f"{BARLOW_TWINS_URL}/checkpoint.pth", "resnet50"),
}


def is_released(weights: str | Path | None) -> bool:
    """Whether ``weights`` names a release rather than a file or folder."""
    return str(weights).partition(":")[0] in FAMILIES and ":" in str(weights) and not Path(str(weights)).exists()


def release_of(spec: str) -> Release:
    """Look a release up by name. Raises UsageError, with the nearest name, for an unknown one."""
    family, _, name = spec.partition(":")
    if family == "timm":
        return _of_timm(name)
    if family == "torchvision":
        return _of_torchvision(name)
    if family == "hf":
        repository, _, revision = name.partition("@")
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
            raise UsageError(f"{spec}: give weights on the Hugging Face hub as hf:ORG/NAME or hf:ORG/NAME@REVISION")
        return Release("", None, repository=repository, revision=revision or None, labels="?", family="hf")
    if spec not in PUBLISHED:
        raise unknown_name("released weights", spec, [*PUBLISHED, "timm:NAME.TAG", "torchvision:NAME.WEIGHTS"])
    return PUBLISHED[spec]


def find_release(spec: str) -> Path:
    """Return the file of released weights, fetched if the cache lacks it. Its digest is checked each time, against the
    published one or the one taken when it was fetched.

    Raises UsageError for an unknown name, UserError for a file that cannot be fetched, is damaged, or has changed.
    """
    release = release_of(spec)
    folder = cache_root() / WEIGHTS / spec.partition(":")[0]
    path = folder / release.file_name
    console = Console(stderr=True)
    with owned_lock(folder / ".lock", lambda owner: console.print(f"waiting for {owner}, which fetches into {folder}")):
        if path.is_file():
            _check_whole(path, f"{path}: ", "; delete it, and it is fetched again")
            _check_digest(path, release, spec)
            return path
        try:
            return _from_hub(release) if release.repository else _from_url(release, path)
        except UserError as error:
            what = f"{release.repository}'s model.safetensors" if release.repository else "that file"
            raise UserError(f"{spec}: {error}; where there is no network, put {what} at {path}") from error


def _from_url(release: Release, path: Path) -> Path:
    arrived = path.with_name(f"{path.name}.unchecked")
    download(release.url, arrived, sha256=release.sha256)
    try:
        _check_whole(arrived, f"{release.url}: what came ", "; it was removed")
    except UserError:
        arrived.unlink()
        raise
    if release.sha256 is None:
        _record_digest(digest(arrived, "sha256"), path)
    arrived.replace(path)
    return path


def _from_hub(release: Release) -> Path:
    """Fetch by the Hugging Face hub's client, whose cache names files by the SHA-256 digest of their content."""
    path = huggingface.fetch(release.repository, release.revision, "model.safetensors")
    file = path.resolve()
    if re.fullmatch(r"[0-9a-f]{64}", file.name) and (sha256 := digest(file, "sha256")) != file.name:
        raise UserError(f"{file}: damaged (its SHA-256 digest is {sha256[:8]}…); delete it, and it is fetched again")
    return path


def _check_whole(path: Path, where: str, what_to_do: str) -> None:
    """Raise UserError for a file that, without unpickling it, is seen to hold no weights or to be cut short."""
    if path.suffix == ".safetensors":
        return  # backbones.formats.weights reads it whole
    with open(path, "rb") as file:
        start = file.read(2)
    if start == b"PK":  # an archive of torch.save, which has checksums
        reason = archive_damage(path)
    else:  # before torch 1.6, a bare pickle
        reason = None if start[:1] == b"\x80" else "neither an archive nor a pickle"
    if reason:
        raise UserError(f"{where}is no whole weights file ({reason}){what_to_do}")


def _check_digest(path: Path, release: Release, spec: str) -> None:
    sha256 = digest(path, "sha256")
    record = _record_of(path)
    if release.sha256:
        if not sha256.startswith(release.sha256):
            raise UserError(
                f"{path}: not the file that was published as {spec} (its SHA-256 digest begins with "
                f"{sha256[: len(release.sha256)]}, not {release.sha256}); delete it, and it is fetched again"
            )
    elif not record.is_file():
        _record_digest(sha256, path)
    elif (before := record.read_text(encoding="utf-8", errors="replace")[:64]) != sha256:
        raise UserError(
            f"{path}: changed since it came (its SHA-256 digest is {sha256[:8]}…, and {record.name} says {before[:8]}…); "
            "delete both, and it is fetched again, or the latter alone, if you put this file there"
        )


def _record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _record_digest(sha256: str, path: Path) -> None:
    """Write a file's digest beside it, in the format of ``sha256sum --check``."""
    write_text(_record_of(path), f"{sha256}  {path.name}\n")


def _of_torchvision(name: str) -> Release:
    """Look up ``NAME`` (default weights) or ``NAME.WEIGHTS`` (resnet50.IMAGENET1K_V1); of segmentation models, the backbone."""
    import timm
    import torchvision

    model, _, tag = name.partition(".")
    if model not in torchvision.models.list_models():
        raise unknown_name("torchvision model", model, torchvision.models.list_models())
    kinds = torchvision.models.get_model_weights(model)
    if tag and tag not in kinds.__members__:
        raise unknown_name(f"weights of torchvision's {model}", tag, kinds.__members__)
    if not len(kinds):
        raise UserError(f"torchvision has no weights of {model}; choose another model")
    weights = kinds[tag] if tag else kinds.DEFAULT
    ending = model.rpartition("_")[2]
    backbone = ending if ending in names() else f"timm:{model}" if timm.is_model(model) else None
    sha256 = re.search(r"-([0-9a-f]{8,})\.", Path(weights.url).name)
    remark = _remark(weights.transforms())
    return Release(weights.url, backbone, sha256[1] if sha256 else None, labels="all", remark=remark)


def _of_timm(name: str) -> Release:
    """Look up ``NAME`` (timm's default weights) or ``NAME.TAG``."""
    from timm.models import get_pretrained_cfg

    from backbones.timm_models import check_timm_name

    check_timm_name(name)
    about = get_pretrained_cfg(name)
    if about is None or not about.hf_hub_id:
        raise UserError(f"timm publishes no weights of {name} on the Hugging Face hub; choose another model or tag")
    labels = "none" if about.tag and re.search("dino|mae|ijepa", about.tag) else "?"
    model = name.partition(".")[0]
    return Release(about.url or "", f"timm:{model}", repository=about.hf_hub_id, labels=labels, remark=_remark(about))


def _remark(about: Any) -> str:
    """A remark if training normalised images differently from this toolkit."""
    return normalised_otherwise(getattr(about, "mean", None), getattr(about, "std", None))


def normalised_otherwise(mean: Any, std: Any) -> str:
    """A remark on images normalised by other means and deviations than ImageNet's; "" for those, or unknown ones."""
    if mean is None or std is None or (tuple(mean), tuple(std)) == (IMAGENET_MEAN, IMAGENET_STD):
        return ""
    mean, std = (" ".join(f"{value:g}" for value in values) for values in (mean, std))
    return f"trained on images normalised by mean {mean} and std {std}, and given ones by ImageNet's here"
