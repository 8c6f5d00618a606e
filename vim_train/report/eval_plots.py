"""Pictures of an evaluation: calibration, accuracy by class, confusions, errors under corruptions.

Colours are Okabe and Ito's and matplotlib's cividis: told apart by colour-blind readers.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vim_train.report.figure import new_figure, plain_axes, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE, _SKY, _VERMILION, _YELLOW, _GREY = "#0072B2", "#A9CFE8", "#D55E00", "#E69F00", "#555555"
_BARS = 60  # classes that can have a bar and a name each
_NUMBERED = 20  # classes whose confusion matrix has room for numbers
_WORST = 15

Values = NDArray[np.float64]
Counts = NDArray[np.int64]


def draw_reliability(
    path: Path,
    title: str,
    subtitle: str,
    images: Counts,
    confidence: Values,
    accuracy: Values,
    cooled: tuple[float, Values, Values] | None = None,
) -> None:
    """Accuracy against confidence in (B,) bins of equal width over [0, 1], the gap between them, and the images a bin.

    Args:
        confidence, accuracy: means of a bin, 0 to 1; NaN without images.
        cooled: a temperature, and confidence and accuracy after it.
    Raises OSError if the picture cannot be written.
    """
    figure = new_figure(7, 8.4, _fit(title, 7))
    above, below = figure.subplots(2, 1, height_ratios=[4, 1], sharex=True)
    edges, there = np.linspace(0, 1, len(images) + 1), images > 0
    plain_axes(above, subtitle)
    _gaps(above, edges, there, confidence, accuracy)
    above.plot([0, 1], [0, 1], color=_GREY, linestyle="--", linewidth=1, label="confidence = accuracy")
    if cooled is not None:
        temperature, x, y = cooled
        some = ~np.isnan(x)
        label = f"accuracy at T = {temperature:.2f}"
        above.plot(x[some], y[some], color="black", marker="o", markersize=4, linewidth=1.1, linestyle=":", label=label)
    above.set_ylabel("accuracy", fontsize=10)
    above.set_xlim(0, 1)
    above.set_ylim(0, 1)
    above.legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=2, fontsize=9, frameon=False)
    gaps = np.where(there, confidence - accuracy, 0)
    share = images / max(images.sum(), 1)
    said = [
        f"ECE {100 * (share * np.abs(gaps)).sum():.2f} %",
        f"largest gap {100 * np.abs(gaps).max():.2f} %",
        f"confidence - accuracy {100 * (share * gaps).sum():+.2f} %",
    ]
    above.text(
        0.98, 0.03, "\n".join(said), transform=above.transAxes, ha="right", va="bottom", fontsize=10,
        bbox={"facecolor": "white", "edgecolor": "#bbbbbb", "boxstyle": "round,pad=0.4"},
    )  # fmt: skip
    _images(below, edges, images)
    save(figure, path)


def _gaps(axes: "Axes", edges: Values, there: NDArray[np.bool_], confidence: Values, accuracy: Values) -> None:
    width = edges[1] - edges[0]
    low, high = np.fmin(confidence, accuracy), np.fmax(confidence, accuracy)
    axes.bar(edges[:-1][there], low[there], width, align="edge", color=_SKY, edgecolor="white", linewidth=0.8)
    for shown, colour, hatch, label in (
        (there & (confidence > accuracy), _VERMILION, "///", "too sure: confidence above accuracy"),
        (there & (confidence < accuracy), _YELLOW, "...", "too unsure: confidence below accuracy"),
    ):
        if shown.any():
            axes.bar(
                edges[:-1][shown], (high - low)[shown], width, bottom=low[shown], align="edge", label=label,
                facecolor=f"{colour}40", edgecolor=colour, hatch=hatch, linewidth=0,
            )  # fmt: skip
    axes.hlines(
        accuracy[there], edges[:-1][there], edges[1:][there], color=_BLUE, linewidth=2.5, label="accuracy", zorder=2.5
    )


def _images(axes: "Axes", edges: Values, images: Counts) -> None:
    width = edges[1] - edges[0]
    axes.bar(edges[:-1], images, width, align="edge", color="#9aa7b4", edgecolor="white")
    for left, count in zip(edges, images, strict=False):
        if count:
            axes.annotate(
                _short(int(count)), (left + width / 2, count), xytext=(0, 2), textcoords="offset points",
                ha="center", fontsize=7.5,
            )  # fmt: skip
    axes.margins(y=0.18)
    plain_axes(axes, "")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylabel("images", fontsize=10)
    axes.set_xlabel("confidence: highest probability", fontsize=10)


def draw_per_class(path: Path, title: str, subtitle: str, names: Sequence[str], images: Counts, top1: Values) -> None:
    """Top-1 accuracy (0 to 1) of each class: a sorted bar each, or a histogram and the worst where there are many.

    Classes without images are left out; nothing is drawn if that is all. Raises OSError.
    """
    order = [label for label in np.argsort(top1, kind="stable") if images[label]]
    if not order:
        return
    mean = float(np.sum(images * np.nan_to_num(top1)) / images.sum())
    if len(order) <= _BARS:
        figure = new_figure(8, 1.6 + 0.26 * len(order), _fit(title, 8))
        _bars(figure.subplots(), f"{subtitle}: top-1 accuracy by class, %", order, names, images, top1, mean)
    else:
        figure = new_figure(13, 6, _fit(title, 13))
        left, right = figure.subplots(1, 2, width_ratios=[3, 2])
        _histogram(left, f"{subtitle}: {len(order):,} classes by top-1", 100 * top1[order], 100 * mean)
        _bars(right, f"the worst {_WORST} classes: top-1, %", order[:_WORST], names, images, top1, None)
    save(figure, path)


def draw_confusion(path: Path, title: str, subtitle: str, names: Sequence[str], counts: Counts) -> None:
    """(C, C) counts, row the label, column the prediction, as per cent of the row. Raises OSError."""
    total = counts.sum(axis=1, keepdims=True)
    share = 100 * np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0)
    side = max(6.0, 3 + 0.2 * len(names), 3 + 0.5 * min(len(names), _NUMBERED))
    figure = new_figure(side + 1, side, _fit(title, side + 1))
    axes = figure.subplots()
    axes.set_title(subtitle, loc="left", fontsize=11)
    size = 10 if len(names) <= _NUMBERED else 7
    _heat(figure, axes, share, names, names, "% of the label's images", len(names) <= _NUMBERED, size)
    axes.set_xlabel("predicted", fontsize=10)
    axes.set_ylabel("label", fontsize=10)
    save(figure, path)


def draw_corruptions(path: Path, title: str, subtitle: str, errors: Mapping[tuple[str, int], float]) -> None:
    """Error in per cent by (corruption, severity); absent parts stay white. Raises OSError."""
    names, severities = list(dict.fromkeys(name for name, _ in errors)), sorted({severity for _, severity in errors})
    table = np.array([[errors.get((name, severity), np.nan) for severity in severities] for name in names])
    figure = new_figure(7, 2 + 0.36 * len(names), _fit(title, 7))
    axes = figure.subplots()
    axes.set_title(subtitle, loc="left", fontsize=11)
    _heat(
        figure, axes, table, [name.replace("_", " ") for name in names], list(map(str, severities)), "error, %", True, 9
    )
    axes.set_xlabel("severity", fontsize=10)
    save(figure, path)


def _bars(
    axes: "Axes",
    title: str,
    order: Sequence[int],
    names: Sequence[str],
    images: Counts,
    top1: Values,
    mean: float | None,
) -> None:
    places = np.arange(len(order))
    values = 100 * top1[list(order)]
    axes.barh(places, values, color=_BLUE, alpha=0.85, height=0.75)
    for place, value, label in zip(places, values, order, strict=True):
        axes.annotate(
            f"{value:.1f} % of {images[label]:,}", (101, place), va="center", fontsize=8, annotation_clip=False
        )
    plain_axes(axes, title)
    axes.set_yticks(places, [_cut(names[label], 28) for label in order], fontsize=9)
    axes.tick_params(axis="y", length=0, colors="#222222")
    axes.grid(axis="y", visible=False)
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.set_xlim(0, 100)
    if mean is not None:
        axes.axvline(100 * mean, color=_VERMILION, linewidth=1.2, linestyle="--")
        axes.set_xlabel(f"dashed: all images, {100 * mean:.1f} %", fontsize=9, color=_VERMILION)


def _histogram(axes: "Axes", title: str, values: Values, mean: float) -> None:
    axes.hist(values, bins=np.arange(0, 101, 5).tolist(), color=_BLUE, alpha=0.85, edgecolor="white")
    for value, text, colour, style in (
        (mean, f"all images {mean:.1f} %", _VERMILION, "--"),
        (
            float(np.percentile(values, 10)),
            f"a tenth of the classes up to {np.percentile(values, 10):.1f} %",
            "black",
            ":",
        ),
    ):
        axes.axvline(value, color=colour, linewidth=1.4, linestyle=style, label=text)
    plain_axes(axes, title)
    axes.set_xlabel("top-1 accuracy, %", fontsize=10)
    axes.set_ylabel("classes", fontsize=10)
    axes.set_xlim(0, 100)
    axes.set_ylim(top=1.18 * axes.get_ylim()[1])  # room for the legend
    axes.legend(loc="upper left", fontsize=9, frameon=False)


def _heat(
    figure: "Figure",
    axes: "Axes",
    values: Values,
    rows: Sequence[str],
    columns: Sequence[str],
    label: str,
    numbers: bool,
    size: int,
) -> None:
    image = axes.imshow(values, cmap="cividis", vmin=0, vmax=100, aspect="auto")
    axes.set_xticks(range(len(columns)), [_cut(name, 20) for name in columns], fontsize=size)
    axes.set_yticks(range(len(rows)), [_cut(name, 20) for name in rows], fontsize=size)
    if max(map(len, columns)) > 2:
        axes.tick_params(axis="x", rotation=90 if len(columns) > _NUMBERED else 45)
        for tick in axes.get_xticklabels():
            tick.set_horizontalalignment("center" if len(columns) > _NUMBERED else "right")
            tick.set_rotation_mode("default" if len(columns) > _NUMBERED else "anchor")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if numbers:
        for (row, column), value in np.ndenumerate(values):
            if not np.isnan(value) and round(value) > 0:
                axes.text(
                    column, row, f"{value:.0f}", ha="center", va="center", fontsize=size - 1,
                    color="white" if value < 55 else "black",
                )  # fmt: skip
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)


def _cut(name: str, length: int) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def _fit(title: str, inches: float) -> str:
    """The end of a title that is too long for a picture so wide: the last folders of a path say most."""
    room = int(8 * inches) - 2
    return title if len(title) <= room else "…" + title[-room + 1 :]


def _short(count: int) -> str:
    return str(count) if count < 10_000 else f"{count / 1000:.0f}k"
