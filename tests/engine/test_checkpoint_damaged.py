"""No damaged checkpoint is loaded: each is named in one line, and resuming takes the one before.

Damage by chance is in tests/faults.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from saving import META, holds, save, weights

from vim_train.config.errors import UserError
from vim_train.engine.checkpoint import CheckpointError, NoEmaError, check_compatible, latest, load, load_weights

FILES = ["model.safetensors", "ema.safetensors", "state.pt", "manifest.json"]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("pristine")
    for step in (1, 2, 3):
        save(run, step, keep=3)
    return run


@pytest.fixture
def run(pristine: Path, tmp_path: Path) -> Path:
    """A run with steps 1, 2 and 3."""
    return Path(shutil.copytree(pristine, tmp_path / "run"))


def step_dir(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step_{step:08d}"


def assert_one_line(error: BaseException, *parts: str) -> None:
    text = str(error)
    assert "\n" not in text
    assert len(text) < 500
    for part in parts:
        assert part in text


def assert_passed_over(run: Path, name: str) -> None:
    """Step 3, whose file `name` is damaged, is named and not loaded; step 2 is used."""
    damaged = step_dir(run, 3)
    found = latest(run)
    assert found is not None
    assert (found.step, found.path) == (2, step_dir(run, 2))
    assert [each.path for each in found.passed_over] == [damaged]
    assert name in found.passed_over[0].reason
    assert holds(found.path, 2)
    with pytest.raises(CheckpointError) as raised:
        load(damaged)
    assert_one_line(raised.value, str(damaged), name)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found(run: Path, name: str) -> None:
    (step_dir(run, 3) / name).unlink()
    assert_passed_over(run, f"{name} is missing")


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_step_is_found(run: Path, name: str) -> None:
    shutil.copy(step_dir(run, 2) / name, step_dir(run, 3) / name)
    assert_passed_over(run, "" if name == "manifest.json" else name)


def test_swapped_files_are_found(run: Path) -> None:
    model, ema = (step_dir(run, 3) / name for name in FILES[:2])
    model.rename(model.with_name("x"))
    ema.rename(model)
    model.with_name("x").rename(ema)
    assert_passed_over(run, "model.safetensors")


@pytest.mark.parametrize("name", FILES)
def test_a_pipe_in_place_of_a_file_does_not_hang(run: Path, name: str) -> None:
    (step_dir(run, 3) / name).unlink()
    os.mkfifo(step_dir(run, 3) / name)
    assert_passed_over(run, f"{name} is not a file")


def test_a_checkpoint_under_another_step_s_name_is_found(run: Path) -> None:
    shutil.rmtree(step_dir(run, 3))
    shutil.copytree(step_dir(run, 1), step_dir(run, 3))
    found = latest(run)
    assert found is not None
    assert found.step == 2
    assert found.passed_over[0].reason == "holds step 1"


def test_several_are_passed_over(run: Path) -> None:
    (step_dir(run, 3) / "state.pt").unlink()
    (step_dir(run, 2) / "manifest.json").write_text("{}")
    found = latest(run)
    assert found is not None
    assert found.step == 1
    assert [each.reason for each in found.passed_over] == ["state.pt is missing", "manifest.json is damaged"]


def test_best_is_the_last_resort(run: Path) -> None:
    save(run, 4, best=True, keep=9)
    for step in (1, 2, 3, 4):
        shutil.rmtree(step_dir(run, step))
        step_dir(run, step).mkdir()
    found = latest(run)
    assert found is not None
    assert (found.step, found.path.name, len(found.passed_over)) == (4, "best", 4)


def test_all_damaged_is_no_start_from_zero(run: Path) -> None:
    for step in (1, 2, 3):
        (step_dir(run, step) / "state.pt").unlink()
    with pytest.raises(CheckpointError) as raised:
        latest(run)
    assert_one_line(raised.value, "all 3 are damaged", "step_00000001: state.pt is missing", "run.name")


def test_nothing_saved_is_none(tmp_path: Path) -> None:
    assert latest(tmp_path) is None
    (tmp_path / "checkpoints" / ".tmp-step_00000001").mkdir(parents=True)
    (tmp_path / "checkpoints" / "notes").mkdir()
    assert latest(tmp_path) is None


def sign(directory: Path, body: dict[str, object]) -> None:
    """Give a forged manifest a digest that is right."""
    text = json.dumps(body, indent=1).removesuffix("\n}")
    digest = hashlib.sha256(text.encode()).hexdigest()
    (directory / "manifest.json").write_text(f'{text},\n "sha256": "{digest}"\n}}\n')


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": 2}, "has format 2, this version reads format 1"),
        ({"step": "x"}, "manifest.json is not a checkpoint's"),
        ({"files": {}}, "manifest.json lists no files"),
        ({"files": []}, "manifest.json is not a checkpoint's"),
        ({"files": {"../../secret": {"bytes": 1, "sha256": ""}}}, "manifest.json lists ../../secret"),
        ({"files": {"model.safetensors": 3}}, "manifest.json is not a checkpoint's"),
    ],
)
def test_a_manifest_of_something_else(run: Path, changes: dict[str, object], reason: str) -> None:
    directory = step_dir(run, 3)
    body = json.loads((directory / "manifest.json").read_text())
    body.pop("sha256")
    sign(directory, body | changes)
    with pytest.raises(CheckpointError) as raised:
        load(directory)
    assert_one_line(raised.value, reason)


def test_a_state_that_would_run_code_is_not_unpickled(run: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> object:
            return os.mkdir, (str(tmp_path / "owned"),)

    directory = step_dir(run, 3)
    torch.save({"x": Evil()}, directory / "state.pt")
    body = json.loads((directory / "manifest.json").read_text())
    body.pop("sha256")
    data = (directory / "state.pt").read_bytes()
    body["files"]["state.pt"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    sign(directory, body)
    with pytest.raises(CheckpointError) as raised:
        load(directory)
    assert_one_line(raised.value, "not a training state that loads safely")
    assert not (tmp_path / "owned").exists()


# --- weights alone


def test_weights_of_a_run_are_those_of_its_best(run: Path) -> None:
    assert load_weights(run)[1]["step"] == 3
    save(run, 4, best=True, keep=9)
    save(run, 5, keep=9)
    loaded, meta = load_weights(str(run))
    assert torch.equal(loaded["head.weight"], weights(4)["head.weight"])
    assert meta == {**META, "step": 4, "path": str(run / "checkpoints" / "best" / "model.safetensors")}


def test_weights_of_a_checkpoint_and_of_a_file(run: Path, tmp_path: Path) -> None:
    assert torch.equal(load_weights(step_dir(run, 2))[0]["layer.weight"], weights(2)["layer.weight"])
    averaged, meta = load_weights(step_dir(run, 2), "ema")
    assert torch.equal(averaged["layer.weight"], weights(1002)["layer.weight"])
    assert meta["classes"] == META["classes"]
    alone = Path(shutil.copy(step_dir(run, 2) / "ema.safetensors", tmp_path / "mine.safetensors"))
    assert load_weights(alone)[1] == meta | {"path": str(alone)}
    safetensors.torch.save_file(weights(8), alone, {"format": "pt"})
    assert load_weights(alone)[1] == {"path": str(alone)}


def test_a_damaged_file_beside_its_manifest_is_found(run: Path) -> None:
    file = step_dir(run, 3) / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    for path in (file, step_dir(run, 3)):
        with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
            load_weights(path)


def refused(tmp_path: Path, run: Path) -> dict[str, tuple[Path, str]]:
    """Paths that are no weights, each with the end of the line that says so."""
    files = {
        "empty": b"", "html": b"<!doctype html>" * 9, "cut": (step_dir(run, 3) / FILES[0]).read_bytes()[:-1],
        "long": (1 << 50).to_bytes(8, "little") + b"{}", "lfs": b"version https://git-lfs.github.com/spec/v1\n",
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / f"{name}.safetensors").write_bytes(content)
    torch.save({"model": weights(1)}, tmp_path / "published.pth")
    (tmp_path / "folder").mkdir()
    (tmp_path / "young" / "checkpoints").mkdir(parents=True)
    expected = "expected a run directory, a checkpoint directory or a .safetensors file"
    found = {name: (tmp_path / f"{name}.safetensors", ": not a safetensors file, or not all of it") for name in files}
    return found | {
        "empty": (tmp_path / "empty.safetensors", ": not a safetensors file: empty"),
        "html": (tmp_path / "html.safetensors", ": not a safetensors file: a page of HTML"),
        "lfs": (tmp_path / "lfs.safetensors", ": not a safetensors file: a Git LFS pointer"),
        "missing": (tmp_path / "nowhere", ": no such file or directory"),
        "pth": (tmp_path / "published.pth", expected),
        "state": (step_dir(run, 3) / "state.pt", expected),
        "folder": (tmp_path / "folder", "neither a run nor a checkpoint: no checkpoints/ and no manifest.json in it"),
        "young run": (tmp_path / "young", "the run has saved none yet"),
        "device": (Path("/dev/null"), expected),
    }


def test_what_holds_no_weights_is_named(run: Path, tmp_path: Path) -> None:
    for path, end in refused(tmp_path, run).values():
        with pytest.raises(CheckpointError) as raised:
            load_weights(path)
        assert_one_line(raised.value, str(path), end)


def test_no_averaged_weights_in_it(run: Path) -> None:
    save(run, 4, ema=None)
    with pytest.raises(NoEmaError, match=r"holds no averaged \(ema\) weights"):
        load_weights(run, "ema")
    save(run, 5)
    (step_dir(run, 5) / "ema.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="has 0 bytes") as raised:
        load_weights(step_dir(run, 5), "ema")
    assert not isinstance(raised.value, NoEmaError)


# --- do they fit the model


def test_weights_that_fit() -> None:
    check_compatible(weights(1), weights(2))


def test_another_class_count_is_told_as_such() -> None:
    model = {"layer.weight": torch.zeros(5, 4), "head.weight": torch.zeros(1000, 4), "head.bias": torch.zeros(1000)}
    other = model | {"head.weight": torch.zeros(10, 4), "head.bias": torch.zeros(10)}
    with pytest.raises(UserError) as raised:
        check_compatible(other, model)
    assert str(raised.value) == (
        "the checkpoint is of 10 classes, the model has 1000"
        " (head.weight (10, 4) against (1000, 4), head.bias (10,) against (1000,))"
    )


def test_another_model_is_named_by_its_first_differences() -> None:
    model = {f"layers.{i}.weight": torch.zeros(4, 4) for i in range(6)} | {"norm.weight": torch.zeros(4)}
    other = {f"layers.{i}.weight": torch.zeros(8, 4) for i in range(8)}
    with pytest.raises(UserError) as raised:
        check_compatible(other, model)
    assert str(raised.value) == (
        "the checkpoint is of another model: 6 of another shape (layers.0.weight (8, 4) against the model's (4, 4),"
        " layers.1.weight (8, 4) against the model's (4, 4), layers.2.weight (8, 4) against the model's (4, 4)"
        " and 3 more); 1 missing (norm.weight); 2 unknown to the model (layers.6.weight, layers.7.weight)"
    )


def test_integers_are_no_weights() -> None:
    model, whole = {name: torch.ones(4) for name in "abcd"}, torch.ones(4, dtype=torch.int64)
    with pytest.raises(UserError, match=r"1 of another type \(b int64 against the model's float32\)"):
        check_compatible(model | {"b": whole}, model)
    with pytest.raises(UserError, match=r"^x holds no weights: its 4 tensors are int64 against the model's float32$"):
        check_compatible(dict.fromkeys(model, whole), model, "x")


def test_one_layer_of_another_width_is_no_class_count() -> None:
    with pytest.raises(UserError, match="another model: 1 of another shape"):
        check_compatible({"pos_embed": torch.zeros(1, 5, 4)}, {"pos_embed": torch.zeros(1, 9, 4)})
