"""Finished runs side by side, as a Markdown table.

python benchmarks/compare.py runs/quickstart runs/quickstart_deit
"""

import json
import math
import sys
from pathlib import Path

import yaml
from safetensors import safe_open

COLUMNS = ("run", "model", "weights", "epochs", "top-1 %", "averaged, top-1 %", "best, top-1 %", "minutes")


def row(run: Path) -> tuple[str, ...]:
    """What the run's files say of it."""
    summary = json.loads((run / "summary.json").read_text())
    model = yaml.safe_load((run / "config.yaml").read_text())["model"]["name"]
    best = summary["best"] or {}
    scores = [summary.get("eval/top1"), summary.get("ema/top1")]
    scores.append(max((best[name] for name in ("eval/top1", "ema/top1") if name in best), default=None))
    shown = ("-" if score is None else f"{score:.2f}" for score in scores)
    return run.name, model, f"{_weights(run):,}", f"{summary['epoch']:g}", *shown, f"{summary['wall_time_s'] / 60:.1f}"


def _weights(run: Path) -> int:
    with safe_open(run / "checkpoints" / "best" / "model.safetensors", "pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def main(runs: list[str]) -> int:
    """Print the table; returns the exit code."""
    if not runs:
        print(__doc__)
        return 2
    rows = [row(Path(run)) for run in runs]
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for cells in rows:
        print(f"| {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
