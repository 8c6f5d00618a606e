"""The side of the training images by epoch: `data.img_size_schedule`."""

import re
from itertools import pairwise

from vim_train.config.errors import UserError
from vim_train.config.schema import DataConfig

_STAGE = re.compile(r"(\d+):([1-9]\d*)")


def train_sizes(data: DataConfig) -> list[tuple[int, int]]:
    """(epoch, side in pixels) from which on training has images of that side; the first epoch is 0.

    Raises:
        UserError: `data.img_size_schedule` cannot be read, or its epochs do not rise from 0.
    """
    if not data.img_size_schedule:
        return [(0, data.img_size)]
    found = [_STAGE.fullmatch(stage) for stage in data.img_size_schedule]
    stages = [(int(match[1]), int(match[2])) for match in found if match]
    if len(stages) < len(found) or stages[0][0] != 0 or any(a >= b for (a, _), (b, _) in pairwise(stages)):
        # YAML reads an unquoted 10:48 as a number to the base of 60.
        wanted = "EPOCH:SIZE, each, with epochs that rise from 0, as in [0:160,10:192]; in a file in quotes"
        raise UserError(f"data.img_size_schedule=[{','.join(data.img_size_schedule)}]: takes {wanted}")
    return stages
