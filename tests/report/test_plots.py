"""The picture of the curves."""

from pathlib import Path

from PIL import Image
from short_run import Run

from vim_train.report import read_metrics
from vim_train.report.plots import draw_curves


def test_a_run_becomes_a_picture(run: Run) -> None:
    run.whole()
    path = run.run_dir / "report" / "curves.png"
    draw_curves(read_metrics(run.metrics), path, "short")
    with Image.open(path) as image:
        image.load()
        assert image.size == (1650, 1050)
        assert len(image.convert("RGB").getcolors(1 << 20) or []) > 50


def test_null_and_missing_numbers_are_left_out(tmp_path: Path) -> None:
    records = [
        {"kind": "train", "step": 1, "epoch": 0, "train/loss": None},
        {"kind": "train", "step": 2, "epoch": 0, "train/loss": 1.5},
        {"kind": "event", "step": 2, "epoch": 0, "text": "hello"},
    ]
    draw_curves(records, tmp_path / "a" / "curves.png", "run")
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["curves.png"]


def test_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    draw_curves([{"kind": "event", "step": 0, "epoch": 0}], tmp_path / "curves.png", "run")
    assert not (tmp_path / "curves.png").exists()
