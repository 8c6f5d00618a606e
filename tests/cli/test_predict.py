"""vim-predict's command line, and what only a real process shows."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from vim_train.cli.predict import as_list, main
from vim_train.cli.progress import show_progress
from vim_train.config.commands import ExplainMethod, PredictCommand
from vim_train.config.compose import compose_config, compose_plain, save_config
from vim_train.engine.checkpoint import save
from vim_train.tasks.build import build_model

REPOSITORY = Path(__file__).parent.parent.parent
CLASSES = ["fish", "monument", "tool", "windmill"]


@pytest.fixture
def run(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of four classes that has saved one checkpoint."""
    small = ["data.img_size=32", "model.patch_size=8", "model.stride=8", "model.embed_dim=16", "model.depth=2"]
    cfg, plain = compose_config(["data=folder", f"data.root={photos}", "data.workers=0", *small])
    folder = tmp_path / "runs" / "small"
    folder.mkdir(parents=True)
    save_config(plain, folder / "config.yaml")
    weights = build_model(cfg, 4).state_dict()
    save(folder, 1, model=weights, ema=None, state={}, meta={"classes": CLASSES}, keep=2, best=False)
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", "set checkpoint=... images=..."),
        ("checkpoint=RUN", "set images=..."),
        ("checkpoint=runs/nope images=a.jpg", "checkpoint=runs/nope: no such file or folder"),
        ("checkpoint=RUN images=a.jpg topk=0", "topk=0: takes a whole number from 1"),
        ("checkpoint=RUN images=a.jpg weights=both", "weights=both: takes auto, model or ema"),
        ("checkpoint=RUN images=[]", "images=[]: takes files, folders, patterns, @FILE or -"),
        ("checkpoint=RUN images=[-,-]", "images=[-,-]: takes - once: standard input can be read only once"),
        ("checkpoint=RUN images=@gone.txt", "images=@gone.txt: No such file or directory"),
        ("checkpoint=RUN images=a.jpg out=no/o.jsonl", "out=no/o.jsonl: no such folder"),
        ("checkpoint=RUN images=a.jpg out=runs", "out=runs: is a folder; takes a file"),
        ("checkpoint=RUN images=a.jpg sheet=s.jpg", "sheet=s.jpg: takes a file named .png"),
        ("checkpoint=RUN photos/a.jpg", "'photos/a.jpg': an argument is key=value, as in images=photos/a.jpg"),
        ("checkpoint=RUN images=a.jpg images=b.jpg", "images is given twice, as"),
        ("checkpoint=RUN images=PHOTO out=/dev/full", "out=/dev/full: No space left on device"),
        ("checkpoint=RUN images=PHOTO out=/dev/null data.img_size=33", "model.name="),
    ],
)
def test_a_mistake_is_one_line(
    line: str, expected: str, run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = line.replace("RUN", "runs/small").replace("PHOTO", str(photos / "fish" / "fish1.jpg")).split()
    assert main(argv) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"vim-predict: {expected}")


@settings(deadline=None, max_examples=25)
@example(name='${a} \\"$\\')
@example(name="my photo, 1=2 [x] {y} 'z'.jpg")
@given(name=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20))
def test_any_name_reaches_the_command_as_it_was_typed(name: str) -> None:
    if name.startswith("["):  # a list as Hydra writes it
        name = f"./{name}"
    plain = OmegaConf.create(compose_plain("predict", PredictCommand, [as_list(f"images={name}")]))
    assert OmegaConf.to_container(plain, resolve=True)["images"] == [name]


@pytest.mark.parametrize("method", list(ExplainMethod))
def test_a_model_without_patches_is_refused_in_a_line(
    method: ExplainMethod, tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg, plain = compose_config(["data=folder", f"data.root={photos}", "model=timm", "model.name=resnet10t"])
    save_config(plain, tmp_path / "config.yaml")
    weights = build_model(cfg, 4).state_dict()
    save(tmp_path, 1, model=weights, ema=None, state={}, meta={"classes": CLASSES}, keep=2, best=False)
    line = [f"checkpoint={tmp_path}", f"images={photos}/fish/fish1.jpg", f"sheet={tmp_path}/s.png", "data.img_size=32"]
    assert main([*line, "data.workers=0"]) == 0
    assert main([*line, "data.workers=0", "explain=true", f"explain_method={method.name}"]) == 2
    assert "vim-predict: ResNet has no patches to explain: takes" in capsys.readouterr().err


def test_progress_tells_images_a_second_where_it_was_asked_to() -> None:
    file = io.StringIO()
    with show_progress("predict", file, "images") as progress:
        progress(0, 2)
        time.sleep(0.01)
        progress(2, 2)
    assert file.getvalue().startswith("predict: 2, ")
    assert file.getvalue().endswith(" images/s, done\n")
    with show_progress("predict", file, silent=True) as progress:
        progress(2, 2)
    assert file.getvalue().count("\n") == 1


def start(*arguments: str, **pipes: object) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "vim_train.cli.predict", *arguments]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, **pipes)  # type: ignore[call-overload]


def test_names_come_through_a_pipe_and_lines_leave_through_one(run: Path, photos: Path) -> None:
    names = sorted(str(path) for path in photos.glob("tool/*.jpg"))
    process = start(
        "checkpoint=runs/small", "images=-", "data.workers=1", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    out, err = process.communicate("\n".join([*names, "gone.jpg"]).encode(), timeout=120)
    assert process.returncode == 0, err
    assert [json.loads(line)["path"] for line in out.splitlines()] == [*names, "gone.jpg"]
    assert err.decode().splitlines()[-1] == f"vim-predict: {len(names)} images, 1 bad"


def test_a_reader_that_leaves_ends_it_quietly(run: Path, photos: Path) -> None:
    names = [str(photos / "fish" / "fish1.jpg")] * 3000
    Path("names").write_text("\n".join(names))
    process = start(
        "checkpoint=runs/small", "images=@names", "data.eval_batch_size=2", "data.workers=1", stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline())["path"] == names[0]
    process.stdout.close()
    with process.stderr:
        err = process.stderr.read().decode()
    assert process.wait(timeout=120) == 0
    assert [line for line in err.splitlines() if not line.startswith("predict: ")] == [
        "vim-predict: weights=model (it has no others)"
    ]


def test_an_interrupt_leaves_what_was_done(run: Path, photos: Path) -> None:
    names = [str(photos / "fish" / "fish1.jpg")] * 100000
    Path("names").write_text("\n".join(names))
    line = ["images=@names", "data.eval_batch_size=2", "data.workers=1", "out=o.jsonl", "sheet=s.png"]
    process = start("checkpoint=runs/small", *line)
    deadline = time.monotonic() + 120
    while not (Path("o.jsonl").exists() and Path("o.jsonl").read_bytes().count(b"\n") > 2):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    done = [json.loads(text) for text in Path("o.jsonl").read_text().splitlines()]
    assert 2 <= len(done) < len(names)
    assert b"vim-predict: interrupted" in err
    assert b", of 100,000 names" in err
    assert b"Traceback" not in err
    drawn = len(done), len(done) - 2  # a batch has its lines before its places on the sheet
    assert len(list(Path().glob("s-*.png"))) in [-(-images // 60) for images in drawn]
