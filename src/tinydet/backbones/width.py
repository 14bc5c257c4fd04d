"""The `-1-n` rule in one place: every layer's channels divided by n (Wei et al. 2018, footnote 1)."""

from __future__ import annotations

import math


def divided_channels(channels: int, width_divisor: float) -> int:
    """Channels of a layer that has `channels` at full width, rounded half up, never fewer than 1.

    A divisor below 1 widens: the channel-increased teacher of Ko and Yoo (III.A).
    """
    if width_divisor <= 0:
        raise ValueError(f"width divisor {width_divisor} is not positive")
    return max(1, math.floor(channels / width_divisor + 0.5))
