"""Batches are functions of the step alone, and processes share them without overlap."""

from __future__ import annotations

from collections import Counter

import pytest

from tinydet.data.order import Place, global_batch, share_of
from tinydet.errors import InputError


def test_every_epoch_has_every_sample_once() -> None:
    places = [place for step in range(30) for place in global_batch(9, 6, 1, step)]  # 180 places, 20 epochs
    assert Counter(places) == Counter(Place(epoch, index) for epoch in range(20) for index in range(9))


def test_epochs_and_seeds_differ() -> None:
    orders = {tuple(place.index for place in global_batch(50, 50, seed, step)) for seed in (0, 1) for step in range(3)}
    assert len(orders) == 6


def test_a_batch_larger_than_the_set_is_filled() -> None:
    assert Counter(place.index for place in global_batch(2, 8, 0, 0)) == {0: 4, 1: 4}


def test_a_step_asked_for_alone_is_the_same() -> None:
    late = global_batch(13, 4, 7, 1000)
    assert late == global_batch(13, 4, 7, 1000)
    assert late[0].epoch == 4000 // 13


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_processes_share_a_batch_in_order(world_size: int) -> None:
    batch = list(range(8))
    assert [at for rank in range(world_size) for at in batch[share_of(8, rank, world_size)]] == batch


def test_an_unequal_share_is_refused() -> None:
    with pytest.raises(InputError, match="3 processes cannot share a batch of 8"):
        share_of(8, 0, 3)
