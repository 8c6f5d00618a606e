"""The learning rate as a pure function of the step."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from vim_train.config.checks import decay_epochs
from vim_train.config.schema import ScheduleConfig, StepPer


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up from `warmup_lr`, then a shape that ends at `min_lr`: half a cosine, say.

    Shapes run from epoch 0, so warm-up cuts off their beginning. With `step_per=epoch` the value changes once an
    epoch and one epoch late, as the published runs did: epochs 0 and 1 both train at `warmup_lr`.
    """

    cfg: ScheduleConfig
    peak: float
    steps_per_epoch: int

    @property
    def total_steps(self) -> int:
        return self.cfg.epochs * self.steps_per_epoch

    def lr(self, step: int) -> float:
        """Learning rate of the update that takes the model from `step` to `step + 1`."""
        if self.cfg.step_per is StepPer.epoch:
            return self._at(max(step // self.steps_per_epoch - 1, 0))
        return self._at(step / self.steps_per_epoch)

    def _at(self, epoch: float) -> float:
        cfg = self.cfg
        if epoch < cfg.warmup_epochs:
            return cfg.warmup_lr + epoch * (self.peak - cfg.warmup_lr) / cfg.warmup_epochs
        match cfg.name:
            case "cosine":
                return self._between(_cosine(epoch / cfg.epochs))
            case "poly":
                return self._between((1 - epoch / cfg.epochs) ** cfg.power)
            case "wsd":
                length = decay_epochs(cfg)
                done = min(max(epoch - (cfg.epochs - length), 0) / length, 1)
                return self._between(_DECAYS[cfg.decay_shape](done))
            case "constant":
                return self.peak
        raise ValueError(f"schedule.name={cfg.name}")

    def _between(self, share: float) -> float:
        """The rate that lies that far from `min_lr` to the peak."""
        return self.cfg.min_lr + share * (self.peak - self.cfg.min_lr)


def _cosine(done: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * done))


_DECAYS: dict[str, Callable[[float], float]] = {
    "linear": lambda done: 1 - done,
    "cosine": _cosine,
    "1-sqrt": lambda done: 1 - math.sqrt(done),
}
"""Share of the way to the peak that is left where a share of the decay is done (timm's; 1-sqrt: arXiv:2405.18392)."""
