"""Pickles from elsewhere, read without running anything that they name."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError


class _Dtype:
    """Stands in for ``numpy.dtype``: numbers and text of fixed width only, no objects and no records."""

    def __init__(self, name: str, *_: Any):
        self.value = np.dtype(str(name))
        if self.value.kind not in "biufUS":
            raise pickle.UnpicklingError(f"holds an array of {name}")

    def __setstate__(self, state: tuple) -> None:
        self.value = self.value.newbyteorder(state[1])


class _Array:
    """Stands in for ``numpy.ndarray``; ``numpy.asarray`` makes one of it."""

    value: np.ndarray

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, content = state
        raw = content.encode("latin1") if isinstance(content, str) else bytes(content)
        self.value = np.frombuffer(raw, dtype.value).reshape(shape, order="F" if fortran else "C")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.value, dtype)

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Any:
        return iter(self.value)


def _from_buffer(buffer: Any, dtype: _Dtype, shape: tuple, order: str) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", buffer))
    return array


def _scalar(dtype: _Dtype, content: bytes | str) -> Any:
    array = _Array()
    array.__setstate__((1, (1,), dtype, False, content))
    return array.value[0].item()


def _encode(text: str, encoding: str) -> bytes:
    """How pickles of protocol 2 write bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"holds text to encode as {encoding!r}")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): lambda: b"",  # empty bytes of protocol 2
}
for _core in ("numpy.core", "numpy._core"):
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = lambda *_: _Array()
    _ALLOWED[f"{_core}.multiarray", "scalar"] = _scalar
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = _from_buffer


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"names {module}.{name}, which plain data does not need")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("holds references to objects outside of it")


def read_plain_pickle(path: Path) -> Any:
    """Read a pickle of dicts, lists, tuples, text (Latin-1 from Python 2), numbers, and arrays for ``numpy.asarray``.

    Nothing that the file names is imported or called: functions of this module build arrays from their bytes. Raises UserError
    for a missing or damaged file, and for a pickle that names anything else.
    """
    try:
        with open(path, "rb") as file:
            return _PlainUnpickler(file, encoding="latin1").load()
    except FileNotFoundError:
        raise UserError(f"{path}: missing; the data set comes with it") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # damaged bytes raise nearly anything
        raise UserError(
            f"{path}: no pickle of plain data ({str(error) or type(error).__name__}); nothing of it was run"
        ) from error
