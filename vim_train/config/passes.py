"""How a batch is split into forward and backward passes, once the number of ranks is known."""

from vim_train.config.errors import UserError
from vim_train.config.schema import TrainConfig


def passes(cfg: TrainConfig, world: int) -> int:
    """Passes a step: `optim.accumulate`, or as few as keep a rank's share of each within `data.micro_batch_size`.

    Ranks and passes divide the batch in whole lanes, so that the same images are mixed whatever their number.

    Raises:
        UserError: a batch that cannot be divided so; the line says what would be accepted.
    """
    data, asked = cfg.data, cfg.optim.accumulate
    least = world * data.lane * (asked or 1)
    if data.batch_size % least:
        parts = f"{world} rank{'s' if world > 1 else ''}" + (
            f" x optim.accumulate={asked}" if asked not in (None, 1) else ""
        )
        raise UserError(
            f"data.batch_size={data.batch_size}: takes a multiple of {least} ({parts} x data.lane={data.lane})"
        )
    share = data.batch_size // world
    limit = share if data.micro_batch_size is None else data.micro_batch_size
    if asked is None:
        if limit < data.lane:
            raise UserError(f"data.micro_batch_size={limit}: takes {data.lane} or more, data.lane, or null")
        lanes = share // data.lane
        return next(n for n in range(1, lanes + 1) if lanes % n == 0 and lanes // n * data.lane <= limit)
    if share // asked > limit:
        few = f"optim.accumulate={asked}: passes of {share // asked} images are more than data.micro_batch_size={limit}"
        raise UserError(f"{few}; takes null, which chooses the number, or more passes")
    return asked
