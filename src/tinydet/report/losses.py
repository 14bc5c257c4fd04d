"""The losses of a training run, as its `losses.jsonl` has them, thinned to what a plot can show."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinydet.errors import InputError

MIMIC = "mimic"
TITLES = {
    "proposal_class": "RPN objectness",
    "proposal_box": "RPN box",
    "detection_class": "Detection class",
    "detection_box": "Detection box",
    MIMIC: "Mimic",
}


@dataclass(frozen=True, eq=False)
class LossLog:
    """Attributes:
    steps: `[N]` int64, ascending.
    losses: each component by name, `[N]` float64, NaN at the steps that lack it.
    """

    steps: NDArray[np.int64]
    losses: dict[str, NDArray[np.float64]]


def read_losses(path: str | Path) -> LossLog:
    """Read one JSON object a line, `{"step": 12, "lr": 0.001, "losses": {"mimic": 0.3, ...}}`.

    Where a step comes twice, as after a resumed run, the later line counts. A last line that was cut off is left out.

    Raises:
        InputError: a line is not of that form; the message has its number.
    """
    by_step: dict[int, dict[str, float]] = {}
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: the loss log cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            by_step[int(entry["step"])] = {str(name): float(value) for name, value in entry["losses"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if number == len(lines) and not line.endswith("}"):
                break
            raise InputError(
                f'{path}:{number}: expected {{"step": ..., "losses": {{...}}}}, found {line[:80]!r}'
            ) from error
    steps = np.array(sorted(by_step), np.int64)
    names = dict.fromkeys(name for step in by_step.values() for name in step)
    losses = {name: np.array([by_step[int(step)].get(name, math.nan) for step in steps]) for name in names}
    return LossLog(steps, losses)


def ordered_components(names: set[str]) -> list[str]:
    """The known components in the order of the network, then others by name."""
    return [name for name in TITLES if name in names] + sorted(names - set(TITLES))


def thinned(log: LossLog, component: str, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[bins]` means of a component over bins of steps, NaN for an empty one; averaging also smooths the curve."""
    values = log.losses.get(component)
    means = np.full(len(edges) - 1, np.nan)
    if values is None:
        return means
    bins = np.clip(np.searchsorted(edges, log.steps, side="right") - 1, 0, len(means) - 1)
    known = np.isfinite(values)
    sums = np.bincount(bins[known], weights=values[known], minlength=len(means))
    counts = np.bincount(bins[known], minlength=len(means))
    np.divide(sums, counts, out=means, where=counts > 0)
    return means


def share_of_sum(log: LossLog, component: str) -> LossLog:
    """A component over the sum of all of them at each step: how far it turns the gradient towards itself."""
    total = np.nansum(np.abs(list(log.losses.values())), axis=0)
    values = np.abs(log.losses[component])
    return LossLog(log.steps, {component: np.divide(values, total, out=np.zeros_like(values), where=total > 0)})
