"""A lock between processes that names its owner."""

import datetime
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.errors import UserError, why
from common.files import read_json


@contextmanager
def owned_lock(path: Path, waiting: Callable[[str], None], poll: float = 0.2) -> Iterator[None]:
    """Hold the lock file ``path``, which names this process and stays, empty, afterwards. Wait while another process holds it.

    The operating system ends the lock with its process, even a killed one. Raises UserError if the file system has no locks.

    Args:
        waiting: called once before waiting, with the owner ("process 12 on host, since 2026-01-31 12:00 UTC"); raises an error
            to give up.
        poll: seconds between attempts.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    attempts = 0
    with open(path, "a+", encoding="utf-8") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                # ``is_held`` may have looked in this moment, so a first failure means nothing.
                if attempts == 1:
                    waiting(_owner(path))
                attempts += 1
                time.sleep(poll if attempts > 1 else 0.05)
            except OSError as error:
                raise UserError(
                    f"{path}: cannot be locked ({why(error)}); choose a folder on a disk with locks (--out, SSL_COMPARE_CACHE)"
                ) from error
        # Whoever held it may have removed it. Others lock the file that has its name now.
        if os.fstat(file.fileno()).st_nlink == 0:
            with owned_lock(path, waiting, poll):
                yield
            return
        file.truncate(0)
        since = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
        pid = os.getpid()
        owner = {"pid": pid, "host": socket.gethostname(), "since": since, "process_began": process_began(pid)}
        try:
            # A buffer would be written again when the file is closed after an error.
            os.write(file.fileno(), json.dumps(owner).encode())
        except OSError as error:
            error.filename = str(path)
            raise
        try:
            yield
        finally:
            file.truncate(0)


def is_held(path: Path) -> bool | None:
    """Whether a process, on any machine that shares the file, holds a lock now; None if the file system does not tell."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


def owner_lives(owner: Mapping[str, Any]) -> bool:
    """Whether the process of this machine that a lock file names still runs. Does not lock, which could turn others away.
    Any process with its number counts where the system does not tell when processes began."""
    if type(owner["pid"]) is not int or not 0 < owner["pid"] < 2**31:  # no process has such a number
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    began = process_began(owner["pid"])
    return began is None or owner.get("process_began") in (None, began)


def process_began(process: int) -> str | None:
    """When a process began, as the boot's id and clock ticks since: unique among processes of its number. "ended" for a zombie;
    None where the system does not tell."""
    try:
        stat = Path(f"/proc/{process}/stat").read_bytes()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    state, *fields = stat.rpartition(b")")[2].split()  # after the program's name, which may hold anything
    return "ended" if state in (b"Z", b"X") else f"{boot} {int(fields[18])}"


def _owner(path: Path) -> str:
    try:
        owner = read_json(path)
        return f"process {owner['pid']} on {owner['host']}, since {owner['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it is about to write its name
        return "another process"
