"""What the loop tells, to whoever shows or keeps it. Only rank 0 has one that does something."""

from collections.abc import Mapping
from typing import Protocol


class Reporter(Protocol):
    """Metrics carry their full names (train/loss, eval/top1, …)."""

    def start_training(self, total_steps: int, steps_per_epoch: int, first_step: int) -> None:
        """Before the first step; `first_step` is above 0 in a resumed run."""

    def progress(
        self, step: int, loss: float, lr: float, images_per_s: float, data_wait: float, memory_mb: float
    ) -> None:
        """After every step; must cost next to nothing."""

    def phase(self, name: str) -> None:
        """What happens between steps, such as evaluating; the next step ends it."""

    def train(self, step: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Training scalars, every `logger.every`."""

    def eval(self, step: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Evaluation scalars."""

    def event(self, step: int, text: str, **fields: object) -> None:
        """Something a reader of the run should know."""

    def saved(self, step: int) -> None:
        """The checkpoint of `step` is durable; told at a later step."""

    def sync(self) -> None:
        """Make durable what was recorded so far; called by another thread. Raises OSError."""

    def state(self) -> dict[str, object]:
        """What a resumed run needs, in plain containers."""

    def load_state(self, state: Mapping[str, object]) -> None:
        """Take up where `state` left off."""
