"""Starts without ``torch._dynamo``, whose import takes over a second of the processor.

Torch guards many of its functions against being compiled, and imports it where one is first called."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

NAME = "torch._dynamo"


class _StandIn(ModuleType):
    """Guards nothing. Whatever else is asked of it comes from the real module, which takes its place."""

    @staticmethod
    def disable(function: Callable, *_: Any, **__: Any) -> Callable:
        return function

    def __getattr__(self, name: str) -> Any:
        self.leave()
        return getattr(importlib.import_module(NAME), name)

    def leave(self) -> None:
        if sys.modules.get(NAME) is self:
            del sys.modules[NAME], torch._dynamo


@contextmanager
def without_dynamo() -> Iterator[None]:
    """Within the block, which compiles nothing, guards do not import ``torch._dynamo``. The shapes of many operations, of which no
    tensor is made (on the meta device), have one."""
    if NAME in sys.modules:
        yield
        return
    stand_in = _StandIn(NAME)
    sys.modules[NAME] = torch._dynamo = stand_in
    try:
        yield
    finally:
        stand_in.leave()
