"""Which samples make the batch of a step: a pure function of (seed, step), so that nothing need be stored to resume."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tinydet.errors import InputError


@dataclass(frozen=True)
class Place:
    """One sample's place in the endless sequence: sample `index`, met in `epoch`."""

    epoch: int
    index: int


def global_batch(samples: int, batch_size: int, seed: int, step: int) -> list[Place]:
    """The whole batch of a step, from 0, over all processes.

    Epochs follow each other without a gap: each is a new permutation, and a batch may end one and begin the next.
    """
    positions = range(step * batch_size, (step + 1) * batch_size)
    return [Place(at // samples, int(_permutation(samples, seed, at // samples)[at % samples])) for at in positions]


def share_of(batch_size: int, rank: int, world_size: int) -> slice:
    """One process's part of a global batch.

    Raises:
        InputError: the batch cannot be shared out equally, so that the mean over processes would not be the batch's.
    """
    if batch_size % world_size:
        raise InputError(
            f"{world_size} processes cannot share a batch of {batch_size} equally; choose a multiple of {world_size}"
        )
    local = batch_size // world_size
    return slice(rank * local, (rank + 1) * local)


@lru_cache(maxsize=8)
def _permutation(samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(samples)
