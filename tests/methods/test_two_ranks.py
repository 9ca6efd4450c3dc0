"""Two processes on the halves of a batch equal one process on the whole: loss, gradient, metrics' statistics and buffers of every
method; and of two methods, what the trainer's steps make of them. tests/distributed/test_equal_one_process.py does more, slowly."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from backbones.base import Backbone
from methods.core.base import METHODS, Method, ViewBatch
from training.machine.batchnorm import use_global_batchnorm

DINO = {"out_dim": 32, "hidden_dim": 16, "bottleneck_dim": 8, "local_crops": 1}
#: Name of the case: method, options, number of classes, labels ("single" or "several").
CASES = {
    "dino": ("dino", DINO, 0, "single"),
    "dino, BatchNorm in the head": ("dino", {**DINO, "use_bn_in_head": True}, 0, "single"),
    "dino, softmax": ("dino", {**DINO, "centering": "softmax"}, 0, "single"),
    "dino, sinkhorn_knopp": ("dino", {**DINO, "centering": "sinkhorn_knopp"}, 0, "single"),
    "dino, mse": ("dino", {**DINO, "loss": "mse"}, 0, "single"),
    "weak_dino": ("weak_dino", DINO, 3, "single"),
    "dino, labels' means": ("dino", {**DINO, "targets": "label"}, 3, "single"),
    "dino, labels' means, several labels": ("dino", {**DINO, "targets": "label"}, 3, "several"),
    "dino, labels' running means": ("dino", {**DINO, "targets": "label", "label_momentum": 0.9}, 3, "single"),
    "dino, running means, several labels": ("dino", {**DINO, "targets": "label", "label_momentum": 0.9}, 3, "several"),
    "barlow_twins": ("barlow_twins", {"projector": "16-16"}, 0, "single"),
    "barlow_twins, by images": ("barlow_twins", {"projector": "16-32"}, 0, "single"),
    "barlow_twins, feature": ("barlow_twins", {"projector": "16-16", "normalization": "feature"}, 0, "single"),
    "barlow_twins, none": ("barlow_twins", {"projector": "16-16", "normalization": "none"}, 0, "single"),
    "barlow_twins, cross_entropy": ("barlow_twins", {"projector": "16-16", "loss": "cross_entropy"}, 0, "single"),
    "barlow_twins, table 6": (
        "barlow_twins",
        {"projector": "16-16", "stop_gradient": True, "predictor": True},
        0,
        "single",
    ),
    "simclr": ("simclr", {"projector": "16-8"}, 0, "single"),
    "supcon": ("supcon", {"projector": "16-8"}, 3, "single"),
    "supcon, several labels": ("supcon", {"projector": "16-8"}, 3, "several"),
    "byol": ("byol", {"projector": "16-8", "predictor_dim": 16}, 0, "single"),
    "mocov2": ("mocov2", {"projector": "16-8", "queue": 12}, 0, "single"),
    "mocov3": ("mocov3", {"projector": "16-16-8", "predictor_dim": 16}, 0, "single"),
    "vicreg": ("vicreg", {"projector": "16-16"}, 0, "single"),
    "swav": ("swav", {"projector": "16-8", "prototypes": 6, "local_crops": 1}, 0, "single"),
    "supervised": ("supervised", {}, 3, "single"),
    "supervised, several labels": ("supervised", {}, 3, "several"),
}
BATCH = 8
spec = importlib.util.spec_from_file_location("trainer_steps", Path(__file__).parents[1] / "distributed" / "cases.py")
trainer = importlib.util.module_from_spec(spec)
spec.loader.exec_module(trainer)
#: Strategy and case of the trainer's steps.
STEPS = [
    ("ddp", "dino-vit"),
    ("fsdp", "dino-vit"),
    ("ddp", "barlow_twins-predictor"),
    ("fsdp", "barlow_twins-predictor"),
]


class Small(Backbone):
    width = 8

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, 2, bias=False), nn.BatchNorm2d(8)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.conv(images)).relu().mean((2, 3))


def build(case: str) -> tuple[Method, ViewBatch]:
    name, options, classes, labels = CASES[case]
    torch.manual_seed(0)
    cls = METHODS.get(name)
    method = cls(cls.Config(**options), lambda **_: Small(), classes)
    sizes = [view.size // 2 for view in method.views(method.config, 32)]
    # The first half of the batch is unlike the second, and holds most of the labels: means of halves would be wrong.
    shift = (torch.arange(BATCH) >= BATCH // 2).float().view(-1, 1, 1, 1)
    views = [torch.randn(BATCH, 3, size, size) * (1 + shift) + shift for size in sizes]
    single = torch.tensor([0, 1, 2, 0, -1, 2, -1, -1])
    several = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 1, 1], [0, 0, 1], [0, 0, 0], [0, 1, 1], [0, 0, 0], [0, 0, 0]])
    return method, ViewBatch(views, single if labels == "single" else several.float())


def outcome(method: Method, batch: ViewBatch) -> dict[str, Tensor]:
    """Two steps' loss, and the gradients and buffers after them (the centre of the first is in the second's loss)."""
    first = method(batch).loss
    second = method(batch).loss
    second.backward()
    values = {"loss 1": first.detach(), "loss 2": second.detach()}
    values |= {f"gradient {n}": p.grad for n, p in method.named_parameters() if p.grad is not None}
    return values | {f"buffer {n}": b.clone() for n, b in method.named_buffers() if b.is_floating_point()}


def run_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    half = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
    results = {}
    for case in CASES:
        method, batch = build(case)
        method = use_global_batchnorm(method, torch.device("cpu"))
        values = outcome(method, ViewBatch([view[half] for view in batch.views], batch.labels[half]))
        for name, value in values.items():
            if not name.startswith(
                "buffer"
            ):  # what the trainer does: losses are logged, gradients used, as means over ranks
                dist.all_reduce(value)
                value /= 2
        results[case] = values
    for strategy, case in STEPS:
        results[strategy, case] = trainer.steps(case, strategy=strategy)
    torch.save(results, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict[str, dict[str, Tensor]]]:
    """What each of two processes found, for every case."""
    folder = Path(tmp_path_factory.mktemp("ranks"))
    mp.spawn(run_rank, (str(folder),), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_equal_one(ranks, case):
    expected = outcome(*build(case))
    # Biases in front of a BatchNorm have no gradient but rounding, so errors are relative to the largest gradient, too.
    largest = max(value.abs().max().item() for name, value in expected.items() if name.startswith("gradient"))
    for found in (ranks[0][case], ranks[1][case]):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            scale = max(0.1 * largest, value.abs().max().item())
            assert (found[name] - value).abs().max() < 1e-4 * scale, name


@pytest.mark.parametrize(("strategy", "case"), STEPS)
def test_steps_of_two_ranks_equal_those_of_one(ranks, strategy, case):
    """In float64, whether each rank has all weights or a part of each."""
    expected = trainer.steps(case)
    for found in (ranks[0][strategy, case], ranks[1][strategy, case]):
        torch.testing.assert_close(found["losses"], expected["losses"], rtol=1e-5, atol=1e-6)
        for what in ("gradients", "same"):
            assert found[what].keys() == expected[what].keys()
            for name, value in expected[what].items():
                torch.testing.assert_close(
                    found[what][name], value, rtol=1e-6, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
                )
