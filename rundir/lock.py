"""The lock of a run directory, which names the process that writes into it."""

from __future__ import annotations

import socket
import time
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from common.errors import UserError
from common.files import read_json
from common.lock import is_held, owned_lock, owner_lives
from rundir.paths import CHECKPOINTS, FEATURES, LOCK, LOG, RESULTS

#: A run of another machine whose lock nobody holds has ended if it has written nothing for so long.
SILENT_SECONDS = 600.0


def run_lock(run: Path) -> AbstractContextManager[None]:
    """Hold a run directory for writing. Raises UserError, naming the owner, if another process holds it."""

    def refuse(owner: str) -> None:
        raise UserError(f"{run}: {owner} is writing into it; wait for its end, or give another --out")

    return owned_lock(run / LOCK, refuse)


def is_running(run: Path) -> bool | None:
    """Whether a process writes into a run directory now; None if none ever has. Takes no lock."""
    try:
        owner = read_json(run / LOCK)
        if owner["host"] == socket.gethostname():
            return owner_lives(owner)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):  # empty: the lock was given back
        return False
    # Some shared disks keep a lock to the machine that took it; a run that writes is running.
    return is_held(run / LOCK) or time.time() - _last_written(run) < SILENT_SECONDS


def _last_written(run: Path) -> float:
    """When a file of a run last changed, in seconds since 1970."""
    times = [0.0]
    for path in (run / LOCK, run / LOG, run / CHECKPOINTS, run / RESULTS, run / FEATURES):
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times)
