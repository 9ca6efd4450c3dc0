"""Locks between processes."""

import json
import os
import subprocess
import sys
import threading

import pytest

from common.environment import ROOT
from common.errors import UserError
from common.lock import owned_lock


def _refuse(owner: str) -> None:
    raise UserError(owner)


def test_the_lock_of_a_killed_process_is_stale(tmp_path):
    path = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", f"import sys, time; sys.path.insert(0, {str(ROOT)!r})\n"
         "from pathlib import Path\nfrom common.lock import owned_lock\n"
         f"with owned_lock(Path({str(path)!r}), print):\n    print('held', flush=True)\n    time.sleep(60)"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout.readline() == "held\n"

    with pytest.raises(UserError, match=f"process {holder.pid} on "), owned_lock(path, _refuse):
        pass
    holder.kill()
    holder.wait()
    assert json.loads(path.read_text())["pid"] == holder.pid  # its name is still there, and counts no more
    with owned_lock(path, _refuse):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert path.read_text() == ""


def test_who_waited_for_a_folder_that_is_removed_locks_the_one_of_its_name(tmp_path):
    path, waits, held, done = tmp_path / "store" / "lock", *(threading.Event() for _ in range(3))

    def wait():
        with owned_lock(path, lambda owner: waits.set(), 0.01):
            held.set()
            done.wait(10)

    waiting = threading.Thread(target=wait)
    with owned_lock(path, print):
        waiting.start()
        assert waits.wait(10)
        path.unlink()
        path.parent.rmdir()
    assert held.wait(10)

    with pytest.raises(UserError, match=f"process {os.getpid()} on "), owned_lock(path, _refuse):
        pass
    done.set()
    waiting.join()
