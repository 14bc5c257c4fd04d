"""Channels of a layer: the `-1-n` rule (Wei et al. 2018, footnote 1), and how many more cheaper convolutions afford."""

from __future__ import annotations

import math

from tinydet.errors import InputError

MOST_CHANNELS = 2**14
"""Of any layer: four times the widest of VGG16. Beyond it a width is a mistake, or more than memory holds."""


def divided_channels(channels: int, width_divisor: float) -> int:
    """Channels of a layer that has `channels` at full width, rounded half up, never fewer than 1.

    A divisor below 1 widens: the channel-increased teacher of Ko and Yoo (III.A).

    Raises:
        InputError: they are more than `MOST_CHANNELS`.
    """
    if not width_divisor > 0:
        raise ValueError(f"width divisor {width_divisor} is not positive")
    if channels / width_divisor > MOST_CHANNELS:
        raise InputError(
            f"width {width_divisor:g}: a layer of {channels:,} channels would have {channels / width_divisor:,.0f}, "
            f"and the most is {MOST_CHANNELS:,}: take a larger number"
        )
    return max(1, math.floor(channels / width_divisor + 0.5))


def grouped_channels(channels: int, groups: int) -> int:
    """Channels at which a layer in `groups` groups costs what a plain one of `channels` costs: ceil(sqrt(g) c).

    Wei et al. 2018, section 4.1; rounded up to a multiple of the groups, which a grouped convolution needs.
    """
    widened = math.isqrt(groups * channels * channels - 1) + 1  # the square root rounded up, exactly
    rounded = groups * math.ceil(widened / groups)
    if rounded > MOST_CHANNELS:
        raise InputError(
            f"convolutions in {groups:,} groups: a layer of {channels:,} channels would have {rounded:,}, and the most "
            f"is {MOST_CHANNELS:,}: take fewer groups"
        )
    return rounded


def depthwise_channels(channels: int) -> int:
    """Channels w at which a depthwise 3x3 and a pointwise convolution cost what a plain 3x3 one of c channels costs.

    9 w + w^2 = 9 c^2, rounded up: the same idea for as many groups as there are channels, the pointwise part included.
    """
    return math.ceil((math.sqrt(81 + 36 * channels * channels) - 9) / 2)
