"""The curves of a run as one picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vim_train.report.figure import new_figure, plain_axes, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_RAW, _EMA, _TRAIN, _SPEED = "#1f77b4", "#e07b39", "#9aa7b4", "#2a9d8f"
Records = Sequence[Mapping[str, object]]


def draw_curves(records: Records, path: Path, title: str) -> None:
    """Draw loss, accuracy, learning rate and throughput over the steps of a metrics.jsonl into a PNG.

    Args:
        records: as `read_metrics` returns them; nothing is drawn if they hold no number.
        path: the picture; its folder is made, and it is whole or the old one at any moment.
    Raises OSError if it cannot be written.
    """
    if not any(record["kind"] in ("train", "eval") for record in records):
        return
    figure = new_figure(11, 7, title)
    (loss, accuracy), (lr, speed) = figure.subplots(2, 2)
    _loss(loss, records)
    _accuracy(accuracy, records)
    _line(lr, records, "train/lr", "learning rate", _RAW)
    _finish(lr, "learning rate")
    _line(speed, records, "train/images_per_s", "images/s", _SPEED)
    speed.set_ylim(bottom=0)
    _finish(speed, "throughput, images/s")
    last = max(int(str(record["step"])) for record in records)
    for axes in figure.axes:
        axes.set_xlim(0, last * 1.02)
        axes.xaxis.set_major_formatter("{x:,.0f}")
    save(figure, path)


def _loss(axes: "Axes", records: Records) -> None:
    _line(axes, records, "train/loss", "train", _TRAIN)
    _line(axes, records, "eval/loss", "validation", _RAW, "o")
    _line(axes, records, "ema/loss", "validation, averaged weights", _EMA, "o")
    _finish(axes, "loss")


def _accuracy(axes: "Axes", records: Records) -> None:
    _line(axes, records, "eval/top1", "top-1", _RAW, "o")
    _line(axes, records, "ema/top1", "top-1, averaged weights", _EMA, "o")
    _line(axes, records, "eval/top5", "top-5", _RAW, "o", faint=True)
    _line(axes, records, "ema/top5", "top-5, averaged weights", _EMA, "o", faint=True)
    points = _points(records, "eval/top1") + _points(records, "ema/top1")
    if points:
        step, best = max(points, key=lambda point: point[1])
        axes.annotate(
            f"{best:.2f}", (step, best), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=9,
            fontweight="bold", color="#333333",
        )  # fmt: skip
    _finish(axes, "accuracy, %")


def _line(
    axes: "Axes", records: Records, name: str, label: str, colour: str, marker: str = "", faint: bool = False
) -> None:
    points = _points(records, name)
    if points:
        steps, values = zip(*points, strict=True)
        marker = marker if len(points) <= 40 else ""
        axes.plot(
            steps, values, color=colour, label=label, marker=marker, markersize=3.5, linewidth=1.6,
            alpha=0.45 if faint else 1, linestyle="--" if faint else "-",
        )  # fmt: skip


def _points(records: Records, name: str) -> list[tuple[float, float]]:
    """(step, value) wherever `name` is a number; null, which stands for NaN and infinity, is left out."""
    return [(float(str(r["step"])), value) for r in records if isinstance(value := r.get(name), int | float)]


def _finish(axes: "Axes", title: str) -> None:
    plain_axes(axes, title)
    axes.set_xlabel("step", fontsize=9, color="#555555")
    if len(axes.get_lines()) > 1:
        axes.legend(fontsize=9, frameon=False)
