"""Grids on a real SLURM: a controller and a node on this machine (slurm.sh)."""

import importlib.util
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def slurm(tmp_path_factory, alone_on_the_ports):
    """The environment of SLURM's clients."""
    if absent := [name for name in ("munged", "slurmctld", "slurmd") if shutil.which(name) is None]:
        pytest.skip(f"no {', '.join(absent)} here; apt-get install slurm-wlm munge")
    if os.geteuid() != 0:
        pytest.skip("SLURM's daemons are started as root")
    if importlib.util.find_spec("submitit") is None:
        pytest.skip("no submitit here; pip install submitit")
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run([HERE / "slurm.sh", "start", folder], check=True)
    yield {"SLURM_CONF": str(folder / "slurm.conf")}
    subprocess.run([HERE / "slurm.sh", "stop", folder], check=True)


@pytest.fixture
def ask(slurm):
    """``ask("squeue", …)``: what a client of SLURM prints."""
    return lambda *words: subprocess.run(
        words, env={**os.environ, **slurm}, check=True, capture_output=True, text=True
    ).stdout.strip()


def jobs_of(out):
    return json.loads((out / "jobs" / "jobs.json").read_text())


def steps_of(run):
    try:
        lines = (run / "log.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [record["step"] for record in map(json.loads, lines) if record["kind"] == "step"]


def test_an_array_goes_on_by_itself(slurm, run, grid, until, tmp_path):
    out = tmp_path / "grid"
    words = [*grid, "--seeds", "0", "1", "--launcher", "slurm", "--jobs", "1"]
    submitted = run(*words, **slurm)
    assert submitted.returncode == 0, submitted.stderr
    assert "2 of 2 runs are queued or running" in submitted.stdout
    jobs = jobs_of(out)
    assert len({number.split("_")[0] for number in jobs.values()}) == 1 and len(set(jobs.values())) == 2
    told = run("status", out, **slurm).stdout
    assert "queued" in told, told  # one at a time
    again = run(*words, **slurm)
    assert again.returncode == 0 and jobs_of(out) == jobs, "jobs in the queue were submitted again"
    until(lambda: "2 of 2 done" in run("status", out, **slurm).stdout, "both cells done")
    report = run(*words, **slurm)
    assert report.returncode == 0 and jobs_of(out) == jobs
    assert (out / "report" / "index.html").is_file()


def test_a_failed_cell_is_told(slurm, run, grid, tmp_path):
    words = [*grid, "--launcher", "slurm", "--wait"]
    words[words.index("--data_root") + 1] = str(tmp_path / "absent")
    done = run(*words, **slurm)
    assert done.returncode == 1, done.stderr
    assert "barlow_twins-vit_nano-seed0: failed" in done.stdout
    assert "absent" in done.stdout.split("the end of")[1]
    refused = run(*grid, "--launcher", "slurm", "--partition", "none", "--backbones", "resnet18_cifar", **slurm)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith("error: SLURM refuses the jobs: sbatch: error: invalid partition")


@pytest.mark.parametrize("how", ["preempted", "out of time"])
def test_a_cell_is_queued_again_with_a_checkpoint(how, slurm, ask, run, grid, until, tmp_path):
    """Of two processes, as SLURM sees them on two GPUs."""
    out = tmp_path / "grid"
    directory = out / "runs" / "barlow_twins-vit_nano-seed0"
    log = out / "logs" / f"{directory.name}.log"
    words = [*grid, "--launcher", "slurm", "--gpus", "2", "--time", "60"]
    words[words.index("--epochs") + 1] = "120"
    assert run(*words, **slurm).returncode == 0
    (number,) = jobs_of(out).values()
    until(lambda: len(steps_of(directory)) > 20, "the cell trains")
    if how == "preempted":
        ask("sbatch", "--partition=urgent", "--cpus-per-task=4", "--output=/dev/null", "--wrap=sleep 1")
    else:
        ask("scontrol", "update", f"JobId={number}", "TimeLimit=2")  # the signal comes two minutes before
    until(
        lambda: ask("squeue", f"--jobs={number}", "--noheader", "--format=%T") == "PENDING", "the job is queued again"
    )
    assert f"stopped by {'SIGTERM' if how == 'preempted' else 'SIGUSR1'}" in log.read_text()
    stopped = len(steps_of(directory))
    assert 20 < stopped < 600
    assert "queued" in run("status", out, **slurm).stdout
    # SLURM would wait for two minutes. In the second in which a job has been stopped, its node refuses it, and SLURM cancels it.
    time.sleep(2)
    ask("scontrol", "update", f"JobId={number}", "TimeLimit=60", "StartTime=now")
    until(lambda: "1 of 1 done" in run("status", out, **slurm).stdout, "the cell is done")
    assert f"continuing after step {stopped} of 600" in log.read_text()
    assert steps_of(directory) == list(range(1, 601))
    assert json.loads((directory / "environment.json").read_text())["processes"] == 2


def test_a_cancelled_cell_is_not_queued_again(slurm, ask, run, grid, until, tmp_path):
    out = tmp_path / "grid"
    words = [*grid, "--launcher", "slurm"]
    words[words.index("--epochs") + 1] = "1000"
    assert run(*words, **slurm).returncode == 0
    (number,) = jobs_of(out).values()
    until(lambda: steps_of(out / "runs" / "barlow_twins-vit_nano-seed0"), "the cell trains")
    ask("scancel", number)
    until(lambda: number not in ask("squeue", "--array", "--noheader", "--format=%i").split(), "the job has ended")
    assert "failed" in run("status", out, **slurm).stdout
