"""What the loop needs of a task, and nothing more."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

Self = TypeVar("Self")


class Batch(Protocol):
    """A micro-batch; the loop only counts its images and passes it back to the task."""

    @property
    def images(self) -> Tensor:
        """(B, C, H, W) on the compute device."""

    def split(self: Self, size: int) -> Sequence[Self]:
        """Batches of that many images, in order."""


B = TypeVar("B", bound=Batch)
B_co = TypeVar("B_co", bound=Batch, covariant=True)


class EvalBatches(Protocol[B_co]):
    """A rank's share of the validation batches; the length is that of the largest share."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[B_co]: ...


class Metrics(Protocol[B]):
    """How a model is evaluated."""

    def eval_batches(self) -> "EvalBatches[B]":
        """Every validation image exactly once, over all ranks."""

    def eval_counts(self, model: nn.Module, batch: B) -> Tensor:
        """Sums over the batch, (K,) float64: they are added up over batches, then given to `eval_metrics`."""

    def eval_metrics(self, counts: Tensor) -> dict[str, float]:
        """Metrics from summed counts; keys without the eval/ or ema/ prefix."""


class Task(Metrics[B], Protocol[B]):
    """A model with the data, loss and metrics that belong to it."""

    model: nn.Module
    steps_per_epoch: int
    headline: str
    """The evaluation metric by which `best` is chosen; higher is better."""

    def train_batches(self, first_step: int, last_step: int) -> Iterator[B]:
        """Micro-batches of steps [first_step, last_step), in order, one a pass."""

    def loss(self, model: nn.Module, batch: B) -> Tensor:
        """Mean loss of a micro-batch, a scalar."""

    def step_images(self, step: int) -> dict[str, object]:
        """What the global batch of a step is made of, in plain containers."""

    def notes(self) -> list[str]:
        """What a reader of the run should know of the data, since this was last asked."""

    def state(self) -> dict[str, object]:
        """What a checkpoint keeps of the task, in plain containers."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up where `state` left off."""

    def data_wait(self) -> float:
        """Seconds spent waiting for data since the start."""
