"""Cells as tasks of a Ray cluster, on any node with room. If a cell or its node fails, Ray tries the cell again, and it continues
from its checkpoint."""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.environment import missing_package
from common.errors import UserError, first_line
from rundir.paths import stop_file
from training.grids.launchers.cells import CellState, Show, words_of_cell
from training.grids.launchers.process import start
from training.grids.options import CompareCommand

#: Further tries of a failed cell.
RETRIES = 2
#: Seconds before the next try: long enough for the cell's processes on other nodes to write a checkpoint and end.
PAUSE = 5.0
#: Seconds that stopped cells have for writing their checkpoints.
LEAVE = 60.0
#: Exit status of a training with wrong options, which further tries do not help.
WRONG_OPTIONS = 2


def launch(states: Sequence[CellState], command: CompareCommand, show: Show) -> None:
    """Run the cells, as many at a time as the cluster has room for, or ``command.jobs``. The tasks end with this process, after a
    checkpoint unless it is killed. Raises UserError if ray is not installed, or no cluster answers at the address."""
    options = command.launch
    address = options.address or "auto"
    require_answer(address)
    try:
        import ray
    except ImportError as error:
        raise missing_package("--launcher ray", error, "clusters") from error
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise no_cluster(address, first_line(error)) from error
    gpus, cpus = options.gpus or 0, options.cpus or 1
    task = ray.remote(
        num_cpus=cpus * max(gpus, 1), num_gpus=gpus, max_retries=RETRIES, retry_exceptions=[ChildProcessError]
    )(run_cell)
    environment = {name: value for name, value in os.environ.items() if name.startswith("SSL_COMPARE_")}
    environment["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS") or str(cpus)
    waiting = deque(state for state in states if state.status == "waiting")
    stop = stop_file(states[0].log)
    stop.unlink(missing_ok=True)
    running: dict[ray.ObjectRef, CellState] = {}
    try:
        while waiting or running:
            while waiting and (command.jobs is None or len(running) < command.jobs):
                state = waiting.popleft()
                state.log.unlink(missing_ok=True)
                words = words_of_cell(state, command)
                running[task.remote(words, max(gpus, 1), str(Path.cwd()), str(state.log), environment)] = state
            ended, _ = ray.wait(list(running), timeout=1.0)
            for reference in ended:
                state = running.pop(reference)
                try:
                    ray.get(reference)
                    state.becomes("done")
                except Exception as error:  # the task and Ray may raise anything
                    with open(state.log, "a") as log:
                        log.write(f"{type(error).__name__}: {error}".splitlines()[-1] + "\n")
                    state.becomes("failed")
                show(state)
            for state in running.values():
                if state.log.exists() and state.becomes("running"):  # a task that begins opens its log
                    show(state)
            show(None)
    finally:
        # The file asks begun tasks to stop, since Ray may kill a cancelled task's training before its checkpoint.
        stop.touch()
        begun = [reference for reference, state in running.items() if state.log.exists()]
        for reference in running.keys() - set(begun):
            ray.cancel(reference)
        if begun:
            ray.wait(begun, num_returns=len(begun), timeout=LEAVE)
        ray.shutdown()
        stop.unlink()


def require_answer(address: str) -> None:
    """Raise UserError if nothing listens at ``host:port``: Ray itself would try for a quarter of an hour."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        return  # "auto" and "local" need no address
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, ValueError, OverflowError) as error:
        raise no_cluster(address, str(error)) from error
    # The listener may not be Ray's: ray, imported after this, then makes 3 tries of 40 seconds instead of 20.
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "3")


def no_cluster(address: str, reason: str) -> UserError:
    return UserError(f"--address {address}: no Ray cluster answers there ({reason}); start one with: ray start --head")


def run_cell(words: Sequence[str], processes: int, folder: str, log: str, environment: Mapping[str, str]) -> None:
    """Try a cell, in a Ray task: ``run.py`` with these words in ``processes`` processes, one for each GPU. Stops the training when
    the ``stop_file`` appears. Raises ChildProcessError if another try may succeed, ValueError if the options are wrong."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    stop = stop_file(Path(log))
    if stop.exists():
        return
    with open(log, "a") as file:
        process = start(words, file, environment, torchrun if processes > 1 else (), folder)
        try:
            # A cancelled task's KeyboardInterrupt would not reach process.wait().
            while (status := process.poll()) is None:
                if stop.exists():
                    return
                time.sleep(0.2)
        finally:
            process.terminate()  # no effect on a process that has ended
            process.wait()
    if status == WRONG_OPTIONS:
        raise ValueError(f"exit status {status}")
    if status:
        time.sleep(PAUSE)
        raise ChildProcessError(f"exit status {status}")
