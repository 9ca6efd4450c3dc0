"""Notes, warnings and, in a terminal, progress bars on standard error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")


def note(message: str, style: str = "dim") -> None:
    Console(stderr=True).print(message, style=style, markup=False, highlight=False, soft_wrap=True)


def warn(message: str) -> None:
    note(message, "yellow")


def progress_bar(*columns: TextColumn, show: bool = True) -> Progress:
    """Make a bar that disappears at the end; the given columns stand before the time left."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not (show and console.is_terminal),
    )


def track(items: Iterable[T], title: str, total: int, show: bool = True) -> Iterator[T]:
    """Yield the items under a bar."""
    with progress_bar(show=show) as bar:
        yield from bar.track(items, total=total, description=title)
