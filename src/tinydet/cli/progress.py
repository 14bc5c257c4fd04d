"""The one progress bar of all verbs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def track(items: Iterable[T], total: int, doing: str) -> Iterable[T]:
    """Pass items on and show how many of `total` have gone by and the time left, on stderr."""
    from rich.console import Console
    from rich.progress import track as bar

    console = Console(stderr=True)
    hidden = not console.is_terminal  # in a log file it is noise
    return bar(items, total=total, description=doing, console=console, transient=True, disable=hidden)
