"""vim-eval and vim-data up to the point where work begins; the export for real."""

import shutil
import sys
from pathlib import Path

import pytest

from vim_train.cli import data as data_command
from vim_train.cli import eval as eval_command
from vim_train.cli import predict as predict_command
from vim_train.cli import train as train_command
from vim_train.config.commands import Weights
from vim_train.config.compose import compose_config, save_config
from vim_train.config.schema import DataName


@pytest.fixture
def run(tmp_path: Path, calls: list) -> str:
    folder = tmp_path / "runs" / "quickstart"
    folder.mkdir(parents=True)
    save_config(compose_config()[1], folder / "config.yaml")
    return "runs/quickstart"


def test_eval_hands_over_what_it_was_told(run: str, calls: list) -> None:
    assert eval_command.main([f"checkpoint={run}", "weights=ema", "data.workers=0", "ops.tune_malloc=false"]) == 0
    [(cfg, plain)] = calls
    assert (cfg.checkpoint, cfg.weights, cfg.data.workers, cfg.data.root) == (run, Weights.ema, 0, None)
    assert plain["weights"] == "ema"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", "set checkpoint=..."),
        ("checkpoint=runs/nope", "checkpoint=runs/nope: no such file or folder"),
        (
            "checkpoint=.",
            "checkpoint=.: no config.yaml there or above; takes a run, what lies in it, or weights",
        ),
        ("checkpoint=runs/quickstart data.root=/nope", "data.root=/nope: no such folder"),
        (
            "checkpoint=runs/quickstart data=folder",
            "data=folder: is no group here; takes its keys, such as data.name, data.root, data.val_fraction",
        ),
        (
            "checkpoint=runs/quickstart suite=[sketch,o] roots.o=runs",
            "suite=[sketch,o]: o is judged beside val; takes suite=[val,sketch,o]",
        ),
        ("checkpoint=runs/quickstart weights=modell", "weights=modell: takes model, ema or both"),
        ("checkpoint=runs/quickstart optim.lr=1", "unknown key optim.lr; --help lists the groups of keys"),
        ("checkpoint=runs/quickstart data.img_size=0", "data.img_size=0: takes a whole number from 1"),
    ],
)
def test_a_mistake_in_eval_is_one_line(
    line: str, expected: str, run: str, calls: list, capsys: pytest.CaptureFixture[str]
) -> None:
    assert eval_command.main(line.split()) == 2
    assert capsys.readouterr().err == f"vim-eval: {expected}\n"
    assert calls == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "data=fashion",
            "what to do? The first word is index, verify, count or export, as in: vim-data index data.root=DIR",
        ),
        (
            "indx data.root=/data",
            "indx: no such command. The first word is index, verify, count or export, as in: "
            "vim-data index data.root=DIR",
        ),
        ("export", "set out=..."),
        ("export data=fashoin out=x", "data=fashoin: takes fashion or folder; did you mean fashion?"),
        ("export data=folder out=x", "set data.root=..."),
        ("export out=x format=shard", "format=shard: takes folder or shards"),
        ("export out=x max_side=0", "max_side=0: takes a whole number from 1"),
        (
            "export data=fashion out=x shard_images=500",
            "shard_images=500: goes with format=shards; format=folder writes a file an image",
        ),
        ("index data.root=/nope", "data.root=/nope: no such folder"),
        ("index f/folders", "'f/folders': an argument is key=value, as in data.root=f/folders"),
        ("index data.root=a data.root=b", "data.root is given twice, as data.root=a and as data.root=b: give it once"),
        ("verify hashes=/nope/file", "hashes=/nope/file: no such folder"),
    ],
)
def test_a_mistake_in_data_is_one_line(
    line: str, expected: str, calls: list, capsys: pytest.CaptureFixture[str]
) -> None:
    assert data_command.main(line.split()) == 2
    assert capsys.readouterr().err == f"vim-data: {expected}\n"


def test_without_arguments_data_lists_what_it_can(capsys: pytest.CaptureFixture[str]) -> None:
    assert data_command.main([]) == 2
    shown = capsys.readouterr()
    for word in ("index", "count", "verify", "export"):
        assert f"vim-data {word}" in shown.out
        assert word in shown.err


def test_export_calls_the_data_part_and_reports_progress(
    monkeypatch: pytest.MonkeyPatch, calls: list, capsys: pytest.CaptureFixture[str]
) -> None:
    import vim_train.data.export
    from vim_train.data.export import Exported

    seen = []

    def export(command, progress) -> Exported:
        seen.append((command.data.name, command.data.root, command.out))
        progress(1, 2)
        progress(2, 2)
        return Exported(images=2)

    monkeypatch.setattr(vim_train.data.export, "export", export)
    assert data_command.main(["export", "data=fashion", "out=there"]) == 0
    assert capsys.readouterr().out == "export fashion to there: 2, done\n"
    assert data_command.main(["export", "data.root=.", "out=there"]) == 0
    assert seen == [(DataName.fashion, None, "there"), (DataName.folder, str(Path.cwd()), "there")]


@pytest.fixture
def photo_root(photos: Path, tmp_path: Path) -> Path:
    """The photographs, for a test to spoil."""
    return Path(shutil.copytree(photos, tmp_path / "photos"))


def test_index_says_what_it_found(photo_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert data_command.main(["index", f"data.root={photo_root}", "data.val_fraction=0.2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"looking through {photo_root}"
    assert [line for line in lines if "images, 4 classes" in line] == [
        "train: image folders split by data.val_fraction=0.2: 26 images, 4 classes",
        "val: image folders split by data.val_fraction=0.2: 9 images, 4 classes",
    ]


def test_verify_lists_what_is_bad_and_leaves_with_1(
    photo_root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    line = ["verify", f"data.root={photo_root}", "data.val_fraction=0.2", "hashes=sums.txt"]
    assert data_command.main([*line, "data.workers=2"]) == 0
    assert capsys.readouterr().out.endswith(
        "35 images, 0 bad\nhashes written to sums.txt, by path: they fit this form of the data set, and no other\n"
    )
    assert data_command.main(line) == 0
    assert capsys.readouterr().out.endswith("35 images, 0 bad, 0 changed, 0 gone, 0 new\ncompared with sums.txt\n")
    cut, rotten = photo_root / "fish" / "fish28.jpg", photo_root / "tool" / "plier1.jpg"
    cut.write_bytes(cut.read_bytes()[:3000])
    data = bytearray(rotten.read_bytes())
    data[len(data) // 2] ^= 1
    rotten.write_bytes(data)
    (photo_root / "windmill" / "windmill7.jpg").unlink()
    assert data_command.main(line) == 1
    out = capsys.readouterr().out
    assert f"{cut} (class fish): image file is truncated" in out
    assert f"{rotten} (class tool): its bytes have changed since the hashes\n" in out
    assert "windmill/windmill7.jpg: is gone since the hashes\n" in out
    assert "34 images, 1 bad, 1 changed, 1 gone, 0 new\n" in out
    Path("sums.txt").write_text("else")
    assert data_command.main(line) == 2
    assert "hashes=sums.txt: is no file of hashes" in capsys.readouterr().err


def test_count_shows_each_class(photo_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert data_command.main(["count", f"data.root={photo_root}", "data.val_fraction=0.3"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows[1:7]] == ["class", "fish", "monument", "tool", "windmill", "all"]
    counts = [[int(number) for number in row[1:]] for row in rows[2:7]]
    assert [sum(pair) for pair in counts] == [10, 8, 9, 8, 35]


@pytest.mark.parametrize("command", [train_command, eval_command, predict_command, data_command])
def test_a_console_script_reads_its_own_arguments(
    command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["program", "--version"])
    assert command.main() == 0
    assert capsys.readouterr().out.startswith("vim-")
