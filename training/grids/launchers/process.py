"""Child processes of ``run.py``, which stop before this process ends."""

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
from common.interrupt import hangup_counts
from common.progress import note

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def start(
    words: Sequence[str],
    log: IO | None,
    environment: Mapping[str, str] | None = None,
    module: Sequence[str] = (),
    folder: Path | str | None = None,
) -> subprocess.Popen:
    """Start ``python MODULE run.py WORDS``, with ``MODULE`` such as torchrun's words. The output goes into ``log``, or, if it is
    None, into this process's output. ``environment`` adds variables; ``folder`` is the working directory."""
    return subprocess.Popen(
        [sys.executable, *module, str(ROOT / "run.py"), *words],
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
        preexec_fn=_end_with_parent,
    )


def _end_with_parent() -> None:
    """Ask Linux to stop this process when its parent is killed, so that it does not write beside its successor."""
    if _LIBC is not None:
        _LIBC.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


@contextmanager
def stopping_well() -> Iterator[None]:
    """Let SIGTERM, SIGUSR1 and, unless it is ignored, SIGHUP raise SystemExit(128 + number), so that this process can first stop
    its children, which write their checkpoints."""
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        note(f"stopped by {signal.Signals(number).name}; the same command continues", style="none")
        received.append(number)
        raise SystemExit(128 + number)

    numbers = [signal.SIGTERM, signal.SIGUSR1, *([signal.SIGHUP] if hangup_counts() else [])]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    except SystemExit as end:
        if received:  # while Ray waits, it replaces the exit status by 1
            raise SystemExit(128 + received[0]) from end
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
