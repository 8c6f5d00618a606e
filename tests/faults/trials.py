"""A small training run that is killed and started again, and what its result is compared by."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist
from forks import LIMIT_S, Child, Forks
from processes import arguments, numbers
from torch import Tensor

from vim_train.engine import checkpoint

STEPS = 15

SMALL = (
    "schedule.epochs=5", "eval.every=2ep", "checkpoint.every=1st", "logger.every=2st", "data.lane=2",
    "optim.accumulate=1", "device=cpu",
)  # fmt: skip
"""15 steps, each saved, with AdamW and averaged weights, and four evaluations: about two seconds."""


@dataclass(frozen=True)
class Kind:
    """A way to run it; lives of one run may differ in their number of ranks where that makes no difference."""

    name: str
    determinism: str
    ranks: tuple[int, ...]


ALONE = Kind("one rank", "relaxed", (1,))
TWO = Kind("two ranks", "exact", (2,))
MOVING = Kind("one or two ranks", "strict", (1, 2))


def command(root: Path, photos: Path, kind: Kind, *more: str) -> list[str]:
    return arguments(root, photos, *SMALL, f"determinism={kind.determinism}", *more)


def start_ranks(server: Forks, args: Sequence[str], output: Path, ranks: int) -> list[Child]:
    """The run as `ranks` processes, with a rendezvous of their own."""
    if ranks == 1:
        return [server.start(args, output)]
    # The store lives in this process, as it does in that of a launcher, until the garbage collector takes it.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    _stores.append(store)
    shared = {
        "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port,
        "TORCHELASTIC_USE_AGENT_STORE": True,
    }  # fmt: skip
    return [
        server.start(args, output, environment={k: str(v) for k, v in {**shared, "RANK": r, "LOCAL_RANK": r}.items()})
        for r in range(ranks)
    ]


_stores: list[object] = []


def finish(children: Sequence[Child]) -> list[int]:
    """Exit codes of all; one that ends badly takes the others with it, as a launcher sees to."""
    deadline = time.monotonic() + 120
    while _any_running(children) and time.monotonic() < deadline:
        if any((child.server.ended(child.pid) or 0) != 0 for child in children):
            for child in children:
                child.send(signal.SIGTERM)
            break
        time.sleep(0.005)
    return [child.wait(60) for child in children]


# --- what must be equal


def result(run: Path) -> dict[str, str]:
    """Digests of all that training made, without times and rates."""
    newest = checkpoint.latest(run)
    assert newest is not None
    assert newest.passed_over == []
    parts: dict[str, object] = {"metrics": numbers(run)}
    for name, path in (("", newest.path), ("best ", run / "checkpoints" / "best")):
        loaded = checkpoint.load(path)
        state = {key: value for key, value in loaded.state.items() if key != "report"}
        parts |= {f"{name}model": loaded.model, f"{name}ema": loaded.ema, f"{name}state": state}
    return {name: digest(part) for name, part in parts.items()}


def digest(value: object) -> str:
    """sha256 of plain containers and tensors, to the bit."""
    hashed = hashlib.sha256()

    def add(node: object) -> None:
        if isinstance(node, Mapping):
            hashed.update(f"mapping {len(node)}".encode())
            for key in sorted(node, key=str):
                hashed.update(repr(key).encode())
                add(node[key])
        elif isinstance(node, list | tuple):
            hashed.update(f"list {len(node)}".encode())
            for item in node:
                add(item)
        elif isinstance(node, Tensor):
            hashed.update(f"{node.dtype} {tuple(node.shape)}".encode())
            hashed.update(node.detach().contiguous().numpy().tobytes())
        else:
            hashed.update(repr(node).encode())

    add(value)
    return hashed.hexdigest()


# --- killing


@dataclass(frozen=True)
class Pace:
    """Seconds that a run takes up to its first save, and for a step."""

    start: float
    step: float


@dataclass
class Tally:
    """What became of a run that was killed."""

    kills: int = 0
    aimed: int = 0
    in_a_save: int = 0
    resumed: int = 0
    left_alone: int = 0
    """Ranks that were left alone by the kill of another, and ended by themselves."""


def leftovers(run: Path) -> set[tuple[str, int]]:
    """Names and inodes of what is being written, or was when the run died: a start clears it away."""
    found = set()
    for name in _names(run):
        if name.startswith((".tmp-", ".old-")):
            with contextlib.suppress(FileNotFoundError):
                found.add((name, (run / "checkpoints" / name).stat().st_ino))
    return found


def _names(run: Path) -> list[str]:
    try:
        return os.listdir(run / "checkpoints")
    except FileNotFoundError:
        return []


def kill_at_random(children: Sequence[Child], run: Path, draw: random.Random, pace: Pace) -> None:
    """SIGKILL at some moment of the run: of its start, of its steps, or of what it does after the last of them.

    Moments count from what the run has reached, as the seconds it takes depend on what else the machine does.
    """
    reached = draw.randint(-STEPS // 3, STEPS)
    wait_for_save(children, run, reached)
    _sleep_while_running(children, draw.uniform(0, pace.start if reached <= 0 else pace.step))
    _kill(children, draw)


def kill_in_a_save(children: Sequence[Child], run: Path, draw: random.Random, pace: Pace) -> None:
    """SIGKILL while a checkpoint is being written, or a few milliseconds later."""
    stale = leftovers(run)
    wait_for_save(children, run, draw.randint(0, STEPS - 1))
    while _any_running(children) and leftovers(run) <= stale:
        time.sleep(0.0005)
    time.sleep(draw.choice((0.0, 0.0, draw.uniform(0, 0.03))))
    _kill(children, draw)


def wait_for_save(children: Sequence[Child], run: Path, step: int) -> None:
    deadline = time.monotonic() + LIMIT_S
    while _any_running(children) and newest_step(run) < step:
        if time.monotonic() > deadline:
            raise TimeoutError(f"no step {step} in {run}: {children[0].text()}")
        time.sleep(0.001)


def newest_step(run: Path) -> int:
    """Of the checkpoints that have their final name."""
    return max((int(name[5:]) for name in _names(run) if name.startswith("step_")), default=0)


def _any_running(children: Sequence[Child]) -> bool:
    return any(child.running for child in children)


def _sleep_while_running(children: Sequence[Child], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while _any_running(children) and (left := deadline - time.monotonic()) > 0:
        time.sleep(min(left, 0.05))


def _kill(children: Sequence[Child], draw: random.Random) -> None:
    for child in draw.choice([list(children), *([child] for child in children)]):
        child.send(signal.SIGKILL)


def reference(server: Forks, root: Path, photos: Path, kind: Kind) -> tuple[dict[str, str], Pace]:
    """The result of a run that nobody killed, and its pace."""
    root.mkdir()
    began = time.monotonic()
    children = start_ranks(server, command(root, photos, kind), root / "output", kind.ranks[0])
    wait_for_save(children, root / "test", 1)
    first = time.monotonic()
    wait_for_save(children, root / "test", STEPS)
    last = time.monotonic()
    codes = finish(children)
    assert codes == [0] * len(codes), (root / "output").read_text()
    return result(root / "test"), Pace(first - began, (last - first) / (STEPS - 1))


def killed_trial(
    server: Forks, root: Path, photos: Path, kind: Kind, draw: random.Random, pace: Pace, kills: int
) -> Tally:
    """A run that is killed up to `kills` times and then left to finish."""
    tally, run, output = Tally(), root / "test", root / "output"
    root.mkdir()
    while True:
        workers = f"data.workers={draw.randrange(3)}"
        children = start_ranks(server, command(root, photos, kind, workers), output, draw.choice(kind.ranks))
        stale, aimed = leftovers(run), draw.random() < 0.5
        if tally.kills < kills:
            (kill_in_a_save if aimed else kill_at_random)(children, run, draw, pace)
        codes = finish(children)
        if codes == [0] * len(codes):
            break
        assert -signal.SIGKILL in codes, output.read_text()
        tally.kills += 1
        tally.aimed += aimed
        tally.in_a_save += not leftovers(run) <= stale
        tally.left_alone += sum(code != -signal.SIGKILL for code in codes)
    text = output.read_text()
    assert "Traceback" not in text, text
    assert not leftovers(run)
    tally.resumed = text.count("goes on from step")
    return tally
