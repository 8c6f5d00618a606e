"""Order and randomness as pure functions of (seed, epoch, position).

There is no sampler, worker or generator state: a draw is a hash of what it is for. Everything here is exact integer
arithmetic or the raw output of a counter-based generator, so the order outlives a change of Python, numpy, platform,
worker count and batch split.
"""

import hashlib
import os
from enum import IntEnum
from typing import overload

import numpy as np
from numpy.typing import NDArray

BLOCKS_AT_ONCE = 64
"""Runs of neighbours whose images `block_order` shuffles together."""

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_WORD = 0xD1342543DE82EF95
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


class Stream(IntEnum):
    """What a draw is for. Draws of two streams are unrelated; a number once given is never reused."""

    ORDER = 0
    AUGMENT = 1
    ERASE = 2
    MIX = 3
    DROP_PATH = 4
    REPLACE = 5
    BLOCK_ORDER = 6


def key(seed: int, *words: int) -> int:
    """Hash integers to 64 bits: splitmix64's finaliser (Steele, Lea, Flood 2014, figure 15) once a word."""
    state = _mix(seed & _MASK)
    for word in words:
        state = _mix((state + word * _WORD) & _MASK)
    return state


def position_keys(seed: int, stream: Stream, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.uint64]:
    """`key(seed, stream, epoch, p)` for every p of `positions` (n,), as uint64 (n,)."""
    return _mix(_advance(key(seed, stream, epoch), positions))


def uniform(seed: int, epoch: int, positions: NDArray[np.int64], stream: Stream, width: int) -> NDArray[np.float32]:
    """Uniform draws in [0, 1), `width` for each of `positions`: float32 (len(positions), width), multiples of 2^-24."""
    rows = position_keys(seed, stream, epoch, positions)
    bits = _mix(_advance(rows[:, None], np.arange(width, dtype=np.int64)))
    draws: NDArray[np.float32] = (bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
    return draws


def epoch_order(seed: int, epoch: int, n: int) -> NDArray[np.int64]:
    """The permutation (n,) of epoch `epoch`."""
    return permutation(key(seed, Stream.ORDER, epoch), n)


def block_order(seed: int, epoch: int, n: int, block: int) -> NDArray[np.int64]:
    """A permutation (n,) of epoch `epoch` that reads in runs: for storage that is slow to seek.

    Runs of `block` neighbours are drawn in random order, and of every `BLOCKS_AT_ONCE` runs drawn the images are
    shuffled together. So what is read stays for a while in that many stretches, and a batch still has images of many.
    """
    runs = -(-n // block)
    turn = np.empty(runs, dtype=np.int64)
    turn[permutation(key(seed, Stream.ORDER, epoch), runs)] = np.arange(runs)
    group = np.repeat(turn // BLOCKS_AT_ONCE, block)[:n]
    shuffled = permutation(key(seed, Stream.BLOCK_ORDER, epoch), n)
    return shuffled[np.argsort(group[shuffled], kind="stable")]


def permutation(state: int, n: int) -> NDArray[np.int64]:
    """The permutation of range(n) that belongs to the 64-bit key `state`.

    Sorts Philox's raw words: numpy keeps those for ever, but not what ``Generator.permutation`` makes of them (NEP 19).
    """
    return np.argsort(np.random.Philox(key=state).random_raw(n), kind="stable")


def draw_index(positions: NDArray[np.int64], batch_size: int, lane: int) -> NDArray[np.int64]:
    """Which draw of the epoch stands at each position (n,): inside a batch, draws are dealt out to the lanes in turn.

    With W = batch_size / lane lanes, image j of lane l of batch b takes draw b G + j W + l. Repeated augmentation
    (Hoffer et al. 2020) gives neighbouring draws one image, which thus stands in different lanes and is not mixed with
    itself: as the published runs gave its views to different GPUs.
    """
    batch, within = np.divmod(positions, batch_size)
    number, place = np.divmod(within, lane)
    return batch * batch_size + place * (batch_size // lane) + number


def held_out(relative_path: str, fraction: float) -> bool:
    """Whether a file of an unsplit folder is for validation: by a hash of its path alone, so adding files moves none.

    `relative_path` is relative to the folder of the classes and uses forward slashes.
    """
    digest = hashlib.blake2b(os.fsencode(relative_path), digest_size=8).digest()
    return int.from_bytes(digest, "big") < fraction * 2.0**64


@overload
def _mix(z: int) -> int: ...
@overload
def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]: ...
def _mix(z: int | NDArray[np.uint64]) -> int | NDArray[np.uint64]:
    if isinstance(z, int):
        z = (z + _GOLDEN) & _MASK
        z = ((z ^ (z >> 30)) * _MIX_1) & _MASK
        z = ((z ^ (z >> 27)) * _MIX_2) & _MASK
        return z ^ (z >> 31)
    z = z + np.uint64(_GOLDEN)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_MIX_1)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_MIX_2)
    mixed: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return mixed


def _advance(state: int | NDArray[np.uint64], words: NDArray[np.int64]) -> NDArray[np.uint64]:
    """One step of `key` before mixing, on arrays; unsigned arithmetic wraps as the mask does."""
    advanced: NDArray[np.uint64] = np.asarray(state, dtype=np.uint64) + words.astype(np.uint64) * np.uint64(_WORD)
    return advanced
