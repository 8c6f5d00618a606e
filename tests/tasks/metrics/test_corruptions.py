"""mCE by hand, and nothing that passes for it."""

import pytest

from vim_train.tasks.metrics.corruptions import ALEXNET, EXTRA, SEVERITIES, corruption_errors

PARTS = [(name, severity) for name in ALEXNET for severity in SEVERITIES]


def test_alexnet_has_an_mce_of_100_whatever_the_order() -> None:
    errors = {part: ALEXNET[part[0]] * (0.8 + 0.1 * (part[1] - 1)) for part in sorted(PARTS, reverse=True)}
    errors |= {(name, severity): 1.0 for name in EXTRA for severity in SEVERITIES}
    found = corruption_errors(errors)
    assert found.mce == pytest.approx(100)
    assert found.mean_error == pytest.approx(sum(ALEXNET.values()) / 15)
    assert found.missing == []


def test_an_error_counts_by_its_own_constant() -> None:
    found = corruption_errors({part: 0.5 if part[0] == "brightness" else 0.0 for part in PARTS})
    assert found.ce["brightness"] == pytest.approx(100 * 0.5 / 0.564592)
    assert found.mce == pytest.approx(100 * 0.5 / 0.564592 / 15)
    assert found.mean_error == pytest.approx(0.5 / 15)


def test_a_part_of_the_corruptions_has_no_mce() -> None:
    errors = {part: 0.5 for part in PARTS if part[0] != "fog" and part != ("snow", 4)}
    found = corruption_errors(errors)
    assert found.mce is None
    assert found.missing == ["snow/4", "fog"]
    assert found.mean_error == 0.5
    assert set(found.ce) == set(ALEXNET) - {"fog", "snow"}
    assert corruption_errors({("spatter", 1): 0.5}).mean_error is None
