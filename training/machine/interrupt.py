"""Stopping on a signal: it sets a flag, and the loop stops after its current step, on all processes alike."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import torch
import torch.distributed as dist

from common.distributed import is_distributed


class Interruption:
    """Remembers SIGINT, SIGTERM and SIGUSR1 (which a cluster can send before its time limit) within its context. A second SIGINT
    raises KeyboardInterrupt at once. If the loop has ended without an exception, a remembered signal takes its usual effect
    at the end of the context, since later work may take longer than the sender waits."""

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
        """Return, after a step, the signal that any process got (0: none), and whether any has failed. Processes exchange two
        numbers between CPUs."""
        mine = (self.signal or 0, int(failed))
        if not is_distributed():
            return mine[0], failed
        highest = torch.tensor(mine)
        dist.all_reduce(highest, dist.ReduceOp.MAX)
        return int(highest[0]), bool(highest[1])
