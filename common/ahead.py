"""Threads make results ahead of their use and in order: files and batches are read while a device computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    make: Callable[[Item], Result], items: Iterable[Item], threads: int = 1, most: int | None = None
) -> Iterator[Result]:
    """Yield ``make(item)`` for each item, in order, while threads make the next ones.

    An exception of ``make`` is raised in its result's place. Closing the generator cancels the items that have not begun.

    Args:
        most: results made or in the making beside the one in use; by default one for each thread.
    """
    items = iter(items)
    with ThreadPoolExecutor(threads, "ahead") as pool:
        pending = deque(pool.submit(make, item) for item in islice(items, most or threads))
        try:
            while pending:
                result = pending.popleft().result()
                pending.extend(pool.submit(make, item) for item in islice(items, 1))
                yield result
        finally:
            for future in pending:
                future.cancel()
