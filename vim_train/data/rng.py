"""The three global generators that timm's transforms draw from: seed them by key, and leave them as they were found."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_globals(key: int) -> None:
    """Seed python's, numpy's and torch's global generators (CPU) from a 64-bit key.

    numpy takes the upper half of the key and torch the lower one, which is all of it that its generator uses.
    ``torch.manual_seed`` would also reach for every accelerator, at a hundred times the cost.
    """
    random.seed(key)
    np.random.seed(key >> 32)
    torch.default_generator.manual_seed(key)


@contextmanager
def preserved() -> Iterator[None]:
    """Put the global generators back afterwards: loading in the training process disturbs nobody else's draws."""
    of_python, of_numpy, of_torch = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
        torch.default_generator.set_state(of_torch)
