"""Compiled blocks compute what they did, and blocks of one shape share a program."""

import copy

import pytest
import torch

from backbones import BACKBONES
from backbones.vit import VisionTransformer
from common.errors import UsageError
from methods.core.base import Progress, ViewBatch
from training.machine import compilation
from training.plan import build_method
from training.resolve import resolve
from training.step import Stepper

CPU = torch.device("cpu")


@pytest.fixture
def programs(monkeypatch):
    """A line for each program that is compiled; the programs are what torch traced, uncompiled."""
    found = []
    compile_with = torch.compile
    torch._dynamo.reset()

    def traced(graph, inputs):
        found.append([tuple(value.shape) for value in inputs if isinstance(value, torch.Tensor)])
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda function, **options: compile_with(function, backend=traced, **options))
    yield found
    torch._dynamo.reset()


def vit_of_five_blocks(image_size, **hints):
    rate = hints.get("drop_path_rate", 0.0)
    return VisionTransformer(patch_size=8, width=24, depth=5, heads=2, drop_path_rate=rate)


# DINO's student: the first block drops nothing, the last one computes the CLS token alone, and those between are alike but for
# their rates. Its teacher, and Barlow Twins: all are alike but the last.
@pytest.mark.parametrize("method, count", [("dino", 3 + 2), ("barlow_twins", 2)])
def test_compiled_steps_are_the_same(small, tmp_path, programs, monkeypatch, method, count):
    monkeypatch.setitem(BACKBONES._items, "five_blocks", vit_of_five_blocks)
    options = {"drop_path": 0.3} if method == "dino" else {}
    config, own = small(tmp_path / "run", method, backbone="five_blocks", warmup_epochs=0, **options)
    config = resolve(config)
    network = build_method(config, own, num_classes=2)
    views = [torch.randn(config.batch_size, 3, v.size, v.size) for v in network.views(own, config.image_size)]
    states = []
    for compiled in (False, True):
        torch.manual_seed(0)
        config.compile = compiled
        stepper = Stepper(copy.deepcopy(network), config, CPU)
        stepper.method.train()
        labels = torch.zeros(config.batch_size, dtype=torch.int64)
        losses = [stepper.step([ViewBatch(views, labels)], Progress(s, 4, 3))[0] for s in range(3)]
        states.append((torch.stack(losses), stepper.method.state_dict()))
        assert bool(programs) == compiled
    torch.testing.assert_close(*states)
    assert len(programs) == count, programs


def test_what_compiles_must_be_there(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UsageError, match="--compile needs a C\\+\\+ compiler, and no-such-compiler is not there"):
        compilation.compile_blocks(torch.nn.Linear(2, 2), CPU)


def test_parts_of_weights_are_not_compiled(small, tmp_path):
    config, _ = small(tmp_path / "run", strategy="fsdp", compile=True)
    with pytest.raises(UsageError, match="--compile works with --strategy ddp only"):
        resolve(config)
