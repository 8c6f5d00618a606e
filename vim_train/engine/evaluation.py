"""Exact evaluation: integer counts over every image, whatever the batch size."""

from collections.abc import Callable

import torch
from torch import nn

from vim_train.engine.precision import Precision
from vim_train.engine.ranks import Ranks
from vim_train.engine.task import B, Metrics


def evaluate(
    metrics: Metrics[B],
    model: nn.Module,
    precision: Precision,
    ranks: Ranks,
    interrupted: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
    """Metrics of `model` over the validation set; None if `interrupted`, the same in all ranks, became true."""
    training = model.training
    model.eval()
    total: torch.Tensor | None = None
    try:
        with torch.inference_mode(), precision.autocast():
            batches = metrics.eval_batches()
            turns = iter(batches)
            for _ in range(len(batches)):
                batch = next(turns, None)
                if batch is not None:
                    counts = metrics.eval_counts(model, batch)
                    total = counts if total is None else total + counts
                if interrupted():
                    return None
    finally:
        model.train(training)
    totals = [t for t in ranks.gather(None if total is None else total.cpu()) if t is not None]
    if not totals:
        raise ValueError("the validation set has no images")
    return metrics.eval_metrics(torch.stack(totals).sum(0))
