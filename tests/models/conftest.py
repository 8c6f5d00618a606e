"""Golden models and small models of our own."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from vim_train import ops
from vim_train.models import Vim

Case = tuple[dict[str, Tensor], dict[str, str]]


def _available() -> list[str]:
    return [b.name for b in ops.backend_report() if b.available and b.name != "cuda"]


@pytest.fixture(params=["reference", "cpu"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every op runs on this backend; the CPU library is skipped where it is not built."""
    if request.param not in _available():
        pytest.skip(f"scan backend {request.param} is not available")
    ops.set_backend(request.param)
    yield request.param
    ops.set_backend("auto")


@pytest.fixture(scope="session")
def load_golden(golden: Path) -> Callable[[str], Case]:
    """Name of a golden file -> (tensors, metadata)."""

    def load(name: str) -> Case:
        with safe_open(golden / f"{name}.safetensors", "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118

    return load


@pytest.fixture(scope="session")
def build() -> Callable[..., Vim]:
    """The Vim that a golden configuration (published option names) describes, with weights where given."""

    def build(config: str, state: dict[str, Tensor] | None = None) -> Vim:
        options: dict[str, Any] = json.loads(config)
        names = ("img_size", "patch_size", "stride", "embed_dim", "depth", "d_state", "num_classes")
        token = "none"
        if options["if_cls_token"]:
            token = "double" if options.get("use_double_cls_token") else "head"
            token = "middle" if options["use_middle_cls_token"] else token
        model = Vim(
            **{name: options[name] for name in names},
            class_token=token,
            pool=options["final_pool_type"],
            divide_out=options["if_divide_out"],
        )
        if state is not None:
            model.load_state_dict(state)
        return model

    return build


@pytest.fixture(scope="session")
def small() -> Callable[..., Vim]:
    """A Vim of 2 blocks on 16-pixel images, the same weights each time; options override."""

    def small(**options: Any) -> Vim:
        torch.manual_seed(0)
        defaults = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_classes": 5}
        return Vim(**{**defaults, **options})

    return small
