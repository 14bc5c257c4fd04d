"""What a run writes down: every step's losses and every validation, as JSON lines and as TensorBoard events."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tinydet.errors import TinydetError


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """A full disk is the error of whoever runs this, at whichever of the writes it shows."""
    try:
        yield
    except OSError as error:
        raise TinydetError(f"cannot write {path}: {error.strerror or error}; the last checkpoint is whole") from error


class JsonLines:
    """One JSON object with a `step` a line, appended; after a resume, without the lines beyond the resumed step."""

    def __init__(self, path: Path, resumed_step: int) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            with open(path, "r+b") as existing:
                existing.truncate(_bytes_up_to(existing.readlines(), resumed_step))
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115  (held until close)
        except OSError as error:
            raise TinydetError(f"cannot write {path}: {error.strerror or error}") from error

    def append(self, entry: dict[str, Any]) -> None:
        with _writing(self._path):
            self._file.write(json.dumps(entry) + "\n")

    def flush(self) -> None:
        """All lines are on the disk; called before a checkpoint, so that the lines never lag behind it."""
        with _writing(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        with _writing(self._path):
            self._file.close()


def _bytes_up_to(lines: list[bytes], step: int) -> int:
    """The length of the leading lines that are whole and of steps up to `step`."""
    length = 0
    for line in lines:
        try:
            if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                break
        except (ValueError, KeyError, TypeError):
            break
        length += len(line)
    return length


class RunLog:
    """`losses.jsonl`, `validations.jsonl` and the TensorBoard files of a run's folder.

    Args:
        resumed_step: steps done before; what was written of later ones is taken back.
        every: steps between TensorBoard scalars; the JSON lines hold every step.
    """

    def __init__(self, folder: Path, resumed_step: int, every: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._losses = JsonLines(folder / "losses.jsonl", resumed_step)
        self._validations = JsonLines(folder / "validations.jsonl", resumed_step)
        self._folder = folder / "tensorboard"
        with _writing(self._folder):
            self._events = SummaryWriter(str(self._folder), purge_step=resumed_step + 1)
        self._every = every

    def step(self, step: int, learning_rate: float, losses: dict[str, float], images_per_second: float) -> None:
        """The losses of one step, counted from 1."""
        self._losses.append({"step": step, "lr": learning_rate, "losses": losses})
        if step % self._every == 0:
            self._scalars(step, learning_rate, losses, images_per_second)

    def _scalars(self, step: int, learning_rate: float, losses: dict[str, float], images_per_second: float) -> None:
        with _writing(self._folder):
            for name, value in losses.items():
                self._events.add_scalar(f"loss/{name}", value, step)
            self._events.add_scalar("loss/total", sum(losses.values()), step)
            self._events.add_scalar("learning_rate", learning_rate, step)
            self._events.add_scalar("images_per_second", images_per_second, step)

    def validation(self, step: int, score: float, metrics: dict[str, Any]) -> None:
        self._validations.append({"step": step, "score": score, "metrics": metrics})
        with _writing(self._folder):
            self._events.add_scalar("validation/score", score, step)
            for name, value in metrics.items():
                if isinstance(value, (int, float)):
                    self._events.add_scalar(f"validation/{name}", value, step)

    def flush(self) -> None:
        self._losses.flush()
        self._validations.flush()
        with _writing(self._folder):
            self._events.flush()

    def close(self) -> None:
        """Closes every file, though one of them fails."""
        with ExitStack() as stack:
            for file in (self._events, self._validations, self._losses):
                stack.enter_context(_writing(self._folder))
                stack.callback(file.close)
