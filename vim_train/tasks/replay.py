"""`vim-train replay=FILE`: a step that was not finite, computed again in one process, and where it went wrong."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from vim_train.config.checks import check_train, peak_lr
from vim_train.config.compose import restore_config
from vim_train.config.errors import FAILED, UserError
from vim_train.config.passes import passes
from vim_train.config.schema import Determinism, Freeze, TrainConfig
from vim_train.data.batch import Batch
from vim_train.engine.loop import Trainer
from vim_train.engine.ranks import Ranks
from vim_train.engine.replay import BadStep, read
from vim_train.engine.schedule import Schedule
from vim_train.engine.setup import choose_device, configure_torch
from vim_train.engine.stopping import StopRequest
from vim_train.report.report import NullReport
from vim_train.tasks.classification import Classification
from vim_train.tasks.weights import load_into

_OWN = ("replay", "device", "debug", "data", "data.root", "data.workers", "ops")
_SHOWN = 5
_TOLERANCE = 1e-3


def replay(command: TrainConfig) -> int:
    """Compute the step of `command.replay` again and print what came out; returns the exit code, 1 for other numbers.

    Raises:
        UserError: no such step, or its data or weights are not there any more.
    """
    file = Path(str(command.replay))
    bad = read(file)
    cfg = _configuration(command, bad, file)
    ranks = Ranks(choose_device(command.device))
    configure_torch(cfg.ops, cfg.determinism, ranks.device)
    task = Classification(cfg, ranks)
    try:
        if task.train_stream.fingerprint() != bad.meta.get("fingerprint"):
            raise UserError(f"replay={file}: the images of data.root are not those of the run")
        schedule = Schedule(cfg.schedule, peak_lr(cfg.optim, cfg.data.batch_size), task.steps_per_epoch)
        trainer = Trainer(cfg, task, schedule, ranks, file.parent, {}, NullReport(), StopRequest())
        return _replay(trainer, task, bad, file)
    finally:
        task.close()


def _configuration(command: TrainConfig, bad: BadStep, file: Path) -> TrainConfig:
    """The run's own, for one process whose passes are those of the ranks."""
    given = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    keys = [item.partition("=")[0].lstrip("+") for item in given]
    for key in keys:
        if key not in _OWN and not key.startswith("ops."):
            raise UserError(f"{key}: the step has the run's own; replay goes with {', '.join(_OWN[1:-1])} and ops.*")
    cfg = restore_config(lambda: bad.config, file)
    root = command.data.root if "data.root" in keys else cfg.data.root
    workers = command.data.workers if "data.workers" in keys else cfg.data.workers
    count = passes(cfg, bad.world) * (1 if cfg.determinism is Determinism.strict else bad.world)
    cfg = replace(
        cfg,
        device=command.device,
        gpus=None,
        ops=command.ops,
        debug=command.debug,
        model=replace(cfg.model, checkpoint=None, reset_head=False),
        data=replace(cfg.data, root=root, workers=workers, micro_batch_size=None),
        optim=replace(cfg.optim, accumulate=count),
        ema=replace(cfg.ema, decay=None),
    )
    check_train(cfg)
    return cfg


def _replay(trainer: Trainer[Batch], task: Classification, bad: BadStep, file: Path) -> int:
    weights = str(file.with_suffix(".safetensors"))
    trainer.state.counters.step = bad.step
    scaler = trainer.state.precision.scaler
    if scaler.is_enabled():
        scaler.load_state_dict({**scaler.state_dict(), "scale": bad.loss_scale})
    load_into(task.model, weights)
    task.model.train(trainer.cfg.model.freeze is Freeze.none)
    with first_not_finite(task.model) as found:
        loss, norm = (float(each) for each in trainer.loss_and_norm(task.train_batches(bad.step, bad.step + 1)))
    same = _alike(loss, bad.loss) and _alike(norm, bad.grad_norm)
    print(f"step {bad.step}, epoch {bad.batch['epoch']}, lr {bad.lr:g}, seed {bad.seed}, {bad.world} rank(s)")
    print(f"recorded: loss {bad.loss:.6g}, gradient norm {bad.grad_norm:.6g}")
    print(f"replayed: loss {loss:.6g}, gradient norm {norm:.6g}: {'the same' if same else 'NOT the same'}")
    print(f"forward:  {f'first not finite: the output of {found[0]}' if found else 'all outputs finite'}")
    print(f"backward: {_gradients(task.model)}")
    if math.isfinite(loss) and not math.isfinite(norm):
        print(f"          {_anomaly(trainer, task, bad)}")
    load_into(task.model, weights)  # a forward pass changes a batch norm's statistics
    for line in _worst(trainer, task, bad):
        print(line)
    return 0 if same else FAILED


def _alike(a: float, b: float) -> bool:
    if math.isfinite(a) and math.isfinite(b):
        return math.isclose(a, b, rel_tol=_TOLERANCE)
    return str(a) == str(b)


@contextmanager
def first_not_finite(model: nn.Module) -> Iterator[list[str]]:
    """Names of modules whose output is not finite, in the order of computation: inner ones first."""
    found: list[str] = []
    hooks = []
    for name, module in model.named_modules():

        def look(module: nn.Module, given: Any, output: Any, name: str = name) -> None:
            tensors = [
                each for each in (output if isinstance(output, tuple) else (output,)) if isinstance(each, Tensor)
            ]
            if not all(bool(each.isfinite().all()) for each in tensors):
                found.append(name or "the model")

        hooks.append(module.register_forward_hook(look))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _gradients(model: nn.Module) -> str:
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    broken = [name for name, grad in grads.items() if not bool(grad.isfinite().all())]
    if not broken:
        return f"the gradients of all {len(grads)} parameters are finite"
    return f"the gradients of {len(broken)} of {len(grads)} parameters are not finite, the last is {broken[-1]}"


def _anomaly(trainer: Trainer[Batch], task: Classification, bad: BadStep) -> str:
    """Which operation's gradient is the first NaN, in torch's words."""
    for parameter in task.model.parameters():
        parameter.grad = None
    try:
        with torch.autograd.set_detect_anomaly(True):
            trainer.loss_and_norm(task.train_batches(bad.step, bad.step + 1))
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return "no operation's gradient is NaN: the norm is beyond the largest number"


def _worst(trainer: Trainer[Batch], task: Classification, bad: BadStep) -> Iterator[str]:
    """The lanes with the highest losses, those that are not finite first, and the images of the worst."""
    lanes: list[tuple[float, Batch]] = []
    with torch.no_grad(), trainer.state.precision.autocast():
        for batch in task.train_batches(bad.step, bad.step + 1):
            lanes += [(float(task.loss(task.model, lane)), lane) for lane in batch.split(trainer.cfg.data.lane)]
        lanes.sort(key=lambda each: _badness(each[0]), reverse=True)
        first = int(bad.batch["positions"][0])
        for loss, lane in lanes[:_SHOWN]:
            yield f"lane:     loss {loss:.6g}, positions {lane.positions[0]} to {lane.positions[-1]}"
        if any(isinstance(module, _NormBase) for module in task.model.modules()):
            return  # a batch of one image has other statistics
        images = [(float(task.loss(task.model, image)), image) for image in lanes[0][1].split(1)]
    for loss, image in sorted(images, key=lambda each: _badness(each[0]), reverse=True)[:_SHOWN]:
        position = int(image.positions[0])
        yield f"image:    loss {loss:.6g}, position {position}, {bad.batch['images'][position - first]}"


def _badness(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf
