"""Grids small enough for clusters of one machine."""

import fcntl
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of training images."""
    spec = importlib.util.spec_from_file_location("small_runs", ROOT / "tests" / "small_runs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.make_folder(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def alone_on_the_ports() -> Iterator[None]:
    """Clusters use ports of the machine: one process of the tests at a time has one."""
    with open(Path(tempfile.gettempdir()) / "ssl-compare-clusters.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.Popen]:
    """``start(*words, **environment)``: run.py, from another folder than the checkout, with a cache of its own."""
    folder = tmp_path_factory.mktemp("elsewhere")
    cache = tmp_path_factory.getbasetemp() / "cache"

    def begin(*words: object, **environment: str) -> subprocess.Popen:
        about = {"SSL_COMPARE_CACHE": str(cache), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, str(ROOT / "run.py"), *map(str, words)],
            cwd=folder,
            env={**os.environ, **about, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return begin


@pytest.fixture(scope="session")
def run(start: Callable[..., subprocess.Popen]) -> Callable[..., subprocess.CompletedProcess]:
    """``run(*words, **environment)``: the same, to its end."""

    def finish(*words: object, **environment: str) -> subprocess.CompletedProcess:
        with start(*words, **environment) as process:
            try:
                said = process.communicate(timeout=900)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return subprocess.CompletedProcess(words, process.returncode, *said)

    return finish


@pytest.fixture
def grid(images: Path, tmp_path: Path) -> list[str]:
    """Words of a grid of one cell, in ``tmp_path / "grid"``."""
    words = (
        f"compare --methods barlow_twins --backbones vit_nano --projector 32-32 --data imagefolder --data_root {images}"
    )
    words += " --image_size 16 --batch_size 8 --knn_every 0 --log_every 1 --device cpu --precision fp32 --epochs 2"
    words += " --evals knn --knn_ks 5"
    return [*words.split(), "--out", str(tmp_path / "grid")]


@pytest.fixture(scope="session")
def until() -> Callable[..., None]:
    """``until(condition, what)``: wait for something that happens elsewhere; ten minutes are too long."""

    def wait(condition: Callable[[], object], what: str) -> None:
        for _ in range(1200):
            if condition():
                return
            time.sleep(0.5)
        pytest.fail(f"this has not happened: {what}")

    return wait
