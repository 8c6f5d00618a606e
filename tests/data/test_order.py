"""Order and draws are functions of (seed, epoch, position), and look random."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vim_train.data.order import (
    BLOCKS_AT_ONCE,
    Stream,
    block_order,
    draw_index,
    epoch_order,
    held_out,
    key,
    permutation,
    position_keys,
    uniform,
)

seeds = st.integers(0, 2**63)
quick = settings(max_examples=40, deadline=None)


@quick
@given(seed=seeds, epoch=st.integers(0, 10_000), n=st.integers(1, 3000))
def test_an_epoch_is_a_permutation(seed: int, epoch: int, n: int) -> None:
    order = epoch_order(seed, epoch, n)
    assert np.array_equal(np.sort(order), np.arange(n))
    assert np.array_equal(order, epoch_order(seed, epoch, n))


def test_the_order_is_what_it_has_always_been() -> None:
    """Numbers written down once: another numpy, platform or edit must not move a resumed run's images."""
    assert key(0) == 0xE220A8397B1DCDAF  # splitmix64's published first output for seed 0
    assert key(42, Stream.AUGMENT, 3, 1234567) == 3576306098930853636
    assert permutation(1, 12).tolist() == [3, 5, 2, 9, 7, 10, 0, 8, 6, 11, 1, 4]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [epoch_order(seed, epoch, 1000) for seed in range(3) for epoch in range(3)]
    agreements = [np.mean(a == b) for i, a in enumerate(orders) for b in orders[:i]]
    assert max(agreements) < 0.01


@quick
@given(seed=seeds, epoch=st.integers(0, 300), position=st.integers(0, 2**40), stream=st.sampled_from(Stream))
def test_keys_of_arrays_equal_keys_of_integers(seed: int, epoch: int, position: int, stream: Stream) -> None:
    positions = np.array([position, position + 1], dtype=np.int64)
    expected = [key(seed, stream, epoch, p) for p in positions.tolist()]
    assert position_keys(seed, stream, epoch, positions).tolist() == expected


@quick
@given(seed=seeds, epoch=st.integers(0, 300), n=st.integers(1, 3000), block=st.integers(1, 40))
def test_an_epoch_in_blocks_is_a_permutation_where_neighbours_are_near(
    seed: int, epoch: int, n: int, block: int
) -> None:
    order = block_order(seed, epoch, n, block)
    assert np.array_equal(np.sort(order), np.arange(n))
    assert np.array_equal(order, block_order(seed, epoch, n, block))
    place = np.argsort(order)
    for first in range(0, n, block):  # a run is read within the time of BLOCKS_AT_ONCE runs
        assert np.ptp(place[first : first + block]) < block * BLOCKS_AT_ONCE


def test_an_epoch_in_blocks_is_shuffled() -> None:
    order = block_order(0, 0, 100_000, 100)
    assert np.mean(np.abs(np.diff(order)) == 1) < 0.001
    assert len(np.unique(order[:256] // 100)) > BLOCKS_AT_ONCE * 0.9
    assert not np.array_equal(order, block_order(0, 1, 100_000, 100))


def test_keys_do_not_collide_and_every_bit_is_fair() -> None:
    keys = np.concatenate(
        [position_keys(s, stream, e, np.arange(2000)) for s in (0, 1) for stream in Stream for e in range(5)]
    )
    assert len(np.unique(keys)) == len(keys)
    bits = (keys[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert np.abs(bits.mean(0) - 0.5).max() < 0.5 * 5 / np.sqrt(len(keys))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5))
def test_a_batch_holds_its_own_draws_once_each(lanes: int, lane: int, batches: int) -> None:
    size = lanes * lane
    draws = draw_index(np.arange(batches * size), size, lane)
    for batch in range(batches):
        inside = draws[batch * size : (batch + 1) * size]
        assert np.array_equal(np.sort(inside), np.arange(batch * size, (batch + 1) * size))


def test_a_position_s_draw_does_not_depend_on_what_is_asked_with_it() -> None:
    whole = draw_index(np.arange(96), 48, 8)
    assert np.array_equal(whole[30:50], draw_index(np.arange(30, 50), 48, 8))


def test_repeated_views_of_an_image_stand_in_different_lanes() -> None:
    """Vim-Ti's pretraining: 1,024 images of 8 lanes, each image drawn three times."""
    images = draw_index(np.arange(1024), 1024, 128) // 3
    assert len(np.unique(images)) == 342
    assert all(len(np.unique(lane)) == 128 for lane in images.reshape(8, 128))


def test_uniform_draws_are_uniform_independent_and_addressed_by_position() -> None:
    draws = uniform(5, 1, np.arange(4000), Stream.DROP_PATH, 25)
    assert draws.shape == (4000, 25)
    assert draws.dtype == np.float32
    assert draws.min() >= 0
    assert draws.max() < 1
    counts, _ = np.histogram(draws, bins=50, range=(0, 1))
    expected = draws.size / 50
    assert ((counts - expected) ** 2 / expected).sum() < 110  # chi-square, 49 degrees of freedom, p < 1e-6
    assert np.abs(np.corrcoef(draws.T) - np.eye(25)).max() < 0.1
    part = uniform(5, 1, np.array([17, 3999]), Stream.DROP_PATH, 25)
    assert np.array_equal(part, draws[[17, 3999]])
    assert not np.array_equal(uniform(5, 2, np.arange(4), Stream.DROP_PATH, 25), draws[:4])


@quick
@given(
    path=st.text(min_size=1, max_size=40).filter(lambda s: s.isprintable()), low=st.floats(0, 1), high=st.floats(0, 1)
)
def test_holding_out_more_never_returns_a_file_to_training(path: str, low: float, high: float) -> None:
    low, high = sorted((low, high))
    assert held_out(path, low) <= held_out(path, high)
    assert not held_out(path, 0.0)


def test_the_held_out_share_is_what_was_asked_for() -> None:
    share = np.mean([held_out(f"class/{i:06d}.jpg", 0.1) for i in range(20_000)])
    assert abs(share - 0.1) < 0.01
