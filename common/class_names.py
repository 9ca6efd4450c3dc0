"""Names of classes that people can read, in place of folders and numbers."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError
from common.files import read_lines, read_text


def readable(classes: Sequence[str], file: str | Path | None = None) -> tuple[str, ...]:
    """A name for each class: from ``file``, else the words of ImageNet's synsets (``n01440764``: tench), else the class itself.

    Args:
        file: a line for each class, in their order, with its name; or lines ``CLASS NAME``, with a tab, a comma or a space
            between, as lists of ImageNet's synsets are, which may name further classes.

    Raises UserError for a file that cannot be read, or does not name every class.
    """
    if file is not None:
        return _from_file(classes, Path(file))
    if not classes or not all(re.fullmatch(r"n\d{8}", name) for name in classes):
        return tuple(classes)
    words = _synsets()
    first = [words.get(name, name).partition(",")[0] for name in classes]
    # ImageNet has two cranes: a bird, and a machine.
    return tuple(
        f"{word} ({name})" if first.count(word) > 1 else word for name, word in zip(classes, first, strict=True)
    )


def _from_file(classes: Sequence[str], file: Path) -> tuple[str, ...]:
    lines = [line for line in read_lines(file) if line.strip()]
    by_class: dict[str, str] = {}
    wanted = set(classes)
    for line in lines:
        # Names of classes hold separators, too: the longest one at the start of the line is meant.
        ends = [place for place, sign in enumerate(line) if sign in "\t, " and line[place + 1 :].strip("\t, ")]
        for end in reversed(ends):
            if (name := line[:end]) in wanted or (name := name.strip()) in wanted:
                by_class.setdefault(name, line[end + 1 :].strip())
                break
    missing = [name for name in classes if name not in by_class]
    if not missing:
        return tuple(by_class[name] for name in classes)
    if len(lines) == len(classes):
        return tuple(line.strip() for line in lines)
    raise UserError(
        f"--class_names {file}: {len(lines)} lines, which name {len(by_class)} of the {len(classes)} classes (not {missing[0]}); "
        "give one name a line in the order of the classes, or CLASS NAME for each"
    )


@functools.cache
def _synsets() -> dict[str, str]:
    """The words of WordNet's synsets, from the list that timm comes with; empty without it. Imports nothing."""
    package = importlib.util.find_spec("timm")
    if package is None or package.origin is None:
        return {}
    try:
        text = read_text(Path(package.origin).parent / "data" / "_info" / "imagenet_synset_to_lemma.txt")
    except (OSError, ValueError):
        return {}
    return dict(line.split("\t", 1) for line in text.splitlines() if "\t" in line)
