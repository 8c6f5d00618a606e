"""`determinism=strict`: the same bits on any number of ranks, as real processes over gloo."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
from processes import arguments, finish, numbers, start, wait_for_step, weights
from safetensors.torch import save_file

pytestmark = pytest.mark.slow


@pytest.fixture
def strict(tmp_path: Path, photos: Path) -> Callable[..., Path]:
    """Runs whose image size, mixing and rate change on the way, and that learn from a teacher."""
    teacher = tmp_path / "teacher.safetensors"
    save_file(timm.create_model("resnet10t", num_classes=4).state_dict(), teacher)
    late = ("data.img_size_schedule=[0:16,2:24,4:32]", "augment.mix_off_epoch=3", "schedule=wsd")
    late += ("task.distill=soft", "task.teacher=resnet10t", f"task.teacher_checkpoint={teacher}")

    def run(name: str, ranks: int, stop_at: int | None = None) -> Path:
        keys = ("determinism=strict", "device=cpu", "data.lane=2", "schedule.epochs=6", "eval.every=1ep")
        gpus = f"gpus={ranks}" if ranks > 1 else "gpus=null"
        process = start(
            "train", *arguments(tmp_path, photos, *keys, *late, gpus, "optim.accumulate=1", f"run.name={name}")
        )
        if stop_at is not None:
            wait_for_step(tmp_path / name, stop_at, process)
            process.terminate()
        code, output = finish(process)
        assert code == (0 if stop_at is None else 143), output
        return tmp_path / name

    return run


def test_strict_gives_the_same_bits_on_another_number_of_ranks(strict: Callable[..., Path]) -> None:
    one = strict("one", 1)
    for ranks, stop_at in ((2, 6), (1, None)):
        moved = strict("moved", ranks, stop_at)
    assert weights(moved) == weights(one)
    assert numbers(moved) == numbers(one)


@pytest.mark.full
def test_strict_gives_the_same_bits_on_1_2_and_4_ranks_and_all_the_way_round(strict: Callable[..., Path]) -> None:
    one, two, four = strict("one", 1), strict("two", 2), strict("four", 4)
    for ranks, stop_at in ((4, 3), (2, 6), (1, 9), (4, None)):
        moved = strict("moved", ranks, stop_at)
    for other in (two, four, moved):
        assert weights(other) == weights(one)
        assert numbers(other) == numbers(one)
