"""The learning rate: the published table, and what holds for any schedule."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.scheduler import WSDLRScheduler

from vim_train.config.checks import peak_lr
from vim_train.config.schema import OptimConfig, ScheduleConfig, StepPer
from vim_train.engine.schedule import Schedule


@pytest.mark.parametrize("name", ["tiny_pretrain", "small_pretrain", "finetune_stride8"])
def test_per_epoch_schedule_is_the_published_one(golden: Path, name: str) -> None:
    table = json.loads((golden / "lr_schedule.json").read_text())[name]
    cfg = ScheduleConfig(
        epochs=table["epochs"], warmup_epochs=5, warmup_lr=table["warmup_lr"], min_lr=table["min_lr"],
        step_per=StepPer.epoch,
    )  # fmt: skip
    steps_per_epoch = 7
    schedule = Schedule(cfg, table["peak_lr"], steps_per_epoch)
    for epoch, expected in enumerate(table["lr_by_epoch"]):
        for step in (epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch - 1):
            assert schedule.lr(step) == pytest.approx(expected, rel=1e-12)


@given(
    epochs=st.integers(1, 400), share=st.floats(0, 0.9), steps_per_epoch=st.integers(1, 50), peak=st.floats(1e-5, 1.0)
)
def test_per_step_schedule_rises_then_falls_between_its_bounds(
    epochs: int, share: float, steps_per_epoch: int, peak: float
) -> None:
    warmup = share * epochs
    schedule = Schedule(
        ScheduleConfig(epochs=epochs, warmup_epochs=warmup, warmup_lr=1e-6, min_lr=1e-6), peak, steps_per_epoch
    )
    rates = [schedule.lr(step) for step in range(0, schedule.total_steps + 1, max(1, schedule.total_steps // 200))]
    assert all(1e-6 * (1 - 1e-9) <= rate <= peak * (1 + 1e-9) for rate in rates)
    after = [schedule.lr(step) for step in range(schedule.total_steps) if step / steps_per_epoch >= warmup][:300]
    assert all(a >= b for a, b in pairwise(after))
    assert schedule.lr(schedule.total_steps) == pytest.approx(1e-6)


def test_peak_follows_the_batch_only_where_asked() -> None:
    assert peak_lr(OptimConfig(lr=5e-4, lr_batch_size=512), 1024) == pytest.approx(1e-3)
    assert peak_lr(OptimConfig(lr=5e-4), 1024) == 5e-4


def test_constant_schedule_stays_at_the_peak_after_warmup() -> None:
    schedule = Schedule(ScheduleConfig(name="constant", epochs=10, warmup_epochs=2), 0.1, 10)
    assert schedule.lr(20) == schedule.lr(99) == 0.1
    assert schedule.lr(10) < 0.1


@pytest.mark.parametrize("shape", ["linear", "cosine", "1-sqrt"])
@pytest.mark.parametrize("step_per", [StepPer.step, StepPer.epoch])
def test_wsd_is_timms(shape: str, step_per: StepPer) -> None:
    cfg = ScheduleConfig(name="wsd", epochs=12, warmup_epochs=2, decay_epochs=3, decay_shape=shape, step_per=step_per)
    schedule = Schedule(cfg, 0.1, 5)
    per = 5 if step_per is StepPer.step else 1
    timms = WSDLRScheduler(
        torch.optim.SGD([torch.zeros(1)], lr=0.1), t_initial=10 * per, decay_t=3 * per, lr_min=cfg.min_lr,
        decay_fn=shape, warmup_t=2 * per, warmup_lr_init=cfg.warmup_lr,
    )  # fmt: skip
    for step in range(schedule.total_steps):
        time = step if step_per is StepPer.step else max(step // 5 - 1, 0)
        assert schedule.lr(step) == pytest.approx(timms._get_lr(time)[0], rel=1e-9)
    assert schedule.lr(44) == 0.1
    assert schedule.lr(59) < 0.1


def test_wsd_decays_over_a_fifth_unless_told() -> None:
    schedule = Schedule(ScheduleConfig(name="wsd", epochs=10, warmup_epochs=0, decay_shape="linear"), 0.1, 10)
    assert schedule.lr(79) == schedule.lr(80) == 0.1
    assert schedule.lr(90) == pytest.approx((0.1 + 1e-5) / 2)
    assert schedule.lr(100) == 1e-5


def test_poly_of_power_one_is_a_straight_line_to_the_end() -> None:
    line = Schedule(ScheduleConfig(name="poly", epochs=10, warmup_epochs=1, min_lr=0), 0.1, 10)
    assert [line.lr(step) for step in (10, 50, 100)] == pytest.approx([0.09, 0.05, 0])
    steeper = Schedule(ScheduleConfig(name="poly", power=2, epochs=10, warmup_epochs=0, min_lr=0.02), 0.1, 10)
    assert steeper.lr(50) == pytest.approx(0.04)
