"""The accelerator to test on: CUDA where there is one, else a pretended one."""

import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


@dataclass
class Accelerator:
    """Attributes:
    device: to compute on.
    waits: a context whose value, a list, gets a line for each time that the CPU waits for the device.
    """

    device: torch.device
    waits: Callable[[], AbstractContextManager[list[str]]]


@contextmanager
def _waits_of_cuda() -> Iterator[list[str]]:
    lines: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield lines
        finally:
            torch.cuda.set_sync_debug_mode("default")
            lines += [str(w.message) for w in caught if "synchronizing CUDA operation" in str(w.message)]


def load(name: str, path: Path):
    """A file of the tests as a module."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def accelerator() -> Accelerator:
    if torch.cuda.is_available():
        return Accelerator(torch.device("cuda", 0), _waits_of_cuda)
    pretended = load("pretended_accelerator", HERE / "pretended.py")
    return Accelerator(pretended.DEVICE, pretended.waits)


@pytest.fixture
def on_accelerator(accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch) -> Accelerator:
    """Commands compute there, whatever ``--device`` says."""
    from training.machine.devices import pick_device

    for module in list(sys.modules.values()):
        if getattr(module, "pick_device", None) is pick_device:
            monkeypatch.setattr(module, "pick_device", lambda name: accelerator.device)
    return accelerator


@pytest.fixture(scope="session")
def small_runs():
    """What describes small runs: see tests/small_runs.py."""
    return load("small_runs_of_accelerator", HERE.parent / "small_runs.py")


#: Data in VOC's layout: see tests/segmentation/conftest.py.
shapes = load("shapes_of_accelerator", HERE.parent / "segmentation" / "conftest.py").shapes


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("SSL_COMPARE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
