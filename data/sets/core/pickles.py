"""Pickles from elsewhere, read without running anything that they name."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from common.errors import UserError, unreadable
from common.files import opened


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
        if not isinstance(content, (bytes, str)):  # bytes(10**12) would fill the memory
            raise pickle.UnpicklingError("holds an array without bytes")
        raw = content.encode("latin1") if isinstance(content, str) else content
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


class _StandIn:
    """A function that a pickle may call, and not change, as it may the attributes of functions and classes."""

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    def __call__(self, *values: Any) -> Any:
        return self._function(*values)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("changes what it names")


_ALLOWED = {
    ("numpy", "dtype"): _StandIn(_Dtype),
    ("numpy", "ndarray"): _StandIn(_Array),
    ("_codecs", "encode"): _StandIn(_encode),
    ("__builtin__", "bytes"): _StandIn(lambda: b""),  # empty bytes of protocol 2
}
for _core in ("numpy.core", "numpy._core"):
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = _StandIn(lambda *_: _Array())
    _ALLOWED[f"{_core}.multiarray", "scalar"] = _StandIn(_scalar)
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = _StandIn(_from_buffer)


class _PlainUnpickler(pickle._Unpickler):
    """Python's own, since the faster one in C reserves memory for whatever numbers a pickle gives its objects."""

    def load_bytearray8(self) -> None:
        """Bytes of which the file holds as many as it says; a bytearray would be filled with zeros first."""
        size = int.from_bytes(self.read(8), "little")
        content = self.read(size)
        if len(content) < size:
            raise pickle.UnpicklingError("cut short")
        self.append(content)

    dispatch: ClassVar = {**pickle._Unpickler.dispatch, pickle.BYTEARRAY8[0]: load_bytearray8}

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
        with opened(path) as file:
            return _PlainUnpickler(file, encoding="latin1").load()
    except FileNotFoundError:
        raise UserError(f"{path}: missing; the data set comes with it") from None
    except OSError as error:
        raise UserError(f"{path}: {unreadable(error)}") from error
    except Exception as error:  # damaged bytes raise nearly anything
        raise UserError(
            f"{path}: no pickle of plain data ({str(error) or type(error).__name__}); nothing of it was run"
        ) from error
