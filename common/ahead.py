"""Threads make results ahead of their use and in order: files and batches are read while a device computes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Room:
    """Memory that results made ahead share. Each waits for its own in order, so that the one used next never waits for those behind
    it; one that is larger than all of it has it alone.

    Args:
        most_bytes: held together.
        need: bytes that making an item takes at most; ``size``: those of its result, held until the next one is asked for.
    """

    def __init__(self, most_bytes: int, need: Callable[[Any], int], size: Callable[[Any], int]):
        self.most_bytes, self.need, self.size = most_bytes, need, size
        self.held = 0
        self._turn, self._closed = 0, False
        self._changed = threading.Condition()

    def make(self, place: int, make: Callable[[Item], Result], item: Item) -> tuple[Result, int]:
        """Make the item at ``place``, from 0, in a thread, and say how many bytes it goes on to hold."""
        need = size = 0
        try:
            need = self.need(item)
        finally:  # the next one shall not wait for one that fails
            with self._changed:
                while not self._closed and (place != self._turn or (self.held and self.held + need > self.most_bytes)):
                    self._changed.wait()
                self._turn += 1
                self.give(-need)
        try:
            result = make(item)
            size = self.size(result)
            return result, size
        finally:
            self.give(need - size)

    def give(self, size: int) -> None:
        """Give back bytes."""
        with self._changed:
            self.held -= size
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody waits any more: what is made now is thrown away."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def ahead(
    make: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int = 1,
    most: int | None = None,
    room: Room | None = None,
) -> Iterator[Result]:
    """Yield ``make(item)`` for each item, in order, while threads make the next ones.

    An exception of ``make`` is raised in its result's place. Closing the generator cancels the items that have not begun.

    Args:
        most: results made or in the making beside the one in use; by default one for each thread.
        room: the memory for them; None: whatever they take.
    """
    places = enumerate(items)

    def submit(count: int) -> Iterator[Future]:
        for place, item in islice(places, count):
            yield pool.submit(make, item) if room is None else pool.submit(room.make, place, make, item)

    pending: deque[Future] = deque()
    with ThreadPoolExecutor(threads, "ahead") as pool:
        try:
            pending.extend(submit(most or threads))
            while pending:
                result, size = pending.popleft().result(), 0
                if room is not None:
                    result, size = result
                pending.extend(submit(1))
                yield result
                if size:
                    del result
                    room.give(size)
        finally:
            for future in pending:
                future.cancel()
            if room is not None:
                room.close()
