"""Where training stands: time left, smoothing, curves."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st
from short_run import Clock

from vim_train.report.panel import area, training_panel
from vim_train.report.progress import Evaluation, Progress


def test_time_left_is_the_mean_pace_without_the_first_step() -> None:
    clock = Clock()
    p = Progress(total_steps=10, steps_per_epoch=5, clock=clock)
    assert p.remaining == math.inf
    clock.now += 60  # a slow first step
    p.update(1, 1.0, 0.1, 1, 0, 1)
    assert p.remaining == math.inf
    for step in (2, 3):
        clock.now += 2
        p.update(step, 1.0, 0.1, 1, 0, 1)
    assert p.remaining == 14
    assert p.elapsed == 64


def test_a_loss_that_is_not_finite_leaves_the_curve_alone() -> None:
    p = Progress(10, 5)
    for step, loss in enumerate((2.0, math.nan, math.inf, 2.0), 1):
        p.update(step, loss, 0.1, 1, 0, 1)
    assert p.loss == 2.0
    assert p.loss_curve(10) == [2.0] * 4 + [None] * 6


def test_epochs_count_from_one_and_stop_at_the_last() -> None:
    p = Progress(10, 4)
    seen = []
    for step in range(1, 11):
        p.update(step, 1.0, 0.1, 1, 0, 1)
        seen.append(p.epoch)
    assert (seen, p.epochs, p.share) == ([1, 1, 1, 2, 2, 2, 2, 3, 3, 3], 3, 1.0)


def test_a_resumed_run_recalls_its_curves() -> None:
    p = Progress(100, 10, first_step=20)
    p.recall([
        {"kind": "train", "step": 10, "train/loss": 2.0}, {"kind": "eval", "step": 10, "epoch": 1, "eval/top1": 40.0},
        {"kind": "event", "step": 11}, {"kind": "train", "step": 20, "train/loss": None},
    ])  # fmt: skip
    assert p.loss == 2.0
    assert p.best == Evaluation(10, {"eval/top1": 40.0})
    assert p.top1_curve(10) == [40.0, 40.0] + [None] * 8


def test_accuracy_runs_straight_between_evaluations() -> None:
    p = Progress(10, 1, first_step=9)
    p.evaluations += [Evaluation(2, {"eval/top1": 10.0}), Evaluation(6, {"eval/top1": 10.0, "ema/top1": 50.0})]
    assert p.top1_curve(10) == [None, 10, 20, 30, 40, 50, 50, 50, 50, None]


@settings(max_examples=60, deadline=None)
@given(
    total=st.integers(1, 2000), done=st.integers(0, 2000), width=st.integers(10, 200), unicode=st.booleans(),
    evaluations=st.lists(st.floats(0, 100), max_size=4),
)  # fmt: skip
def test_the_panel_has_its_width_for_any_run(
    total: int, done: int, width: int, unicode: bool, evaluations: list[float]
) -> None:
    from rich.console import Console

    p = Progress(total, max(1, total // 3))
    for step in range(1, min(done, total) + 1, max(1, total // 50)):
        p.update(step, 3.0 / step, 1e-3, 12345.6, 0.5, 123456)
    p.evaluations += [Evaluation(i + 1, {"eval/top1": value}) for i, value in enumerate(evaluations)]
    console = Console(width=width)
    lines = console.render_lines(training_panel(p, "a [/run]", width, unicode), console.options)
    widths = {sum(segment.cell_length for segment in line) for line in lines}
    assert len(widths) == 1
    assert max(widths) <= max(width, 10)


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.none() | st.floats(-1e6, 1e6), max_size=50))
def test_a_chart_shows_every_known_value(values: list[float | None]) -> None:
    bottom = area(values, 5, "cyan", "{:.2f}")[-1].plain[7:] if values else ""
    assert len(bottom) == len(values)
    assert all(cell in "▁▂▃▄▅▆▇█" for cell in bottom)
