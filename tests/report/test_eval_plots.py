"""Pictures of an evaluation at the ends of what they may be given."""

from pathlib import Path

import numpy as np
from PIL import Image

from vim_train.report import eval_plots


def colours(path: Path) -> int:
    with Image.open(path) as image:
        return len(image.convert("RGB").getcolors(1 << 22) or [])


def test_many_classes_become_a_histogram(tmp_path: Path) -> None:
    top1 = np.random.default_rng(0).random(200)
    path = tmp_path / "many.png"
    eval_plots.draw_per_class(path, "x" * 500, "val", [f"class {i}" for i in range(200)], np.full(200, 5), top1)
    with Image.open(path) as image:
        assert image.width == 1950  # not as high as 200 bars
        assert image.height == 900
    assert colours(path) > 50


def test_bins_without_images_and_classes_without_images_are_left_out(tmp_path: Path) -> None:
    images = np.zeros(15, np.int64)
    images[7] = 3
    values = np.where(images > 0, 0.5, np.nan)
    eval_plots.draw_reliability(tmp_path / "one.png", "run", "val", images, values, values, (1.0, values, values))
    eval_plots.draw_per_class(tmp_path / "none.png", "run", "val", ["a"], np.array([0]), np.array([np.nan]))
    eval_plots.draw_confusion(tmp_path / "empty.png", "run", "val", ["a", "b"], np.zeros((2, 2), np.int64))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.png", "one.png"]
    assert min(colours(tmp_path / "one.png"), colours(tmp_path / "empty.png")) > 10
