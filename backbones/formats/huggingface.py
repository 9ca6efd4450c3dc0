"""The layout of transformers' ViT and DINOv2, in folders of ``save_pretrained`` and on the Hugging Face hub.

A folder holds ``config.json`` and ``model.safetensors`` (or its parts, and an index of them). Names become those of DINO's and
DINOv2's authors, which the backbones here have.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError, unreadable
from common.files import read_json
from common.names import first_names

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
INDEX = "model.safetensors.index.json"
FILES = ("model.safetensors", INDEX, "pytorch_model.bin")

#: transformers' names (before and since its version 5) and the authors', which follow a block's number.
_IN_BLOCKS = (
    (r"attention\.output\.dense|attention\.o_proj", "attn.proj"),
    (r"layernorm_before", "norm1"),
    (r"layernorm_after", "norm2"),
    (r"intermediate\.dense", "mlp.fc1"),
    (r"output\.dense", "mlp.fc2"),
    (r"mlp\.weights_in", "mlp.w12"),
    (r"mlp\.weights_out|mlp\.down_proj", "mlp.w3"),
    (r"layer_scale([12])\.lambda1", r"ls\1.gamma"),
)
_OUTSIDE = {
    "embeddings.cls_token": "cls_token",
    "embeddings.mask_token": "mask_token",
    "embeddings.register_tokens": "register_tokens",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}
_PARTS = {"query": 0, "key": 1, "value": 2, "q_proj": 0, "k_proj": 1, "v_proj": 2, "gate_proj": 0, "up_proj": 1}


def is_folder(path: Path) -> bool:
    """Whether a folder holds a model that transformers saved."""
    return (path / CONFIG).is_file() and any((path / name).is_file() for name in FILES)


def weights_file(folder: Path) -> Path:
    """The file of weights in a folder that ``is_folder``, or the index of several."""
    return next(folder / name for name in FILES if (folder / name).is_file())


def files_of_index(path: Path) -> list[Path]:
    """The files that an index names. Raises UserError if it is damaged, or a file is missing or outside its folder."""
    try:
        names = sorted(set(read_json(path)["weight_map"].values()))
        files = [path.with_name(name) for name in names if Path(name).name == name]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: no index of weights; download or copy it again") from error
    if len(files) < len(names) or not all(file.is_file() for file in files):
        raise UserError(f"{path}: names files that are not beside it ({first_names(names, 3)}); download or copy them")
    return files


def is_layout(state: Mapping[str, Tensor]) -> bool:
    return "embeddings.patch_embeddings.projection.weight" in state


def as_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a state in transformers' layout, and join what is in parts: queries, keys and values, and SwiGLU's two inputs. Other
    names stay. A missing bias of queries, keys and values becomes zeros."""
    published: dict[str, Tensor] = {}
    parts: dict[str, dict[int, Tensor]] = {}
    for name, value in state.items():
        block = re.fullmatch(r"(?:encoder\.)?layers?\.(\d+)\.(.+)", name)
        if block is None:
            if name in _OUTSIDE:
                published[_OUTSIDE[name]] = value
            elif not name.startswith("pooler."):
                published[name] = value
            continue
        inside = block[2]
        part = re.fullmatch(
            r"(?:attention\.(?:attention\.)?|mlp\.)(query|key|value|[qkv]_proj|gate_proj|up_proj)\.(\w+)", inside
        )
        if part is not None:
            whole = "mlp.w12" if part[1] in ("gate_proj", "up_proj") else "attn.qkv"
            parts.setdefault(f"blocks.{block[1]}.{whole}.{part[2]}", {})[_PARTS[part[1]]] = value
            continue
        for theirs, ours in _IN_BLOCKS:
            inside, count = re.subn(rf"^(?:{theirs})(?=\.|$)", ours, inside)
            if count:
                break
        published[f"blocks.{block[1]}.{inside}"] = value
    for name, values in parts.items():
        if sorted(values) == list(range(3 if ".qkv." in name else 2)):
            published[name] = torch.cat([values[place] for place in sorted(values)])
    for name in [name for name in published if name.endswith(".attn.qkv.weight")]:
        published.setdefault(name.replace("weight", "bias"), published[name].new_zeros(len(published[name])))
    if "register_tokens" in published or "blocks.0.ls1.gamma" in published:
        # timm converts DINOv2's layout, which it knows by its mask token.
        published.setdefault("mask_token", published["cls_token"].new_zeros(1, published["cls_token"].shape[-1]))
    return published


def check_config(config: Mapping[str, Any], network: nn.Module, where: str) -> None:
    """Raise UserError if the configuration says something of the network that shapes of tensors do not, and that differs."""
    heads = next((n for m in network.modules() if (n := getattr(m, "num_heads", getattr(m, "heads", None)))), None)
    asked = config.get("num_attention_heads")
    if isinstance(asked, int) and isinstance(heads, int) and asked != heads:
        raise UserError(f"{where}: its {CONFIG} says {asked} attention heads, and this backbone has {heads}")
    activation = config.get("hidden_act", "gelu")
    if activation != "gelu":
        raise UserError(f"{where}: its {CONFIG} says the activation {activation}, and the backbones here have gelu")


def read_config(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file; {} if it is missing. Raises UserError if it is damaged."""
    try:
        content = read_json(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {unreadable(error)}; download or copy it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no mapping; download or copy it again")
    return content


def fetch(repository: str, revision: str | None, name: str) -> Path:
    """Fetch a file by the hub's client, which continues what was interrupted, and whose address ``HF_ENDPOINT`` may change. Raises
    UserError."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # no line for each retry
    try:
        return Path(
            hf_hub_download(repository, name, revision=revision, endpoint=os.environ.get("HF_ENDPOINT") or None)
        )
    except Exception as error:  # the hub's, its HTTP client's, the disk's
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(
            f"{repository} cannot be had from the Hugging Face hub ({name}: {reason.rstrip('.')})"
        ) from error


def normalisation_of(preprocessor: Path) -> tuple[Any, Any]:
    """Mean and deviation of images in a ``preprocessor_config.json``; None where it does not say."""
    about = read_config(preprocessor)
    return about.get("image_mean"), about.get("image_std")
