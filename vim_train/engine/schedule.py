"""The learning rate as a pure function of the step."""

import math
from dataclasses import dataclass

from vim_train.config.schema import ScheduleConfig, StepPer


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up from `warmup_lr`, then a half cosine to `min_lr` (or constant) over all epochs.

    The cosine runs from epoch 0, so warm-up cuts off its beginning. With `step_per=epoch` the value changes once an
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
        if cfg.name == "constant":
            return self.peak
        return cfg.min_lr + 0.5 * (self.peak - cfg.min_lr) * (1 + math.cos(math.pi * epoch / cfg.epochs))
