"""A pretended accelerator: a device whose tensors are computed by the CPU but kept apart from the CPU's, as those of a GPU are,
so that what would fail or wait there can be seen without one.

- An operation on tensors of both devices raises RuntimeError, as on CUDA (tensors of no dimension excepted); so does ``numpy()``.
- What makes the CPU wait for the device (``item``, ``tolist``, ``cpu``, a boolean index, …) is written down: see ``waits``.

It is torch's own way of adding a device from Python (``PrivateUse1``), under the name ``pretended``. It knows neither streams, nor
autocast, nor pinned memory.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

aten = torch.ops.aten
ROOT = Path(__file__).parents[2]


class _Module(_DummyBackendModule):
    """What torch asks of ``torch.pretended``."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float32]


_setup_privateuseone_for_python_backend("pretended", backend_module=_Module())
DEVICE = torch.device("pretended", 0)

_notes: list[list[str]] = []


@contextmanager
def waits() -> Iterator[list[str]]:
    """The lines of this project that made the CPU wait for the device, in the block."""
    _notes.append([])
    try:
        yield _notes[-1]
    finally:
        _notes.pop()


def _note(what: Any) -> None:
    frames = traceback.extract_stack()
    ours = [f for f in frames if Path(f.filename).is_relative_to(ROOT) and Path(f.filename) != Path(__file__)]
    ours = [f for f in ours if ".venv" not in f.filename]
    where = f"{Path(ours[-1].filename).relative_to(ROOT)}:{ours[-1].lineno} {ours[-1].line}" if ours else "?"
    for notes in _notes:
        notes.append(f"{where} ({what})")


class Pretended(torch.Tensor):
    """A tensor on the device; ``raw`` holds its numbers."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor) -> Pretended:
        with torch.inference_mode(False):  # else views of weights could not be made in inference mode
            tensor = torch.Tensor._make_wrapper_subclass(
                cls,
                raw.shape,
                strides=raw.stride(),
                storage_offset=raw.storage_offset(),
                dtype=raw.dtype,
                device=DEVICE,
            )
        tensor.raw = raw
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self) -> str:
        return f"Pretended({self.raw!r})"

    def __reduce_ex__(self, protocol: int) -> Any:
        _note("save")
        return self.raw.detach().__reduce_ex__(protocol)

    def tolist(self) -> Any:
        _note("tolist")
        return self.raw.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert a tensor of the pretended device to numpy; copy it to the CPU first")

    def __array__(self, *args: Any, **options: Any) -> Any:
        return self.numpy()

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _compute(function, args, kwargs or {})


#: Operations that read values to know what to do.
READS = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.equal.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_dim.default,
}
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
COPIES = {aten._to_copy.default, aten.copy_.default}


def _compute(function: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """The operation by the CPU; what comes out is on the device, unless it is a copy to the CPU."""
    tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    here = [tensor for tensor in tensors if isinstance(tensor, Pretended)]
    others = [tensor for tensor in tensors if not isinstance(tensor, Pretended)]
    indices = [index for index in args[1] if index is not None] if function in INDEXED else []
    if function not in COPIES:
        apart = [t for t in others if t.dim() and not any(t is index for index in indices)]
        if here and apart:
            raise RuntimeError(
                f"{function}: tensors on the CPU and on the device; of the CPU: {[(*t.shape,) for t in apart]}"
            )
    masked = any(index.dtype in (torch.bool, torch.uint8) for index in indices)
    if function in READS or masked or any(not isinstance(index, Pretended) for index in indices):
        _note(function)

    kwargs = dict(kwargs)
    target = here[0].device
    if function is aten.copy_.default:
        target = args[0].device
    elif kwargs.get("device") is not None:
        target = torch.device(kwargs["device"])
        kwargs["device"] = torch.device("cpu")
    kwargs.pop("pin_memory", None)
    if target.type == "cpu" and here:
        _note(function)

    raw_args, raw_kwargs = tree_map(lambda v: v.raw if isinstance(v, Pretended) else v, (args, kwargs))
    out = function(*raw_args, **raw_kwargs)
    if target.type == "cpu":
        return args[0] if function is aten.copy_.default else out
    known = {id(tensor.raw): tensor for tensor in here}

    def put(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return known[id(value)] if id(value) in known else Pretended(value)

    return tree_map(put, out)


def _empty(size: Any, dtype: Any = None, memory_format: Any = None, **_: Any) -> Tensor:
    return Pretended(torch.empty(size, dtype=dtype, memory_format=memory_format or torch.contiguous_format))


def _empty_strided(size: Any, stride: Any, dtype: Any = None, **_: Any) -> Tensor:
    return Pretended(torch.empty_strided(size, stride, dtype=dtype))


def _arange(*bounds: Any, dtype: Any = None, **_: Any) -> Tensor:
    return Pretended(torch.arange(*bounds, dtype=dtype))


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    raw = [tensor.raw if isinstance(tensor, Pretended) else tensor for tensor in (source, target)]
    raw[1].copy_(raw[0])
    return target


_kernels = torch.library.Library("aten", "IMPL")  # kept: its kernels go when it does
for _name, _kernel in {
    "empty.memory_format": _empty,
    "empty_strided": _empty_strided,
    "arange": _arange,
    "arange.start": _arange,
    "arange.start_step": _arange,
    "_copy_from": _copy_from,
}.items():
    _kernels.impl(_name, _kernel, "PrivateUse1")
