"""A lock between processes that names its owner."""

import datetime
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from common.errors import UserError


@contextmanager
def owned_lock(path: Path, waiting: Callable[[str], None], poll: float = 0.2) -> Iterator[None]:
    """Hold the lock file ``path``; while another process holds it, wait, or give up if ``waiting`` raises.

    It is the operating system's lock on the open file, so it ends with its process, however that ends: what a killed process
    leaves behind is an unlocked file, which the next one takes over. The file names the owner for people and messages.

    Args:
        path: the lock file; it stays there, empty, when the lock is given back.
        waiting: called once, with the owner ("process 12 on host, since 2026-01-31 12:00 UTC"), before waiting; what it
            raises is raised.
        poll: seconds between attempts.

    Raises:
        UserError: the file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    told = False
    with open(path, "a+", encoding="utf-8") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    waiting(_owner(path))
                    told = True
                time.sleep(poll)
            except OSError as error:
                raise UserError(
                    f"{path}: cannot be locked ({error.strerror}); choose a folder on a disk with locks (--out, SSL_COMPARE_CACHE)"
                ) from error
        file.truncate(0)
        since = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
        owner = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since})
        try:
            os.write(file.fileno(), owner.encode())  # at once: closing the file would write again what did not fit
        except OSError as error:
            error.filename = str(path)
            raise
        try:
            yield
        finally:
            file.truncate(0)


def run_lock(run: Path) -> AbstractContextManager[None]:
    """Hold a run directory, which one process at a time writes into. A second one does not wait: it would then only repeat, or
    find changed, what it wanted to do.

    Raises:
        UserError: another process holds it, which is named.
    """

    def refuse(owner: str) -> None:
        raise UserError(f"{run}: {owner} is writing into it; wait for its end, or give another --out")

    return owned_lock(run / "lock", refuse)


def _owner(path: Path) -> str:
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        return f"process {owner['pid']} on {owner['host']}, since {owner['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it is about to write its name
        return "another process"
