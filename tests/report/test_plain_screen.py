"""Off a terminal: plain lines, a few seconds apart."""

import re

from short_run import Run

from vim_train.report.text import duration, epoch, memory, percent, rate


def test_there_are_no_escapes_and_no_carriage_returns(run: Run) -> None:
    shown = run.whole()
    assert shown.isascii()
    assert not re.search(r"[\x1b\r]", shown)


def test_a_progress_line_comes_every_five_seconds_and_at_the_end(run: Run) -> None:
    lines = [line for line in run.whole().splitlines() if line.startswith("step ")]
    steps = [int(line.split()[1].split("/")[0]) for line in lines]
    assert steps == [1, 6, 11, 16, 21, 26, 31, 36, 40]  # a step takes a second


def test_a_progress_line_tells_what_one_wants_to_know(run: Run) -> None:
    line = next(line for line in run.whole().splitlines() if line.startswith("step 21/"))
    for part in ("step 21/40", "epoch 3/4", "loss ", "lr 4.75e-04", "128 images/s", "data wait 2 %", "512 MB"):
        assert part in line
    assert line.endswith("0:19 left")


def test_evaluations_and_results_are_shown(run: Run) -> None:
    shown = run.whole()
    assert "evaluation  step 10  epoch 1  loss " in shown
    assert "ema top-1 51.00" in shown
    assert re.search(r"best +57.00 % top-1 after epoch 4 \(averaged weights\)", shown)
    assert "  vim-eval checkpoint=runs/short" in shown.splitlines()


def test_log_txt_has_the_same_lines_with_the_time(run: Run) -> None:
    shown = run.whole().splitlines()
    logged = (run.run_dir / "log.txt").read_text().splitlines()
    assert [line[21:] for line in logged] == shown
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", line) for line in logged)


def test_numbers_are_written_for_people() -> None:
    seconds = (7, 750, 11100, 183600, float("inf"))
    assert [duration(s) for s in seconds] == ["0:07", "12:30", "3:05:00", "2 d 3 h", "-:--"]
    assert [rate(r) for r in (0.416, 3.714, 45.21, 1830.4)] == ["0.42", "3.71", "45.2", "1,830"]
    assert [memory(m) for m in (812, 1434)] == ["812 MB", "1.4 GB"]
    assert [percent(0.337), epoch(20, 10), epoch(25, 10)] == ["34 %", "2", "2.50"]
