"""Run by torch.distributed.run, one process a device: gradients of a Vim under DistributedDataParallel.

They are those of one process with the whole batch, and the same bits in every process and when computed again.
"""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from vim_train.models import Vim

BATCH = 2  # of a process


def gradients(model: torch.nn.Module, images: Tensor) -> list[Tensor]:
    model.zero_grad(set_to_none=True)
    model(images).square().mean().backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def main(device_type: str) -> None:
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # torch asks for it in deterministic mode
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.allow_tf32 = False
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = torch.device(device_type)
    if device_type == "cuda":
        device = torch.device(device_type, int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device_type == "cuda" else "gloo")
    torch.manual_seed(0)
    model = Vim(img_size=32, patch_size=4, embed_dim=64, depth=2, num_classes=10).to(device)
    images = torch.randn(world * BATCH, 3, 32, 32).to(device)
    want = gradients(model, images)

    parallel = DistributedDataParallel(model, device_ids=None if device.index is None else [device.index])
    part = images[rank * BATCH : (rank + 1) * BATCH]
    gradients(parallel, part)  # the first backward settles the order in which gradients are summed
    got, again = gradients(parallel, part), gradients(parallel, part)
    assert got
    for g, a, w in zip(got, again, want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-3, atol=1e-5)
        assert torch.equal(a, g)
        first = g.clone()
        dist.broadcast(first, 0)
        assert torch.equal(first, g)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
