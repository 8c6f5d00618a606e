"""Finished runs side by side, as a Markdown table.

python benchmarks/compare.py runs/quickstart runs/quickstart_deit
"""

import json
import sys
from pathlib import Path
from typing import Any

COLUMNS = ("run", "model", "parameters", "epochs", "top-1 %", "EMA top-1 %", "best top-1 %", "minutes")


def row(folder: Path) -> tuple[str, ...]:
    """What summary.json says of a run."""
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    metrics, config = summary["metrics"], summary["config"]
    numbers = [metrics.get("eval/top1"), metrics.get("ema/top1"), summary["best"]]
    shown = ("-" if value is None else f"{value:.2f}" for value in numbers)
    name, epochs = config["model"]["name"], config["schedule"]["epochs"]
    return folder.name, name, f"{summary['parameters']:,}", str(epochs), *shown, f"{summary['seconds'] / 60:.1f}"


def main(folders: list[str]) -> int:
    if not folders:
        print(__doc__)
        return 2
    rows = [row(Path(folder)) for folder in folders]
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for cells in rows:
        print(f"| {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
