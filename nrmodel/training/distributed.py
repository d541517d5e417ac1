"""Several processes as one training: launched by torchrun, each takes its share of every global batch.

Rank and size come from the initialised process group alone; stale RANK or WORLD_SIZE variables change nothing, only
torchrun's own TORCHELASTIC_RUN_ID starts a group.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

TIMEOUT = timedelta(minutes=5)


@contextmanager
def group(device: torch.device) -> Iterator[tuple[int, int]]:
    """(rank, ranks) of this process; a process group where torchrun started it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield 0, 1
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield dist.get_rank(), dist.get_world_size()
    finally:
        dist.destroy_process_group()


def average(value: Tensor) -> Tensor:
    """Mean over ranks of a tensor that carries no gradient; the tensor itself where there is one rank."""
    if not dist.is_initialized():
        return value
    value = value.detach().clone()
    dist.all_reduce(value)
    return value / dist.get_world_size()


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Replace each gradient by its mean over ranks, in one message. A parameter without gradient counts zeros."""
    if not dist.is_initialized():
        return
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    flat = torch.cat([p.grad.reshape(-1) for p in parameters if p.grad is not None])
    flat = average(flat)
    offset = 0
    for p in parameters:
        assert p.grad is not None
        p.grad.copy_(flat[offset : offset + p.numel()].view_as(p))
        offset += p.numel()


def any_of(number: int) -> int:
    """The largest number over ranks: a signal that one rank received stops all."""
    if not dist.is_initialized():
        return number
    value = torch.tensor([number])
    if dist.get_backend() == "nccl":
        value = value.cuda()
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return int(value)
