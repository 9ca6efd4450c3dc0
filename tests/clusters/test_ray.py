"""Grids on a real Ray cluster of several nodes, all on this machine."""

import json
import signal
import threading

import pytest

pytest.importorskip("ray", reason="no ray here; pip install ray")
from ray.cluster_utils import Cluster

pytestmark = pytest.mark.slow

#: Kills the first training that loads it, as a fault of its machine would.
FAULT = """
import os, signal, sys
from pathlib import Path

def first():
    try:
        Path(__file__).with_name("killed").touch(exist_ok=False)
        return True
    except FileExistsError:
        return False

if sys.argv[1] == "train" and first():
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def cluster(alone_on_the_ports):
    """A head that runs nothing, and two nodes for one cell each."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    yield cluster, nodes
    cluster.shutdown()


def test_cells_run_side_by_side_and_a_failed_one_again(cluster, run, grid, tmp_path):
    plugin = tmp_path / "fault.py"
    plugin.write_text(FAULT)
    out = tmp_path / "grid"
    words = [*grid, "--seeds", "0", "1", "--launcher", "ray", "--address", cluster[0].address, "--plugin", plugin]
    done = run(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "killed").exists(), "no cell has failed, so this has tested nothing"
    assert (out / "report" / "index.html").is_file()
    assert "2 of 2 done" in run("status", out).stdout
    assert "2/2" in done.stdout


def test_options_that_are_wrong_are_not_tried_again(cluster, run, grid, tmp_path):
    words = [*grid, "--launcher", "ray", "--address", cluster[0].address, "--warmup_epochs", "9"]
    done = run(*words)
    assert done.returncode == 1
    log = (tmp_path / "grid" / "logs" / "barlow_twins-vit_nano-seed0.log").read_text()
    assert log.count("error: --warmup_epochs 9") == 1


def test_a_cell_moves_from_a_lost_node(cluster, run, grid, until, tmp_path):
    cluster, nodes = cluster
    cluster.remove_node(nodes[1])  # so that it begins on the first
    directory = tmp_path / "grid" / "runs" / "barlow_twins-vit_nano-seed0"
    words = [*grid, "--launcher", "ray", "--address", cluster.address]
    words[words.index("--epochs") + 1] = "200"
    found = []
    thread = threading.Thread(target=lambda: found.append(run(*words)))
    thread.start()
    until(lambda: steps(directory), "the cell trains")
    cluster.remove_node(nodes[0])  # at once, while it trains
    cluster.add_node(num_cpus=1)
    thread.join()
    assert found[0].returncode == 0, found[0].stdout + found[0].stderr
    assert steps(directory) == list(range(1, 1001))
    assert "resumed" in json.loads((directory / "environment.json").read_text())


def test_a_grid_that_is_stopped_lets_its_cells_write_checkpoints(cluster, start, grid, until, tmp_path):
    directory = tmp_path / "grid" / "runs" / "barlow_twins-vit_nano-seed0"
    words = [*grid, "--launcher", "ray", "--address", cluster[0].address]
    words[words.index("--epochs") + 1] = "1000"
    process = start(*words)
    until(lambda: len(steps(directory)) > 7, "the cell trains")
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=600) == 128 + signal.SIGUSR1
    log = (tmp_path / "grid" / "logs" / f"{directory.name}.log").read_text()
    assert log.count("stopped by SIGTERM after step") == 1, log[-3000:]


def test_no_cluster_at_the_address(run, grid):
    done = run(*grid, "--launcher", "ray", "--address", "127.0.0.1:1")
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if not line.startswith("loading ")]
    assert len(lines) == 1 and lines[0].startswith("error: --address 127.0.0.1:1: no Ray cluster answers there (")


def steps(directory):
    log = directory / "log.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return [record["step"] for record in map(json.loads, lines) if record["kind"] == "step"]
