"""Durations become steps once."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vim_train.config.durations import parse, to_steps
from vim_train.config.errors import UserError


@pytest.mark.parametrize(
    ("text", "steps"),
    [("5ep", 500), ("0.5ep", 50), ("0.001ep", 1), ("200st", 200), ("1000im", 16), ("1024im", 16), ("1im", 1)],
)
def test_durations_in_steps(text: str, steps: int) -> None:
    assert to_steps(text, steps_per_epoch=100, batch_size=64) == steps


@pytest.mark.parametrize("text", ["", "5", "ep", "5 ep", "-5ep", "1e3st", "5epochs", "0ep", "0st", "1.5st", "٣ep5"])
def test_what_is_no_duration_is_refused_by_name(text: str) -> None:
    with pytest.raises(UserError, match="is no duration"):
        parse(text)


@given(st.integers(1, 10**9), st.integers(1, 10**5), st.integers(1, 10**5))
def test_steps_cover_the_images_and_no_whole_batch_more(images: int, steps_per_epoch: int, batch: int) -> None:
    steps = to_steps(f"{images}im", steps_per_epoch, batch)
    assert (steps - 1) * batch < images <= steps * batch
    assert steps == math.ceil(images / batch)
