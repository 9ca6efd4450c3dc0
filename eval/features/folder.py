"""Features of any folder's images, written to a file in pieces.

A parquet file has the columns ``file``, ``features`` (a list of D float32) and, if asked for, ``tokens`` (a list of h · w · D), and
the meta data under the key ``ssl_compare``, as JSON. An npz file has the arrays ``files [n]``, ``features [n, D]``, ``tokens
[n, h, w, D]`` and ``about``, a JSON text.
"""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import torch

from backbones.base import Backbone
from common.environment import missing_package, processors
from common.errors import UsageError, UserError
from common.files import atomic_file
from data.sets.core.folders import files_below
from data.store.decode import DamagedImage, Decoded, decode_image
from data.store.listing import below
from data.store.names import Names
from data.store.store import ImageBatch
from data.views.central import eval_images
from eval.features.extract import FrozenBackbone
from training.machine.devices import Precision

#: One batch: the names of its readable files, and arrays by column, float32 ``[b, …]``.
Columns = dict[str, np.ndarray]


class Writer(Protocol):
    """Writes batches of rows to an open file."""

    def add(self, names: Sequence[str], columns: Columns) -> None: ...

    def finish(self, about: dict[str, Any]) -> None: ...


def writer_of(path: Path) -> Callable[[BinaryIO], Writer]:
    """The writer for a file's ending. Raises UsageError for another ending, UserError if parquet's package is missing."""
    if path.suffix == ".npz":
        return NpzWriter
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise missing_package(f"--out {path} (or give a name that ends in .npz)", error, "hf") from error
        return ParquetWriter
    raise UsageError(f"--out {path}: give a name that ends in .parquet or .npz")


def features_of_folder(
    backbone: Backbone,
    device: torch.device,
    precision: Precision,
    folder: Path,
    path: Path,
    make_writer: Callable[[BinaryIO], Writer],
    image_size: int,
    about: dict[str, Any],
    tokens: bool = False,
    batch_size: int = 64,
) -> tuple[int, list[tuple[str, str]]]:
    """Write the features of a folder's images, sorted by name, and replace the file at ``path``.

    Returns the number of rows, and (name, reason) of the files without one. Raises UserError for a missing folder, one without a
    readable image, and features that are not finite; ``path`` then keeps its old content.
    """
    if not folder.is_dir():
        raise UserError(f"--images {folder}: no such folder")
    files = Names(name for name, _ in below(folder, files_below(folder)))
    network = FrozenBackbone(backbone=backbone, device=device, precision=precision)
    unreadable: list[tuple[str, str]] = []

    def gather(part: Sequence[int]) -> list[tuple[str, Decoded | DamagedImage]]:
        return [
            (_readable(files[index]), _decoded(folder / files[index], round(image_size * 256 / 224))) for index in part
        ]

    def prepare(batch: list[tuple[str, Decoded | DamagedImage]]) -> tuple[list[str], torch.Tensor]:
        unreadable.extend((name, str(image)) for name, image in batch if isinstance(image, DamagedImage))
        good = [(name, image) for name, image in batch if not isinstance(image, DamagedImage)]
        views = [eval_images(_batch_of(image).to(device), image_size) for _, image in good]
        return [name for name, _ in good], torch.cat(views) if views else torch.empty(0)

    def compute(inputs: tuple[list[str], torch.Tensor]) -> tuple[list[str], Columns]:
        good, views = inputs
        if not good:
            return good, {}
        columns = {"features": backbone(views)}
        if tokens:
            columns["tokens"] = backbone.maps(views)[0].permute(0, 2, 3, 1)
        return good, {name: values.float().cpu().numpy() for name, values in columns.items()}

    parts = [range(low, min(low + batch_size, len(files))) for low in range(0, len(files), batch_size)]
    rows = 0
    with atomic_file(path) as file:
        writer = make_writer(file)
        for good, columns in network.over("features", parts, gather, prepare, compute, threads=processors()):
            if not all(np.isfinite(values).all() for values in columns.values()):
                raise UserError(f"features of {good[0]} to {good[-1]} are not finite; the weights have diverged")
            if good:
                writer.add(good, columns)
                rows += len(good)
        if not rows:
            first = f" (the first, {unreadable[0][0]}: {unreadable[0][1]})" if unreadable else ""
            raise UserError(f"--images {folder}: none of its {len(files)} files can be read as an image{first}")
        about = about | {
            "folder": str(folder.absolute()).encode(errors="backslashreplace").decode(),
            "image_size": image_size,
            "transform": "short side resized to 256/224 of the size (bicubic), central crop, normalised as for ImageNet",
            "precision": precision,
            "rows": rows,
            "unreadable": [{"file": name, "reason": reason} for name, reason in unreadable],
        }
        writer.finish(about)
    return rows, unreadable


def _readable(name: str) -> str:
    """A file's name without bytes that are no text."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _decoded(file: Path, short_side: int) -> Decoded | DamagedImage:
    try:
        return decode_image(file, short_side, upright=True)
    except DamagedImage as error:
        return error


def _batch_of(image: Decoded) -> ImageBatch:
    pixels = torch.from_numpy(np.stack(image.planes))[None]
    return ImageBatch.padded(pixels, torch.tensor([pixels.shape[2:]]))


class ParquetWriter:
    """A row group a batch."""

    def __init__(self, file: BinaryIO):
        self._file, self._writer, self._shapes = file, None, {}

    def add(self, names: Sequence[str], columns: Columns) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        arrays = {"file": pa.array(names, pa.string())}
        for name, values in columns.items():
            self._shapes[name] = list(values.shape[1:])
            flat = pa.array(np.ascontiguousarray(values, np.float32).reshape(-1))
            arrays[name] = pa.FixedSizeListArray.from_arrays(flat, int(np.prod(values.shape[1:])))
        table = pa.table(arrays)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._file, table.schema)
        self._writer.write_table(table)

    def finish(self, about: dict[str, Any]) -> None:
        text = json.dumps(about | {"shapes": self._shapes})
        self._writer.add_key_value_metadata({"ssl_compare": text})
        self._writer.close()


class NpzWriter:
    """Arrays grow in temporary files, since their headers come first and say how long they are."""

    def __init__(self, file: BinaryIO):
        self._file, self._columns, self._shapes = file, {}, {}
        self._names: list[Names] = []  # of a batch each

    def add(self, names: Sequence[str], columns: Columns) -> None:
        self._names.append(Names(names))
        for name, values in columns.items():
            if name not in self._columns:
                self._columns[name] = tempfile.TemporaryFile(dir=Path(self._file.name).parent)  # noqa: SIM115
            self._shapes[name] = values.shape[1:]
            self._columns[name].write(np.ascontiguousarray(values, "<f4").tobytes())

    def finish(self, about: dict[str, Any]) -> None:
        with zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            with archive.open("about.npy", "w") as member:
                np.lib.format.write_array(member, np.array(json.dumps(about)), allow_pickle=False)
            rows = sum(map(len, self._names))
            text = np.dtype(f"<U{max(len(name) for names in self._names for name in names)}")
            with archive.open("files.npy", "w", force_zip64=True) as member:
                header = {"descr": text.str, "fortran_order": False, "shape": (rows,)}
                np.lib.format.write_array_header_1_0(member, header)
                for names in self._names:  # as an array all would be as long as the longest, in memory
                    member.write(np.array(names[:], text).tobytes())
            for name, column in self._columns.items():
                header = {"descr": "<f4", "fortran_order": False, "shape": (rows, *self._shapes[name])}
                column.seek(0)
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array_header_1_0(member, header)
                    while part := column.read(1 << 20):
                        member.write(part)
                column.close()
