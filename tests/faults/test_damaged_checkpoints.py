"""Checkpoints damaged at random: none is loaded, each is named in one line, and the one before is used."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from forks import Forks
from mutations import MUTATIONS
from saving import holds, save
from trials import ALONE, command, result

from vim_train.config.schema import Resume
from vim_train.engine.checkpoint import CheckpointError, load
from vim_train.engine.rundir import open_run

FULL = pytest.param(300, marks=pytest.mark.full)


def step_dir(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step_{step:08d}"


def restore(checkpoint: Path, content: dict[str, bytes]) -> None:
    for name, data in content.items():
        (checkpoint / name).write_bytes(data)


def same(a: Path, b: Path) -> bool:
    return all((a / file.name).read_bytes() == file.read_bytes() for file in b.iterdir())


@pytest.mark.parametrize("number", [20, FULL])
@pytest.mark.parametrize("kind", MUTATIONS)
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(
    folder: Path, count: Callable[[str], None], kind: str, number: int
) -> None:
    with open_run(folder, "run", Resume.auto, {}) as run:
        for step in (1, 2, 3):
            save(run.path, step, keep=3)
    newest = step_dir(run.path, 3)
    whole = {file.name: file.read_bytes() for file in newest.iterdir()}
    for case in range(number):
        done = MUTATIONS[kind](newest, step_dir(run.path, 2), random.Random(f"{kind} {case}"))
        with open_run(folder, "run", Resume.auto, {}) as again:
            found, notes = again.resume_from, again.notes
        assert found is not None, done
        assert found.path == step_dir(run.path, 2), done
        assert holds(found.path, 2), done
        assert [note for note in notes if note.startswith(f"passed over {newest}: ")] == notes[:-1], done
        assert len(notes) == 2, done
        assert notes[-1] == f"goes on from step 2 ({found.path})", done
        assert "\n" not in notes[0], done
        assert len(notes[0]) < 500, done
        if same(newest, step_dir(run.path, 2)):  # all files taken from there; the folder's name gives it away
            assert load(newest).step == 2, done
        else:
            with pytest.raises(CheckpointError, match=re.escape(str(newest))):
                load(newest)
        restore(newest, whole)
    assert holds(newest, 3)
    count(f"{number} found, none loaded")


@pytest.mark.full
@pytest.mark.parametrize("kind", MUTATIONS)
def test_vim_train_says_in_one_line_what_it_passed_over(
    server: Forks, folder: Path, photos: Path, count: Callable[[str], None], kind: str
) -> None:
    run = folder / "test"
    assert server.start(command(folder, photos, ALONE), folder / "output").wait() == 0, (folder / "output").read_text()
    (run / "summary.json").unlink()  # as if it had been killed before its end
    expected = result(run)
    for case in range(8):
        copy = Path(shutil.copytree(run, folder / f"{case}" / "test"))
        newest, before = step_dir(copy, 15), step_dir(copy, 14)
        done = MUTATIONS[kind](newest, before, random.Random(f"{kind} {case}"))
        output = folder / f"output {case}"
        assert server.start(command(copy.parent, photos, ALONE), output).wait() == 0, (done, output.read_text())
        text = output.read_text()
        assert "Traceback" not in text, (done, text)
        assert text.count(f"passed over {newest}: ") == 1, (done, text)
        assert f"goes on from step 14 ({before})" in text, (done, text)
        assert result(copy) == expected, done
    count("8 passed over, said so, and trained to the same bits")
