"""The commands with the heavy part replaced: what is tested is everything up to it."""

import sys
from pathlib import Path
from types import ModuleType

import pytest


class Calls(list):
    """What the commands handed over, and the exit code they are given back."""

    code = 0
    error: BaseException | None = None


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Calls:
    """Stands in for training and evaluation, in an empty working directory."""
    made = Calls()

    def record(cfg: object, plain: dict[str, object]) -> int:
        made.append((cfg, plain))
        if made.error is not None:
            raise made.error
        return made.code

    for name, function in {"vim_train.tasks.run": "train", "vim_train.tasks.evaluate": "evaluate"}.items():
        module = ModuleType(name)
        setattr(module, function, record)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    return made
