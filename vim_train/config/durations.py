"""Durations: `5ep`, `200st` or `1000000im`, converted to steps once."""

import math
import re

from vim_train.config.errors import UserError

ACCEPTED = "5ep, 200st or 1000000im (epochs, steps, images)"
_DURATION = re.compile(r"(\d+|\d+\.\d+)(ep|st|im)")


def parse(text: str) -> tuple[float, str]:
    """Amount and unit (`ep`, `st` or `im`) of a duration.

    Raises:
        UserError: not a duration, zero, or a fraction of a step or an image.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise UserError(f"{text!r} is no duration: takes {ACCEPTED}")
    amount, unit = float(match[1]), match[2]
    if amount == 0:
        raise UserError(f"{text!r} is no duration: takes more than 0")
    if unit != "ep" and amount != int(amount):
        raise UserError(f"{text!r} is no duration: only epochs may be fractions, such as 0.5ep")
    return amount, unit


def to_steps(text: str, steps_per_epoch: int, batch_size: int) -> int:
    """Steps in a duration, at least 1; images count as whole batches, rounded up.

    Raises:
        UserError: not a duration.
    """
    amount, unit = parse(text)
    if unit == "ep":
        return max(1, round(amount * steps_per_epoch))
    if unit == "im":
        return math.ceil(amount / batch_size)
    return int(amount)
