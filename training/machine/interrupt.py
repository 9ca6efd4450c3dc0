"""Stopping well: a signal sets a flag, and the loop stops after the step it is in, on all processes alike."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import torch
import torch.distributed as dist

from common.distributed import is_distributed


class Interruption:
    """While this is entered, SIGINT, SIGTERM and SIGUSR1 (which a cluster can be asked to send ahead of its time limit) are
    remembered instead of killing the process. A second SIGINT raises KeyboardInterrupt at once. One that came when the loop did not
    look any more does what it would have done when this is left, since what follows may take longer than the sender waits."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread handle signals
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
                self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.signal is not None and kind is None:
            signal.raise_signal(self.signal)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number

    def agree(self, failed: bool) -> tuple[int, bool]:
        """What the processes say together after a step: the signal that any of them got (0: none), and whether any has
        failed. Costs a message of two numbers between CPUs where there are several processes."""
        mine = (self.signal or 0, int(failed))
        if not is_distributed():
            return mine[0], failed
        said = torch.tensor(mine)
        dist.all_reduce(said, dist.ReduceOp.MAX)
        return int(said[0]), bool(said[1])
