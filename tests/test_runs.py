"""Whole runs in real processes: killed, stopped, resumed, evaluated."""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from processes import arguments, finish, numbers, start, wait_for_step, weights
from safetensors.torch import load_file

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """A run that nobody interrupted."""
    root = tmp_path_factory.mktemp("whole")
    code, output = finish(start("train", *arguments(root, photos)))
    assert code == 0, output
    return root / "test"


def test_a_run_leaves_its_files_and_says_where(whole: Path) -> None:
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["finished"] is True
    assert summary["step"] == numbers(whole)[-1]["step"]
    assert {"config.yaml", "log.txt", "metrics.jsonl", "summary.json"} <= {file.name for file in whole.iterdir()}
    assert (whole / "report" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (whole / "checkpoints" / "best" / "model.safetensors").is_file()
    assert any(name.startswith("ema ") for name in weights(whole))


def test_killed_and_started_again_equals_never_killed(whole: Path, tmp_path: Path, photos: Path) -> None:
    """kill -9 in mid-epoch, twice; the second and third parts use other numbers of workers."""
    run = tmp_path / "test"
    for step, workers in ((10, 1), (34, 0)):
        process = start("train", *arguments(tmp_path, photos, f"data.workers={workers}"))
        wait_for_step(run, step, process)
        process.kill()
        finish(process)
    code, output = finish(start("train", *arguments(tmp_path, photos, "data.workers=2")))
    assert code == 0, output
    assert "goes on from step" in output
    assert numbers(run) == numbers(whole)
    assert weights(run) == weights(whole)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_rest_follows_exactly(
    whole: Path, tmp_path: Path, photos: Path, number: signal.Signals, code: int
) -> None:
    process = start("train", *arguments(tmp_path, photos))
    wait_for_step(tmp_path / "test", 9, process)
    os.kill(process.pid, number)
    stopped, output = finish(process)
    assert stopped == code, output
    assert f"{number.name}: saved at step" in output
    assert "Traceback" not in output
    code, output = finish(start("train", *arguments(tmp_path, photos)))
    assert code == 0, output
    assert numbers(tmp_path / "test") == numbers(whole)
    assert weights(tmp_path / "test") == weights(whole)


def test_vim_eval_repeats_the_best_evaluation(whole: Path, tmp_path: Path) -> None:
    code, output = finish(start("eval", f"checkpoint={whole}", f"out={tmp_path}", "ops.threads=1"))
    assert code == 0, output
    found = json.loads((tmp_path / "results.json").read_text())
    evaluations = {line["step"]: line for line in numbers(whole) if line["kind"] == "eval"}
    expected = evaluations[found["step"]]
    for which, prefix in (("model", "eval"), ("ema", "ema")):
        judged = found["suites"]["val"][which]
        assert all(judged[name] == expected[f"{prefix}/{name}"] for name in ("top1", "top5"))
        assert judged["nll"] == pytest.approx(expected[f"{prefix}/loss"], rel=1e-6)


def test_mistakes_of_data_and_checkpoint_are_one_line(whole: Path, tmp_path: Path, photos: Path) -> None:
    """What only shows once the data or a checkpoint is read; the configuration's own mistakes are tested in cli/."""
    broken = tmp_path / "photos"
    for folder in ("a", "b"):
        (broken / "train" / folder).mkdir(parents=True)
        (broken / "val" / folder).mkdir(parents=True)
        for i, photo in enumerate(sorted((photos / "tool").glob("*.jpg"))[:4]):
            for split in ("train", "val"):
                (broken / split / folder / f"{i}.jpg").write_bytes(photo.read_bytes())
    (broken / "train" / "a" / "torn.jpg").write_bytes((broken / "train" / "a" / "0.jpg").read_bytes()[:2000])
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes((whole / "checkpoints" / "best" / "model.safetensors").read_bytes()[:-100])
    model = whole / "checkpoints" / "best" / "model.safetensors"

    base = arguments(tmp_path, photos)
    cases = [
        (["train", *base, f"data.root={broken}"], "torn.jpg"),
        (["train", *base, "data.img_size=30"], "data.img_size=30"),
        (["train", *base, f"model.checkpoint={torn}"], "torn.safetensors"),
        (["train", *base, f"model.checkpoint={model}", "model.depth=1"], "another model"),
        (["train", *base, f"model.checkpoint={model}", "model.checkpoint_weights=both"], "takes model or ema"),
        (["train", *base, "optim.name=adamx"], "optim.name=adamx"),
        (["train", *base, "run.resume=must"], "no unfinished run"),
        (["train", *arguments(whole.parent, photos), "run.root=/dev/null/x"], "/dev/null"),
        (["eval", f"checkpoint={whole}", f"data.root={broken}"], "lacks fish, monument, tool, windmill and"),
        (["eval", f"checkpoint={tmp_path / 'none'}"], "none"),
    ]

    def outcome(number: int) -> tuple[int, str]:
        args = cases[number][0]
        return finish(start(*args, *([f"run.name=mistake{number}"] if args[0] == "train" else [])))

    with ThreadPoolExecutor(2) as pool:
        for (_, words), (code, output) in zip(cases, pool.map(outcome, range(len(cases))), strict=True):
            assert (code, output.count("Traceback")) == (2, 0), output
            assert words in output.splitlines()[-1]


def test_a_mistake_leaves_nothing_in_the_way_of_its_correction(tmp_path: Path, photos: Path) -> None:
    args = arguments(tmp_path, photos, "schedule.epochs=2")
    code, output = finish(start("train", *args, f"model.checkpoint={tmp_path}/none.safetensors"))
    assert code == 2, output
    code, output = finish(start("train", *args))
    assert code == 0, output


def test_divergence_leaves_with_3_and_no_broken_checkpoint(tmp_path: Path, photos: Path) -> None:
    args = arguments(tmp_path, photos, "optim.name=sgd", "optim.lr=1e30", "schedule.warmup_epochs=0")
    code, output = finish(start("train", *args))
    assert code == 3, output
    assert "stopped: loss" in output
    assert "Traceback" not in output
    for file in tmp_path.glob("test/checkpoints/*/*.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(file).values())
