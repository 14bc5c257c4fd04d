"""The processes of one training, and what they must agree on."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_over_processes(count: Tensor) -> Tensor:
    """The mean of a count over all training processes; the count itself where there is one process.

    Gradients are averaged over processes. A loss that is a sum over this process's items, divided by this mean, has
    therefore the gradient that one process would have for all the items together; divided by this process's own count,
    it would not.
    """
    _, world_size = process_place()
    if world_size == 1:
        return count
    total = count.detach().to(torch.float32).clone()
    torch.distributed.all_reduce(total)
    return total / world_size


def process_place() -> tuple[int, int]:
    """This process's rank and the number of processes; 0 and 1 where there is one."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()
