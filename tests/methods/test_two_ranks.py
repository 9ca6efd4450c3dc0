"""Two processes on the halves of a batch equal one process on the whole: loss, gradient, metrics' statistics and buffers of every
method; and of two methods, what the trainer's steps make of them. tests/distributed/test_equal_one_process.py does more, slowly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from backbones.base import Backbone
from methods.core.base import METHODS, Method, Progress, ViewBatch
from tests import small_runs
from tests.distributed import cases as trainer
from training.machine.batchnorm import use_global_batchnorm

BATCH = 8
#: Every switch of every method, and losses that no switch asks for.
CASES = {str(case): case for name in trainer.TRAINED for case in trainer.cases_of(name)}
CASES |= {str(case): case for case in trainer.FURTHER if case.backbone == "small_vit"}
#: Strategy and case of the trainer's steps.
STEPS = [
    (strategy, case)
    for strategy in ("ddp", "fsdp")
    for case in ("dino", "dino, predictor=True", "barlow_twins, predictor=True", "mocov3")
]


class Small(Backbone):
    width = 8

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, 2, bias=False), nn.BatchNorm2d(8)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.conv(images)).relu().mean((2, 3))


def build(case: str) -> tuple[Method, ViewBatch]:
    asked = CASES[case]
    torch.manual_seed(0)
    cls = METHODS.get(asked.method)
    method = cls(cls.Config(**{**small_runs.shrunk(cls.Config), **asked.options}), lambda **_: Small(), 3)
    sizes = [view.size // 2 for view in method.views(method.config, 32)]
    # The first half of the batch is unlike the second, and holds most of the labels: means of halves would be wrong.
    shift = (torch.arange(BATCH) >= BATCH // 2).float().view(-1, 1, 1, 1)
    views = [torch.randn(BATCH, 3, size, size) * (1 + shift) + shift for size in sizes]
    single = torch.tensor([0, 1, 2, 0, -1, 2, -1, -1])
    several = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 1, 1], [0, 0, 1], [0, 0, 0], [0, 1, 1], [0, 0, 0], [0, 0, 0]])
    return method, ViewBatch(views, several.float() if asked.several_labels else single)


def outcome(method: Method, batch: ViewBatch) -> dict[str, Tensor]:
    """Two steps' loss, and the gradients and buffers after them (the centre of the first is in the second's loss)."""
    progress = Progress(0, 1, 1)
    method.before_step(progress)
    first = method(batch).loss
    method.after_step(progress)
    second = method(batch).loss
    second.backward()
    method.after_step(progress)
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
        results[strategy, case] = trainer.steps(CASES[case], strategy=strategy)
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
    expected = trainer.steps(CASES[case])
    for found in (ranks[0][strategy, case], ranks[1][strategy, case]):
        torch.testing.assert_close(found["losses"], expected["losses"], rtol=1e-5, atol=1e-6)
        for what in ("gradients", "same"):
            assert found[what].keys() == expected[what].keys()
            for name, value in expected[what].items():
                torch.testing.assert_close(
                    found[what][name], value, rtol=1e-6, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
                )
