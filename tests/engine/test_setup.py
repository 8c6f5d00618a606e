"""Settings of the process that do not fit its device are refused before anything is built."""

import pytest
import torch

from vim_train import ops
from vim_train.config.errors import UserError
from vim_train.config.schema import Backend, Determinism, OpsConfig
from vim_train.engine.setup import configure_torch


@pytest.mark.parametrize(
    ("backend", "device", "said"),
    [
        (Backend.cuda, "cpu", "ops.backend=cuda: torch sees no usable GPU here; take ops.backend=auto, cpu or"),
        (Backend.cpu, "cuda", "ops.backend=cpu: this runs on a GPU; take device=cpu, or ops.backend=auto, cuda or"),
    ],
)
def test_a_backend_of_another_device_is_refused(backend: Backend, device: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        configure_torch(OpsConfig(backend=backend), Determinism.relaxed, torch.device(device))
    assert ops.active_backend("cpu") in ("cpu", "reference")
