"""timm's models (``timm:NAME``) as backbones, untrained; ``backbones.formats.weights`` loads weight files."""

from __future__ import annotations

import difflib
import inspect
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import timm
import torch
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

from backbones.base import Backbone, named_blocks
from common.errors import UsageError, UserError


class TimmBackbone(Backbone):
    """A timm model without its classifier (built with ``num_classes=0``); pooled features are the classifier's input.

    ``depth`` counts timm's ``forward_intermediates``: a ViT's blocks, or a CNN's stages (and stem, if timm counts it). Tokens and
    CLS attention leave register and distillation tokens out, so that attention may sum to less than 1. Tokens are normed if
    the model norms its tokens.

    Args:
        image_size: side in pixels of square images that the model has to take, else UserError.
    """

    def __init__(self, model: nn.Module, name: str, image_size: int):
        super().__init__()
        self.model = model
        self.label = name
        self._built_for = image_size
        self._stages = [(info["num_chs"], info["reduction"]) for info in getattr(model, "feature_info", [])]
        self.depth = len(self._stages)
        intermediates = getattr(model, "forward_intermediates", None)
        self._has_maps = bool(self._stages) and intermediates is not None
        self.has_tokens = (
            self._has_maps
            and getattr(model, "cls_token", None) is not None
            and "return_prefix_tokens" in inspect.signature(intermediates).parameters
        )
        self.width = 0  # not known yet
        self.width = self._pooled_width(image_size)
        self.stride = self._stages[-1][1] if self._stages else 0

    @property
    def published(self) -> nn.Module:
        return self.model

    def _pooled_width(self, image_size: int) -> int:
        """Measure the width by a run, since timm's attributes ignore layers between pooling and classifier."""
        training = self.model.training
        self.model.eval()
        with torch.no_grad():
            pooled = self(torch.zeros(1, 3, image_size, image_size))
        self.model.train(training)
        if pooled.ndim != 2:
            raise UserError(f"{self.label} gives no pooled features (its output has shape {tuple(pooled.shape)})")
        return pooled.shape[1]

    @contextmanager
    def _size_errors(self, images: Tensor) -> Iterator[None]:
        """Turn a failure at an image size not run before into a UserError that names the size."""
        try:
            yield
        except (AssertionError, RuntimeError) as error:
            height, width = images.shape[-2:]
            at_other_size = (height, width) != (self._built_for, self._built_for)
            if isinstance(error, torch.OutOfMemoryError) or (self.width and not at_other_size):
                raise
            built_for = f", built for {self._built_for} pixels," if at_other_size else ""
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise UserError(
                f"{self.label}{built_for} cannot take images of {height}×{width} pixels: {reason}"
            ) from error

    def forward(self, images: Tensor) -> Tensor:
        with self._size_errors(images):
            return self.model(images)

    def _intermediates(self, images: Tensor, blocks: Sequence[int], **options: Any) -> list[Any]:
        wanted = named_blocks(blocks, self.depth)
        indices = sorted(set(wanted))  # timm returns them in the model's order, each once
        with self._size_errors(images):
            outputs = self.model.forward_intermediates(images, indices=indices, intermediates_only=True, **options)
        return [outputs[indices.index(block)] for block in wanted]

    def tokens(self, images: Tensor, blocks: Sequence[int] = (-1,)) -> list[Tensor]:
        if not self.has_tokens:
            return super().tokens(images, blocks)
        pairs = self._intermediates(images, blocks, norm=True, output_fmt="NLC", return_prefix_tokens=True)
        return [torch.cat([prefix[:, :1], patches], dim=1) for patches, prefix in pairs]

    def maps(self, images: Tensor, blocks: Sequence[int] = (-1,)) -> list[Tensor]:
        if not self._has_maps:
            raise UserError(f"timm gives no feature maps of {self.label}; choose another backbone")
        return self._intermediates(images, blocks, norm=self.has_tokens, output_fmt="NCHW")

    def map_channels(self, block: int = -1) -> int:
        return self._stages[named_blocks([block], self.depth)[0]][0]

    def map_stride(self, block: int = -1) -> int:
        return self._stages[named_blocks([block], self.depth)[0]][1]

    def cls_attention(self, images: Tensor) -> Tensor:
        attention = self.model.blocks[-1].attn if self.has_tokens else None
        if not isinstance(attention, Attention):
            return super().cls_attention(images)
        seen: list[Tensor] = []
        handle = attention.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        try:
            self(images)
        finally:
            handle.remove()
        qkv = attention.qkv(seen[0]).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = attention.q_norm(qkv[0]), attention.k_norm(qkv[1])
        weights = ((query[:, :, :1] * attention.scale) @ key.mT).squeeze(2).softmax(-1)
        return torch.cat([weights[..., :1], weights[..., self.model.num_prefix_tokens :]], dim=-1)


def build(
    name: str,
    image_size: int,
    drop_path_rate: float | None = None,
    zero_init_residual: bool = False,
    output_stride: int | None = None,
) -> TimmBackbone:
    """Build ``timm:NAME`` with random weights, for timm's own image size, so that timm's files fit; for ``image_size`` only if the
    model else refuses it."""
    check_timm_name(name.removeprefix("timm:"))
    required = {} if output_stride is None else {"output_stride": output_stride}
    # As of the built-in ones, residual branches of ResNets start at zero only if asked to, and have no stochastic depth.
    of_resnets = {"zero_init_last": zero_init_residual}
    of_others: dict[str, Any] = {"dynamic_img_size": True}
    if drop_path_rate is not None and "resnet" not in name:
        of_others["drop_path_rate"] = drop_path_rate
    try:
        return TimmBackbone(_create(name, required, of_resnets, of_others), name, image_size)
    except UserError as error:
        try:
            sized = {**required, "img_size": image_size}
            return TimmBackbone(_create(name, sized, of_resnets, of_others), name, image_size)
        except UsageError:
            raise error from None  # the model has no size to choose: the first failure is the reason


def _create(name: str, required: dict[str, Any], of_resnets: dict[str, Any], of_others: dict[str, Any]) -> nn.Module:
    """Create the model with the ``required`` arguments and those ``of_resnets``, or, if its family does not take them (ViTs,
    EfficientNets), with as many ``of_others`` as it takes."""
    others = [
        {key: of_others[key] for key in chosen}
        for count in range(len(of_others), -1, -1)
        for chosen in itertools.combinations(of_others, count)
    ]
    for optional in (of_resnets, *others):
        arguments = required | optional
        try:
            model = timm.create_model(name.removeprefix("timm:"), pretrained=False, num_classes=0, **arguments)
        except TypeError as error:  # the family does not take an argument
            reason = error
            continue
        except (AssertionError, NotImplementedError, ValueError) as error:
            raise UsageError(f"{name} cannot be built with {arguments}: {error}") from error
        if optional is not of_resnets or of_resnets.keys() <= inspect.signature(type(model)).parameters.keys():
            return model
        # else its family takes any argument and ignores it
    raise UsageError(f"{name} cannot be built with {required}: {reason}")


def check_timm_name(name: str) -> None:
    """Raise UsageError if timm has no such model, or no weights of its tag (NAME.TAG)."""
    model, _, tag = name.partition(".")
    if not timm.is_model(model):
        near = difflib.get_close_matches(model, timm.list_models(), n=1)
        hint = f"did you mean timm:{near[0]}?" if near else "timm.list_models() lists them"
        raise UsageError(f"unknown timm model {model!r}; {hint}")
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{model}.*")]
    if tag and tag not in tags:
        raise UsageError(f"timm's {model} has no weights {tag!r} (known: {', '.join(tags)})")
