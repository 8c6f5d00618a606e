"""The loop: what it computes, when it stops, and that resuming changes nothing."""

import math
import signal
from pathlib import Path

import pytest
import torch
from toy import toy_config, toy_trainer

from vim_train.config.errors import UserError
from vim_train.config.schema import Amp, NonFinite
from vim_train.engine import checkpoint
from vim_train.engine.evaluation import evaluate
from vim_train.engine.loop import OVERFLOWS_MAX, Trainer
from vim_train.engine.replay import MOST, plain, read
from vim_train.engine.state import DivergedError
from vim_train.engine.stopping import StopRequest


def weights(trainer) -> dict[str, torch.Tensor]:
    model, ema = trainer.state.weights()
    return model | {f"ema.{name}": value for name, value in ema.items()}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_it_learns_and_reports_at_the_configured_steps(tmp_path: Path) -> None:
    trainer = toy_trainer(toy_config(), tmp_path)
    metrics = trainer.train()
    lines = trainer.report.lines
    assert [line["step"] for line in lines if line["kind"] == "train"] == [3, 6, 9, 12, 15, 18, 20]
    assert [line["step"] for line in lines if line["kind"] == "eval"] == [5, 10, 15, 20]
    assert metrics["eval/top1"] > 80
    assert metrics["ema/top1"] > 80
    assert trainer.report.steps == list(range(1, 21))


@pytest.mark.parametrize("saved_step", [2, 4, 5, 12])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, saved_step: int) -> None:
    cfg = toy_config()
    cfg.checkpoint.keep = 100
    whole = toy_trainer(cfg, tmp_path / "whole")
    whole.train()

    resumed = toy_trainer(cfg, tmp_path / "resumed")
    resumed.restore(checkpoint.load(tmp_path / "whole" / "checkpoints" / f"step_{saved_step:08d}"))
    resumed.train()
    assert_same(weights(whole), weights(resumed))
    assert [line for line in whole.report.lines if line["step"] > saved_step] == resumed.report.lines


def test_accumulation_changes_nothing_but_rounding(tmp_path: Path) -> None:
    cfg = toy_config()
    one = toy_trainer(cfg, tmp_path / "one")
    one.train()
    cfg.optim.accumulate = 4
    four = toy_trainer(cfg, tmp_path / "four")
    four.train()
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(four)[name], value, rtol=1e-4, atol=1e-5)


def test_a_signal_saves_at_the_step_edge_and_the_rest_follows_exactly(tmp_path: Path) -> None:
    cfg = toy_config()
    whole = toy_trainer(cfg, tmp_path / "whole")
    whole.train()

    stop = StopRequest()
    first = toy_trainer(cfg, tmp_path / "run", stop)
    progress = first.report.progress

    def ask_at_seven(step: int, *rest: float) -> None:
        progress(step, *rest)
        if step == 7:
            stop.caught = signal.SIGTERM

    first.report.progress = ask_at_seven
    first.train()
    assert first.state.counters.step == 7
    found = checkpoint.latest(tmp_path / "run")
    assert found is not None
    assert found.step == 7

    second = toy_trainer(cfg, tmp_path / "run")
    second.restore(checkpoint.load(found.path))
    second.train()
    assert_same(weights(whole), weights(second))


def test_an_evaluation_cut_short_is_made_up_for_on_resume(tmp_path: Path) -> None:
    cfg, stop = toy_config(), StopRequest()
    first = toy_trainer(cfg, tmp_path, stop)
    batches = first.task.eval_batches

    def ask_then_evaluate():
        stop.caught = signal.SIGUSR1
        return batches()

    first.task.eval_batches = ask_then_evaluate
    first.train()
    assert first.state.counters.step == 5
    assert not [line for line in first.report.lines if line["kind"] == "eval"]

    second = toy_trainer(cfg, tmp_path)
    second.restore(checkpoint.load(checkpoint.latest(tmp_path).path))
    second.train()
    assert [line["step"] for line in second.report.lines if line["kind"] == "eval"] == [5, 10, 15, 20]


def test_a_first_evaluation_that_fails_leaves_a_checkpoint_to_go_on_from(tmp_path: Path) -> None:
    cfg = toy_config()
    cfg.checkpoint.every = "4ep"
    whole = toy_trainer(cfg, tmp_path / "whole")
    whole.train()

    def bad_image():
        raise UserError("evaluation image cannot be decoded")

    first = toy_trainer(cfg, tmp_path / "run")
    first.task.eval_batches = bad_image
    with pytest.raises(UserError, match="evaluation image"):
        first.train()
    newest = checkpoint.latest(tmp_path / "run")
    assert newest.step == 5

    second = toy_trainer(cfg, tmp_path / "run")
    second.restore(checkpoint.load(newest.path))
    second.train()
    assert_same(weights(whole), weights(second))
    assert [line["step"] for line in second.report.lines if line["kind"] == "eval"] == [5, 10, 15, 20]


def test_the_last_evaluation_cut_short_is_no_end_of_the_run(tmp_path: Path) -> None:
    cfg, stop = toy_config(), StopRequest()
    cfg.eval.every = "4ep"
    first = toy_trainer(cfg, tmp_path, stop)
    batches = first.task.eval_batches

    def ask_then_evaluate():
        stop.caught = signal.SIGTERM
        return batches()

    first.task.eval_batches = ask_then_evaluate
    first.train()
    assert first.state.counters.step == first.total_steps
    assert not first.finished
    assert not (tmp_path / "checkpoints" / "best").exists()

    second = toy_trainer(cfg, tmp_path)
    second.restore(checkpoint.load(checkpoint.latest(tmp_path).path))
    second.train()
    assert second.finished
    assert [line["step"] for line in second.report.lines if line["kind"] == "eval"] == [20]
    best, newest = (checkpoint.load(tmp_path / "checkpoints" / name) for name in ("best", "step_00000020"))
    assert best.step == newest.step == newest.state["counters"]["evaluated_step"] == 20
    assert newest.meta["metrics"] == second.last_metrics

    third = toy_trainer(cfg, tmp_path)
    third.restore(newest)
    assert third.train() == second.last_metrics
    assert third.finished
    assert third.report.lines == []


def test_a_run_that_goes_on_takes_the_optimiser_settings_of_its_configuration(tmp_path: Path) -> None:
    cfg = toy_config()
    toy_trainer(cfg, tmp_path).train()
    loaded = checkpoint.load(checkpoint.latest(tmp_path).path)

    cfg.optim.weight_decay, cfg.optim.betas, cfg.precision.amp = 0.3, [0.5, 0.6], Amp.fp16
    changed = toy_trainer(cfg, tmp_path)
    changed.restore(loaded)
    groups = changed.state.optimizer.param_groups
    assert sorted(group["weight_decay"] for group in groups) == [0.0, 0.3]
    assert all(group["betas"] == (0.5, 0.6) for group in groups)
    assert len(changed.state.optimizer.state) == 2

    cfg.optim.name = "sgd"
    with pytest.raises(UserError, match="the checkpoint holds the state of AdamW, not of SGD"):
        toy_trainer(cfg, tmp_path).restore(loaded)
    cfg.optim.name, cfg.optim.weight_decay = "adamw", 0.0
    with pytest.raises(UserError, match="the checkpoint's optimiser does not fit"):
        toy_trainer(cfg, tmp_path).restore(loaded)


def test_layer_decay_survives_a_resume_and_follows_the_configuration(tmp_path: Path) -> None:
    cfg = toy_config()
    cfg.checkpoint.keep = 100

    def trainer(folder: str, layer_decay: float):
        cfg.optim.layer_decay = None
        made = toy_trainer(cfg, tmp_path / folder)
        made.task.model.group_matcher = lambda coarse: {"stem": "^weight", "head": "^bias"}
        cfg.optim.layer_decay = layer_decay
        return type(made)(cfg, made.task, made.schedule, made.ranks, made.run_dir, {}, made.report, made.stop)

    whole = trainer("whole", 0.5)
    whole.train()
    loaded = checkpoint.load(tmp_path / "whole" / "checkpoints" / "step_00000004")
    resumed = trainer("resumed", 0.5)
    resumed.restore(loaded)
    resumed.train()
    assert_same(weights(whole), weights(resumed))
    changed = trainer("changed", 0.25)
    changed.restore(loaded)
    assert sorted(group["lr_scale"] for group in changed.state.optimizer.param_groups) == [0.25, 1.0]


def test_non_finite_stops_before_the_update(tmp_path: Path) -> None:
    trainer = toy_trainer(toy_config(), tmp_path)
    trainer.task.poison_at = {3}
    with pytest.raises(DivergedError, match=r"step 3 \(epoch 0\): no update was made; lower optim.lr"):
        trainer.train()
    assert all(torch.isfinite(value).all() for value in weights(trainer).values())


def test_a_step_that_is_not_finite_is_kept_with_the_weights_before_it(tmp_path: Path) -> None:
    trainer = toy_trainer(toy_config(), tmp_path)
    trainer.task.poison_at = {3}
    with pytest.raises(DivergedError):
        trainer.train()
    file = tmp_path / "replay" / "step_00000003.json"
    kept = read(file)
    assert (kept.step, kept.seed, kept.world, kept.batch) == (3, trainer.cfg.seed, 1, {"step": 3})
    assert kept.lr == trainer.schedule.lr(3)
    assert math.isnan(kept.loss)
    assert math.isnan(kept.grad_norm)
    assert kept.config == plain(trainer.cfg)
    assert_same(checkpoint.load_weights(file.with_suffix(".safetensors"))[0], trainer.task.model.state_dict())
    assert str(file) in trainer.report.lines[-1]["text"]


def test_a_run_keeps_the_first_few_of_such_steps(tmp_path: Path) -> None:
    cfg = toy_config()
    cfg.optim.non_finite, cfg.optim.non_finite_max = NonFinite.skip, 100
    trainer = toy_trainer(cfg, tmp_path)
    trainer.task.poison_at = set(range(4, 18))
    trainer.train()
    kept = sorted(file.name for file in (tmp_path / "replay").glob("*.json"))
    assert kept == [f"step_{step:08d}.json" for step in range(4, 4 + MOST)]
    assert len(list((tmp_path / "replay").iterdir())) == 2 * MOST


def test_a_step_that_cannot_be_kept_is_no_other_end_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "replay").write_text("in the way")
    trainer = toy_trainer(toy_config(), tmp_path)
    trainer.task.poison_at = {3}
    with pytest.raises(DivergedError):
        trainer.train()
    assert "step 3 could not be kept for replay" in trainer.report.lines[-1]["text"]


def test_non_finite_skip_leaves_weights_and_average_alone(tmp_path: Path) -> None:
    cfg = toy_config()
    cfg.optim.non_finite = NonFinite.skip
    trainer = toy_trainer(cfg, tmp_path)
    trainer.task.poison_at = {3, 4, 11}
    trainer.train()
    assert trainer.state.counters.skipped == 3
    assert trainer.state.counters.skipped_in_a_row == 0
    assert all(torch.isfinite(value).all() for value in weights(trainer).values())
    logged = [line["train/loss"] for line in trainer.report.lines if line["kind"] == "train"]
    assert all(math.isfinite(loss) for loss in logged)


def test_too_many_skips_in_a_row_stop_the_run(tmp_path: Path) -> None:
    cfg = toy_config()
    cfg.optim.non_finite, cfg.optim.non_finite_max = NonFinite.skip, 3
    trainer = toy_trainer(cfg, tmp_path)
    trainer.task.poison_at = {4, 5, 6, 7}
    with pytest.raises(DivergedError, match="3 updates in a row"):
        trainer.train()


def test_fp16_overflow_skips_the_update_and_lowers_the_scale(tmp_path: Path) -> None:
    cfg = toy_config()
    cfg.precision.amp = Amp.fp16
    trainer = toy_trainer(cfg, tmp_path)
    trainer.state.precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    before = {name: value.clone() for name, value in weights(trainer).items()}
    batches = trainer.task.train_batches(0, 1)
    trainer.step(batches, 0.1)
    assert_same(before, weights(trainer))
    assert trainer.state.precision.scaler.get_scale() < 2.0**120
    trainer.state.precision.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    trainer.train()
    assert all(torch.isfinite(value).all() for value in weights(trainer).values())


def test_fp16_that_overflows_for_ever_stops_the_run(tmp_path: Path) -> None:
    cfg = toy_config()
    cfg.precision.amp, cfg.schedule.epochs = Amp.fp16, 20
    trainer = toy_trainer(cfg, tmp_path)
    loss = trainer.task.loss

    def infinite_slope(model, batch):
        weight = model.weight.flatten()[0]
        return loss(model, batch) + (weight - weight.detach()).sqrt()  # finite, with an infinite gradient

    trainer.task.loss = infinite_slope
    with pytest.raises(DivergedError, match=f"fp16 overflowed {OVERFLOWS_MAX} times in a row; take precision=bf16"):
        trainer.train()
    assert trainer.state.counters.step == OVERFLOWS_MAX - 1


def test_gradient_clipping_bounds_the_update(tmp_path: Path) -> None:
    cfg = toy_config()
    cfg.optim.name, cfg.optim.momentum, cfg.optim.weight_decay, cfg.optim.grad_clip_norm = "sgd", 0.9, 0.0, 1e-3
    trainer = toy_trainer(cfg, tmp_path)
    before = trainer.task.model.weight.detach().clone()
    trainer.step(trainer.task.train_batches(0, 1), lr=1.0)
    moved = (trainer.task.model.weight.detach() - before).norm()
    assert 0 < moved <= 1.9001e-3  # Nesterov: the gradient and 0.9 of it again


def test_evaluation_restores_training_mode_and_takes_every_image(tmp_path: Path) -> None:
    trainer = toy_trainer(toy_config(), tmp_path)
    trainer.task.model.train()
    metrics = evaluate(trainer.task, trainer.task.model, trainer.state.precision, trainer.ranks)
    assert trainer.task.model.training
    assert metrics is not None
    assert metrics["images"] == 3 * 16


def test_patience_ends_the_run_and_survives_a_resume(tmp_path: Path) -> None:
    """The top-1 of the evaluations is 1, 3, 2, 3, 4: two epochs without a better one end at the fourth."""
    cfg = toy_config()
    cfg.schedule.epochs, cfg.checkpoint.keep, cfg.eval.patience = 5, 100, "2ep"

    def trainer(run: str, stop: StopRequest | None = None) -> Trainer:
        made = toy_trainer(cfg, tmp_path / run, stop)
        scores = {5: 1.0, 10: 3.0, 15: 2.0, 20: 3.0, 25: 4.0}
        made.task.eval_metrics = lambda counts: {"top1": scores[made.state.counters.step]}
        return made

    whole = trainer("run")
    whole.train()
    assert whole.state.counters.step == 20
    assert whole.finished
    for step in (12, 16, 20):  # in the middle of it, and after the end, before the summary was written
        resumed = trainer(f"from_{step}")
        resumed.restore(checkpoint.load(tmp_path / "run" / "checkpoints" / f"step_{step:08d}"))
        resumed.train()
        assert_same(weights(whole), weights(resumed))
        assert resumed.finished
        assert resumed.state.counters == whole.state.counters
    assert checkpoint.latest(tmp_path / "run").step == 20

    cfg.eval.patience = "11st"
    longer = trainer("longer")
    longer.train()
    assert longer.state.counters.step == 25
    assert not longer.state.counters.stopped_early


def test_an_evaluation_made_up_for_on_resume_can_end_patience(tmp_path: Path) -> None:
    cfg, stop = toy_config(), StopRequest()
    cfg.eval.patience = "1ep"
    first = toy_trainer(cfg, tmp_path, stop)
    batches = first.task.eval_batches
    first.task.eval_metrics = lambda counts: {"top1": 1.0}

    def ask_at_ten():
        stop.caught = signal.SIGTERM if first.state.counters.step == 10 else None
        return batches()

    first.task.eval_batches = ask_at_ten
    first.train()
    assert (first.state.counters.step, first.finished) == (10, False)

    second = toy_trainer(cfg, tmp_path)
    second.task.eval_metrics = first.task.eval_metrics
    second.restore(checkpoint.load(checkpoint.latest(tmp_path).path))
    second.train()
    assert (second.state.counters.step, second.finished) == (10, True)
    assert checkpoint.load(checkpoint.latest(tmp_path).path).state["counters"]["stopped_early"]
