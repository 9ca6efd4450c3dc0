"""A lock between processes that names its owner."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import UserError


@contextmanager
def owned_lock(path: Path, waiting: Callable[[str], None], poll: float = 0.2) -> Iterator[None]:
    """Hold the lock file ``path``; while another process holds it, wait.

    It is the operating system's lock on the open file, so it ends with its process, however that ends: what a killed process
    leaves behind is an unlocked file, which the next one takes over. The file names the owner for people and messages.

    Args:
        path: the lock file; it stays there, empty, when the lock is given back.
        waiting: called once, with the owner ("process 12 on host"), before waiting.
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
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _owner(path: Path) -> str:
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        return f"process {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, KeyError):  # it is about to write its name
        return "another process"
