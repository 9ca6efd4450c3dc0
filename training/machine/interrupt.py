"""Stopping on a signal: it sets a flag, and the loop stops after its current step, on all processes alike."""

from __future__ import annotations

import signal
import threading
from contextlib import ExitStack
from types import FrameType

import torch
import torch.distributed as dist

from common.distributed import is_distributed
from common.interrupt import answering, hangup_counts

ANSWER = "finishing this step, then saving; again to end now"


class Interruption:
    """Remembers SIGINT, SIGTERM, SIGUSR1 (which a cluster can send before its time limit) and SIGHUP (of a lost terminal, unless it
    is ignored) within its context. SIGINT is answered at once, and a second one ends the process. If the loop has ended without an
    exception, a remembered signal takes its usual effect at the end of the context, since later work may take longer than the
    sender waits."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, object] = {}
        self._answering = ExitStack()

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread handle signals
            self._answering.enter_context(answering(ANSWER))
            numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, *([signal.SIGHUP] if hangup_counts() else [])]
            for number in numbers:
                self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._answering.close()
        if self.signal is not None and kind is None:
            signal.raise_signal(self.signal)

    def _remember(self, number: int, frame: FrameType | None) -> None:
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
