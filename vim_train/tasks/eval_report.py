"""What `vim-eval` says of predictions: tables in the terminal, and results.json, CSV and pictures in a folder."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from vim_train.config.errors import UserError
from vim_train.report.eval_plots import draw_confusion, draw_corruptions, draw_per_class, draw_reliability
from vim_train.report.eval_table import show_classes, show_results
from vim_train.report.jsonl import to_json
from vim_train.report.summary import write_whole
from vim_train.tasks.eval_cases import Record
from vim_train.tasks.eval_results import Judged, RealLabels, by_suite, judge
from vim_train.tasks.metrics.imagenet import short_name, words
from vim_train.tasks.predictions import Predictions


def report(
    predictions: Mapping[str, Iterable[Predictions]],
    checkpoint: str,
    out: Path | None = None,
    facts: Mapping[str, object] | None = None,
    notes: Mapping[str, Sequence[str]] | None = None,
    rates: Mapping[tuple[str, str], float | None] | None = None,
    absent: Mapping[str, str] | None = None,
    real_labels: RealLabels | None = None,
) -> Record:
    """Judge predictions by weights (see `judge`), print what came of it, and write it under `out`.

    Args:
        checkpoint: what the titles call it.
        out: folder for results.json and, by suite and weights, per_class_*.csv, per_class_*.png, confusion_*.png (of at
            most 60 classes), reliability_*.png and corruptions_*.png, in place of those of the evaluation that wrote
            there before; None: nothing is written.
        facts: more for the head of results.json (step, image size, images/s, …).
        notes: by suite, what else a reader should know: resolution, images left out, …
        rates: images/s by suite and weights; None: predictions kept of an earlier evaluation. As `facts` and `notes`,
            read when all predictions are: going through these may fill it.
        absent: suites that were asked for and are not there, with the reason.
        real_labels: for the suite `real`; None: the published ones.
    Returns: what results.json holds; shares in per cent.
    Raises:
        UserError: predictions that a suite cannot be judged by, or a folder that cannot be written.
    """
    judged = [_told(row, notes or {}, rates or {}) for row in judge(predictions, real_labels)]
    found: Record = {"checkpoint": checkpoint, **(facts or {}), "suites": by_suite(judged), "absent": absent or {}}
    console = Console(highlight=False)
    show_results(console, checkpoint, by_suite(judged), absent or {})
    worst = _most_telling(judged)
    if worst is not None:
        show_classes(console, f"{worst.suite}, {worst.weights}", worst.record)
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
            files = [name for row in judged for name in _write(row, checkpoint, out)]
            for name in _files_of(out / "results.json") - set(files):
                (out / name).unlink(missing_ok=True)
            found["files"] = files
            write_whole(out / "results.json", to_json(found, indent=2) + "\n")
        except OSError as error:
            raise UserError(f"out={out}: {error.strerror or error}") from error
        console.print(f"\n{out}: results.json, and a CSV and pictures of each suite", soft_wrap=True)
    return found


def _told(row: Judged, notes: Mapping[str, Sequence[str]], rates: Mapping[tuple[str, str], float | None]) -> Judged:
    """With the notes and the speed of its images, or for C of all its parts'."""

    def is_part(suite: str) -> bool:
        return suite == row.suite or suite.startswith(f"{row.suite}/")

    more = dict.fromkeys(note for suite, found in notes.items() if is_part(suite) for note in found)
    speeds = [rate for (suite, weights), rate in rates.items() if weights == row.weights and is_part(suite) and rate]
    record = row.record | ({"images_per_s": sum(speeds) / len(speeds)} if speeds and row.record["images"] else {})
    return replace(row, record=record, notes=[*more, *row.notes])


def _most_telling(judged: Iterable[Judged]) -> Judged | None:
    """The one whose classes are shown: of val if it is there, and of the averaged weights if they are."""
    rows = [row for row in judged if row.per_class is not None]
    return max(rows, key=lambda row: (row.suite == "val", row.weights == "ema"), default=None)


def _files_of(results: Path) -> set[str]:
    """Names of the files beside an earlier results.json that it counts as its own."""
    try:
        files = json.loads(results.read_text())["files"]
        return {name for name in files if Path(name).name == name}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _write(row: Judged, checkpoint: str, out: Path) -> list[str]:
    """Returns the names of the files."""
    written: list[str] = []

    def file(kind: str, suffix: str = ".png") -> Path:
        written.append(f"{kind}_{name}{suffix}")
        return out / written[-1]

    name = f"{row.suite.replace('/', '_')}_{row.weights}"
    titles = checkpoint, f"{row.suite}, {row.record['images']:,} images, weights {row.weights}"
    if row.bins is not None and row.bins.images.any():
        temperature = row.record["temperature"]
        cooled = None
        if row.cooled is not None and isinstance(temperature, Mapping):
            cooled = (float(temperature["temperature"]), row.cooled.confidence, row.cooled.accuracy)
        bins = row.bins
        draw_reliability(file("reliability"), *titles, bins.images, bins.confidence, bins.accuracy, cooled)
    if row.per_class is not None:
        names = [short_name(each) for each in row.classes]
        write_whole(file("per_class", ".csv"), per_class_csv(row))
        draw_per_class(file("per_class"), *titles, names, row.per_class.images, row.per_class.top1)
        if row.matrix is not None:
            draw_confusion(file("confusion"), *titles, names, row.matrix)
    parts = row.record.get("parts")
    if isinstance(parts, Mapping):
        errors = {(part.split("/")[0], int(part.split("/")[1])): 100 - each["top1"] for part, each in parts.items()}
        draw_corruptions(file("corruptions"), *titles, errors)
    return [name for name in written if (out / name).exists()]  # a picture of nothing is not drawn


def per_class_csv(row: Judged) -> str:
    """One line a class, in the order of labels; top1 and top5 in per cent, empty without images."""
    found, text = row.per_class, io.StringIO()
    assert found is not None
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["class", "name", "images", "top1", "top5", "most_confused_with", "its_name", "confused_images"])
    for label, name in enumerate(row.classes):
        shares = [f"{100 * share[label]:.4f}" if found.images[label] else "" for share in (found.top1, found.top5)]
        with_ = row.classes[found.confused_with[label]] if found.confused[label] else ""
        other = [with_, words().get(with_, with_), found.confused[label]]
        table.writerow([name, words().get(name, name), found.images[label], *shares, *other])
    return text.getvalue()
