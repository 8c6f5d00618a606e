"""Weights from elsewhere: the Hugging Face hub, and what timm ships for its models."""

import hashlib
import logging
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
from huggingface_hub import errors
from huggingface_hub.utils.tqdm import disable_progress_bars
from torch import Tensor

from vim_train.config.errors import UserError
from vim_train.config.references import TIMM, HubFile

_TORCH_SUFFIXES = (".pth", ".pt", ".bin")
_USUAL = ("model.safetensors", "pytorch_model.bin")
_SHOWN = 6


def fetch(wanted: HubFile) -> tuple[Path, list[str]]:
    """The file in the hub's cache, downloaded where it is not there yet, and notes for the user.

    Raises:
        UserError: not there, not reachable and not in the cache, or not the file that was expected.
    """
    if not sys.stderr.isatty():
        disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of every try, we of the last
    where = f"hf:{wanted.repo}" + (f"@{wanted.revision}" if wanted.revision else "")
    print(f"asking the hub for {where} …", file=sys.stderr, flush=True)
    try:
        file = wanted.file or _choose(where, huggingface_hub.list_repo_files(wanted.repo, revision=wanted.revision))
        path = Path(huggingface_hub.hf_hub_download(wanted.repo, file, revision=wanted.revision))
    except UserError:
        raise
    except Exception as error:  # of several libraries
        raise UserError(f"{where}: {_explain(error, wanted)}") from error
    digest = _sha256(path)
    if wanted.sha256 not in (None, digest):
        raise UserError(f"{where}: {file} has sha256 {digest}, expected {wanted.sha256}: not the published file")
    return path, [f"{file} of {where}, sha256 {digest}"]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _choose(where: str, files: list[str]) -> str:
    """The one file of weights: safetensors before torch's."""
    for suffixes in ((".safetensors",), _TORCH_SUFFIXES):
        found = [file for file in files if file.endswith(suffixes)]
        usual = [file for file in found if file in _USUAL]
        if len(found) == 1 or usual:
            return (usual or found)[0]
        if found:
            more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            names = ", ".join(found[:_SHOWN]) + more
            raise UserError(f"{where}: has {names}: name one, as {where}:{found[0]}")
    raise UserError(f"{where}: has no .safetensors, .pth, .pt or .bin file")


def _explain(error: Exception, wanted: HubFile) -> str:
    if isinstance(error, errors.RevisionNotFoundError):
        return "no such revision"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return f"no file {wanted.file} in it"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "no such repository, or one that HF_TOKEN does not open"
    named = wanted.file or "it"
    cure = "" if wanted.file else "; with :FILE named a file in the cache is found without the hub"
    return f"the hub cannot be reached ({_first_line(error)}), and {named} is not in its cache{cure}"


def _first_line(error: BaseException) -> str:
    """Of the error where it all began: the hub's own texts wrap it at length."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).splitlines() or [type(error).__name__])[0]


def timm_weights(checkpoint: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights of timm's under `timm:NAME[.TAG]`, and what timm says of them (its pretrained cfg).

    Raises:
        UserError: timm knows no such model or has no weights for it, or they cannot be fetched.
    """
    name = checkpoint.removeprefix(TIMM)
    if not timm.is_model(name):
        close = timm.list_pretrained(f"{name.partition('.')[0].split('_')[0]}*")[:8]
        raise UserError(
            f"{checkpoint}: timm knows no such model; try one of {', '.join(close) or 'timm.list_models()'}"
        )
    try:
        model = timm.create_model(name, pretrained=True)
    except Exception as error:  # of several libraries
        raise UserError(f"{checkpoint}: its weights cannot be had ({_first_line(error)})") from error
    return model.state_dict(), dict(model.pretrained_cfg)  # type: ignore[arg-type]
