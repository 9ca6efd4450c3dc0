"""Checkpoints that are kept, verified and fallen back on; stopping by signals; one writer a run directory."""

import json
import os
import random
import shutil
import signal
import zipfile
from pathlib import Path

import pytest
import torch

from backbones.formats.source import Source
from commands.train import train
from common.errors import UserError
from common.files import archive_damage
from common.lock import owned_lock
from rundir.paths import best_checkpoint, earlier_checkpoints, last_checkpoint
from training.checkpoint import load_checkpoint, save_checkpoint
from training.grids.launchers.process import stopping_well
from training.loop import Session
from training.machine.interrupt import Interruption

ROOT = Path(__file__).resolve().parents[2]


def records_of(run: Path, kind: str) -> list[dict]:
    return [record for line in (run / "log.jsonl").open() if (record := json.loads(line))["kind"] == kind]


def flip(path: Path, seed: int = 0) -> None:
    """Change one bit of the largest part of an archive: its numbers are then others."""
    with zipfile.ZipFile(path) as archive:
        part = max(archive.infolist(), key=lambda info: info.file_size)
    content = bytearray(path.read_bytes())
    start = content.index(part.filename.encode()) + len(part.filename) + 64  # past the padding
    content[start + random.Random(seed).randrange(part.file_size // 2)] ^= 8
    path.unlink()  # not through its other names
    path.write_bytes(content)


def states_equal(a: Path, b: Path) -> bool:
    first, second = load_checkpoint(a)["method"], load_checkpoint(b)["method"]
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def whole(small, tmp_path_factory) -> Path:
    """An unbroken run of three epochs of five steps; trained for the first test that wants it."""
    return train(*small(tmp_path_factory.getbasetemp() / "unbroken", keep_checkpoints=3))


def test_as_many_as_asked_for_are_kept(small, tmp_path):
    run = train(*small(tmp_path / "three", knn_every=0, keep_checkpoints=3))
    steps = [load_checkpoint(file)["step"] for file in (last_checkpoint(run), *earlier_checkpoints(run))]
    assert steps == [15, 10, 5] and [file.name for file in earlier_checkpoints(run)] == ["step-10.pt", "step-5.pt"]
    assert not best_checkpoint(run).exists()  # no k-NN, no best
    run = train(*small(tmp_path / "one", knn_every=0, keep_checkpoints=1))
    assert [file.name for file in (run / "checkpoints").iterdir()] == ["last.pt"]


def test_the_best_by_the_online_knn_is_kept(small, tmp_path, monkeypatch):
    quality = iter([10.0, 30.0, 20.0, 30.0])
    monkeypatch.setattr(
        "eval.core.online.Monitor.knn", lambda self: {"top1": next(quality), "k": 1, "n": 4, "bank": 40}
    )
    run = train(*small(tmp_path / "run"))
    assert [record["top1"] for record in records_of(run, "knn")] == [10, 30, 20, 30]
    best, last = load_checkpoint(best_checkpoint(run)), load_checkpoint(last_checkpoint(run))
    assert best["step"] == 5  # the first of equals
    assert {file.name for file in (run / "checkpoints").iterdir()} == {"best.pt", "last.pt"}
    # Training has ended: one full state, and of the best what evaluations need.
    assert best["optimizer"] is None and set(best["method"]) == {
        n for n in last["method"] if n.startswith("teacher.backbone.")
    }
    assert last["optimizer"]["state"] and best_checkpoint(run).stat().st_size < last_checkpoint(run).stat().st_size / 4
    network = Source(best_checkpoint(run))
    assert "tensors loaded" in network.build(network.backbone_name(), 16)[1]
    # With the last one damaged the run is not taken up from the backbone alone.
    last_checkpoint(run).write_bytes(b"")
    with pytest.raises(UserError, match=r"last\.pt: cannot be read as a checkpoint"):
        train(*small(tmp_path / "run"))


def test_a_finished_run_of_before_is_tidied_and_still_read(small, tmp_path):
    """As older versions left it, or a process that was killed after its last record: with a checkpoint before the last."""
    run = train(*small(tmp_path / "run", knn_every=0, epochs=2, keep_checkpoints=9))
    assert len(earlier_checkpoints(run)) == 2
    before = last_checkpoint(run).read_bytes()
    train(*small(tmp_path / "run", knn_every=0, epochs=2))
    assert not earlier_checkpoints(run) and last_checkpoint(run).read_bytes() == before


def test_a_flipped_bit_is_found_which_torch_reads_over(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"a": torch.arange(1000.0)}, path)
    assert archive_damage(path) is None
    flip(path)
    assert not torch.equal(torch.load(path)["a"], torch.arange(1000.0)), "torch now checks; archive_damage may go"
    assert "checksum" in archive_damage(path)


@pytest.mark.parametrize(
    ("damage", "ended"), [("flip", False), ("cut", False), ("gone", False), ("flip", True), ("empty", True)]
)
def test_a_damaged_checkpoint_is_replaced_by_the_one_before(damage, ended, whole, small, tmp_path, capsys):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    last = last_checkpoint(run)
    if not ended:
        log = run / "log.jsonl"
        log.write_text("".join(line for line in log.open() if json.loads(line)["kind"] != "end"))
    content = last.read_bytes()
    last.unlink()
    if damage != "gone":
        last.write_bytes(content[: {"cut": len(content) // 2, "empty": 0, "flip": None}[damage]])
    if damage == "flip":
        flip(last)
    capsys.readouterr()
    train(*small(tmp_path / "run", keep_checkpoints=3))
    said = capsys.readouterr().err
    assert "continuing after step 10 of 15" in said
    if damage != "gone":
        assert "last.pt: cannot be read as a checkpoint" in said and "step-10.pt is taken in its place" in said
        assert (run / "checkpoints" / "damaged.pt").exists()
    assert states_equal(last, last_checkpoint(whole))
    assert [r["loss"] for r in records_of(run, "step")] == [r["loss"] for r in records_of(whole, "step")]


def test_with_all_damaged_nothing_is_begun_anew(small, tmp_path):
    run = train(*small(tmp_path / "run", epochs=2))
    for file in (run / "checkpoints").iterdir():
        flip(file)
    before = (run / "log.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"last\.pt: cannot be read as a checkpoint .*checksum"):
        train(*small(tmp_path / "run", epochs=2))
    assert (run / "log.jsonl").read_bytes() == before


def test_what_the_disk_gives_back_changed_does_not_replace_the_one_before(small, tmp_path, monkeypatch):
    run = train(*small(tmp_path / "run", knn_every=0, epochs=1))
    before = last_checkpoint(run).read_bytes()
    monkeypatch.setattr("training.checkpoint.archive_damage", lambda path: "data/3 has another checksum")
    network = torch.nn.Module()
    network.backbone = torch.nn.Linear(2, 2)
    with pytest.raises(OSError, match=r"cannot be read back: data/3 .*last\.pt"):
        save_checkpoint(last_checkpoint(run), network, None, step=9)
    assert last_checkpoint(run).read_bytes() == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP])
def test_signals_stop_after_a_checkpoint(number, heed, whole, small, tmp_path, monkeypatch):
    heed(number)
    log_step = Session._log_step

    def and_signal(self, progress, *rest):
        log_step(self, progress, *rest)
        if progress.step == 7:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "_log_step", and_signal)
        with pytest.raises(SystemExit) as stop:
            train(*small(tmp_path / "run"))
    assert stop.value.code == 128 + number
    assert (
        load_checkpoint(last_checkpoint(tmp_path / "run"))["step"] == 9
    )  # told after the eighth, looked at after the ninth
    assert states_equal(last_checkpoint(train(*small(tmp_path / "run"))), last_checkpoint(whole))


def test_a_hangup_that_is_ignored_stays_ignored():
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption() as interruption, pytest.raises(SystemExit), stopping_well():
            os.kill(os.getpid(), signal.SIGHUP)
            assert interruption.signal is None
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("late", "status"), [(False, 128 + signal.SIGUSR1), (True, 99)])
def test_a_signal_in_the_last_step_is_not_forgotten(late, status, small, tmp_path, monkeypatch):
    """Nor one while the last checkpoint is written: no evaluation begins that would outlast what the sender waits for."""
    options = small(tmp_path / "run", epochs=1, knn_every=0)
    name = "_save" if late else "_log_step"
    original = getattr(Session, name)

    def and_signal(self, first, *rest):
        original(self, first, *rest)
        if (first if late else first.step + 2) == self.total:
            os.kill(os.getpid(), signal.SIGUSR1)

    def received(number, frame):
        raise SystemExit(99)  # in place of the end of this process

    before = signal.signal(signal.SIGUSR1, received)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Session, name, and_signal)
            with pytest.raises(SystemExit) as stop:
                train(*options)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert stop.value.code == status
    assert not records_of(tmp_path / "run", "end")
    train(*options)
    assert records_of(tmp_path / "run", "end")[0]["step"] == load_checkpoint(last_checkpoint(tmp_path / "run"))["step"]


def test_resume_never_wants_a_free_directory(small, tmp_path):
    train(*small(tmp_path / "run", epochs=1, knn_every=0), resume=False)
    with pytest.raises(UserError, match=r"run holds a run, which --resume never does not continue"):
        train(*small(tmp_path / "run", epochs=1, knn_every=0), resume=False)


def test_a_second_writer_is_told_who_the_first_is(small, tmp_path):
    options = small(tmp_path / "run", epochs=1, knn_every=0)
    with owned_lock(tmp_path / "run" / "lock", lambda owner: None):
        before = sorted((tmp_path / "run").rglob("*"))
        with pytest.raises(UserError, match=rf"run: process {os.getpid()} on \S+, since .* UTC is writing into it"):
            train(*options)
        assert sorted((tmp_path / "run").rglob("*")) == before
    train(*options)
