"""How far a run is: a live line on a terminal, plain lines now and then elsewhere; on standard error."""

from __future__ import annotations

import sys
import time
from collections import deque
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

PLAIN_SECONDS = 15.0


class TrainingProgress:
    """A context manager; nothing is shown where `shown` is False.

    Args:
        done: steps done before this run.
        images: in a step, over all processes.
    """

    def __init__(self, title: str, total: int, done: int, images: int, shown: bool) -> None:
        self.title, self.total, self.images, self.shown = title, total, images, shown
        self._recent_seconds: deque[float] = deque(maxlen=100)
        self._last_line = 0.0
        console = Console(stderr=True)
        self._live: Progress | None = None
        if shown and console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn())
            self._live = Progress(*columns, TextColumn("{task.fields[state]}"), console=console)
            self._task = self._live.add_task(title, total=total, completed=done, state="")

    def __enter__(self) -> TrainingProgress:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    @property
    def images_per_second(self) -> float:
        return self.images * len(self._recent_seconds) / max(sum(self._recent_seconds), 1e-9)

    def step(self, step: int, losses: dict[str, float], seconds: float) -> None:
        """Step `step`, counted from 1, took `seconds`."""
        self._recent_seconds.append(seconds)
        if self._live:
            self._live.update(self._task, completed=step, state=self._state(step, losses))
        elif self.shown and (step == self.total or time.monotonic() - self._last_line > PLAIN_SECONDS):
            self._last_line = time.monotonic()
            print(f"{self.title} {step}/{self.total} {self._state(step, losses)}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """One lasting line."""
        if self._live:
            self._live.console.print(text, highlight=False, markup=False)
        elif self.shown:
            print(text, file=sys.stderr, flush=True)

    def _state(self, step: int, losses: dict[str, float]) -> str:
        parts = " ".join(f"{name} {value:.3g}" for name, value in losses.items())
        seconds_left = (self.total - step) * sum(self._recent_seconds) / len(self._recent_seconds)
        total = sum(losses.values())
        return f"loss {total:.3g} ({parts}) {self.images_per_second:.1f} images/s, {duration(seconds_left)} left"


def duration(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
