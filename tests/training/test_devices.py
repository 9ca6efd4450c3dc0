"""What a process is told about the machine it computes on."""

import ctypes
import sys

import pytest
import torch

from training.devices import keep_memory, pick_device


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc's allocator"
)
def test_a_cpu_keeps_the_memory_it_has_used():
    """Large tensors lie where others were that are gone: only the first few of them get new pages."""
    import resource

    def new_pages():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(16):
            torch.ones(2**24)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    keep_memory(False)
    returned = new_pages()
    assert pick_device("cpu").type == "cpu"
    assert 2 * new_pages() < returned
