"""What a process is told about the machine it computes on."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from training.machine import devices

ROOT = Path(__file__).parents[2]


PAGES = """
import resource
import torch
from training.machine.devices import keep_memory, pick_device

def new_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(16):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_memory(False)
returned = new_pages()
assert pick_device("cpu").type == "cpu"
print(returned, new_pages())
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc's allocator"
)
def test_a_cpu_keeps_the_memory_it_has_used():
    """Large tensors lie where others were that are gone: only the first few of them get new pages. In a process of its own, whose
    memory nothing has used before."""
    done = subprocess.run([sys.executable, "-c", PAGES], cwd=ROOT, capture_output=True, text=True, check=True)
    returned, kept = map(int, done.stdout.split())
    assert 2 * kept < returned


@pytest.mark.parametrize(("share", "given", "expected"), [(1, None, 1), (64, None, 2), (1, "2", 2)])
def test_torch_works_in_the_processors_that_a_container_has(monkeypatch, share, given, expected):
    before = torch.get_num_threads()
    monkeypatch.setattr(devices, "processors", lambda: share)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    try:
        torch.set_num_threads(2)
        devices.pick_device("cpu")
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


def test_energy_is_what_nvml_counts(monkeypatch):
    """With a stand-in for the driver's library: the device is found by its UUID, failures and other devices tell nothing."""
    import types

    asked = []

    def by_uuid(name, handle):
        asked.append(name)
        return 0

    def total(handle, millijoules):
        millijoules._obj.value = 7_200_000
        return status[0]

    status = [0]
    library = types.SimpleNamespace(
        nvmlInit_v2=lambda: 0, nvmlDeviceGetHandleByUUID=by_uuid, nvmlDeviceGetTotalEnergyConsumption=total
    )
    monkeypatch.setattr(devices.ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(devices.torch.cuda, "get_device_properties", lambda device: types.SimpleNamespace(uuid="12-34"))
    cuda = torch.device("cuda", 0)
    assert devices.energy_joules(cuda) == 7200.0 and asked == [b"GPU-12-34"]
    status[0] = 3  # not supported
    assert devices.energy_joules(cuda) is None and devices.energy_joules(torch.device("cpu")) is None


@pytest.mark.parametrize(("may_use", "precision"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_where_onednn_may_use_the_products(may_use, precision, monkeypatch):
    """With ``ONEDNN_MAX_CPU_ISA=AVX2`` they are emulated, 40 times as slow as fp32's, whatever the processor has."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: may_use)
    assert devices.pick_precision("auto", torch.device("cpu")) == precision
