"""How long work shows its progress, without knowing the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Track(Protocol):
    """Passes items on and may show how many of `total` have gone by."""

    def __call__(self, items: Iterable[T], total: int, doing: str) -> Iterable[T]: ...


def untracked(items: Iterable[T], total: int, doing: str) -> Iterable[T]:
    """Shows nothing."""
    return items
