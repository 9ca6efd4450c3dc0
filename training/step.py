"""One optimiser step of any method, in the order of operations of the reference implementations."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from common.distributed import is_distributed, is_shared_out
from common.schedules import cosine, poly
from methods.core.base import Method, Progress, StepOutput, ViewBatch
from training.config import TrainConfig
from training.machine.batchnorm import use_global_batchnorm
from training.machine.devices import autocast
from training.optimizers import build_optimizer, clip_gradients, set_rates


class Stepper:
    """A method on a device, and its optimiser. With several processes BatchNorm becomes global, each process holds all weights or
    a part of each (``config.strategy``), and ``method`` may be another module than the one given."""

    def __init__(self, method: Method, config: TrainConfig, device: torch.device):
        self.config = config
        self.device = device
        self.method = method.to(device)
        self.network: nn.Module = self.method
        if config.compile:
            from training.machine.compilation import compile_blocks

            compile_blocks(self.method, device)
        if config.strategy == "fsdp":
            from training.machine.sharding import recompute_activations, shard

            recompute_activations(self.method)
        if is_distributed():
            self.method = use_global_batchnorm(self.method, device)
        if is_distributed() and config.strategy == "fsdp":
            shard(self.method, device)
        elif is_distributed():
            # Buffers (centres, running statistics) come from global batches, so they are equal without a broadcast. Newer
            # versions of torch call the option forward_sync_buffers.
            options = inspect.signature(DistributedDataParallel).parameters
            broadcast = "forward_sync_buffers" if "forward_sync_buffers" in options else "broadcast_buffers"
            devices = [device.index] if device.type == "cuda" else None
            self.network = DistributedDataParallel(self.method, device_ids=devices, **{broadcast: False})
        self.optimizer = build_optimizer(config.optimizer, self.method.parameter_groups(), config.momentum)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")

    def load(self, state: Mapping[str, Any]) -> None:
        """Load a checkpoint, whatever number of processes and strategy wrote it. Raises RuntimeError, ValueError, KeyError or
        TypeError if it belongs to another method or optimiser."""
        weights, moments = state["method"], state["optimizer"]
        if any(map(is_shared_out, self.method.parameters())):
            from training.machine.sharding import moments_in_parts, weights_in_parts

            weights, moments = weights_in_parts(self.method, weights), moments_in_parts(self.optimizer, moments)
        self.method.load_state_dict(weights)
        self.optimizer.load_state_dict(moments)
        # Moments that another strategy wrote may have other strides than the weights, and torch's fused kernels step through
        # both by the weights' strides.
        for parameter, own in self.optimizer.state.items():
            for name, value in own.items():
                if value.shape == parameter.shape and value.stride() != parameter.stride():
                    own[name] = torch.empty_like(parameter).copy_(value)
        self.scaler.load_state_dict(state["scaler"])

    def rates(self, progress: Progress) -> tuple[float, float]:
        """Learning rate (before ``lr_scale``) and weight decay at a step (dino/utils.py, ``cosine_scheduler``; barlowtwins/main.py,
        ``adjust_learning_rate``)."""
        config = self.config
        peak, end = config.peak_and_end_lr
        warmup_steps = round(config.warmup_epochs * progress.steps_per_epoch)
        schedule = {"cosine": cosine, "poly": poly}[config.schedule]
        lr = schedule(peak, end, progress.step, progress.total_steps, warmup_steps, self.method.warmup_endpoint)
        decay = cosine(config.weight_decay, config.weight_decay_end, progress.step, progress.total_steps)
        return lr, decay

    def step(self, batches: Sequence[ViewBatch], progress: Progress) -> tuple[Tensor, StepOutput]:
        """Run the equal parts of a batch forward and backward, then take one optimiser step. Returns the mean loss over the parts
        (detached, of this rank), and the method's output for the last part."""
        set_rates(self.optimizer, *self.rates(progress))
        self.method.before_step(progress)
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.device)
        for part, batch in enumerate(batches, 1):
            last = part == len(batches)
            # DDP averages gradients over processes with the last part only; FSDP averages them with each.
            with nullcontext() if last or self.network is self.method else self.network.no_sync():
                with autocast(self.device, self.config.precision):
                    output = self.network(batch)
                self.scaler.scale(output.loss / len(batches)).backward()
            loss += output.loss.detach() / len(batches)
        self.scaler.unscale_(self.optimizer)
        clip_gradients(self.method.parameters(), self.config.clip_grad, self.config.clip_mode)
        self.method.after_backward(progress)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.method.after_step(progress)
        return loss, output
