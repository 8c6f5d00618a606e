"""How many passes keep the batch of a recipe on other hardware."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vim_train.config.errors import UserError
from vim_train.config.passes import passes
from vim_train.config.schema import TrainConfig


def config(batch: int, lane: int, micro: int | None = None, accumulate: int | None = None) -> TrainConfig:
    cfg = TrainConfig()
    cfg.data.batch_size, cfg.data.lane, cfg.data.micro_batch_size = batch, lane, micro
    cfg.optim.accumulate = accumulate
    return cfg


@pytest.mark.parametrize(
    ("world", "batch", "lane", "micro", "expected"),
    [
        (8, 1024, 128, 128, 1), (4, 1024, 128, 128, 2), (1, 1024, 128, 128, 8), (8, 512, 64, 64, 1),
        (1, 512, 64, 64, 8), (1, 512, 64, 256, 2), (1, 512, 64, None, 1), (1, 96, 32, 64, 3), (3, 384, 64, 300, 1),
    ],
)  # fmt: skip
def test_the_published_batch_on_other_numbers_of_gpus(
    world: int, batch: int, lane: int, micro: int | None, expected: int
) -> None:
    assert passes(config(batch, lane, micro), world) == expected


@given(
    world=st.integers(1, 9), lanes=st.integers(1, 24), lane=st.integers(1, 16), micro=st.none() | st.integers(16, 500)
)
def test_passes_are_whole_lanes_within_the_limit_and_no_more_than_needed(
    world: int, lanes: int, lane: int, micro: int | None
) -> None:
    share = lanes * lane
    count = passes(config(world * share, lane, micro), world)
    limit = micro or share

    def fits(n: int) -> bool:
        return share % (n * lane) == 0 and share // n <= limit

    assert fits(count)
    assert not any(fits(n) for n in range(1, count))
    assert passes(config(world * share, lane, micro, accumulate=count), world) == count


@pytest.mark.parametrize(
    ("cfg", "world", "line"),
    [
        (config(1024, 128, 128), 3, "data.batch_size=1024: takes a multiple of 384 (3 ranks x data.lane=128)"),
        (
            config(1024, 128, 128, accumulate=3), 1,
            "data.batch_size=1024: takes a multiple of 384 (1 rank x optim.accumulate=3 x data.lane=128)",
        ),
        (config(1024, 128, 64), 1, "data.micro_batch_size=64: takes 128 or more, data.lane, or null"),
        (
            config(1024, 128, 128, accumulate=2), 1,
            "optim.accumulate=2: passes of 512 images are more than data.micro_batch_size=128; "
            "takes null, which chooses the number, or more passes",
        ),
    ],
)  # fmt: skip
def test_a_batch_that_cannot_be_divided_is_one_line(cfg: TrainConfig, world: int, line: str) -> None:
    with pytest.raises(UserError) as caught:
        passes(cfg, world)
    assert str(caught.value) == line
