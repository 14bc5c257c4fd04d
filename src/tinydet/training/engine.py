"""Devices, precision and processes, through Lightning Fabric.

One process by itself; with `torchrun --nproc-per-node N [--nnodes M ...]` before the same command, N processes on each
of M machines, a GPU each where there are any.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from tinydet.data.batch import Batch
from tinydet.errors import InputError
from tinydet.training.schedule import Precision

if TYPE_CHECKING:
    from lightning_fabric import Fabric

DeviceChoice = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, eq=False)
class Engine:
    """Attributes:
    scaler: of the loss, in half precision; else None.
    """

    fabric: Fabric
    scaler: torch.amp.GradScaler | None

    @property
    def device(self) -> torch.device:
        return self.fabric.device

    @property
    def rank(self) -> int:
        return self.fabric.global_rank

    @property
    def world_size(self) -> int:
        return self.fabric.world_size

    def mean(self, values: Tensor) -> Tensor:
        """Over the processes."""
        return self.fabric.all_reduce(values, reduce_op="mean") if self.world_size > 1 else values  # type: ignore

    def gathered(self, value: Any) -> list[Any]:
        """One plain value a process."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(values, value)
        return values


def choose_device(choice: DeviceChoice | str) -> str:
    """`cpu` or `cuda`.

    Raises:
        InputError: it is neither, nor `auto`, or there is no such device.
    """
    if choice not in ("auto", "cpu", "cuda"):
        raise InputError(f"device {choice!r}: expected auto, cpu or cuda")
    if choice == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda: no usable NVIDIA GPU was found; use --device cpu or auto")
    return "cuda" if choice != "cpu" and torch.cuda.is_available() else "cpu"


def start_engine(choice: DeviceChoice | str, precision: Precision) -> Engine:
    """Join the processes that torchrun started, if it did.

    Raises:
        InputError: the device or the precision is not to be had.
    """
    from lightning_fabric import Fabric  # two seconds that only training should pay for
    from lightning_fabric.plugins import MixedPrecision
    from lightning_fabric.strategies import DDPStrategy

    device = choose_device(choice)
    world_size, local = (int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if device == "cuda" and local > torch.cuda.device_count():
        raise InputError(f"{local} processes on this machine, but {torch.cuda.device_count()} GPUs; start fewer")
    scaler = None
    if precision == "16":
        if device == "cpu":
            raise InputError("half precision (16) needs a GPU; use bf16 or 32 on a CPU")
        scaler = torch.amp.GradScaler("cuda")
    fabric = Fabric(
        accelerator=device,
        devices=local,
        num_nodes=world_size // local,
        strategy=DDPStrategy(find_unused_parameters=True) if world_size > 1 else "auto",
        precision="bf16-mixed" if precision == "bf16" else None if scaler else "32-true",
        plugins=[MixedPrecision("16-mixed", "cuda", scaler)] if scaler else None,
    )
    fabric.launch()
    return Engine(fabric, scaler)


class Held:
    """A batch on its way through Fabric, which would otherwise cast its images and boxes to low precision."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch


class HeldStep(nn.Module):
    """A step that takes its batch in a `Held`."""

    def __init__(self, step: nn.Module) -> None:
        super().__init__()
        self.step = step

    def forward(self, held: Held) -> dict[str, Tensor]:
        return self.step(held.batch)
