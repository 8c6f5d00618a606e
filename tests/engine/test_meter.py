"""Throughput counts training only."""

import time

import pytest
import torch

from vim_train.engine.meter import Meter, memory_mb


def test_rate_ignores_pauses_and_reports_the_share_of_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    meter = Meter()
    meter.update(10, 0.0)
    assert meter.images_per_s == 0.0
    now += 1.0
    meter.update(10, 0.25)
    assert meter.images_per_s == pytest.approx(10)
    assert meter.data_wait == pytest.approx(0.25)
    meter.pause()
    now += 50.0
    meter.resume()
    now += 1.0
    meter.update(10, 0.25)
    assert meter.images_per_s == pytest.approx(10)
    assert meter.data_wait == pytest.approx(0.125)


def test_memory_is_this_process_s_in_mib() -> None:
    assert 50 < memory_mb(torch.device("cpu")) < 100_000
