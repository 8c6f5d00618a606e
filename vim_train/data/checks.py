"""Whether batches, lanes and channels fit one another and the data; a misfit is one line that says what would fit."""

from vim_train.config.errors import UserError
from vim_train.config.schema import TrainConfig
from vim_train.data.mixing import mixing_on


def check_batches(cfg: TrainConfig, images: int) -> None:
    """Raise UserError unless `images` training images can be cut into batches, micro-batches and lanes."""
    batch, accumulate, lane = cfg.data.batch_size, cfg.optim.accumulate, cfg.data.lane
    _at_least("data.batch_size", batch, 1)
    _at_least("data.lane", lane, 1)
    _at_least("data.repeats", cfg.data.repeats, 1)
    _at_least("optim.accumulate", accumulate, 1)
    if batch > images:
        raise UserError(f"data.batch_size={batch} is more than the {images} training images")
    if batch % accumulate:
        raise UserError(f"optim.accumulate={accumulate} does not divide data.batch_size={batch}: {_accepted(batch)}")
    micro = batch // accumulate
    mixing = mixing_on(cfg.augment)
    if micro % lane or (mixing and lane % 2):
        of = f"the {micro} images of a micro-batch (data.batch_size={batch} / optim.accumulate={accumulate})"
        if micro % lane == 0:
            problem = f"data.lane={lane} is odd, and mixing pairs the images of a lane"
        else:
            problem = f"data.lane={lane} does not divide {of}"
        if mixing and micro % 2:
            raise UserError(f"{problem}: mixing needs an even micro-batch")
        raise UserError(f"{problem}: {_accepted(micro, even=mixing)}")


def check_input(cfg: TrainConfig) -> None:
    """Raise UserError unless the keys about workers, channels and evaluation make sense."""
    _at_least("data.workers", cfg.data.workers, 0)
    _at_least("data.eval_batch_size", cfg.data.eval_batch_size, 1)
    channels = cfg.model.in_chans
    if channels not in (1, 3):
        raise UserError(f"model.in_chans={channels}: images have 3 channels (RGB) or 1 (grey)")
    for name, values in (("mean", cfg.data.mean), ("std", cfg.data.std)):
        if len(values) != channels:
            raise UserError(f"data.{name}={values} has {len(values)} values, but model.in_chans={channels}")


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise UserError(f"{name}={value}: must be at least {least}")


def _accepted(whole: int, even: bool = False) -> str:
    divisors = [d for d in range(1, whole + 1) if whole % d == 0 and not (even and d % 2)]
    return f"accepted are {', '.join(map(str, divisors))}"
