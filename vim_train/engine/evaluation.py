"""Exact evaluation: integer counts over every image, whatever the batch size."""

from collections.abc import Callable
from itertools import zip_longest

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
    counts: list[torch.Tensor] = []
    try:
        with torch.inference_mode(), precision.autocast():
            batches = metrics.eval_batches()
            turns = iter(batches)
            for _ in range(len(batches)):
                batch = next(turns, None)
                if batch is not None:
                    counts.append(metrics.eval_counts(model, batch))
                if interrupted():
                    return None
    finally:
        model.train(training)
    shares = ranks.gather([each.cpu() for each in counts])
    in_order = [each for turn in zip_longest(*shares) for each in turn if each is not None]  # as one rank meets them
    if not in_order:
        raise ValueError("the validation set has no images")
    return metrics.eval_metrics(sum(in_order[1:], in_order[0]))
