"""The report as a whole: resume, failures of its parts, the summary, other ranks."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from short_run import STEPS, STEPS_PER_EPOCH, Run

from vim_train.config.errors import UserError
from vim_train.report import NullReport, Report, open_report, read_metrics
from vim_train.report.plain import LogScreen
from vim_train.report.report import RunReport


def numbers(path: Path) -> list[dict[str, object]]:
    return [{key: value for key, value in record.items() if key != "time"} for record in read_metrics(path)]


def test_a_killed_and_resumed_run_has_the_numbers_of_one_never_killed(make_run: Callable[[str], Run]) -> None:
    whole, killed = make_run("whole"), make_run("killed")
    whole.whole()
    report = killed.open()
    killed.train(report, last=20)
    state = json.loads(json.dumps(report.state()))
    for step in range(21, 28):  # past the checkpoint, then killed: nothing is closed
        report.train(step, 2, {"train/loss": 9.0})
    with killed.metrics.open("ab") as file:
        file.write(b'{"kind": "train", "st')

    left_open, report = report, killed.open(resumed_step=20)
    report.load_state(state)
    killed.train(report, first=20)
    report.finish({}, [])
    report.close()
    left_open.close()
    assert numbers(killed.metrics) == numbers(whole.metrics)
    summary = json.loads((killed.run_dir / "summary.json").read_text())
    assert summary["wall_time_s"] == pytest.approx(STEPS)


def test_an_evaluation_after_the_checkpoint_of_its_step_comes_once(run: Run) -> None:
    """A run saves before its first evaluation: killed after it, it evaluates again."""
    report = run.open()
    run.train(report, 0, 9)
    state = report.state()
    report.eval(9, 0, {"eval/top1": 51.0})
    report.close()
    again = run.open(resumed_step=9)
    again.load_state(state)
    again.start_training(STEPS, STEPS_PER_EPOCH, 9)
    again.eval(9, 0, {"eval/top1": 51.0})
    again.close()
    kinds = [line["kind"] for line in read_metrics(run.run_dir / "metrics.jsonl")]
    assert kinds == ["train", "eval"]


@pytest.mark.parametrize("shortened", [True, False])
def test_a_record_that_has_lost_lines_is_said(shortened: bool, run: Run) -> None:
    report = run.open()
    run.train(report, 0, 29)
    state = report.state()
    report.close()
    if shortened:
        run.metrics.write_bytes(run.metrics.read_bytes()[:300])
    again = run.open(resumed_step=29)
    again.load_state(state)
    again.close()
    texts = [str(line["text"]) for line in read_metrics(run.metrics) if line["kind"] == "event"]
    words = "warning: metrics.jsonl is shorter than it was at the checkpoint: lines of earlier steps are lost"
    assert texts == ([words] if shortened else [])


def test_events_are_recorded_with_their_fields(run: Run) -> None:
    report = run.open()
    report.event(0, "a fresh start")
    report.start_training(STEPS, STEPS_PER_EPOCH)
    report.event(25, "update skipped", skipped=1)
    report.close()
    assert numbers(run.metrics) == [
        {"kind": "event", "step": 0, "epoch": None, "text": "a fresh start"},
        {"kind": "event", "step": 25, "epoch": 2, "text": "update skipped", "skipped": 1},
    ]
    assert "update skipped" in run.shown


def test_the_summary_holds_final_and_best_numbers_and_versions(run: Run) -> None:
    run.whole()
    summary = json.loads((run.run_dir / "summary.json").read_text())
    assert summary["step"] == STEPS
    assert summary["epoch"] == 4
    assert summary["images_seen"] == STEPS * run.cfg.data.batch_size
    assert summary["ema/top1"] == 57.0
    assert summary["best"]["step"] == STEPS
    assert summary["parameters"] == 7
    assert {"python", "torch", "timm"} <= set(summary["versions"])


def test_the_best_evaluation_may_be_an_earlier_one(run: Run) -> None:
    report = run.open()
    report.start_training(STEPS, STEPS_PER_EPOCH)
    for step, top1 in ((10, 60.0), (20, float("nan")), (30, 55.0)):
        report.eval(step, step // 10, {"eval/top1": top1})
    report.finish({}, [])
    report.close()
    summary = json.loads((run.run_dir / "summary.json").read_text())
    assert summary["best"] == {"step": 10, "eval/top1": 60.0}
    assert summary["eval/top1"] == 55.0


def test_a_run_that_had_nothing_left_to_do_can_finish(run: Run) -> None:
    run.whole()
    (run.run_dir / "summary.json").unlink()
    report = run.open(resumed_step=STEPS)
    report.start_training(STEPS, STEPS_PER_EPOCH, STEPS)
    report.finish({}, [])
    report.close()
    assert json.loads((run.run_dir / "summary.json").read_text())["best"]["ema/top1"] == 57.0


def test_a_part_that_fails_is_one_warning_and_the_others_go_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vim_train.report.report.draw_curves", lambda *args: 1 / 0)
    monkeypatch.setattr("os.write", lambda *args: 0)  # a full disk
    shown = run.whole()
    warnings = [line for line in shown.splitlines() if line.startswith("warning:")]
    assert warnings == ["warning: metrics.jsonl: disk full", "warning: curves: division by zero"]
    assert "done in 0:40" in shown


def test_a_screen_that_fails_is_left_out(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(self: LogScreen, line: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LogScreen, "_stamp", no_space)
    shown = run.whole()
    assert shown.count("warning:") == 1
    assert "log.txt is off" in shown
    assert "done in" in shown


def test_close_twice_and_close_without_training(run: Run) -> None:
    report = run.open()
    report.close()
    report.close()
    assert read_metrics(run.metrics) == []


def test_an_unwritable_run_directory_is_the_users_mistake(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*nowhere"):
        open_report(run.cfg, {}, tmp_path / "nowhere")


def test_other_ranks_get_an_object_with_the_same_methods(tmp_path: Path) -> None:
    for name, method in inspect.getmembers(Report, inspect.isfunction):
        if not name.startswith("_"):
            for kind in (NullReport, RunReport):
                assert inspect.signature(getattr(kind, name)) == inspect.signature(method), (kind, name)
    assert NullReport().state() == {}


def test_keys_of_the_environment_reach_no_file_and_no_screen(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = "canary-0123456789abcdef"
    monkeypatch.setenv("SOME_API_KEY", canary)
    report = run.open()
    report.start({"note": canary})
    report.start_training(STEPS, STEPS_PER_EPOCH)
    report.event(1, f"failed: {canary}", where=[canary])
    report.finish({"note": canary}, [])
    report.close()
    assert canary not in run.shown
    for file in run.run_dir.rglob("*"):
        assert file.is_dir() or canary.encode() not in file.read_bytes(), file
