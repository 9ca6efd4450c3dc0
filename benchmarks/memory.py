"""Memory of a training step on an accelerator, counted on tensors without contents, so that none is needed."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from backbones.vit import as_on_accelerator
from benchmarks.bench import DTYPES, Bench
from benchmarks.reference import barlow_twins as plain_barlow_twins
from benchmarks.timing import Measurement, Spread
from benchmarks.training import our_config, plain_dino_step
from methods.core.base import METHODS, Progress, ViewBatch
from training.plan import build_method
from training.step import Stepper

META, CPU = torch.device("meta"), torch.device("cpu")


class Allocations(TorchDispatchMode):
    """Counts the bytes of tensors that are alive, while it is entered. Attributes: ``now``; ``peak``, the most so far."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def add(self, tensor: Tensor) -> None:
        """Count a tensor, if its storage is not counted yet, until it is freed."""
        storage = tensor.untyped_storage()
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.now -= size

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self.add(value)
        return out


def peak_of(network: nn.Module, step: Callable[[], object]) -> int:
    """Most bytes of tensors alive in the second step, the first having made the optimiser's state; weights included, and all else
    that lies on the device."""
    with Allocations() as allocations:
        for tensor in (*network.parameters(), *network.buffers()):
            allocations.add(tensor)
        step()
        allocations.peak = allocations.now
        step()
        return allocations.peak


def memory(bench: Bench) -> Iterator[list[Measurement]]:
    """Memory of a step on an accelerator, counted.

    Table 8 of DINO's paper (arXiv 2104.14294), ViT-S/16 at batch 64 with 0 to 10 local crops; and Barlow Twins' ResNet-50."""
    out_dim = bench.pick(65536, 1024)
    for local_crops in bench.pick((0, 2, 6, 8, 10), (2,)):
        batch, name = bench.pick((64, "vit_s16"), (2, "vit_t16"))
        case = f"DINO {name}, 2×224 + {local_crops}×96, out_dim {out_dim}, batch {batch}"
        found = []
        for precision in DTYPES:
            ours = count_ours("dino", name, batch, precision, out_dim=out_dim, local_crops=local_crops)
            plain = _plain_dino(name, batch, local_crops, out_dim, precision)
            found += _measurements(case, precision, ours, plain)
        yield found
    batch, name, width = bench.pick((256, "resnet50", 8192), (4, "resnet18", 256))
    case = f"Barlow Twins {name}, 2×224, projector {width}³, batch {batch}"
    projector = "-".join([str(width)] * 3)
    found = []
    for precision in DTYPES:
        ours = count_ours("barlow_twins", name, batch, precision, projector=projector)
        found += _measurements(case, precision, ours, _plain_barlow_twins(name, width, batch, precision))
    yield found


def count_ours(method: str, backbone: str, batch: int, precision: str, **options: Any) -> int:
    """Bytes of our step at the method's published defaults but for ``options``."""
    cls = METHODS.get(method)
    config = our_config(method, backbone, batch, CPU, precision)
    if config.optimizer in ("lars", "larc"):  # SGD keeps as much, and looks at no values, as LARS does on a CPU
        config = dataclasses.replace(config, optimizer="sgd")
    own = cls.Config(**options)
    with META:
        stepper = Stepper(build_method(config, own, num_classes=0), config, META)
    stepper.device = CPU
    stepper.method.train()
    as_on_accelerator(stepper.method)
    progress = Progress(step=20_000, steps_per_epoch=1000, epochs=config.epochs)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _onto_cpu(stepper.method, stepper.optimizer)

        def step() -> None:
            views = [torch.empty(batch, 3, view.size, view.size) for view in cls.views(own, 224)]
            stepper.step([ViewBatch(views, torch.zeros(batch, dtype=torch.int64))], progress)

        return peak_of(stepper.method, step)


def _onto_cpu(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Move a network from meta tensors to others without contents, and its optimiser with it."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    network.to_empty(device="cpu")
    moved = dict(network.named_parameters())
    for group in optimizer.param_groups:
        group["params"] = [moved[names[id(parameter)]] for parameter in group["params"]]


def _plain_dino(name: str, batch: int, local_crops: int, out_dim: int, precision: str) -> int:
    with META:
        plain = plain_dino_step(name, out_dim, META)
    network = nn.ModuleList([plain.student, plain.teacher, plain.loss])
    # Without clipping, which looks at values, and keeps nothing.
    return _count_plain(plain, network, [224] * 2 + [96] * local_crops, batch, precision, clip=None)


def _plain_barlow_twins(name: str, width: int, batch: int, precision: str) -> int:
    with META:
        model = plain_barlow_twins.BarlowTwins(getattr(torchvision.models, name)(), [width] * 3)
        plain = plain_barlow_twins.PlainStep(model, META)
        groups = [{"params": group["params"]} for group in plain.optimizer.param_groups]
        plain.optimizer = torch.optim.SGD(groups, momentum=0.9)  # as above
    return _count_plain(plain, model, [224] * 2, batch, precision)


def _count_plain(plain: Any, network: nn.Module, sizes: list[int], batch: int, precision: str, **options: Any) -> int:
    plain.device = CPU
    with FakeTensorMode(allow_non_fake_inputs=True):
        _onto_cpu(network, plain.optimizer)
        return peak_of(
            network,
            lambda: plain([torch.empty(batch, 3, s, s) for s in sizes], bf16=precision == "bf16", **options),
        )


def _measurements(case: str, precision: str, ours: int, plain: int) -> list[Measurement]:
    counts = {"ours": ours, "reference": plain}
    return [
        Measurement(case, f"{name}, {precision}", Spread(*[count / 2**30] * 3), "GiB, counted")
        for name, count in counts.items()
    ]
