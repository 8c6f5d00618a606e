"""The state of training: what changes from step to step, and how it goes into a checkpoint and back."""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim import Optimizer

from vim_train.config.errors import UserError
from vim_train.config.schema import EmaConfig
from vim_train.engine.checkpoint import Loaded, check_compatible
from vim_train.engine.precision import Precision

CONFIGURED = ("weight_decay", "betas", "eps", "momentum", "lr_scale")
"""What an optimiser's state holds but the configuration decides, also of a run that goes on with another one."""


@dataclass
class Window:
    """Sums since training scalars were last logged; part of the state, so that a resumed run logs the same means."""

    steps: int = 0
    loss: float = 0.0
    grad_norm: float = 0.0

    def add(self, loss: float, grad_norm: float) -> None:
        self.steps += 1
        self.loss += loss
        self.grad_norm += grad_norm

    def means(self) -> dict[str, float]:
        n = self.steps or float("nan")
        return {"train/loss": self.loss / n, "train/grad_norm": self.grad_norm / n}


@dataclass
class Counters:
    """Where training stands."""

    step: int = 0
    evaluated_step: int = 0
    best: float | None = None
    best_step: int | None = None
    skipped: int = 0
    overflows: int = 0
    """Updates that fp16's scaler skipped."""
    skipped_in_a_row: int = 0
    stopped_early: bool = False
    """Whether the last evaluation was one too many without a better one (`eval.patience`)."""


@dataclass
class TrainState:
    """Everything that a checkpoint holds."""

    model: nn.Module
    optimizer: Optimizer
    precision: Precision
    ema: ModelEmaV3 | None
    counters: Counters = field(default_factory=Counters)
    window: Window = field(default_factory=Window)

    def weights(self) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        return self.model.state_dict(), None if self.ema is None else self.ema.module.state_dict()

    def rest(self) -> dict[str, Any]:
        """Plain containers and tensors only, so that it loads with ``weights_only=True``."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "optimizer_class": type(self.optimizer).__name__,
            "scaler": self.precision.scaler.state_dict(),
            "counters": asdict(self.counters),
            "window": asdict(self.window),
        }

    def restore(self, loaded: Loaded) -> None:
        """Take over a checkpoint.

        Raises:
            UserError: weights of another model, or state of another optimiser or for other groups of parameters.
        """
        check_compatible(loaded.model, self.model.state_dict())
        self.model.load_state_dict(loaded.model)
        if self.ema is not None:
            self.ema.module.load_state_dict(loaded.model if loaded.ema is None else loaded.ema)
        self._restore_optimizer(loaded.state)
        if loaded.state["scaler"]:  # empty without fp16
            self.precision.scaler.load_state_dict(loaded.state["scaler"])
        self.counters = Counters(**loaded.state["counters"])
        self.window = Window(**loaded.state["window"])

    def _restore_optimizer(self, state: dict[str, Any]) -> None:
        anew = "take another run.name with model.checkpoint=... to start from its weights"
        own = type(self.optimizer).__name__
        if (theirs := state.get("optimizer_class", own)) != own:
            raise UserError(f"optim.name: the checkpoint holds the state of {theirs}, not of {own}; {anew}")
        configured = [{k: group[k] for k in CONFIGURED if k in group} for group in self.optimizer.param_groups]
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            raise UserError(f"optim: the checkpoint's optimiser does not fit ({error}); {anew}") from error
        for group, settings in zip(self.optimizer.param_groups, configured, strict=True):
            group.update(settings)

    def update_ema(self, warmup: bool) -> None:
        if self.ema is not None:
            # Without a step timm applies `decay` from the first update on, as the published runs did.
            self.ema.update(self.model, step=self.counters.step if warmup else None)


def create_ema(model: nn.Module, cfg: EmaConfig) -> ModelEmaV3 | None:
    if cfg.decay is None:
        return None
    ema = ModelEmaV3(model, decay=cfg.decay, use_warmup=cfg.warmup)
    for parameter in ema.module.parameters():
        parameter.requires_grad_(False)
    return ema


class DivergedError(Exception):
    """The loss or the gradient is not finite and the policy is to stop."""


def global_norm(parameters: list[nn.Parameter]) -> Tensor:
    """2-norm of all gradients together, a scalar; no synchronisation with the host."""
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
