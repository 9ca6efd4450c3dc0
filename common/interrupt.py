"""Ctrl-C, answered at once. Python handles signals in its main thread between two of its own instructions, and a training step or
a fit may be one long call; so a thread watches for them here. Imports the standard library only, since this comes first."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

#: Exit status after SIGINT, as of a shell's commands.
STATUS = 128 + signal.SIGINT
#: torchrun hands on to its processes what the terminal has sent them, within so many seconds.
TWICE = 1.0

#: What the innermost block answers, and does before it ends the process.
_answers: list[tuple[str, Callable[[], None] | None]] = []
_pressed: list[float] = []  # times of each SIGINT
_kept: list[
    Callable[[], None]
] = []  # ends of watches until the process ends: Python would close what nothing refers to
_terminals: list[int] = []  # standard output and error, where they are terminals


@contextmanager
def answering(words: str, last: Callable[[], None] | None = None) -> Iterator[None]:
    """Within the block, the first SIGINT prints ``words`` at once, and a second one calls ``last`` and ends the process with status
    130. What else the first does is its handler's matter: by default it raises KeyboardInterrupt. For the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _answers.append((words, last))
    stop = _watch() if len(_answers) == 1 else None
    try:
        yield
    finally:
        if stop is not None:
            stop()
        _answers.pop()


def answer_always(words: str) -> None:
    """As ``answering``, until the process ends."""
    _answers.append((words, None))
    _kept.append(_watch())


def was_pressed() -> bool:
    """Whether a SIGINT has come, so that an error may be its consequence."""
    return bool(_pressed)


def hangup_counts() -> bool:
    """Whether SIGHUP is to be handled: there is one, and nohup has not made this process ignore it."""
    return hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN


def _watch() -> Callable[[], None]:
    """Start the thread; the returned function ends it."""
    _pressed.clear()
    _terminals[:] = [handle for handle in (1, 2) if os.isatty(handle)]
    ours, pythons = socket.socketpair()
    pythons.setblocking(False)
    before = signal.set_wakeup_fd(pythons.fileno(), warn_on_full_buffer=False)

    def watch() -> None:
        with ours:
            while numbers := ours.recv(64):
                for number in numbers:
                    if number == signal.SIGINT:
                        _press()
                    elif number == getattr(signal, "SIGHUP", None):
                        _leave_terminal()

    def stop() -> None:
        signal.set_wakeup_fd(before)
        pythons.close()
        thread.join(1)  # it may have to answer yet

    thread = threading.Thread(target=watch, name="interrupt", daemon=True)
    thread.start()
    return stop


def _press() -> None:
    now = time.monotonic()
    if _pressed and int(os.environ.get("WORLD_SIZE") or 1) > 1 and now - _pressed[0] < TWICE:
        return
    _pressed.append(now)
    words, last = _answers[-1]
    if len(_pressed) == 1:
        if int(os.environ.get("RANK") or 0) == 0:
            _say(words)
        return
    if last is not None:
        with suppress(Exception):
            last()
    with suppress(OSError):  # by the system's own call: the main thread may hold any lock
        cursor = "\x1b[?25h\r\x1b[K" if 2 in _terminals else ""  # bars hide it
        os.write(2, f"{cursor}ended; the same command continues from what was saved\n".encode())
    os._exit(STATUS)


def _say(words: str) -> None:
    if (progress := sys.modules.get("common.progress")) is not None:  # bars may be there
        progress.note(words, style="none")
    else:
        with suppress(OSError):
            os.write(2, f"{words}\n".encode())


def _leave_terminal() -> None:
    """Give up a terminal that is gone: every write to it would be an error."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for handle in _terminals:
        os.dup2(nowhere, handle)
    os.close(nowhere)
