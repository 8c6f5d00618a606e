"""A step whose loss or gradient was not finite, kept so that it can be computed again.

<run>/replay/step_00000123.json         where it stands in the data, what came out, the run's configuration
<run>/replay/step_00000123.safetensors  the weights before it: no update was made, so the run still holds them
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import Tensor

from vim_train.config.errors import UserError
from vim_train.config.redact import find_secrets, redact
from vim_train.config.schema import TrainConfig
from vim_train.engine.durable import PARTIAL, HashedFile, make_dir, write_text
from vim_train.engine.weights import write_weights

FOLDER = "replay"
_SHA256, _WEIGHTS_SHA256 = "sha256", "weights_sha256"
MOST = 10
"""Steps that a run keeps, the first ones."""


@dataclass(frozen=True)
class BadStep:
    """All that the step was a function of, but for the weights."""

    step: int
    loss: float
    grad_norm: float
    lr: float
    seed: int
    loss_scale: float
    """fp16's; else 1."""
    world: int
    """Ranks."""
    batch: dict[str, Any]
    """What the task says of it: epoch, positions, images."""
    meta: dict[str, Any]
    """As in a checkpoint."""
    config: dict[str, Any]


def plain(cfg: TrainConfig) -> dict[str, Any]:
    """A configuration in plain containers, as it may be written."""
    container = OmegaConf.to_container(OmegaConf.structured(cfg), enum_to_str=True)
    assert isinstance(container, dict)
    return redact({str(key): value for key, value in container.items()}, find_secrets())


def keep(run_dir: Path, bad: BadStep, weights: Mapping[str, Tensor]) -> Path | None:
    """Write both files; returns the first, or None where the run has kept enough.

    Raises:
        OSError: they cannot be written.
    """
    folder = run_dir / FOLDER
    file = folder / f"step_{bad.step:08d}.json"
    make_dir(folder)
    if len([each for each in folder.glob("step_*.json") if each != file]) >= MOST:
        return None
    partial = folder / f"{PARTIAL}{file.stem}.safetensors"
    partial.unlink(missing_ok=True)
    with HashedFile(partial) as out:
        write_weights(out, weights, {**bad.meta, "step": bad.step})
    os.replace(partial, file.with_suffix(".safetensors"))
    fields = {name: _text(value) for name, value in asdict(bad).items()} | {_WEIGHTS_SHA256: out.sha256}
    write_text(file, json.dumps(fields | {_SHA256: _digest(fields)}, indent=1) + "\n")
    return file


def read(file: Path) -> BadStep:
    """What `keep` has written.

    Raises:
        UserError: no such file, not one of these, or one that has changed since, as its weights may have.
    """
    weights = file.with_suffix(".safetensors")
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
        numbers = {name: float(fields[name]) for name in ("loss", "grad_norm", "lr", "loss_scale")}
        if _digest({name: fields[name] for name in fields if name != _SHA256}) != fields.pop(_SHA256):
            raise UserError(f"replay={file}: has changed since the run wrote it")
        if hashlib.sha256(weights.read_bytes()).hexdigest() != fields.pop(_WEIGHTS_SHA256):
            raise UserError(f"replay={file}: {weights.name} has changed since the run wrote it")
        return BadStep(**{**fields, **numbers})
    except OSError as error:
        where = "" if error.filename == str(file) else f"{weights.name}: "
        raise UserError(f"replay={file}: {where}{error.strerror or error}; takes RUN/{FOLDER}/step_N.json") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"replay={file}: not a step that a run kept; takes RUN/{FOLDER}/step_N.json") from error


def _digest(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _text(value: Any) -> Any:
    """JSON has no word for what is not finite."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
