"""Names where there is little room (tables of a terminal, figures), and on a terminal, which obeys some characters."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

#: Letters of a part, where the whole name is too long: as many as there is room for.
PART_ROOM = (14, 12, 10, 8, 6, 4)

#: What a terminal obeys, or shows in another place than where it stands: control characters but tab and newline, and marks of the
#: direction of writing.
_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    r"""Write out the characters that a terminal obeys: a file's name may hold any.

    >>> print(printable("a\x1b[2Jb"))
    a\x1b[2Jb
    """
    return _OBEYED.sub(lambda obeyed: obeyed[0].encode("unicode_escape").decode(), text)


def short(name: str, most: int = 24) -> str:
    """Cut a name in its middle to ``most`` characters."""
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-(most - most // 2) :]}"


def slug(name: str) -> str:
    """Make a part of a file's name of small letters and digits, at most 60 characters; "" of a name without any.

    >>> slug("hf:uoft-cs/cifar100,label=fine_label")
    'hf-uoft-cs-cifar100-label-fine-label'
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower())[:60].strip("-")


def short_names(names: Sequence[str], most: int) -> list[str]:
    """Cut names that stand together to ``most`` characters, so that different names stay different.

    If one is too long, the parts that all of them share go first, except for the beginning:
    ``dino-vit_nano-imagenet-lr=0.001-seed0`` becomes ``dino-…lr=0.001-seed0``. If that is not enough each part is cut in its own
    middle, names of options more than their values (``momen…cher=0.9``), and then the whole name. Names that are alike even so
    are numbered.
    """
    if all(len(name) <= most for name in names):
        return list(names)
    many = len(set(names))
    if many == 1:
        return [short(name, most) for name in names]
    varying = _without_shared_parts(names)
    for room in (most, *PART_ROOM):
        made = ["".join(_short_part(part, room) for part in _parts(name)) for name in varying]
        if len(set(made)) == many and all(len(name) <= most for name in made):
            return made
    for cut in (varying, _where_they_differ(names)):
        made = [short(name, most) for name in cut]
        if len(set(made)) == many:
            return made
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names), 1)}
    return [f"{short(name, most - len(str(many)) - 2)} #{numbers[name]}" for name in names]


def _parts(name: str) -> list[str]:
    """Split after each comma, and each hyphen but that of 1e-05; they stay."""
    return re.split(r"(?<=-)(?<!\de-)|(?<=, )", name)


def _short_part(part: str, room: int) -> str:
    """Cut a part in its middle; of an option name and value each, and the value to no fewer than 8 letters, a word to 6."""
    bare = part.rstrip("-, ")
    option, sign, value = re.fullmatch(r"([^= ]*)([= ]?)(.*)", bare).groups()
    return f"{short(option, room if sign else max(room, 6))}{sign}{short(value, max(room, 8))}{part[len(bare) :]}"


def _bare(parts: Iterable[str]) -> list[str]:
    return [part.rstrip("-, ") for part in parts]


def _without_shared_parts(names: Sequence[str]) -> list[str]:
    """Put … for every part that is in all names, but the first."""
    shared = set.intersection(*(set(_bare(_parts(name))) for name in names))
    made = []
    for name in names:
        parts = _parts(name)
        kept = [
            part if not i or bare not in shared else "…"
            for i, (part, bare) in enumerate(zip(parts, _bare(parts), strict=True))
        ]
        made.append(re.sub("…+", "…", "".join(kept)))
    return made


def _where_they_differ(names: Sequence[str]) -> list[str]:
    """Put … for the letters that all names begin and end with."""
    least = min(map(len, names))
    begin = next((i for i in range(least) if len({name[i] for name in names}) > 1), least)
    end = next((i for i in range(least - begin) if len({name[-1 - i] for name in names}) > 1), least - begin)
    head, tail = "…" if begin else "", "…" if end else ""
    return [f"{head}{name[begin : len(name) - end]}{tail}" for name in names]


def first_names(names: Sequence[object], most: int = 10, between: str = ", ") -> str:
    """The first of many names or numbers, in a sentence.

    >>> first_names("abcd", 3)
    'a, b, c, …'
    """
    return between.join(map(str, [*names[:most], *["…"] * (len(names) > most)]))


def hash_of(names: Iterable[str], between: str) -> Any:
    """The SHA-256 digest (of ``hashlib``) of names with ``between`` among them. There may be millions, so they are not joined."""
    digest, names, start = hashlib.sha256(), iter(names), ""
    while some := list(islice(names, 4096)):
        digest.update((start + between.join(some)).encode(errors="surrogateescape"))
        start = between
    return digest
