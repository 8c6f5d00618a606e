"""Exact evaluation: integer counts over every image, whatever the batch size."""

from collections.abc import Callable

import torch
from torch import nn

from vim_train.engine.precision import Precision
from vim_train.engine.task import B, Metrics


def evaluate(
    metrics: Metrics[B], model: nn.Module, precision: Precision, interrupted: Callable[[], bool] = lambda: False
) -> dict[str, float] | None:
    """Metrics of `model` over the validation set; None if `interrupted` became true on the way."""
    training = model.training
    model.eval()
    total: torch.Tensor | None = None
    try:
        with torch.inference_mode(), precision.autocast():
            for batch in metrics.eval_batches():
                counts = metrics.eval_counts(model, batch)
                total = counts if total is None else total + counts
                if interrupted():
                    return None
    finally:
        model.train(training)
    if total is None:
        raise ValueError("the validation set has no images")
    return metrics.eval_metrics(total)
