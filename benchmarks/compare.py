"""Finished runs side by side, as a Markdown table.

python benchmarks/compare.py runs/quickstart runs/quickstart_deit
"""

import json
import math
import sys
from pathlib import Path

import yaml
from safetensors import safe_open

COLUMNS = ("run", "model", "parameters", "epochs", "top-1 %", "averaged, top-1 %", "best, top-1 %", "minutes")
SIZES = ("patch_size", "stride", "embed_dim", "depth")


def row(run: Path) -> tuple[str, ...]:
    """What the run's files say of it."""
    summary = json.loads((run / "summary.json").read_text())
    model = _model(yaml.safe_load((run / "config.yaml").read_text())["model"])
    best = summary["best"] or {}
    scores = [summary.get("eval/top1"), summary.get("ema/top1")]
    scores.append(max((best[name] for name in ("eval/top1", "ema/top1") if name in best), default=None))
    shown = ("-" if score is None else f"{score:.2f}" for score in scores)
    minutes = f"{summary['wall_time_s'] / 60:.1f}"
    return run.name, model, f"{_parameters(run):,}", f"{summary['epoch']:g}", *shown, minutes


def _model(model: dict[str, object]) -> str:
    """Its name, and in what size it differs from the model of that name."""
    others = [f"{key}={model[key]}" for key in SIZES if model.get(key) is not None]
    return f"{model['name']} ({', '.join(others)})" if others else str(model["name"])


def _parameters(run: Path) -> int:
    with safe_open(run / "checkpoints" / "best" / "model.safetensors", "pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def main(runs: list[str]) -> int:
    """Print the table; returns the exit code."""
    if not runs:
        print(__doc__)
        return 2
    if unfinished := [run for run in runs if not (Path(run) / "summary.json").is_file()]:
        print(f"compare.py: {unfinished[0]}: no finished run there (no summary.json)", file=sys.stderr)
        return 2
    rows = [row(Path(run)) for run in runs]
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for cells in rows:
        print(f"| {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
