"""kill -9 at random moments of real runs: each goes on where it was, to the same bits."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, fields
from pathlib import Path

import pytest
from forks import Forks
from trials import ALONE, MOVING, TWO, Kind, Tally, killed_trial, reference, result

pytestmark = pytest.mark.slow


def kill_runs(server: Forks, folder: Path, photos: Path, kinds: list[Kind], kills: int, seed: int) -> str:
    """Runs of the kinds listed, killed up to `kills` times each, two at a time; each is compared with one left alone.

    Returns counts in words.
    """
    began, expected = time.monotonic(), {}
    for kind in dict.fromkeys(kinds):
        expected[kind] = reference(server, folder / kind.name, photos, kind)

    def trial(number: int) -> Tally:
        kind, draw = kinds[number], random.Random(f"{seed} {number}")
        root, (whole, pace) = folder / str(number), expected[kinds[number]]
        tally = killed_trial(server, root, photos, kind, draw, pace, kills)
        found = result(root / "test")
        assert found == whole, f"seed {seed}, run {number} on {kind.name}: differs in {differing(found, whole)}"
        return tally

    with ThreadPoolExecutor(2) as pool:
        tallies = list(pool.map(trial, range(len(kinds))))
    total = Tally(*(sum(values) for values in zip(*map(astuple, tallies), strict=True)))
    assert total.kills > 0
    assert total.in_a_save > 0 or len(kinds) == 1  # on a busy machine two kills may miss
    counts = ", ".join(f"{getattr(total, field.name)} {field.name.replace('_', ' ')}" for field in fields(Tally))
    return f"{len(kinds)} runs, all equal: {counts}; {time.monotonic() - began:.0f} s"


def differing(a: dict[str, str], b: dict[str, str]) -> list[str]:
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))


def test_killed_runs_end_with_the_same_bits(
    server: Forks, folder: Path, photos: Path, count: Callable[[str], None]
) -> None:
    count(kill_runs(server, folder, photos, [ALONE], kills=2, seed=1))


@pytest.mark.full
@pytest.mark.parametrize("kind", [ALONE, TWO, MOVING], ids=lambda kind: kind.name)
def test_200_kills(server: Forks, folder: Path, photos: Path, count: Callable[[str], None], kind: Kind) -> None:
    count(kill_runs(server, folder, photos, [kind] * (30 if kind is ALONE else 20), kills=3, seed=2))
