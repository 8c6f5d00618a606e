"""What the tests of saving share: small checkpoints whose content is a function of the step, and children to kill."""

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vim_train.engine import checkpoint

META = {"epoch": 3, "classes": ["cat", "dög", "\udcff"], "config": "0123abcd", "versions": {"torch": torch.__version__}}


def weights(step: int, size: int = 64) -> dict[str, Tensor]:
    return {"layer.weight": torch.full((size, 16), float(step)), "head.weight": torch.arange(6.0).view(2, 3) + step}


def save(run: Path, step: int, *, size: int = 64, keep: int = 2, best: bool = False, **changes: Any) -> Path:
    content: dict[str, Any] = {
        "model": weights(step, size),
        "ema": weights(step + 1000, size),
        "state": {"optimizer": {"state": {0: {"exp_avg": torch.full((size, 16), -float(step))}}}, "step": step},
        "meta": META,
    }
    return checkpoint.save(run, step, keep=keep, best=best, **(content | changes))


def holds(path: Path, step: int, size: int = 64) -> bool:
    """Whether a checkpoint loads and is, to the bit, what `save` wrote for this step."""
    loaded = checkpoint.load(path)
    assert loaded.ema is not None
    expected, averaged = weights(step, size), weights(step + 1000, size)
    return (
        loaded.step == loaded.state["step"] == step
        and all(torch.equal(loaded.model[name], expected[name]) for name in expected)
        and all(torch.equal(loaded.ema[name], averaged[name]) for name in averaged)
        and torch.equal(loaded.state["optimizer"]["state"][0]["exp_avg"], torch.full((size, 16), -float(step)))
    )


def names(run: Path) -> list[str]:
    return sorted(entry.name for entry in (run / "checkpoints").iterdir())


def spawn(body: Callable[[], object]) -> int:
    """Run `body` in a forked child, which shares the imports; returns its pid."""
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            body()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def wait(pid: int) -> int:
    """Exit code of a child, -n after signal n."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
