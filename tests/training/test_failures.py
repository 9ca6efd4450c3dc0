"""What ends a training from outside: a full or read-only disk, no memory, a dead process. One sentence, and nothing lost."""

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import run as command_line
from commands.train import train
from common.errors import UserError, explain
from common.files import append_json_line, read_json_lines
from rundir.failure import failure_of, write_failure
from rundir.paths import last_checkpoint
from training import failures
from training.checkpoint import load_checkpoint
from training.failures import explained, fitting
from training.machine.devices import process_group

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CPU = torch.device("cpu")


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A disk of 4 MiB that can be made full or read-only."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk takes root's rights")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def train_by_words(config, method_config, capsys) -> tuple[int, str]:
    """As ``run.py train``: exit status, and what was printed as the error."""
    original = sys.modules["commands.train"].train
    assert original is train
    capsys.readouterr()
    status = command_line.main(["train", *words_of(config, method_config)])
    return status, capsys.readouterr().err


def words_of(config, method_config) -> list[str]:
    import dataclasses

    from common.cli import words_of as words

    return words({**dataclasses.asdict(config), **dataclasses.asdict(method_config)})


def assert_one_sentence(said: str) -> str:
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in said, said
    return lines[0]


def assert_nothing_half_written(run: Path) -> None:
    assert not [file for file in run.rglob("*") if file.name.endswith(".tmp")]
    read_json_lines(run / "log.jsonl")
    assert (run / "log.jsonl").read_text()[-1:] in ("", "\n")
    for file in run.glob("checkpoints/*.pt"):
        load_checkpoint(file)


def losses(run: Path) -> list[float]:
    return [record["loss"] for record in read_json_lines(run / "log.jsonl") if record["kind"] == "step"]


def test_a_failed_run_that_goes_on_has_not_failed(small, tmp_path):
    """Also where no grid has started it again: a cluster's job, or the user."""
    run = train(*small(tmp_path / "run", epochs=1, knn_every=0))
    write_failure(run, "no space left")
    assert failure_of(run) == "no space left"
    assert failure_of(train(*small(run, epochs=1, knn_every=0))) == ""


@pytest.mark.parametrize("free", [0, 100, 600])
def test_a_full_disk(free, disk, small, tmp_path, monkeypatch, capsys):
    """With so many KiB free: none at all, none for the first checkpoint, for one, for a few. It is refused before it begins; others
    may fill the disk after that."""
    run = disk / "run"
    options = small(run, knn_every=0, keep_checkpoints=9)
    with open(disk / "filler", "wb") as file:
        file.write(bytes(2**22 - free * 1024 - 8192))
        with open(disk / "rest", "wb", buffering=0) as rest:
            while free == 0:
                try:
                    if not rest.write(bytes(4096)):
                        break
                except OSError:
                    break
    status, said = train_by_words(*options, capsys)
    assert status == 1 and "are free; free some" in assert_one_sentence(said) and not run.exists()
    monkeypatch.setattr("training.grids.checks.lacking_space", lambda plans, jobs=1: None)
    status, said = train_by_words(*options, capsys)
    assert status == 1
    assert re.search(rf"error: {run}\S*: no space left on device", assert_one_sentence(said))
    if (run / "log.jsonl").exists():
        assert_nothing_half_written(run)
    (disk / "filler").unlink()
    (disk / "rest").unlink()
    assert train_by_words(*options, capsys)[0] == 0
    assert losses(run) == losses(train(*small(tmp_path / "whole", knn_every=0)))


def test_a_read_only_disk(disk, small, tmp_path, capsys):
    options = small(disk / "run", knn_every=0, epochs=1)
    train(*options)
    (disk / "folder").mkdir()
    before = {file: file.read_bytes() for file in disk.rglob("*") if file.is_file()}
    remount(disk, "ro")
    for out in (disk / "run", disk / "new"):
        status, said = train_by_words(*small(out, knn_every=0, epochs=1), capsys)
        assert status == 1
        assert re.search(r"read-only file system; give a folder that may be written to", assert_one_sentence(said))
    assert {file: file.read_bytes() for file in disk.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("write", [2, 3, 4])
def test_a_disk_that_gets_full_in_a_write(write, small, tmp_path, monkeypatch, capsys):
    """The same without root's rights: the n-th file cannot reach the disk."""
    calls, fsync = 0, os.fsync

    def full(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls >= write:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    options = small(tmp_path / "run", knn_every=0, epochs=2)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        status, said = train_by_words(*options, capsys)
    assert status == 1
    assert re.search(rf"error: {tmp_path}/run/\S+: no space left on device", assert_one_sentence(said))
    if (tmp_path / "run" / "log.jsonl").exists():
        assert_nothing_half_written(tmp_path / "run")
    assert train_by_words(*options, capsys)[0] == 0


def test_a_log_keeps_whole_lines_on_a_full_disk(disk):
    path = disk / "log.jsonl"
    append_json_line(path, {"step": 1})
    with pytest.raises(OSError, match=r"No space left on device: '.*log\.jsonl'"):
        append_json_line(path, {"much": "x" * 2**23})
    assert path.read_text() == '{"step": 1}\n'


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (None, 1000 * 4096),
        ("MemTotal: 64 kB\nMemFree: 1 kB\n", 2**16 + 3 * 4096),
        ("MemTotal: 64 kB\nMemAvailable: 32 kB\n", 2**15 + 3 * 4096),
    ],
)
def test_free_memory_is_known_as_far_as_the_system_tells(told, expected, monkeypatch):
    """Not all that runs these programs has /proc, or says there what is available (WSL 1)."""
    files = {} if told is None else {"/proc/meminfo": told, "/proc/self/statm": "9 3 1"}
    monkeypatch.setattr(failures, "control_group_files", lambda name: [])
    monkeypatch.setattr(Path, "is_file", lambda path: str(path) in files)
    monkeypatch.setattr(Path, "read_text", lambda path: files[str(path)])
    monkeypatch.setattr(failures.os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}[name])
    monkeypatch.setattr(failures.resource, "getrlimit", lambda limit: (failures.resource.RLIM_INFINITY,) * 2)
    assert failures.memory_of(CPU) == expected


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), MemoryError(),
              RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")]
)  # fmt: skip
def test_no_memory_names_the_largest_things_and_a_batch_that_fits(error, small, tmp_path, monkeypatch, capsys):
    def step(self, batches, progress):
        raise error

    monkeypatch.setattr("training.failures.memory_of", lambda device: 1.3 * 2**20)
    monkeypatch.setattr("training.step.Stepper.step", step)
    status, said = train_by_words(*small(tmp_path / "run", knn_every=0), capsys)
    assert status == 1
    sentence = assert_one_sentence(said)
    assert re.search(r"out of memory on cpu \(1\.3 MiB\) with 8 images a forward pass; the estimate: ", sentence)
    assert re.search(r"activations [\d.]+ [KM]iB", sentence)
    assert re.search(r"the largest tensors: (student|teacher)\.\S+ [\d.]+ [KM]iB", sentence)
    assert int(re.search(r"--batch_size (\d) would fit, or --accumulate (\d)", sentence)[1]) in (1, 2, 3, 4)
    assert_nothing_half_written(tmp_path / "run")


def test_a_batch_that_fits(small, tmp_path):
    config = small(tmp_path, batch_size=64, accumulate=2)[0]
    gib = 2**30
    needed = {"weights": gib, "gradients_and_optimizer": 3 * gib, "activations": 32 * gib}  # of 32 images: one each
    for memory, images in ((20 * gib, 12), (1000 * gib, 16), (5 * gib, 0)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("training.failures.memory_of", lambda device, memory=memory: memory)
            assert fitting(config, CPU, needed) == images
            assert fitting(config, CPU, {}) == 16
            with pytest.raises(UserError) as raised, explained(config, torch.nn.Linear(2, 2), CPU, lambda: needed):
                raise MemoryError
            advice = f"--batch_size {2 * images} would fit" if images else "not even one image would fit"
            assert advice in str(raised.value)
            if memory == 5 * gib:
                continue
            # Of four processes, each has a quarter of the images: 4 and 4 in place of 8 a forward pass.
            patch.setattr("training.failures.world_size", lambda: 4)
            assert fitting(config, CPU, needed) == 4
            with pytest.raises(UserError) as raised, explained(config, torch.nn.Linear(2, 2), CPU, lambda: needed):
                raise MemoryError
            assert "with 8 images a forward pass" in str(raised.value)
            assert "--batch_size 32 would fit, or --accumulate 4 for" in str(raised.value)


#: A training that gets 60 MiB more than it has when it begins, and wants far more.
OUT_OF_MEMORY = """
import importlib.util, resource, sys
from pathlib import Path
import torch
import run
import training.loop

spec = importlib.util.spec_from_file_location("small_runs", sys.argv[1])
runs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(runs)
runs.register_small_backbones()
steps = training.loop.Session.steps

def limited(self, *rest):
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 60 * 2**20, resource.RLIM_INFINITY))
    return steps(self, *rest)

training.loop.Session.steps = limited
sys.exit(run.main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space as Linux has them")
def test_real_memory_that_runs_out(small, tmp_path):
    config, own = small(tmp_path / "run", knn_every=0, batch_size=40, image_size=512, local_size=96)
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY, str(HERE.parent / "small_runs.py"), "train", *words_of(config, own)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr[-2000:]
    assert "out of memory on cpu" in assert_one_sentence(done.stderr)
    assert load_checkpoint(last_checkpoint(tmp_path / "run"))["step"] == 0


#: One of two processes is killed after its third step.
DYING = """
import importlib.util, os, signal, sys
import torch
import run
import training.step

spec = importlib.util.spec_from_file_location("small_runs", sys.argv[1])
runs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(runs)
runs.register_small_backbones()
step = training.step.Stepper.step

def dying(self, batches, progress):
    if progress.step == 7 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batches, progress)

training.step.Stepper.step = dying
sys.exit(run.main(sys.argv[2:]))
"""


@pytest.mark.slow
def test_a_process_of_the_training_that_dies(small, tmp_path):
    script = tmp_path / "dying.py"
    script.write_text(DYING)
    config, own = small(tmp_path / "run", knn_every=0)
    addresses = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(HERE.parent / "small_runs.py"), "train", *words_of(config, own)],
            env={**os.environ, **addresses, "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2",
                 "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE, text=True,
        ) for rank in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=600)[1] for process in processes]
    assert [process.returncode for process in processes] == [1, -9], said[0][-3000:]
    assert "process 0 of 2: another process of this command has ended" in assert_one_sentence(said[0])
    assert load_checkpoint(last_checkpoint(tmp_path / "run"))["step"] == 5
    assert_nothing_half_written(tmp_path / "run")


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    ],
)
def test_memory_that_a_gpu_refuses_to_others_than_torchs_allocator(message):
    assert str(explain(RuntimeError(message))).startswith(f"out of memory ({message.splitlines()[0]}); give")
    assert explain(ValueError(message)) is None


def test_a_process_that_ends_before_the_training_begins(monkeypatch):
    """As the first does whose run directory is another's: the others wait for it outside of any step."""
    monkeypatch.setattr("training.machine.devices.is_distributed", lambda: True)
    with pytest.raises(UserError, match="another process of this command has ended"), process_group("cpu"):
        raise RuntimeError("[pair.cc:561] Connection closed by peer [127.0.0.1]:46744.")
    with pytest.raises(RuntimeError, match="shapes"), process_group("cpu"):
        raise RuntimeError("shapes differ")


def free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_other_errors_are_no_errors_of_the_machine(small, tmp_path):
    assert explain(ValueError("x")) is None and explain(OSError("of a library")) is None
    with pytest.raises(RuntimeError, match="shapes"), explained(small(tmp_path)[0], torch.nn.Linear(2, 2), CPU, dict):
        raise RuntimeError("shapes differ")
    sentence = str(explain(OSError(errno.EIO, "Input/output error", str(tmp_path))))
    assert sentence.startswith(f"{tmp_path}: input/output error; once that is mended, the same command continues")
    assert json.dumps(sentence)
