"""Locks between processes."""

import json
import os
import subprocess
import sys

import pytest

from common.environment import ROOT
from common.errors import UserError
from common.lock import owned_lock


def test_the_lock_of_a_killed_process_is_stale(tmp_path):
    path = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", f"import sys, time; sys.path.insert(0, {str(ROOT)!r})\n"
         "from pathlib import Path\nfrom common.lock import owned_lock\n"
         f"with owned_lock(Path({str(path)!r}), print):\n    print('held', flush=True)\n    time.sleep(60)"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout.readline() == "held\n"

    def refuse(owner: str) -> None:
        raise UserError(owner)

    with pytest.raises(UserError, match=f"process {holder.pid} on "), owned_lock(path, refuse):
        pass
    holder.kill()
    holder.wait()
    assert json.loads(path.read_text())["pid"] == holder.pid  # its name is still there, and counts no more
    with owned_lock(path, refuse):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert path.read_text() == ""
