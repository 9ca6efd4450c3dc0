"""The process group. In one process every function is the identity; N ranks equal one process on the joined batch.

The trainer averages gradients over ranks, as DDP does, so a loss that is a mean over the rank's own samples needs nothing
more. A loss of global statistics is computed alike on every rank from ``all_reduce_sum`` or ``all_gather_rows``; each rank's
backward pass then carries the whole loss, and the averaged gradient equals that of one process.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def world_size() -> int:
    return dist.get_world_size() if is_distributed() else 1


def rank() -> int:
    return dist.get_rank() if is_distributed() else 0


def is_main() -> bool:
    return rank() == 0


@contextmanager
def main_first() -> Iterator[None]:
    """Let the first process through the block before the others, to fill a cache that they then read."""
    if is_distributed() and not is_main():
        dist.barrier()
    yield
    if is_distributed() and is_main():
        dist.barrier()


class _AllReduceSum(torch.autograd.Function):
    """Sums gradients over ranks, too, since every rank's loss depends on every input."""

    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
        return tensor

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        return grad


class _AllGatherRows(torch.autograd.Function):
    """Rows in rank order; the backward pass sums over ranks and keeps the rank's own rows."""

    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        ctx.rows = tensor.shape[0]
        gathered = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, tensor.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        start = dist.get_rank() * ctx.rows
        return _AllReduceSum.backward(ctx, grad)[start : start + ctx.rows]


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum over ranks, differentiably; all ranks give the same shape."""
    return _AllReduceSum.apply(tensor) if is_distributed() else tensor


def all_reduce_mean(tensor: Tensor) -> Tensor:
    """Average over ranks, differentiably."""
    return all_reduce_sum(tensor) / world_size()


def all_gather_rows(tensor: Tensor) -> Tensor:
    """Concatenate ``[rows, …]`` over ranks, differentiably; all ranks give the same number of rows."""
    return _AllGatherRows.apply(tensor) if is_distributed() else tensor


def is_shared_out(tensor: Any) -> bool:
    """Whether each process holds a part of the tensor, as of a DTensor, whose class takes long to import."""
    return hasattr(tensor, "full_tensor")


@torch.no_grad()
def own_parts(tensors: Sequence[Tensor]) -> list[Tensor]:
    """This process's part of each shared-out tensor, which shares its memory; other tensors themselves."""
    return [tensor.to_local() if is_shared_out(tensor) else tensor for tensor in tensors]


@torch.no_grad()
def whole(state: Any) -> Any:
    """Gather the shared-out tensors of a state dict on every process's CPU. All processes call it together."""
    if isinstance(state, dict):
        gathered = {name: whole(value) for name, value in state.items()}
        return state if all(gathered[name] is value for name, value in state.items()) else gathered
    return state.full_tensor().cpu() if is_shared_out(state) else state


@torch.no_grad()
def norms(tensors: Sequence[Tensor]) -> Tensor:
    """The 2-norms ``[n]`` of whole tensors, all shared out or none. Does not wait for the device."""
    own = torch.stack(torch._foreach_norm(own_parts(tensors)))
    return all_reduce_sum(own.square()).sqrt() if is_shared_out(tensors[0]) else own
