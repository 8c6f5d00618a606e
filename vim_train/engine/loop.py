"""The training loop, top to bottom."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from signal import Signals
from typing import Any, Generic

import torch
from torch import Tensor

from vim_train.config.durations import to_steps
from vim_train.config.passes import passes
from vim_train.config.schema import Determinism, Freeze, NonFinite, TrainConfig
from vim_train.engine import checkpoint
from vim_train.engine.clipping import create_clip
from vim_train.engine.compiling import compile_forward, compiles, own_gradients
from vim_train.engine.drift import check_replicas
from vim_train.engine.evaluation import evaluate
from vim_train.engine.lanes import LaneLoss, strict_gradients
from vim_train.engine.meter import Meter, memory_mb
from vim_train.engine.optim import create_optimizer, set_lr
from vim_train.engine.precision import set_precision
from vim_train.engine.ranks import Ranks
from vim_train.engine.replay import BadStep, keep, plain
from vim_train.engine.reporter import Reporter
from vim_train.engine.saving import Saver
from vim_train.engine.schedule import Schedule
from vim_train.engine.state import DivergedError, TrainState, Window, create_ema, global_norm
from vim_train.engine.stopping import StopRequest
from vim_train.engine.task import B, Task

OVERFLOWS_MAX = 40
"""fp16 overflows in a row that stop a run: halved so often from 2^16, the scale is no longer at fault."""

SAVE_FAILED = 1 << 8
"""What rank 0 says instead of a signal's number where a failed save is to stop the run."""


@dataclass
class Trainer(Generic[B]):
    """One run: build, then `restore` where there is a checkpoint, then `train`."""

    cfg: TrainConfig
    task: Task[B]
    schedule: Schedule
    ranks: Ranks
    run_dir: Path
    meta: dict[str, Any]
    report: Reporter
    stop: StopRequest

    def __post_init__(self) -> None:
        cfg, model = self.cfg, self.task.model
        self.device = self.ranks.device
        self.strict = cfg.determinism is Determinism.strict
        compile_ = compiles(cfg.ops.compile, self.device, cfg.determinism, partial(self.report.event, 0))
        self.forward = compile_forward(model, compile_, cfg.data.eval_batch_size)
        self.parallel = self.forward if self.strict else self.ranks.wrap(self.forward, cfg.optim.grad_compression)
        self.state = TrainState(
            model,
            create_optimizer(model, cfg.optim, self.schedule.peak),
            set_precision(cfg.precision.amp, self.device),
            create_ema(model, cfg.ema),
        )
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.clip = create_clip(model, cfg.optim)
        self.evaluated = {"eval": self.forward}
        if self.state.ema is not None:
            self.evaluated["ema"] = compile_forward(self.state.ema.module, compile_, cfg.data.eval_batch_size)
        self.own_gradients = own_gradients(self.parameters, compile_, self.device)
        self.total_steps = self.schedule.total_steps
        self.passes = passes(cfg, self.ranks.world)
        self.last_metrics: dict[str, float] = {}
        self.saver = Saver(cfg, self.task, self.state, self.ranks, self.run_dir, self.meta, self.report)

    def restore(self, loaded: checkpoint.Loaded) -> None:
        self.state.restore(loaded)
        self.last_metrics = dict(loaded.meta.get("metrics", {}))
        self.saver.restored()
        self.report.load_state(loaded.state["report"])
        self.task.load_state(loaded.state["task"])

    @property
    def finished(self) -> bool:
        """Whether all steps are done and the last evaluation too, which a stop request may have cut short.

        Also whether patience has ended before.
        """
        return self.state.counters.stopped_early or self.state.counters.evaluated_step == self.total_steps

    def train(self) -> dict[str, float]:
        """Train to the end, or until patience ends or a stop is asked for; returns the last evaluation's metrics.

        Raises:
            DivergedError: the policy for what is not finite is to stop.
            CheckpointError: the last save failed, or another where the policy is to stop.
        """
        try:
            return self._train()
        finally:
            self.saver.close()

    def _train(self) -> dict[str, float]:
        cfg, counters, total = self.cfg, self.state.counters, self.total_steps
        every = {"log": cfg.logger.every, "eval": cfg.eval.every, "save": cfg.checkpoint.every}
        every |= {} if cfg.run.drift_every is None else {"drift": cfg.run.drift_every}
        interval = {what: self._steps(text) for what, text in every.items()}
        meter = Meter()

        def due(what: str) -> bool:
            return counters.step == total or counters.step % interval[what] == 0

        self.report.start_training(total, self.schedule.steps_per_epoch, counters.step)
        if counters.step > 0 and due("eval") and counters.evaluated_step != counters.step:
            improved = self._evaluate()  # the stop that made this checkpoint came before or during the evaluation
            if counters.evaluated_step == counters.step:
                self._save(improved, last=self.finished)

        batches = self.task.train_batches(counters.step, total)
        self.forward.train(cfg.model.freeze is Freeze.none)  # a frozen one keeps its statistics and drops nothing
        stopping = counters.stopped_early
        while counters.step < total and not stopping:
            lr = self.schedule.lr(counters.step)
            loss = self.step(batches, lr)
            counters.step += 1

            meter.update(cfg.data.batch_size, self.task.data_wait())
            self.report.progress(counters.step, loss, lr, meter.images_per_s, meter.data_wait, memory_mb(self.device))
            if due("log"):
                self._log(lr, meter)
            meter.pause()
            if due("eval") and counters.evaluated_step == 0:
                # A bad validation image, or too little memory for one, shows now at the latest.
                self._save(best=False, last=False)
            improved = due("eval") and self._evaluate()
            stopping = self._stop_asked() or counters.stopped_early
            if due("save") or improved or stopping:
                self._save(improved, last=stopping or counters.step == total)
            elif "drift" in interval and due("drift"):
                self._check_drift()
            meter.resume()
        return self.last_metrics

    def step(self, batches: Iterator[B], lr: float) -> float:
        """Forward, backward and update over one global batch; returns its loss."""
        state, scaler = self.state, self.state.precision.scaler
        loss, norm = self.loss_and_norm(batches)
        loss_value, norm_value = self._read(loss, norm)  # the step's only host synchronisation
        if self._finite(loss_value, norm_value):
            self.clip(norm)
            set_lr(state.optimizer, lr)
            scaler.step(state.optimizer)
            state.update_ema(self.cfg.ema.warmup)
            state.window.add(loss_value, norm_value)
        scaler.update()  # lowers the scale where `unscale_` met an overflow
        state.optimizer.zero_grad(set_to_none=not self.own_gradients)
        return loss_value

    def loss_and_norm(self, batches: Iterator[B]) -> tuple[Tensor, Tensor]:
        """Leave the global batch's gradients in the parameters, unscaled; returns its loss and their norm, scalars."""
        loss = self._strict_gradients(batches) if self.strict else self._gradients(batches)
        self._beat("update")
        self.state.precision.scaler.unscale_(self.state.optimizer)
        return loss, global_norm(self.parameters)

    def _gradients(self, batches: Iterator[B]) -> Tensor:
        """Leave the global batch's gradients in the parameters; returns its loss."""
        passes, state = self.passes, self.state
        total = torch.zeros((), device=self.device)
        for part in range(passes):
            self._beat("data")
            batch = next(batches)
            self._beat("forward")
            with self.ranks.unshared(self.parallel, part < passes - 1):
                with state.precision.autocast():
                    loss = self.task.loss(self.parallel, batch) / passes
                self._beat("backward")
                state.precision.scaler.scale(loss).backward()
            total += loss.detach()
        return self.ranks.mean(total)

    def _strict_gradients(self, batches: Iterator[B]) -> Tensor:
        """The same, lane by lane and added up in the order of lanes."""
        data, passes = self.cfg.data, self.passes
        share = data.batch_size // (passes * self.ranks.world * data.lane)  # lanes of a rank in a pass

        def lanes() -> Iterator[tuple[int, LaneLoss]]:
            for part in range(passes):
                first = (part * self.ranks.world + self.ranks.rank) * share
                self._beat("data")
                for number, lane in enumerate(next(batches).split(data.lane), first):
                    self._beat("forward and backward")
                    yield number, partial(self._lane_loss, lane)

        return strict_gradients(self.parameters, lanes(), data.batch_size // data.lane, self.ranks)

    def _lane_loss(self, lane: B) -> tuple[Tensor, Tensor]:
        with self.state.precision.autocast():
            loss = self.task.loss(self.parallel, lane)
        return loss, self.state.precision.scaler.scale(loss)

    @staticmethod
    def _read(*scalars: Tensor) -> list[float]:
        return torch.stack([scalar.float() for scalar in scalars]).tolist()

    def _finite(self, loss: float, norm: float) -> bool:
        """Whether to take the update; applies the policy where loss or gradient is not finite.

        An overflow of fp16's scaled gradient is none of the policy's business, as long as it passes.

        Raises:
            DivergedError: the policy is to stop, or too many updates in a row were skipped.
        """
        optim, counters = self.cfg.optim, self.state.counters
        if math.isfinite(loss) and math.isfinite(norm):
            counters.skipped_in_a_row = 0
            return True
        counters.skipped_in_a_row += 1
        step, epoch = counters.step, counters.step // self.schedule.steps_per_epoch
        text = f"loss {loss:.4g} and gradient norm {norm:.4g} at step {step} (epoch {epoch})"
        if math.isfinite(loss) and self.state.precision.scaler.is_enabled():
            counters.overflows += 1
            if counters.skipped_in_a_row < OVERFLOWS_MAX:
                return False
            self._keep_step(loss, norm)
            raise DivergedError(f"{text}: fp16 overflowed {OVERFLOWS_MAX} times in a row; take precision=bf16 or fp32")
        counters.skipped += 1
        self._keep_step(loss, norm)
        if optim.non_finite is NonFinite.stop:
            raise DivergedError(
                f"{text}: no update was made; lower optim.lr, set optim.grad_clip_norm, or optim.non_finite=skip"
            )
        if counters.skipped_in_a_row >= optim.non_finite_max:
            raise DivergedError(f"{text}: {counters.skipped_in_a_row} updates in a row were skipped")
        self.report.event(step, f"update skipped: {text}", skipped=counters.skipped)
        return False

    def _keep_step(self, loss: float, norm: float) -> None:
        """Keep the step, of which no update was made, for `vim-train replay=FILE`."""
        if not self.ranks.first:
            return
        step, scale = self.state.counters.step, self.state.precision.scaler.get_scale()
        lr, world, batch = self.schedule.lr(step), self.ranks.world, self.task.step_images(step)
        bad = BadStep(step, loss, norm, lr, self.cfg.seed, scale, world, batch, self.meta, plain(self.cfg))
        try:
            if file := keep(self.run_dir, bad, self.state.model.state_dict()):
                self.report.event(step, f"vim-train replay={file} computes step {step} again")
        except OSError as error:
            self.report.event(step, f"step {step} could not be kept for replay: {error}")

    def _tell_notes(self) -> None:
        for notes in self.ranks.gather(self.task.notes()):
            for note in notes:
                self.report.event(self.state.counters.step, note)

    def _stop_asked(self) -> bool:
        """Whether a signal has asked any rank to stop; then all have been.

        Raises:
            CheckpointError: a save has failed and the policy is to stop.
        """
        self.saver.poll()
        number = self.ranks.largest(SAVE_FAILED if self.saver.failed else self.stop.caught or 0)
        if number == SAVE_FAILED:
            self.saver.raise_together()
        if number:
            self.stop.caught = Signals(number)
        return number != 0

    def _log(self, lr: float, meter: Meter) -> None:
        self._tell_notes()
        speed = {"train/images_per_s": meter.images_per_s, "train/data_wait": meter.data_wait}
        metrics = {**self.state.window.means(), "train/lr": lr, **speed, "train/save_wait": self.saver.waited_s}
        self.report.train(self.state.counters.step, self._epoch(), metrics)
        self.state.window, self.saver.waited_s = Window(), 0.0

    def _evaluate(self) -> bool:
        """Evaluate raw and averaged weights; True if either is the best so far. A stop request cuts it short."""
        state, counters = self.state, self.state.counters
        self.report.phase("evaluating")
        self._beat("evaluation")
        metrics: dict[str, float] = {}
        for prefix, model in self.evaluated.items():
            found = evaluate(self.task, model, state.precision, self.ranks, self._stop_asked)
            if found is None:
                return False
            metrics |= {f"{prefix}/{name}": value for name, value in found.items()}
        counters.evaluated_step = counters.step
        self.last_metrics = metrics
        self.report.eval(counters.step, self._epoch(), metrics)
        score = max(metrics[f"{prefix}/{self.task.headline}"] for prefix in self.evaluated)
        counters.best, counters.best_step = self.saver.best()
        if counters.best is not None and score <= counters.best:
            counters.stopped_early = self._patience_over()
            return False
        counters.best, counters.best_step = score, counters.step
        return True

    def _patience_over(self) -> bool:
        """Whether so much of training, which is not at its end, has brought nothing better."""
        patience, step, best_step = self.cfg.eval.patience, self.state.counters.step, self.state.counters.best_step
        return patience is not None and step < self.total_steps and step - (best_step or 0) >= self._steps(patience)

    def _save(self, best: bool, last: bool) -> None:
        """Save, after a look at whether all ranks hold the same.

        Raises:
            CheckpointError: the last one failed, or the one before and the policy is to stop.
        """
        self.report.phase("saving")
        self._check_drift()
        self._beat("save")
        self._tell_notes()
        self.saver.save(self._epoch(), self.last_metrics, best=best, last=last)

    def _check_drift(self) -> None:
        state = self.state
        if self.cfg.run.drift_every is not None:
            check_replicas(state.model, state.ema and state.ema.module, self.ranks, state.counters.step)

    def _beat(self, phase: str) -> None:
        self.ranks.heart.beat(phase, self.state.counters.step)

    def _epoch(self) -> int:
        return self.state.counters.step // self.schedule.steps_per_epoch

    def _steps(self, text: str) -> int:
        return to_steps(text, self.schedule.steps_per_epoch, self.cfg.data.batch_size)
