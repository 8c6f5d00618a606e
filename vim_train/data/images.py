"""Opening images, and saying so before it takes long."""

import time

from vim_train.config.schema import DataConfig
from vim_train.data.sources import Source, Split, open_source

_SECONDS_BETWEEN_LINES = 5.0


def open_images(data: DataConfig, split: Split, refresh: bool = False) -> Source:
    """As `open_source`, with a line every few seconds on a large data set. Raises UserError."""
    begun = last = time.monotonic()

    def tell(what: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES:
            last = now
            left = (now - begun) / max(done, 1) * (total - done)
            print(f"looking through {what}: {100 * done / max(total, 1):.0f} %, {left:.0f} s left", flush=True)

    if data.root is not None and split == "train":
        print(f"looking through {data.root}", flush=True)
    return open_source(data, split, tell, refresh)
