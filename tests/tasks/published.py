"""Files that look like the published ones, from golden weights."""

import argparse
import json
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

Case = tuple[dict[str, Tensor], dict[str, str]]

TOKENS = {"middle": "with_midclstok_div2", "head": "with_cls_token_div2", "none": "div2", "double": "doubleclstok_div2"}


def load(folder: Path, name: str) -> Case:
    with safe_open(folder / f"{name}.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def state_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix("state."): t.clone() for key, t in tensors.items() if key.startswith("state.")}


def model_name(config: str) -> str:
    """As the published code would have named the model of a golden configuration."""
    options = json.loads(config)
    token = "none"
    if options["if_cls_token"]:
        token = "double" if options.get("use_double_cls_token") else "head"
        token = "middle" if options["use_middle_cls_token"] else token
    pool = options["final_pool_type"]
    return f"vim_tiny_patch16_224_bimambav2_final_pool_{pool}_abs_pos_embed_{TOKENS[token]}"


def save_like_published(
    path: Path, model: dict[str, Tensor], ema: dict[str, Tensor] | None = None, /, **args: object
) -> Path:
    """The dictionary of the published trainer: weights, averaged weights, optimizer, schedule, epoch, scaler, args."""
    parameters = [torch.nn.Parameter(tensor.clone()) for tensor in model.values()]
    optimizer = torch.optim.AdamW(parameters)
    parameters[0].grad = torch.zeros_like(parameters[0])
    optimizer.step()
    namespace = argparse.Namespace(lr=1e-3, distributed=True, rank=0, ThreeAugment=False)
    vars(namespace).update(args)  # a file may hold any name
    content = {
        "model": model,
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": {"base_values": [1e-3], "warmup_steps": [2e-4]},
        "epoch": 299,
        "model_ema": model if ema is None else ema,
        "scaler": "none",
        "args": namespace,
    }
    torch.save(content, path)
    return path
