"""Print the table of faults: python tests/faults/table.py [words of a fault …]"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS / "engine"), str(TESTS / "faults")]

from bench import open_bench  # noqa: E402
from rows import HEADS, ROWS, shown  # noqa: E402


def main(words: list[str]) -> None:
    print("|", " | ".join(HEADS), "|")
    print("|" + " --- |" * len(HEADS))
    with tempfile.TemporaryDirectory() as folder, open_bench(Path(folder), TESTS / "photos") as bench:
        for row in ROWS:
            if words and not any(word in row.fault for word in words):
                continue
            if row.needs_root and os.geteuid() != 0:
                print(f"| {row.fault} | needs root |" + " |" * (len(HEADS) - 2), flush=True)
            else:
                print("|", " | ".join(shown(row, row.work(bench))), "|", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
