"""The live panel: a bar, the numbers, and the curves growing to the right as training goes on."""

from collections.abc import Sequence
from itertools import groupby

from rich.console import Group
from rich.panel import Panel
from rich.text import Text

from vim_train.report import text
from vim_train.report.progress import Progress

MAX_WIDTH = 120
_LABEL, _VALUE = 15, 10  # columns of the numbers beside the curves
_SCALE = 7  # columns of a curve's scale
_BLOCKS = " ▁▂▃▄▅▆▇█"


def training_panel(p: Progress, title: str, width: int, unicode: bool = True) -> Panel:
    """The panel, as wide as the terminal up to `MAX_WIDTH` columns and eleven lines high."""
    width = min(width, MAX_WIDTH)
    status = Text(f"step {p.step:,} of {p.total_steps:,} · {text.duration(p.elapsed)}", style="dim")
    if p.phase:
        status = Text.assemble((p.phase, "yellow"), (" · ", "dim"), status)
    return Panel(
        Group(_bar(p, width - 4, unicode), Text(), *_body(p, width - 4, unicode)),
        title=Text(title, "bold not dim"), title_align="left", subtitle=status, subtitle_align="right",
        border_style="dim", width=width,
    )  # fmt: skip


def _bar(p: Progress, width: int, unicode: bool) -> Text:
    before = f"epoch {p.epoch}/{p.epochs}  "
    after = f"  {text.percent(p.share):>5}  {text.duration(p.remaining):>7} left"
    room = max(1, width - len(before) - len(after))
    full, half = divmod(int(p.share * room * 2), 2)
    thick, tip, thin = ("━", "╸", "─") if unicode else ("=", "-", " ")
    done = thick * full + tip * half
    colour = "cyan" if p.share < 1 else "green"
    return Text.assemble((before, "bold"), (done, colour), (thin * (room - len(done)), "dim"), after)


def _body(p: Progress, width: int, unicode: bool) -> list[Text]:
    last = p.evaluations[-1].top1 if p.evaluations else None
    best = p.best.top1 if p.best else None
    rows = [
        ("loss", "-" if p.loss is None else text.metric("loss", p.loss), "bold cyan"),  # in the colour of its curve
        ("top-1", "-" if last is None else f"{last:.2f} %", "bold green"),
        ("best top-1", "-" if best is None else f"{best:.2f} %", "bold"),
        ("learning rate", f"{p.lr:.2e}" if p.running else "-", "bold"),
        ("images/s", text.rate(p.images_per_s) if p.running else "-", "bold"),
        ("data wait", text.percent(p.data_wait) if p.running else "-", "bold"),
        ("memory", text.memory(p.memory_mb) if p.running else "-", "bold"),
    ]
    numbers = [Text.assemble((f"{k:<{_LABEL}}", "dim"), (f"{v:<{_VALUE}}", style)) for k, v, style in rows]
    room = width - _LABEL - _VALUE
    if not unicode or room < 20:
        return numbers
    both = room >= 78  # a wide terminal shows the accuracy too
    columns = room // 2 if both else room
    curves = [area(p.loss_curve(columns - _SCALE), len(rows), "cyan", "{:.2f}")]
    if both:
        curves.append(area(p.top1_curve(room - columns - _SCALE), len(rows), "green", "{:.1f}"))
    return [Text.assemble(*parts) for parts in zip(numbers, *curves, strict=True)]


def area(values: Sequence[float | None], rows: int, style: str, form: str) -> list[Text]:
    """An area chart `rows` lines high, its lowest and highest value at the left; None is a hint of the base line."""
    known = [v for v in values if v is not None]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    span = (high - low) or 1.0
    eighths = [0 if v is None else 1 + round((v - low) / span * (8 * rows - 1)) for v in values]
    labels = {0: _short(form, high), rows - 1: _short(form, low)} if known else {}
    lines = []
    for row in range(rows):
        floor = 8 * (rows - 1 - row)
        line = Text(f"{labels.get(row, ''):>{_SCALE - 1}} ", style="dim")
        for there, run in groupby(eighths, bool):
            if there:
                cells = "".join(_BLOCKS[max(0, min(8, height - floor))] for height in run)
                line.append(cells, style=f"not dim {style}")
            else:
                line.append(("▁" if floor == 0 else " ") * len(list(run)))
        lines.append(line)
    return lines


def _short(form: str, value: float) -> str:
    return shown if len(shown := form.format(value)) < _SCALE else f"{value:.0e}"
