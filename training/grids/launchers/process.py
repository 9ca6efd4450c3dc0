"""``run.py`` in a process of its own, which is stopped before this one ends."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

from common.environment import ROOT

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def start(
    words: Sequence[str],
    log: IO | None,
    environment: Mapping[str, str] | None = None,
    module: Sequence[str] = (),
    folder: Path | str | None = None,
) -> subprocess.Popen:
    """Start ``python run.py WORDS``.

    Args:
        log: gets what it prints; None: this process's output does.
        environment: variables to add.
        module: words of Python that run it, such as torchrun's.
        folder: to work in.
    """
    return subprocess.Popen(
        [sys.executable, *module, str(ROOT / "run.py"), *words],
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
        preexec_fn=_end_with_parent,
    )


def _end_with_parent() -> None:
    """Ask Linux to stop this process when its parent is killed, so that it does not write beside its successor. Other systems have
    no such request."""
    if _LIBC is not None:
        _LIBC.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


@contextmanager
def stopping_well() -> Iterator[None]:
    """Inside, SIGTERM and SIGUSR1 end this process as Ctrl-C does, by an exception, so that it can stop its processes first: they
    write their checkpoints. The exit status is 128 + the signal's number."""
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        print(f"stopped by {signal.Signals(number).name}; the same command continues", file=sys.stderr)
        received.append(number)
        raise SystemExit(128 + number)

    numbers = (signal.SIGTERM, signal.SIGUSR1) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    except SystemExit as end:
        if received:  # Ray replaces the status of an exit while it waits by 1
            raise SystemExit(128 + received[0]) from end
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
