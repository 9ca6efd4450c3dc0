"""Two nodes of one process each, as docs/clusters.md starts them, train what two processes of one node do."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rundir.paths import last_checkpoint
from training.checkpoint import load_checkpoint

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def train(launchers: list[list[str]], run: Path, cache: Path) -> dict:
    """The last checkpoint of a run by these launchers at once."""
    words = (
        "train --method dino --backbone vit_nano --data demo --image_size 16 --batch_size 400 --epochs 1 --out_dim 64"
    )
    words += " --hidden_dim 32 --bottleneck_dim 16 --local_crops 1 --local_size 8 --warmup_epochs 0 --knn_every 0"
    words += " --device cpu --precision fp32"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SSL_COMPARE_CACHE": str(cache)}
    nodes = [
        subprocess.Popen(
            [*TORCHRUN, *launcher, str(ROOT / "run.py"), *words.split(), "--out", str(run)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for launcher in launchers
    ]
    try:
        said = [node.communicate(timeout=900)[0] for node in nodes]
    finally:
        for node in nodes:
            node.terminate()
    assert [node.returncode for node in nodes] == [0] * len(nodes), "\n".join(text[-3000:] for text in said)
    return load_checkpoint(last_checkpoint(run))


@pytest.mark.slow
def test_two_nodes_train_what_one_does(tmp_path):
    alone = train([["--standalone", "--nproc_per_node=2"]], tmp_path / "one", tmp_path)
    meeting = ["--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{free_port()}", "--rdzv_id=two"]
    node = ["--nnodes=2", "--nproc_per_node=1", "--local_addr=127.0.0.1", *meeting]
    together = train([node, node], tmp_path / "two", tmp_path)
    assert together["step"] == alone["step"] == 6
    for name, value in alone["method"].items():
        assert torch.equal(together["method"][name], value), name
