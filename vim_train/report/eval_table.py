"""An evaluation in the terminal: one row a suite and set of weights, then what a row has no room for."""

import math
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

Record = Mapping[str, object]
Suites = Mapping[str, Mapping[str, Record]]
"""Records by suite and weights, with shares in per cent, as results.json has them."""

_COLUMNS = ("images", "top-1\n%", "top-5\n%", "NLL", "ECE\n%", "ECE\nat T", "T", "images\n/ s")
_EXTRAS = {
    "mce": "mCE",
    "mean_error": "mean error",
    "clean_top1": "clean top-1",
    "gap": "gap",
    "rms_calibration_error": "RMS calibration error",
    "aurra": "AURRA",
    "aupr": "AUPR",
    "auroc": "AUROC",
    "fpr95": "FPR95",
}
_NAME = 17  # characters of a class; the two tables of classes share 80 columns


def show_results(console: Console, title: str, suites: Suites, absent: Mapping[str, str]) -> None:
    """Print the table of all suites, and below it their other measures and notes, and why the `absent` ones are."""
    console.print(Text(title, style="bold"), soft_wrap=True)
    table = Table(padding=(0, 1, 0, 0), box=None)  # fits 80 columns
    table.add_column("suite", no_wrap=True)
    table.add_column("weights", no_wrap=True)
    for name in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for suite, by_weights in suites.items():
        for weights, record in by_weights.items():
            table.add_row(Text(suite), weights, *_cells(record))
    console.print(table)
    lines = [*_lines(suites), *(f"{suite} is not here: {reason}" for suite, reason in absent.items())]
    if lines:
        console.print()
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def show_classes(console: Console, title: str, record: Record) -> None:
    """Print the worst classes and most frequent confusions of one suite side by side; nothing where it has none."""
    classes, confusions = _records(record, "worst_classes"), _records(record, "confusions")
    if not classes:
        return
    worst = Table(Column("worst class", no_wrap=True), box=None, padding=(0, 1, 0, 0))
    worst.add_column("images", justify="right")
    worst.add_column("top-1 %", justify="right")
    for row in classes:
        worst.add_row(_name(row["name"]), f"{row['images']:,}", _number(row["top1"], 1))
    pairs = Table(Column("label", no_wrap=True), Column("predicted", no_wrap=True), box=None, padding=(0, 1, 0, 0))
    pairs.add_column("images", justify="right")
    for row in confusions:
        pairs.add_row(_name(row["name"]), _name(row["predicted_name"]), f"{row['images']:,}")
    both = Table.grid(padding=(0, 3, 0, 0))
    both.add_row(worst, pairs)
    console.print()
    console.print(Text(title, style="bold"))
    console.print(both)


def _cells(record: Record) -> Iterator[str]:
    temperature = record.get("temperature")
    cooled = temperature if isinstance(temperature, Mapping) else {}
    yield f"{record['images']:,}"
    yield _number(record.get("top1"), 2)
    yield _number(record.get("top5"), 2)
    yield _number(record.get("nll"), 3)
    yield _number(record.get("ece"), 2)
    yield _number(cooled.get("ece"), 2)
    yield _number(cooled.get("temperature"), 2)
    yield _number(record.get("images_per_s"), 0)


def _lines(suites: Suites) -> Iterator[str]:
    for suite, by_weights in suites.items():
        said: dict[str, list[str]] = {}
        for weights, record in by_weights.items():
            extras = [
                f"{name} {_number(record[key], 2)} %" for key, name in _EXTRAS.items() if record.get(key) is not None
            ]
            if extras:
                yield f"{suite}, {weights}: {', '.join(extras)}"
            notes = record.get("notes")
            for note in notes if isinstance(notes, Sequence) else []:
                said.setdefault(str(note), []).append(weights)
        for note, of in said.items():
            yield f"{suite}: {note}" if len(of) == len(by_weights) else f"{suite}, {', '.join(of)}: {note}"


def _records(record: Record, name: str) -> Sequence[Record]:
    found = record.get(name)
    return found if isinstance(found, Sequence) else []


def _number(value: object, decimals: int) -> str:
    return f"{value:,.{decimals}f}" if isinstance(value, int | float) and math.isfinite(value) else "-"


def _name(value: object) -> Text:
    name = str(value)
    return Text(name if len(name) <= _NAME else name[: _NAME - 1] + "…")
