"""What a step sees is a function of configuration and step: not of workers, resumption or accumulation."""

import copy
import random
import re
from collections.abc import Callable, Iterable
from itertools import islice

import numpy as np
import pytest
import torch

from vim_train.config.errors import UserError
from vim_train.config.schema import TrainConfig
from vim_train.data.batch import BadRecord, Batch
from vim_train.data.order import draw_index, epoch_order
from vim_train.data.sources import Source, open_source
from vim_train.data.stream import EvalStream, TrainStream, merge_records

CPU = torch.device("cpu")
Digests = Callable[[Iterable[Batch]], dict[tuple[int, int], str]]


def stream(cfg: TrainConfig, **data: object) -> TrainStream:
    cfg = copy.deepcopy(cfg)
    for name, value in data.items():
        setattr(cfg.optim if name == "accumulate" else cfg.data, name, value)
    source = open_source(cfg.data, "train")
    return TrainStream(source, cfg, len(source.classes), CPU)


@pytest.mark.parametrize("which", ["fashion_config", "photo_config"])
def test_images_do_not_depend_on_workers(which: str, request: pytest.FixtureRequest, digests: Digests) -> None:
    cfg: TrainConfig = request.getfixturevalue(which)
    streams = [stream(cfg, workers=workers) for workers in (0, 1, 2)]
    steps = (streams[0].steps_per_epoch - 1, streams[0].steps_per_epoch + 3)  # across the end of an epoch
    seen = [digests(one.batches(*steps)) for one in streams]
    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0]) == len(set(seen[0].values())) == 4 * cfg.data.batch_size


def test_a_resumed_run_sees_the_tail(fashion_config: TrainConfig, digests: Digests) -> None:
    spe = stream(fashion_config).steps_per_epoch
    assert spe == 6000 // 32
    whole = digests(stream(fashion_config).batches(spe - 5, spe + 4))
    tail = digests(stream(fashion_config, workers=2).batches(spe - 2, spe + 4))
    assert list(tail.items()) == list(whole.items())[3 * 32 :]


@pytest.mark.parametrize("accumulate", [2, 4])
def test_images_do_not_depend_on_accumulation(fashion_config: TrainConfig, accumulate: int, digests: Digests) -> None:
    whole, split = (list(stream(fashion_config, accumulate=n).batches(3, 6)) for n in (1, accumulate))
    assert [len(batch.labels) for batch in split] == [32 // accumulate] * (3 * accumulate)
    assert digests(split) == digests(whole)


@pytest.mark.parametrize(("world", "accumulate"), [(2, 1), (4, 1), (2, 2)])
def test_images_do_not_depend_on_ranks(
    photo_config: TrainConfig, world: int, accumulate: int, digests: Digests
) -> None:
    """Ranks divide every pass among them, in the order of their numbers."""
    cfg = copy.deepcopy(photo_config)
    cfg.data.batch_size, cfg.data.lane, cfg.optim.accumulate = 16, 4, accumulate
    source = open_source(cfg.data, "train")
    shares = [
        list(TrainStream(source, cfg, len(source.classes), CPU, rank=rank, world=world).batches(0, 2))
        for rank in range(world)
    ]
    assert {len(batch.labels) for share in shares for batch in share} == {16 // (world * accumulate)}
    assert [len(share) for share in shares] == [2 * accumulate] * world
    turns = [batch for turn in zip(*shares, strict=True) for batch in turn]
    whole = list(stream(cfg, accumulate=1).batches(0, 2))
    assert list(digests(turns).items()) == list(digests(whole).items())


@pytest.mark.parametrize(
    ("accumulate", "needs"), [(1, "12 (3 ranks x data.lane=4)"), (2, "24 (3 ranks x optim.accumulate=2 x data.lane=4)")]
)
def test_a_batch_that_ranks_cannot_share_in_whole_lanes_is_refused(
    photo_config: TrainConfig, accumulate: int, needs: str
) -> None:
    cfg = copy.deepcopy(photo_config)
    cfg.data.batch_size, cfg.data.lane, cfg.optim.accumulate = 16, 4, accumulate
    source = open_source(cfg.data, "train")
    with pytest.raises(UserError, match=re.escape(f"data.batch_size=16: takes a multiple of {needs}")):
        TrainStream(source, cfg, len(source.classes), CPU, rank=0, world=3)


@pytest.mark.parametrize("world", [1, 2, 3, 40])
def test_ranks_evaluate_every_image_once(photo_config: TrainConfig, world: int) -> None:
    source = open_source(photo_config.data, "val")
    shares = [EvalStream(source, photo_config, CPU, rank=rank, world=world) for rank in range(world)]
    batches = [list(share) for share in shares]
    positions = sorted(p for share in batches for batch in share for p in batch.positions.tolist())
    assert positions == list(range(len(source)))
    assert {len(share) for share in shares} == {len(batches[0])}
    assert all(len(batches[0]) - len(share) in (0, 1) for share in batches)


def test_bad_images_of_ranks_are_counted_together() -> None:
    a, b = BadRecord("a.jpg", "fish", "torn", 2), BadRecord("b.jpg", "tool", "empty", 1)
    again = BadRecord("a.jpg", "fish", "torn", 3)
    assert merge_records([[a], [b, again]]) == [BadRecord("a.jpg", "fish", "torn", 5), b]
    assert (a.count, again.count) == (2, 3)


def test_seed_epoch_and_position_all_matter(fashion_config: TrainConfig, digests: Digests) -> None:
    other = copy.deepcopy(fashion_config)
    other.seed += 1
    spe = stream(fashion_config).steps_per_epoch
    seen = [digests(stream(cfg).batches(step, step + 1)) for cfg in (fashion_config, other) for step in (0, spe)]
    images = [digest for one in seen for digest in one.values()]
    assert len(images) == len(set(images)) == 4 * 32


def test_an_epoch_holds_each_image_at_most_once(photo_config: TrainConfig) -> None:
    cfg = copy.deepcopy(photo_config)
    cfg.augment.mixup_alpha = cfg.augment.cutmix_alpha = 0
    source = open_source(cfg.data, "train")
    one = TrainStream(source, cfg, 4, CPU)
    labels = torch.cat([batch.labels for batch in one.batches(0, one.steps_per_epoch)])
    draws = draw_index(np.arange(24), cfg.data.batch_size, cfg.data.lane)
    assert labels.tolist() == source.labels[epoch_order(cfg.seed, 0, len(source))[draws]].tolist()


def test_repeats_are_different_views_of_one_image(fashion_config: TrainConfig, digests: Digests) -> None:
    one = stream(fashion_config, repeats=3)
    assert one.steps_per_epoch == stream(fashion_config).steps_per_epoch
    [batch] = one.batches(0, 1)
    order = epoch_order(fashion_config.seed, 0, 6000)
    labels = open_source(fashion_config.data, "train").labels
    draws = draw_index(np.arange(32), 32, fashion_config.data.lane)
    assert batch.labels.tolist() == labels[order[draws // 3]].tolist()
    assert len(set(digests([batch]).values())) == 32


def test_the_training_process_keeps_its_own_draws(fashion_config: TrainConfig) -> None:
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    for workers in (0, 1):
        random.seed(5), np.random.seed(5), torch.manual_seed(5)
        list(stream(fashion_config, workers=workers).batches(0, 2))
        list(EvalStream(Part(open_source(fashion_config.data, "val"), 5), fashion_config, CPU))
        assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected


def test_batches_are_ready_for_the_model(fashion_config: TrainConfig) -> None:
    one = stream(fashion_config, workers=1)
    batch = next(iter(one.batches(0, 4)))
    one.close()
    assert batch.images.shape == (32, 1, 28, 28)
    assert batch.images.dtype == torch.float32
    assert batch.images.is_contiguous()
    assert batch.targets.shape == (32, 10)
    assert torch.allclose(batch.targets.sum(1), torch.ones(32))
    assert batch.labels.dtype == torch.int64
    assert one.wait_s > 0


def test_leaving_early_and_starting_again_is_harmless(fashion_config: TrainConfig, digests: Digests) -> None:
    one = stream(fashion_config, workers=2)
    first = digests(islice(one.batches(0, 50), 2))
    waited = one.wait_s
    assert digests(one.batches(0, 2)) == first
    assert one.wait_s > waited
    one.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_repeats_itself(photo_config: TrainConfig, workers: int, digests: Digests) -> None:
    photo_config.data.workers = workers
    one = EvalStream(open_source(photo_config.data, "val"), photo_config, CPU)
    first = digests(one)
    next(iter(one))  # left early
    assert digests(one) == first
    assert list(first) == [(0, i) for i in range(8)]
    one.close()
    assert digests(one) == first
    one.close()


class Part:
    """The first images of a source."""

    def __init__(self, whole: Source, n: int) -> None:
        self.classes, self.native_mode, self.labels = whole.classes, whole.native_mode, whole.labels[:n]
        self.read, self.load, self.name, self.fingerprint = whole.read, whole.load, whole.name, whole.fingerprint

    def __len__(self) -> int:
        return len(self.labels)


SIZES = ["0:16", "1:28", "2:20"]


@pytest.mark.parametrize("which", ["fashion_config", "photo_config"])
def test_image_sizes_follow_the_epoch_whoever_loads_and_wherever_it_starts(
    which: str, request: pytest.FixtureRequest, digests: Digests
) -> None:
    cfg: TrainConfig = request.getfixturevalue(which)
    cfg.data.img_size_schedule = SIZES
    spe = stream(cfg).steps_per_epoch
    sides = {batch.epoch: {*batch.images.shape[-2:]} for batch in stream(cfg).batches(spe - 1, spe + 1)}
    assert sides == {0: {16}, 1: {28}}
    seen = [digests(stream(cfg, workers=workers).batches(2 * spe - 2, 2 * spe + 2)) for workers in (0, 2)]
    assert seen[0] == seen[1]
    tail = digests(stream(cfg).batches(2 * spe, 2 * spe + 2))
    assert list(tail.items()) == list(seen[0].items())[2 * cfg.data.batch_size :]
    alone = digests(stream(cfg, img_size=20, img_size_schedule=[]).batches(2 * spe, 2 * spe + 2))
    assert tail == alone


def test_evaluation_keeps_its_size(photo_config: TrainConfig) -> None:
    photo_config.data.img_size_schedule = SIZES
    batches = EvalStream(open_source(photo_config.data, "val"), photo_config, CPU)
    assert {batch.images.shape[-1] for batch in batches} == {48}
