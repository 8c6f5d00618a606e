"""Process-wide settings of torch, made once before anything is built."""

import os

import torch

from vim_train import ops
from vim_train.config.errors import UserError
from vim_train.config.schema import Backend, Determinism, Device, OpsConfig


def choose_device(wanted: Device, index: int = 0) -> torch.device:
    """The GPU of that number if there are GPUs and they are not ruled out.

    Raises:
        UserError: `device=cuda` without a usable GPU, or fewer GPUs.
    """
    if wanted is Device.cpu:
        return torch.device("cpu")
    if torch.cuda.is_available():
        if index >= (count := torch.cuda.device_count()):
            raise UserError(f"process {index} of this machine has no GPU: torch sees {count}; start {count} at most")
        return torch.device("cuda", index)
    if wanted is Device.cuda:
        raise UserError("device=cuda: torch sees no usable GPU here; take device=auto or device=cpu")
    return torch.device("cpu")


def configure_torch(cfg: OpsConfig, determinism: Determinism, device: torch.device) -> None:
    """Threads, scan backend and determinism.

    Raises:
        UserError: a backend that is not available, or not on `device`.
    """
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    elif determinism is Determinism.strict:
        torch.set_num_threads(1)  # sums over threads depend on their number, which launchers choose by that of ranks
    if cfg.backend is Backend.cuda and device.type != "cuda":
        raise UserError("ops.backend=cuda: torch sees no usable GPU here; take ops.backend=auto, cpu or reference")
    if cfg.backend is Backend.cpu and device.type != "cpu":
        raise UserError("ops.backend=cpu: this runs on a GPU; take device=cpu, or ops.backend=auto, cuda or reference")
    try:
        ops.set_backend(cfg.backend.value)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"ops.backend={cfg.backend.value}: {error}") from error
    exact = determinism is not Determinism.relaxed
    if exact:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(exact)
    torch.backends.cudnn.benchmark = not exact
