"""Data sets of the Hugging Face hub, and folders that its ``datasets`` library reads: ``hf:NAME`` or ``hf:FOLDER``.

``hf:uoft-cs/cifar100,label=coarse_label`` names a column. Nothing of a data set is run: the library reads its files only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from common.environment import missing_package
from common.errors import UsageError, UserError, unknown_name
from common.files import digest_of
from common.names import first_names
from data.sets.core.base import DATASETS, DataSet
from data.sets.core.folders import files_below
from data.sets.core.lists import of_split
from data.store.listing import Listing, stamp_of
from data.store.names import Names

#: What may follow the name, as ``,KEY=VALUE``: a configuration and a revision of the data set, columns, and splits.
KEYS = ("config", "revision", "image", "label", "train", "test")
#: The first split that exists is read. As elsewhere, the validation images are the test: many hidden test sets have no labels.
SPLITS = {"train": ("train",), "test": ("validation", "valid", "val", "dev", "test")}
#: Columns that are taken if several fit.
USUAL = {"image": ("image", "img"), "label": ("label", "labels")}


@DATASETS.register("hf")
class HuggingFace(DataSet):
    """Columns are found by their types (``Image``, ``ClassLabel``), or named. Numbers and text are labels where they are named so,
    or are in a column ``label``."""

    title = "Hugging Face"
    takes_name = True

    def splits(self) -> tuple[str, ...]:
        """``train``, and ``test`` where there are images to measure on."""
        return tuple(split for split in SPLITS if self._split_of(split) is not None)

    def listing(self, split: str) -> Listing:
        of_split(SPLITS, split)
        chosen = self._split_of(split)
        if chosen is None:
            raise UserError(
                f"{self.name}: no {split} images (its splits are {', '.join(self._loaded)}); name a split by "
                f"{self.name},{split}=SPLIT, or give another data set"
            )
        rows = self._loaded[chosen]
        image, label = self._column("image", rows.features), self._column("label", rows.features)
        label_names = None
        if label is not None:
            train = self._loaded[self._split_of("train") or chosen]
            # A training split without that column has other classes, namely none, which whoever reads both will say.
            label_names = _classes(train if label in train.features else rows, label, self.name)
        labels = np.full(len(rows), -1, np.int64) if label is None else _labels(rows, label, label_names, self.name)
        images = _encoded(rows, image)
        names = Names(f"{chosen}/{row:07}{suffix}" for row, suffix in enumerate(_file_names(rows, image)))
        return Listing(
            data=self.name,
            split=split,
            root=_folder_of(rows, self._place),
            classes=label_names or (),
            names=names,
            labels=labels,
            encoded=images,
            stamp=digest_of([rows._fingerprint, chosen, image, names[:1], len(names)]),
        )

    @functools.cached_property
    def _given(self) -> dict[str, str]:
        """The options in the name, and the data set's own name under ``name``."""
        name, *words = self.name.removeprefix("hf:").split(",")
        given = {"name": name}
        for word in words:
            key, equals, value = word.partition("=")
            if not equals or not value:
                raise UsageError(
                    f"--data {self.name}: after the name stand options such as ,label=COLUMN, not {word!r}"
                )
            if key not in KEYS:
                raise unknown_name(f"option of --data {self.name}", key, KEYS)
            given[key] = value
        return given

    @property
    def _place(self) -> Path:
        return Path(self._given["name"]).expanduser()

    @functools.cached_property
    def _loaded(self) -> Mapping[str, Any]:
        files = stamp_of(files_below(self._place)) if self._place.is_dir() else ""
        return _load(self.name, self._given["name"], self._given.get("config"), self._given.get("revision"), files)

    def _split_of(self, split: str) -> str | None:
        """The library's split for ours. Raises UserError for a named one that is missing."""
        named = self._given.get(split)
        if named is not None and named not in self._loaded:
            raise UserError(f"{self.name}: no split {named!r}; its splits are {', '.join(self._loaded)}")
        return named or next((name for name in SPLITS[split] if name in self._loaded), None)

    def _column(self, kind: str, features: Mapping[str, Any]) -> str | None:
        """The column of images, or of labels (None: there is none). Raises UserError, with all columns, if it is not clear."""
        named = self._given.get(kind)
        columns = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())
        if named is not None:
            if named not in features:
                raise UserError(f"{self.name}: no column {named!r}; its columns are {columns}")
            if kind == "image" and not _is_image(features[named]):
                raise UserError(f"{self.name}: the column {named} holds no images; its columns are {columns}")
            return named
        fits = _is_image if kind == "image" else _is_class
        fitting = [name for name, feature in features.items() if fits(feature)]
        if kind == "label" and not fitting:
            fitting = [name for name in ("label",) if name in features]
        if len(fitting) > 1:
            fitting = [name for name in USUAL[kind] if name in fitting][:1] or fitting
        if len(fitting) > 1 or (kind == "image" and not fitting):
            problem = f"{len(fitting)} columns may be the {kind}" if fitting else "no column holds images"
            raise UserError(f"{self.name}: {problem}; name it by {self.name},{kind}=COLUMN (its columns are {columns})")
        return fitting[0] if fitting else None


@functools.lru_cache(maxsize=4)
def _load(spec: str, name: str, config: str | None, revision: str | None, files: str) -> Mapping[str, Any]:
    """Load all splits, anew for other ``files``. Raises UserError if the library is missing, or cannot load them."""
    try:
        import datasets
    except ImportError as error:
        raise missing_package(f"--data {spec}", error, "hf") from error
    folder = Path(name).expanduser()
    try:
        if any((folder / file).is_file() for file in ("dataset_dict.json", "state.json")):
            loaded = datasets.load_from_disk(str(folder))
        elif folder.is_dir():
            loaded = datasets.load_dataset(str(folder.resolve()), config)
        else:
            loaded = datasets.load_dataset(name, config, revision=revision)
    except Exception as error:  # the library's, its HTTP client's, those of damaged files
        reason = " ".join(str(error).partition("Example of usage")[0].split()) or type(error).__name__
        where = "the folder" if folder.is_dir() else "the Hugging Face hub, and no folder of that name exists"
        raise UserError(f"--data {spec}: cannot be loaded from {where} ({reason.rstrip('.')})") from error
    return loaded if isinstance(loaded, Mapping) else {"train": loaded}


def _is_image(feature: Any) -> bool:
    """Whether a column holds encoded images: the type ``Image``, or a struct with bytes, as in parquet files without types."""
    if isinstance(feature, Mapping):
        return "bytes" in feature
    return type(feature).__name__ == "Image"


def _is_class(feature: Any) -> bool:
    return type(feature).__name__ == "ClassLabel"


def _classes(rows: Any, label: str, spec: str) -> tuple[str, ...]:
    """The names of the classes: the type's own, else the values of the training images, sorted."""
    feature = rows.features[label]
    if _is_class(feature):
        return tuple(feature.names)
    return tuple(map(str, sorted({value for value in _values(rows, label, spec) if value is not None})))


def _values(rows: Any, label: str, spec: str) -> Iterator[Any]:
    """The values of a column, of which those of one part of the file at a time are in memory."""
    whole = rows._indices is None
    chunks = (chunk.to_pylist() for chunk in rows.data.column(label).chunks) if whole else [list(rows[label])]
    for values in chunks:
        if odd := {type(value).__name__ for value in values if not isinstance(value, (str, int, type(None)))}:
            raise UserError(
                f"{spec}: the column {label} holds {' and '.join(sorted(odd))} values; labels are classes, whole numbers or text, "
                "one an image"
            )
        yield from values


def _labels(rows: Any, label: str, classes: tuple[str, ...], spec: str) -> np.ndarray:
    """Places in ``classes``, int64 ``[n]``; -1 for none. Raises UserError for a class without training images."""
    if _is_class(rows.features[label]):
        numbers = (-1 if value is None else value for value in _values(rows, label, spec))
        return np.fromiter(numbers, np.int64, len(rows))
    places = {name: place for place, name in enumerate(classes)}
    values = _values(rows, label, spec)
    unknown = sorted({str(value) for value in values if value is not None and str(value) not in places})
    if unknown:
        raise UserError(f"{spec}: {len(unknown)} classes have no training image: {first_names(unknown, 5)}")
    numbers = (-1 if value is None else places[str(value)] for value in _values(rows, label, spec))
    return np.fromiter(numbers, np.int64, len(rows))


def _encoded(rows: Any, image: str) -> Callable[[int], bytes | Path]:
    """A function from a row to the content of its image file (none: empty), or its path where the data set holds only that."""
    feature = rows.features[image]
    undecoded = rows.select_columns([image])
    if not isinstance(feature, Mapping):
        undecoded = undecoded.cast_column(image, type(feature)(decode=False))

    def read(row: int) -> bytes | Path:
        value = undecoded[int(row)][image] or {"bytes": None}
        if value["bytes"] is None and value.get("path"):
            return Path(value["path"])
        return value["bytes"] or b""

    return read


def _file_names(rows: Any, image: str) -> Iterator[str]:
    """The file names of the images, each with a dash before it, as far as the data set knows them. The images themselves, which the
    library maps into memory, are not touched."""
    column = rows.data.column(image) if rows._indices is None else None
    if column is None or "path" not in {field.name for field in column.type}:
        yield from repeat("", len(rows))
        return
    for chunk in column.chunks:
        yield from ("" if path is None else f"-{Path(path).name}" for path in chunk.field("path").to_pylist())


def _folder_of(rows: Any, place: Path) -> Path:
    """A folder that stands for the data set: the named one, or where the library keeps it."""
    if place.is_dir():
        return place.resolve()
    files = rows.cache_files
    return Path(files[0]["filename"]).parent if files else place.absolute()
