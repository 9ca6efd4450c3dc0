"""A registry finds plug-ins by name. One file is one plug-in, and the file's stem is its name, so that the names are known
without importing (and thereby loading torch for) any of them."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from common.errors import UsageError, unknown_name

T = TypeVar("T")


class Registry(Generic[T]):
    """Plug-ins of one kind.

    Args:
        kind: what the plug-ins are, for messages ("method").
        package: the package whose modules each register the plug-in of their own name ("heads.segmentation"), or None.
    """

    def __init__(self, kind: str, package: str | None = None):
        self.kind = kind
        self._package = package
        self._items: dict[str, T] = {}
        root = Path(__file__).resolve().parent.parent
        folder = root / package.replace(".", "/") if package else None
        stems = {path.stem for path in folder.glob("*.py")} if folder else set()
        self._modules = stems - {"__init__"}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: make the decorated object known as ``name``. A name can be taken once."""

        def decorate(item: T) -> T:
            if name in self._items and self._items[name] is not item:
                raise UsageError(f"the {self.kind} {name!r} is registered twice; give one of them another name")
            self._items[name] = item
            return item

        return decorate

    def names(self) -> list[str]:
        """All known names, sorted. Imports nothing."""
        return sorted(self._modules | self._items.keys())

    def get(self, name: str) -> T:
        """The plug-in called ``name``; raises UsageError naming the nearest known one."""
        if name not in self._items and name in self._modules:
            importlib.import_module(f"{self._package}.{name}")
        if name not in self._items:
            raise unknown_name(self.kind, name, self.names())
        return self._items[name]


def load_plugin(spec: str) -> None:
    """Import a plug-in from outside the checkout: a path of a ``.py`` file or a dotted module name. What it registers is
    known afterwards. Raises UsageError where there is no such file or module."""
    path = Path(spec)
    if path.suffix == ".py":
        if not path.is_file():
            raise UsageError(f"--plugin {spec}: no such file")
        name = f"plugin_{path.stem}"
        if name in sys.modules:
            return
        module_spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(module_spec)
        sys.modules[name] = module
        module_spec.loader.exec_module(module)
        return
    try:
        importlib.import_module(spec)
    except ModuleNotFoundError as error:
        raise UsageError(f"--plugin {spec}: {error}; give a .py file or an importable module") from error
