"""What the rows of the table of faults are made with: a place to break a run in, and what is expected of it."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from forks import Child, Forks, living
from trials import ALONE, Kind, command, finish, result, start_ranks, wait_for_save


@dataclass
class Bench:
    """A server with mounts of its own, a folder in memory that only it sees, and what untouched runs end with.

    Runs start, break and are started again in the same place.
    """

    server: Forks
    folder: Path
    photos: Path
    expected: dict[Kind, dict[str, str]] = field(default_factory=dict)

    def place(self, name: str, options: str = "size=64m") -> Path:
        """A new file system in memory."""
        place = self.folder / re.sub(r"\W+", "-", name)
        self.server.see(place).mkdir()
        if self.server.unshared:
            self.server.mount("-t", "tmpfs", "-o", options, "none", str(place))
        return place

    def start(
        self, place: Path, *more: str, kind: Kind = ALONE, stopped: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> Child:  # fmt: skip
        args = command(place, self.photos, kind, *more)
        return self.server.start(args, place / "output", stopped=stopped, environment=environment)

    def outside(self, place: Path, *more: str, enter: Sequence[str] = (), first: str = "") -> list[str]:
        """A command line for a run that is no child of the server, and sees what the server sees.

        Args:
            enter: what it goes through before.
            first: Python that it runs before.
        """
        inside = ["nsenter", f"--target={self.server.pid}", "--mount"] if self.server.unshared else []
        code = f"{first}\nimport sys\nfrom vim_train.cli.train import main\nsys.exit(main())"
        return [*inside, *enter, sys.executable, "-c", code, *command(place, self.photos, ALONE, *more)]

    def run(self, place: Path) -> Path:
        return self.server.see(place / "test")

    def wait_for_step(self, place: Path, step: int, child: Child) -> None:
        wait_for_save([child], self.run(place), step)

    def goes_on(self, place: Path, kind: Kind = ALONE, but: Sequence[str] = ()) -> str:
        """Start the run again, now that nothing is in its way: it ends as if nothing had been."""
        codes = finish(start_ranks(self.server, command(place, self.photos, kind), place / "again", kind.ranks[0]))
        if any(codes):
            return f"started again it leaves with {codes}: {last_line(self.server.see(place / 'again').read_text())}"
        return self.compare(place, kind, but)

    def compare(self, place: Path, kind: Kind = ALONE, but: Sequence[str] = ()) -> str:
        if kind not in self.expected:
            whole = self.place(kind.name)
            codes = finish(start_ranks(self.server, command(whole, self.photos, kind), whole / "output", kind.ranks[0]))
            assert not any(codes), self.server.see(whole / "output").read_text()
            self.expected[kind] = result(self.run(whole))
        found, expected = result(self.run(place)), self.expected[kind]
        differing = [name for name in expected if name not in but and found[name] != expected[name]]
        return f"differs in {', '.join(differing)}" if differing else EQUAL


@contextmanager
def open_bench(folder: Path, photos: Path) -> Iterator[Bench]:
    """Without root there are no mounts, and the rows that need them cannot be tried."""
    root = os.geteuid() == 0
    with Forks(unshared=root) as server:
        if root:
            server.mount("-t", "tmpfs", "none", str(folder))
        yield Bench(server, folder, photos)


EQUAL = "equal"


@dataclass(frozen=True)
class Outcome:
    """What came of a fault; `seconds` from the fault, or the start where it was there before, to the end of all."""

    text: str
    code: int
    seconds: float
    orphans: int
    after: str


@dataclass(frozen=True)
class Row:
    """A fault. `line` is a pattern of what is printed about it, `after` how the run stands when the fault is gone."""

    fault: str
    done: str
    line: str
    code: int
    work: Callable[[Bench], Outcome]
    after: str = EQUAL
    needs_root: bool = True


def end(child: Child, began: float) -> tuple[str, int, float, int]:
    """Wait for it: its output, exit code, seconds since `began`, and how many of its processes are left."""
    tree: dict[int, str] = {}
    while child.running:
        tree |= child.tree()
        time.sleep(0.1)
    code, seconds = child.wait(), time.monotonic() - began
    return child.text(), code, seconds, living(tree)


def last_line(text: str) -> str:
    return text.rstrip().rpartition("\n")[2]


def newest(run: Path) -> Path:
    """The newest checkpoint."""
    return max((run / "checkpoints").glob("step_*"))


STOPPED = r"{}: saved at step \d+ of 15; the same command goes on from there"
