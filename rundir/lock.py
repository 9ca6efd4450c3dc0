"""The lock of a run directory, which names the process that writes into it."""

from __future__ import annotations

import socket
from contextlib import AbstractContextManager
from pathlib import Path

from common.errors import UserError
from common.files import read_json
from common.lock import owned_lock, owner_lives
from rundir.paths import LOCK


def run_lock(run: Path) -> AbstractContextManager[None]:
    """Hold a run directory for writing. Raises UserError, naming the owner, if another process holds it."""

    def refuse(owner: str) -> None:
        raise UserError(f"{run}: {owner} is writing into it; wait for its end, or give another --out")

    return owned_lock(run / LOCK, refuse)


def is_running(run: Path) -> bool | None:
    """Whether a process writes into a run directory now; None if none ever has. Takes no lock."""
    try:
        owner = read_json(run / LOCK)
        return owner["host"] != socket.gethostname() or owner_lives(owner)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):  # empty: the lock was given back
        return False
