"""Records that stand in for objects in a pickled checkpoint which are no weights: paths, configurations, whole modules.

Nothing that the file names is imported or called. A module's record holds its tensors, so that files of whole modules can be read.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

#: Python's modules that run programs, open files or sockets, or make code: a file that names something of them is refused.
_HARMFUL = """
builtins __builtin__ os posix nt sys subprocess shutil socket runpy importlib imp pty ctypes code codeop commands popen2 platform
webbrowser asyncio multiprocessing threading signal tempfile io _io pickle marshal types inspect operator functools urllib http
ftplib smtplib zipimport pkgutil pdb bdb timeit trace cProfile profile pip setuptools distutils ensurepip venv sqlite3 ssl mmap
fileinput glob linecache site sysconfig
"""
#: Names in such modules that are plain data.
_PLAIN = frozenset({"builtins.dict", "builtins.list", "builtins.set", "builtins.frozenset", "builtins.complex"})


class Record(dict):
    """Any object: what it was made of is dropped, and its attributes, if they are a mapping, are its entries."""

    def __new__(cls, *_: Any, **__: Any) -> Record:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any):
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and state and isinstance(state[0], dict):
            state = state[0]
        if isinstance(state, dict):
            self.update(state)

    def append(self, item: Any) -> None:
        """As of a list, whose items are dropped."""

    def extend(self, items: Any) -> None:
        """As of a list, whose items are dropped."""

    def add(self, item: Any) -> None:
        """As of a set, whose items are dropped."""


def stand_ins(path: Path) -> list[tuple[Callable[..., Any], str]]:
    """A ``Record`` for each class or function that a file of ``torch.save`` names and ``torch.load`` does not know, without those
    that could do harm, for ``torch.serialization.safe_globals``. Reads the names only."""
    if not zipfile.is_zipfile(path):
        return []  # before torch 1.6; unknown names are refused there
    names = set(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    names.discard("argparse.Namespace")  # read as it is
    harmful = set(_HARMFUL.split())
    return [
        (_record_of(name), name) for name in sorted(names) if name in _PLAIN or name.partition(".")[0] not in harmful
    ]


def _record_of(name: str) -> type[Record]:
    """A class of its own for each name, since torch finds them by their class."""
    return type(name.rpartition(".")[2], (Record,), {"__module__": name.rpartition(".")[0]})
